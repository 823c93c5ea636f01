"""What must be written again and again is, on a full disk, too."""

from __future__ import annotations

import errno
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.disks import disk, with_disks
from trainer.rundir.exclusive import create_exclusive
from trainer.rundir.spare import BLOCK, rewrite, spare_of
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


@with_disks
def test_there_is_a_whole_spare_or_none(tmp_path: Path) -> None:
    with disk(tmp_path / "disk") as full:
        store = Store(str(full.path))
        assert store.create("1.json", b"first")
        full.fill()
        store.keep_spare("1.json")
        assert list(full.path.glob(".spare*")) == []
        spare_of(full.path / "1.json").touch()  # of somebody who was killed meanwhile
        with pytest.raises(OSError, match="No space left"):
            store.write("1.json", b"second")
        assert store.read("1.json") == b"first"


def test_where_there_is_no_disk_none_is_kept() -> None:
    store = Store("memory://spare")
    store.keep_spare("leader/1.json")
    assert store.names() == store.names("leader") == []


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


def test_of_many_that_want_one_spare_one_has_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"leader/{number}.json" for number in range(2, 22)]
    for name in names:
        store.keep_spare(name)
    fill(store, monkeypatch)

    def contend(contender: int) -> list[str]:
        content = {"who": contender, "more": "x" * 100 * contender}
        return [name for name in names if won(name, content)]

    def won(name: str, content: dict[str, object]) -> bool:
        try:
            return create_exclusive(store, name, content)
        except OSError:  # it was not told whose it is
            return False

    with ThreadPoolExecutor(8) as threads:
        told = list(threads.map(contend, range(8)))
    assert sorted(name for won in told for name in won) == sorted(names), "each is one's"
    for contender, won_names in enumerate(told):
        for name in won_names:
            assert json.loads(store.read(name))["who"] == contender, "and whole"


def test_a_numbered_file_without_a_spare_takes_an_earlier_ones(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The claim of a leader that was made of its spare is renewed with its predecessor's."""
    for name in ("leader/1.json", "leader/2.json", "outcome.json"):
        store.keep_spare(name)
    assert store.create("run.json", b"run")
    fill(store, monkeypatch)
    assert store.create("leader/2.json", b"claimed")
    for text in (b"renewed", b"renewed again"):
        store.write("leader/2.json", text)
        assert store.read("leader/2.json") == text
    with pytest.raises(OSError, match="No space left"):
        store.write("run.json", b"takes the room of the outcome")


@pytest.mark.parametrize("planted", ["symlink", "link", "fifo", "folder"])
def test_what_somebody_has_put_there_is_no_spare(
    store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, planted: str
) -> None:
    """A run directory may be anybody's: a link there leads to a file that is nobody's to write."""
    precious = tmp_path / "precious"
    precious.write_bytes(b"x" * BLOCK)
    there = tmp_path / ".spare-outcome.json"
    if planted == "symlink":
        there.symlink_to(precious)
    elif planted == "link":
        there.hardlink_to(precious)
    elif planted == "fifo":
        os.mkfifo(there)
    else:
        there.mkdir()
    fill(store, monkeypatch)
    with pytest.raises(OSError, match="No space left"):
        store.create("outcome.json", b"the end")
    assert precious.read_bytes() == b"x" * BLOCK


def test_an_error_holds_no_memory(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was to be written may be a part of a mapping that its owner closes."""

    def refuse(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="Input/output error"), memoryview(bytearray(9)) as data:
        store.write("file", data)
