"""Shards are written whole, with their index last, and come back as they were."""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer.data.shards.shelf import Shelf, samples
from trainer.data import Shards, write_shards
from trainer.data.shards.failure import ShardError
from trainer.rundir.store import Store

_numbers = itertools.count()


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.binary(max_size=200), st.integers(-9, 9)), min_size=1, max_size=30),
    st.integers(1, 2000),
)
def test_whatever_is_written_is_read(rows: list[tuple[bytes, int]], size: int) -> None:
    url = f"memory://written-{next(_numbers)}"
    written = [{"b": data, "a": number} for data, number in rows]
    assert write_shards(written, url, shard_size=size) == len(rows)
    with tempfile.TemporaryDirectory() as folder:
        data = Shards(url, cache=0, folder=folder)
        assert [data[index] for index in range(len(data))] == written
    for shard in data._index.shards:
        assert shard.size <= size or shard.samples == 1
    data._source.store.delete("")


def test_a_shard_may_end_with_any_byte(shelf: Shelf) -> None:
    # Of an object that ends with a carriage return gcsfs and a server would make a shorter one.
    for end in (b"\r", b"\n", b"\r\n", b"--", b"\0"):
        url = f"{shelf.url}/{end.hex()}"
        write_shards([{"z": b"data" + end}], url)
        assert shelf_of(shelf, url)[0] == {"z": b"data" + end}


def shelf_of(shelf: Shelf, url: str) -> Shards:
    return Shards(url, folder=shelf.cache)


class Failing(Store):
    """A store whose n-th write fails."""

    left = 0

    def write(self, name: str, data: bytes | memoryview) -> None:
        if not Failing.left:
            raise OSError("the store is gone")
        Failing.left -= 1
        super().write(name, data)


@pytest.mark.parametrize("written", range(6))
def test_what_is_broken_off_is_no_data_set_and_can_be_begun_anew(
    tmp_path: Path, written: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("trainer.data.shards.writer.Store", Failing)
        Failing.left = written
        with pytest.raises(OSError, match="the store is gone"):
            write_shards(samples(200), tmp_path, shard_size=500)
    with pytest.raises(ShardError, match=r"index\.json is missing"):
        Shards(tmp_path)
    write_shards(samples(), tmp_path, shard_size=700)
    assert [one["number"] for one in _all(Shards(tmp_path))] == list(range(60))


def _all(data: Shards) -> Iterator[Any]:
    return (data[index] for index in range(len(data)))


def test_samples_that_raise_leave_no_data_set(tmp_path: Path) -> None:
    def broken() -> Iterator[dict[str, int]]:
        yield {"a": 1}
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        write_shards(broken(), tmp_path)
    assert not (tmp_path / "index.json").exists()


def test_a_folder_that_has_shards_is_left_alone(tmp_path: Path) -> None:
    write_shards(samples(3), tmp_path)
    before = (tmp_path / "index.json").read_bytes()
    with pytest.raises(ShardError) as raised:
        write_shards(samples(4), tmp_path)
    assert raised.value.id == "SW5181"
    assert str(raised.value) == f"{tmp_path} has shards already; name another folder"
    assert (tmp_path / "index.json").read_bytes() == before


@pytest.mark.parametrize(
    "rows, error",
    [
        ([], "{url}: there is no sample to be written"),
        ([{}], "sample 0: it is {{}}, and no dict with columns"),
        ([[1]], "sample 0: it is [1], and no dict with columns"),
        (
            [{"a": 1}, {"a": 1, "b": 2}],
            "sample 1: it has the columns ['a', 'b'], and the first one ['a']",
        ),
        (
            [{"a": 1}, {"a": "x"}],
            "sample 1: 'a' cannot be written: str, and it was int before",
        ),
        ([{"a": None}], "sample 0: 'a' cannot be written: it is a NoneType"),
        (
            [{"a": np.zeros(0)}],
            "sample 0: 'a' cannot be written: an array without elements",
        ),
    ],
)
def test_samples_that_cannot_be_written_are_named(
    tmp_path: Path, rows: list[Any], error: str
) -> None:
    with pytest.raises(ShardError) as raised:
        write_shards(rows, tmp_path)
    assert raised.value.id == "SW5181"
    assert str(raised.value) == error.format(url=tmp_path)


def test_the_index_is_the_one_of_the_format(tmp_path: Path) -> None:
    write_shards(samples(5), tmp_path)
    index = json.loads((tmp_path / "index.json").read_text())
    assert index["version"] == 2
    (shard,) = index["shards"]
    assert shard["format"] == "mds"
    assert shard["column_names"] == ["number", "text"]
    assert shard["column_encodings"] == ["int", "str"]
    assert shard["column_sizes"] == [8, None]
    assert shard["samples"] == 5
    assert shard["raw_data"]["basename"] == "shard.00000.mds"
    assert shard["raw_data"]["bytes"] == (tmp_path / "shard.00000.mds").stat().st_size
