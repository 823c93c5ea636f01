"""What must be written again and again is, on a full disk, too."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from trainer.rundir.spare import BLOCK, rewrite
from trainer.rundir.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(str(tmp_path))
    assert store.create("leader/1.json", b"first")
    return store


def fill(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on no further file can be made."""
    made = Path.open

    def refused(path: Path, mode: str = "r", *args: int, **more: int) -> object:
        if "x" in mode:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return made(path, mode, *args, **more)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", refused)


def test_with_a_spare_a_file_is_written_again_and_again_on_a_full_disk(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.keep_spare("leader/1.json")
    assert store.names("leader") == ["1.json"], "the spare is not seen"
    fill(store, monkeypatch)
    for text in (b"second, which is longer", b"third", b"x" * BLOCK, b"last", b"y" * BLOCK):
        store.write("leader/1.json", text)
        assert store.read("leader/1.json") == text


def test_without_one_it_is_refused_and_stays_as_it_was(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, monkeypatch)
    with pytest.raises(OSError, match="No space left"):
        store.write("leader/1.json", b"second")
    assert store.read("leader/1.json") == b"first"


def test_what_is_larger_than_the_spare_is_refused(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.keep_spare("leader/1.json")
    fill(store, monkeypatch)
    with pytest.raises(OSError, match="No space left"):
        store.write("leader/1.json", bytes(BLOCK + 1))
    assert store.read("leader/1.json") == b"first"


def test_a_spare_is_made_once(store: Store) -> None:
    store.keep_spare("leader/1.json")
    path = Path(store.path("leader/1.json"))
    assert rewrite(path, b"second")
    store.keep_spare("leader/1.json")
    assert rewrite(path, b"third")
    assert path.read_bytes() == b"third"


def test_where_there_is_no_disk_none_is_kept() -> None:
    Store("memory://spare").keep_spare("leader/1.json")


def test_a_file_that_is_made_once_is_made_on_a_full_disk(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.keep_spare("outcome.json", 2**16)
    fill(store, monkeypatch)
    end = b"x" * 2**16
    assert store.create("outcome.json", end)
    assert not store.create("outcome.json", b"another")
    assert store.read("outcome.json") == end
    assert os.listdir(store.root) == ["leader", "outcome.json"], "nothing is left"


def test_somebody_else_may_have_been_first(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.keep_spare("leader/1.json")
    fill(store, monkeypatch)
    assert not store.create("leader/1.json", b"second")
    assert store.read("leader/1.json") == b"first"


def test_an_error_holds_no_memory(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was to be written may be a part of a mapping that its owner closes."""

    def refuse(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="Input/output error"), memoryview(bytearray(9)) as data:
        store.write("file", data)
