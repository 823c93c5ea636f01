"""Bundles: the same content has the same hash, and nothing hostile is ever written."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.rundir import bundle
from trainer.rundir.bundle import BundleError, File

FILES = [File("train.py", b"print(1)\n"), File("lib/run.sh", b"#!/bin/sh\n", program=True)]

_part = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/\\"), min_size=1, max_size=8
).filter(lambda part: part not in (".", ".."))
_names = st.lists(_part, min_size=1, max_size=3).map("/".join)
_files = st.dictionaries(_names, st.tuples(st.binary(max_size=99), st.booleans()), max_size=6).map(
    lambda found: [File(name, data, program) for name, (data, program) in found.items()]
)


def size_of(files: list[File]) -> int:
    return sum(len(file.data) for file in files)


def tar_of(*entries: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """A bundle that nobody here would make."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for entry, data in entries:
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return packed.getvalue()


def entry_of(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, link
    return entry


@given(_files)
def test_what_was_packed_comes_out(files: list[File]) -> None:
    out = bundle.decode(bundle.encode(files), sha256=bundle.digest(files), size=size_of(files))
    assert sorted(out, key=lambda f: f.name) == sorted(files, key=lambda f: f.name)


@given(_files, st.randoms(use_true_random=False))
def test_the_hash_is_that_of_the_content_in_any_order(files: list[File], random: object) -> None:
    mixed = list(files)
    random.shuffle(mixed)  # type: ignore[attr-defined]
    assert bundle.digest(mixed) == bundle.digest(files)
    assert bundle.encode(mixed) == bundle.encode(files)


def test_the_hash_stays_what_it_is() -> None:
    # Runs that were launched with an earlier version are verified by it.
    assert bundle.digest(FILES) == (
        "9818ba9eeb326b46fe15250dd1cd0cb86df4c6260b4f8eeb9dffa50b413e2ce3"
    )


@pytest.mark.parametrize(
    "other",
    [
        [FILES[0]],
        [FILES[0], File("lib/run.sh", b"#!/bin/sh\n", program=False)],
        [FILES[0], File("lib/run", b"#!/bin/sh\n", program=True)],
        [FILES[0], File("lib/run.sh", b"#!/bin/sh", program=True)],
    ],
    ids=["a file less", "another mode", "another name", "another content"],
)
def test_any_difference_is_another_hash(other: list[File]) -> None:
    assert bundle.digest(other) != bundle.digest(FILES)
    with pytest.raises(BundleError, match="has the hash"):
        bundle.decode(bundle.encode(other), sha256=bundle.digest(FILES), size=size_of(FILES))


@pytest.mark.parametrize(
    "entry",
    [
        entry_of("../out"),
        entry_of("/etc/out"),
        entry_of("a/../../out"),
        entry_of("a//b"),
        entry_of("a\\b"),
        entry_of("n" * 1025),
        entry_of("link", tarfile.SYMTYPE, "/etc/passwd"),
        entry_of("hard", tarfile.LNKTYPE, "train.py"),
        entry_of("pipe", tarfile.FIFOTYPE),
        entry_of("device", tarfile.CHRTYPE),
        entry_of("folder", tarfile.DIRTYPE),
    ],
    ids=lambda entry: entry.name[:20],
)
def test_only_plain_files_under_plain_names_count(entry: tarfile.TarInfo) -> None:
    with pytest.raises(BundleError, match="no plain file"):
        bundle.decode(tar_of((entry, b"")), sha256="0" * 64, size=100)


def test_a_name_counts_once() -> None:
    twice = tar_of((entry_of("a"), b"1"), (entry_of("a"), b"2"))
    with pytest.raises(BundleError, match="no plain file"):
        bundle.decode(twice, sha256="0" * 64, size=100)


def test_no_more_is_taken_in_than_was_launched() -> None:
    with pytest.raises(BundleError, match="larger than 5 bytes"):
        bundle.decode(tar_of((entry_of("a"), b"123456")), sha256="0" * 64, size=5)


def test_a_bomb_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "MAX_FILES", 1)
    bomb = gzip.compress(bytes(2**20))
    with pytest.raises(BundleError, match="larger than 5 bytes"):
        bundle.decode(bomb, sha256="0" * 64, size=5)


def test_there_is_a_limit_to_what_a_vm_takes_in(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BundleError, match="at most"):
        bundle.decode(b"", sha256="0" * 64, size=bundle.MAX_BYTES + 1)
    packed = bundle.encode([File(name, bytes(5000)) for name in "abc"])
    monkeypatch.setattr(bundle, "MAX_FILES", 2)
    with pytest.raises(BundleError, match="more than 2 files"):
        bundle.decode(packed, sha256="0" * 64, size=15000)


@given(st.binary(max_size=200))
def test_noise_is_refused(noise: bytes) -> None:
    with pytest.raises(BundleError):
        bundle.decode(noise, sha256="0" * 64, size=100)


@given(st.integers(0, 10_000), st.integers(0, 255))
def test_damage_is_refused_or_makes_no_difference(where: int, byte: int) -> None:
    whole = bytearray(bundle.encode(FILES))
    whole[where % len(whole)] = byte
    try:
        out = bundle.decode(bytes(whole), sha256=bundle.digest(FILES), size=size_of(FILES))
    except BundleError:
        return
    assert bundle.digest(out) == bundle.digest(FILES)


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    bundle.unpack(FILES, tmp_path / "hash" / "code")
    assert (tmp_path / "hash/code/train.py").read_text() == "print(1)\n"
    assert os.access(tmp_path / "hash/code/lib/run.sh", os.X_OK)
    assert not os.access(tmp_path / "hash/code/train.py", os.X_OK)
    assert [path.name for path in (tmp_path / "hash").iterdir()] == ["code"]


def test_of_a_failure_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        bundle.unpack([File("a", b"1"), File("a/b", b"2")], tmp_path / "code")
    assert list(tmp_path.iterdir()) == []


def test_whoever_comes_second_finds_it_done(tmp_path: Path) -> None:
    bundle.unpack(FILES, tmp_path / "code")
    bundle.unpack(FILES, tmp_path / "code")
    assert [path.name for path in tmp_path.iterdir()] == ["code"]
