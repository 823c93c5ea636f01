"""Samples from a bucket and from a folder, and what becomes of shards that are not right."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from tests.disks import disk, with_disks
from tests.storage import StorageServer
from tests.trainer.data.shards.shelf import SAMPLES, SHARD, Shelf, samples
from trainer.data import Shards, write_shards
from trainer.data.shards import reader, source
from trainer.data.shards.failure import ShardError
from trainer.loaders.sample import SampleError, samples_of


def numbers(data: Shards) -> list[int]:
    return [data[index]["number"] for index in range(len(data))]


def changed(path: Path, at: int) -> None:
    """Makes one byte of a file another one."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def error_of(data: Shards, index: int) -> ShardError:
    with pytest.raises(ShardError) as raised:
        data[index]
    return raised.value


def test_samples_of_a_bucket_come_through_the_cache(shelf: Shelf) -> None:
    data = shelf.open()
    assert len(data) == SAMPLES and len(data.shard_sizes) > 4
    assert data[3] == {"number": 3, "text": "sample 3"}
    assert shelf.cached() == ["0"]
    assert numbers(data) == list(range(SAMPLES))
    assert len(shelf.cached()) == len(data.shard_sizes)
    shelf.server.fail(method="GET", path="shard", status=404, times=None)
    assert numbers(shelf.open()) == list(range(SAMPLES)), "another process needs nothing more"
    data.close()


def test_a_small_cache_holds_some_of_them(shelf: Shelf) -> None:
    data = shelf.open(cache=3 * SHARD)
    assert numbers(data) == list(range(SAMPLES))
    assert 1 <= len(shelf.cached()) <= 3
    assert not data._reader or len(data._reader._opened) <= 4, "what was removed is closed"


def test_a_folder_of_this_machine_is_read_where_it_is(tmp_path: Path) -> None:
    assert write_shards(samples(), tmp_path / "data", shard_size=SHARD) == SAMPLES
    data = Shards(tmp_path / "data", folder=tmp_path / "cache")
    assert numbers(data) == list(range(SAMPLES))
    assert not (tmp_path / "cache").exists()
    data.expect([0, 1])  # nothing is fetched
    assert data._fetcher is None


def test_it_travels_to_another_process(shelf: Shelf) -> None:
    data = shelf.open(decode=dict)
    assert data[7]["number"] == 7
    other = pickle.loads(pickle.dumps(data))
    assert other._reader is None
    assert numbers(other) == list(range(SAMPLES))
    child = os.fork()
    if not child:
        os._exit(0 if data[8]["number"] == 8 and data._owner == os.getpid() else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_there_is_no_sample_beyond_the_last() -> None:
    data = Shards(Path(__file__).parents[3] / "data" / "mds")
    for index in (-1, 20):
        with pytest.raises(IndexError, match=f"sample {index} of 20"):
            data[index]


def test_without_an_index_there_is_no_data_set(shelf: Shelf, tmp_path: Path) -> None:
    for url in (f"{shelf.url}/nothing", tmp_path):
        with pytest.raises(ShardError) as raised:
            Shards(url)
        assert raised.value.id == "SW5174"
        assert str(raised.value) == (
            f"{url}/index.json is missing; give the folder of shards in the format MDS that has "
            "it, or write one with trainer.data.write_shards"
        )


def test_a_shard_that_is_missing_is_named_with_its_sample(shelf: Shelf) -> None:
    data = shelf.open()
    shelf.store.delete("shard.00001.mds")
    error = error_of(data, data.shard_sizes[0])
    assert error.id == "SW5176"
    assert str(error) == (
        f"shard {shelf.url}/shard.00001.mds is missing, and index.json has it, for sample "
        f"{data.shard_sizes[0]}; put it back, or write all of them anew"
    )
    assert data[0]["number"] == 0, "others can be read"
    with pytest.raises(SampleError) as raised:
        samples_of(data, [data.shard_sizes[0]])
    assert str(raised.value).endswith(f"{error} [SW5176]")


@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize(
    "content, found",
    [
        (lambda data: data[:-1], "it has {less} bytes"),
        (lambda data: data[:8], "it has 8 bytes"),
        (lambda data: b"", "it has 0 bytes"),
        (lambda data: data + b"more", "it has more than {size} bytes"),
        (lambda data: bytes([data[0] ^ 1]) + data[1:], "its xxh3_64 is another one"),
        (lambda data: data[:-1] + b"?", "its xxh3_64 is another one"),
    ],
)
def test_a_shard_that_was_changed_is_named(
    shelf: Shelf, tmp_path: Path, local: bool, content: Any, found: str
) -> None:
    data = shelf.open()
    if local:
        write_shards(samples(), tmp_path / "data", shard_size=SHARD)
        data = Shards(tmp_path / "data")
        path = tmp_path / "data" / "shard.00000.mds"
        path.write_bytes(content(path.read_bytes()))
    else:
        shelf.store.write("shard.00000.mds", content(shelf.store.read("shard.00000.mds")))
    error = error_of(data, 2)
    shard = data._index.shards[0]
    assert error.id == "SW5177" and shard.hash is not None
    where = f"{data._source.url}/shard.00000.mds"
    said = found.format(less=shard.size - 1, size=shard.size)
    if local and "more" in said:
        said = f"it has {shard.size + 4} bytes"
    assert str(error) == (
        f"shard {where} is truncated or was changed: {said}, and index.json says {shard.size} "
        f"bytes with {shard.samples} samples and xxh3_64 {shard.hash[1]}, for sample 2; put the "
        "one back that was written with it, or write all of them anew"
    )
    assert shelf.cached() == [], "it is not kept"
    assert data[SAMPLES - 1]["number"] == SAMPLES - 1


def without_checksums(folder: Path) -> None:
    index = json.loads((folder / "index.json").read_text())
    for one in index["shards"]:
        one["raw_data"]["hashes"] = {}
    (folder / "index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    "at, found",
    [
        (0, "it begins as one with"),
        (7, "its samples do not follow each other"),
        (11, "its samples do not follow each other"),
    ],
)
def test_without_a_checksum_its_table_must_be_right(tmp_path: Path, at: int, found: str) -> None:
    write_shards(samples(), tmp_path, shard_size=SHARD)
    without_checksums(tmp_path)
    changed(tmp_path / "shard.00000.mds", at)
    assert found in str(error_of(Shards(tmp_path), 0))


def test_a_sample_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    write_shards(samples(), tmp_path, shard_size=SHARD)
    without_checksums(tmp_path)
    data = Shards(tmp_path)
    head = 4 * (data.shard_sizes[0] + 2)
    path = tmp_path / "shard.00000.mds"
    begin = int.from_bytes(path.read_bytes()[4:8], "little")
    assert begin >= head
    changed(path, begin)  # how long its text is
    error = error_of(data, 0)
    assert error.id == "SW5177"
    assert str(error).startswith(
        f"shard {path}: sample 0, its 0th, cannot be decoded: it has 20 bytes, and its columns 21"
    )


def test_a_file_that_is_changed_while_it_is_read_is_noticed(tmp_path: Path) -> None:
    write_shards(samples(), tmp_path, shard_size=SHARD)
    data = Shards(tmp_path)
    assert data[0]["number"] == 0
    os.truncate(tmp_path / "shard.00000.mds", 100)
    assert "it ends before this sample does" in str(error_of(data, data.shard_sizes[0] - 1))
    assert "it has 100 bytes" in str(error_of(data, 0))


@pytest.mark.parametrize("status", [429, 503])
def test_a_bucket_that_throttles_is_asked_again_and_a_line_says_so(
    shelf: Shelf, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    data = shelf.refusing(3, status, patience=600)
    assert data[4]["number"] == 4
    assert lines(caplog) == [
        f"shard {shelf.url}/shard.00000.mds cannot be read now, for sample 4, and is tried again: "
        f"{shelf.url}/shard.00000.mds: HttpError: later, please, {status} [SW5178]"
    ], "once"


def test_one_that_throttles_for_a_moment_is_asked_again_and_nothing_said(
    shelf: Shelf, caplog: pytest.LogCaptureFixture
) -> None:
    shelf.server.fail(method="GET", path="shard.00000", status=429, times=1)
    assert shelf.open()[4]["number"] == 4
    assert lines(caplog) == []
    assert source.TRIES.limit > 0 and source.PATIENCE == 600


def test_one_that_never_answers_is_an_error(shelf: Shelf) -> None:
    data = shelf.refusing(10**6, 503, patience=0.0)
    error = error_of(data, 4)
    assert error.id == "SW5178"
    assert str(error) == (
        f"shard {shelf.url}/shard.00000.mds could not be read for 0 s, for sample 4; look at the "
        "bucket's quotas, and at what else reads from it: "
        f"{shelf.url}/shard.00000.mds: HttpError: later, please, 503"
    )


def test_one_that_refuses_is_an_error(shelf: Shelf) -> None:
    data = shelf.open()
    shelf.server.fail(method="GET", path="shard.00000", status=403, times=None)
    error = error_of(data, 4)
    assert error.id == "SW5176"
    assert "they must be allowed to read it" in str(error)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.name == "swell.data"]


def test_what_has_no_room_in_the_cache_is_read_without_it(
    shelf: Shelf, caplog: pytest.LogCaptureFixture
) -> None:
    data = shelf.open(cache=100)
    assert numbers(data) == list(range(SAMPLES))
    size = data._index.shards[0].size
    assert lines(caplog) == [
        f"the cache of shards, of 100 bytes ({data._cache.folder}), has no room for one of {size} "
        f"bytes beside those that are in use, and sample 0 is read from {shelf.url} without it, as "
        "others will be, which is slow; give it more: Shards(…, cache=…), or use fewer shards at a "
        "time: lanes=, block= [SW5182]"
    ]
    assert shelf.cached() == []


def test_without_the_cache_shards_are_verified_all_the_same(shelf: Shelf) -> None:
    data = shelf.open(cache=100)
    shelf.store.write("shard.00000.mds", shelf.store.read("shard.00000.mds")[:-1] + b"?")
    assert "its xxh3_64 is another one" in str(error_of(data, 0))


def test_where_there_is_room_again_it_is_used(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "AGAIN", 0.0)
    data = shelf.open(cache=100)
    assert data[0]["number"] == 0
    data._cache.limit = 2**20
    assert data[len(data) - 1]["number"] == SAMPLES - 1, "opening one closes what is stale"
    assert data[0]["number"] == 0
    assert "0" in shelf.cached()


@with_disks
def test_on_a_disk_that_is_full_training_goes_on(
    shelf: Shelf, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with disk(tmp_path / "small", "size=64k") as small:
        small.fill()
        small._ballast.chmod(0o600)
        data = shelf.open(folder=small.path, cache="1GiB")
        assert numbers(data) == list(range(SAMPLES))
        assert lines(caplog) == [
            f"the disk of the cache of shards is full ({data._cache.folder}), and sample 0 is read "
            f"from {shelf.url} without it, as others will be, which is slow; make room, or name "
            "another folder: Shards(…, folder=…) [SW5180]"
        ]
        data.close()


def test_a_shard_that_the_cache_has_lost_bytes_of_is_fetched_anew(shelf: Shelf) -> None:
    data = shelf.open()
    assert data[0]["number"] == 0
    data.close()
    (path,) = data._cache.folder.glob("*/0")
    os.truncate(path, 100)
    assert data[0]["number"] == 0
    os.truncate(path, 0)
    assert data[1]["number"] == 1, "and when it is open"
    assert path.stat().st_size == data._index.shards[0].size


@pytest.mark.parametrize("options", [{"lanes": 0}, {"block": 0}, {"cache": "much"}])
def test_options_that_there_cannot_be(server: StorageServer, options: Any) -> None:
    with pytest.raises(ShardError) as raised:
        Shards(Path(__file__).parents[3] / "data" / "mds", **options)
    assert raised.value.id == "SW5179"
