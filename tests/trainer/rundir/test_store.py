"""Files under one URL: whole, replaced whole, and created once."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st

from tests.storage import StorageServer
from tests.trainer.rundir.stores import S3, gs_store, s3_store
from trainer.rundir.retry import Backoff, StoreUnavailable, patiently
from trainer.rundir.store import Store, TooLarge


def test_what_is_written_is_read(store: Store) -> None:
    store.write("a/b/c.bin", b"\x00\xff")
    assert store.read("a/b/c.bin") == b"\x00\xff"


def test_a_write_replaces(store: Store) -> None:
    store.write("file", b"a longer one")
    store.write("file", b"short")
    assert store.read("file") == b"short"


def test_what_does_not_exist_is_file_not_found(store: Store) -> None:
    with pytest.raises(FileNotFoundError):
        store.read("nothing")


def test_a_reader_takes_in_as_much_as_it_wants(store: Store) -> None:
    store.write("file", b"12345")
    assert store.read("file", limit=5) == b"12345"
    with pytest.raises(TooLarge, match=r"file is larger than 4 bytes"):
        store.read("file", limit=4)


def test_create_makes_a_file_once(store: Store) -> None:
    assert store.create("claims/1", b"mine")
    assert not store.create("claims/1", b"yours")
    assert store.read("claims/1") == b"mine"


def test_what_was_deleted_can_be_created_again(store: Store) -> None:
    store.create("file", b"1")
    store.delete("file")
    assert store.create("file", b"2")
    assert store.read("file") == b"2"


def test_names_are_sorted_and_direct(store: Store) -> None:
    for name in ("b", "a", "folder/x", "folder/deeper/y"):
        store.write(name, b"")
    assert store.names() == ["a", "b", "folder"]
    assert store.names("folder") == ["deeper", "x"]


def test_a_folder_that_is_not_there_has_no_names(store: Store) -> None:
    assert store.names() == []
    assert store.names("nothing/here") == []


def test_names_sees_what_came_later(store: Store) -> None:
    store.write("a", b"")
    assert store.names() == ["a"]
    store.write("b", b"")
    assert store.names() == ["a", "b"]


def test_files_are_found_however_deep_they_are(store: Store) -> None:
    for name in ("folder/b", "folder/deeper/still/a", "folder/.hidden", "other"):
        store.write(name, b"")
    assert store.files("folder") == ["b", "deeper/still/a"]
    store.write("folder/c", b"")
    assert store.files("folder") == ["b", "c", "deeper/still/a"]
    assert store.files() == ["folder/b", "folder/c", "folder/deeper/still/a", "other"]
    assert store.files("nothing/here") == []


def test_a_folder_that_cannot_be_listed_is_not_one_without_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(str(tmp_path))
    for name in ("a/1", "b/1"):
        store.write(name, b"")
    scandir = os.scandir

    def failing(path: str) -> Any:
        if path.endswith("/a"):
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", failing)
    with pytest.raises(OSError, match="/a"):
        store.files()


def test_files_have_sizes_but_for_those_that_go_while_they_are_asked_for(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("folder/a", "folder/deeper/b", "folder/c"):
        store.write(name, b"123")
    assert store.sizes("folder") == {"a": 3, "c": 3, "deeper/b": 3}
    if not store.is_local:  # these say both at once
        return
    listed = store.files

    def files(folder: str = "") -> list[str]:
        found = listed(folder)
        store.delete("folder/a")
        store.delete("folder/deeper")
        store.write("folder/deeper", b"a file in the folder's place")
        return found

    monkeypatch.setattr(store, "files", files)
    assert store.sizes("folder") == {"c": 3}
    assert store.sizes("nothing/here") == {}


def test_a_file_is_deleted_by_itself(store: Store) -> None:
    for name in ("folder/a", "folder/b"):
        store.write(name, b"")
    store.delete_file("folder/a")
    store.delete_file("folder/a")
    store.delete_file("no/such/file")
    assert store.files() == ["folder/b"]


def test_many_are_asked_for_at_once_and_come_in_order(store: Store) -> None:
    names = [f"folder/{number:02}" for number in range(40)]
    for name in names:
        store.write(name, name.encode())
    assert store.each(store.read, names) == [name.encode() for name in names]
    with pytest.raises(FileNotFoundError):
        store.each(store.read, [*names, "nothing"])
    assert store.each(store.read, []) == []


def test_files_and_folders_exist(store: Store) -> None:
    assert not store.exists("folder/file")
    store.write("folder/file", b"")
    assert store.exists("folder/file")
    assert store.exists("folder")


def test_a_folder_is_deleted_with_all_that_is_in_it(store: Store) -> None:
    store.write("folder/a", b"")
    store.write("folder/deeper/b", b"")
    store.write("other", b"")
    store.delete("folder")
    assert store.names() == ["other"]


def test_what_is_not_there_may_be_deleted(store: Store) -> None:
    store.delete("nothing")
    store.delete("no/such/folder")
    assert store.names() == []


@given(st.binary(max_size=300))
def test_any_bytes_come_back(data: bytes) -> None:
    store = Store("memory://any-bytes")
    try:
        store.write("file", data)
        assert store.read("file", limit=len(data)) == data
    finally:
        store.delete("")


def test_two_stores_of_one_url_see_each_other(store: Store) -> None:
    store.write("file", b"1")
    assert Store(store.url, store.fs).read("file") == b"1"


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_a_local_url_is_a_path(prefix: str, tmp_path: Path) -> None:
    store = Store(f"{prefix}{tmp_path}/run/")
    assert store.is_local
    assert store.url == f"{tmp_path}/run"
    store.write("a", b"1")
    assert (tmp_path / "run" / "a").read_bytes() == b"1"


def test_another_url_stays_one() -> None:
    store = Store("memory://bucket/run/")
    assert not store.is_local
    assert store.url == "memory://bucket/run"


def test_one_of_sixteen_racers_creates(tmp_path: Path) -> None:
    stores = [Store(str(tmp_path)) for _ in range(16)]
    start = threading.Barrier(len(stores))

    def race(racer: int) -> bool:
        start.wait()
        return stores[racer].create("leader/1", b"%d" % racer)

    with ThreadPoolExecutor(len(stores)) as pool:
        won = list(pool.map(race, range(len(stores))))
    assert won.count(True) == 1
    assert stores[0].read("leader/1") == b"%d" % won.index(True)
    assert [path.name for path in (tmp_path / "leader").iterdir()] == ["1"]


# --- an object store, whose client has exceptions of its own -------------------------------


class HttpError(Exception):
    """Not an OSError, as in gcsfs."""


class Away:
    """A file system of which nothing works."""

    def __getattr__(self, name: str) -> Any:
        def fail(*args: object, **kwargs: object) -> None:
            raise HttpError("503, try again later")

        return fail


@pytest.mark.parametrize(
    "operation",
    [
        lambda store: store.read("file"),
        lambda store: store.write("file", b""),
        lambda store: store.create("file", b""),
        lambda store: store.names("file"),
        lambda store: store.exists("file"),
        lambda store: store.delete("file"),
    ],
    ids=["read", "write", "create", "names", "exists", "delete"],
)
def test_whatever_a_client_raises_is_an_os_error(operation: Callable[[Store], object]) -> None:
    store = Store("memory://away")
    store.fs = Away()
    with pytest.raises(OSError, match="memory://away/file: HttpError: 503, try again later"):
        operation(store)


@pytest.mark.parametrize(
    "error", [HttpError("429"), ConnectionResetError("reset"), TimeoutError("late")], ids=repr
)
def test_what_passes_by_itself_is_tried_again(error: Exception) -> None:
    if isinstance(error, HttpError):
        error.code = 429  # type: ignore[attr-defined]
    store = Store("memory://passes", retry=Backoff(first=0.001, longest=0.001, limit=0.01))
    store.write("file", b"1")
    memory, left = store.fs, [error, error]

    class Busy:
        def __getattr__(self, name: str) -> Any:
            if left:
                raise left.pop()
            return getattr(memory, name)

    store.fs = Busy()
    assert store.read("file") == b"1"
    left.extend([error] * 1000)
    with pytest.raises(StoreUnavailable, match="memory://passes/file"):
        store.read("file")
    store.fs = memory
    store.delete("")


def test_what_is_refused_for_good_is_not_tried_again() -> None:
    store = Store("memory://refused")
    asked = []

    class Forbidden:
        def cat_file(self, path: str) -> bytes:
            asked.append(path)
            raise PermissionError("403")

    store.fs = Forbidden()
    with pytest.raises(PermissionError):
        store.read("file")
    assert len(asked) == 1


# --- the real gcsfs, and a server that fails on purpose ------------------------------------


@pytest.mark.parametrize(
    "operation, fault, when",
    [
        ("read", {"status": 503}, "before"),
        ("read", {"cut": True}, "before"),
        ("write", {"status": 429}, "before"),
        ("write", {"cut": True}, "after"),
        ("names", {"status": 503}, "before"),
        ("delete", {"cut": True}, "after"),
    ],
)
def test_gcsfs_gets_over_a_fault(
    server: StorageServer, operation: str, fault: dict[str, Any], when: str
) -> None:
    store = gs_store(server, f"gs://bucket/{operation}-{when}-{fault}")
    store.write("file", b"1")
    server.fail(when=when, **fault)
    if operation == "read":
        assert store.read("file") == b"1"
    elif operation == "write":
        store.write("file", b"2")
    elif operation == "names":
        assert store.names() == ["file"]
    else:
        store.delete("file")
        store.delete("file")
    assert server.rules()[0]["times"] == 0, "the fault did not happen"
    server.heal()
    left = {"write": b"2", "delete": None}.get(operation, b"1")
    assert (store.read("file") if store.exists("file") else None) == left


def test_an_empty_object_is_read_with_a_limit(server: StorageServer) -> None:
    store = gs_store(server, "gs://bucket/empty")
    store.write("file", b"")
    assert store.read("file", limit=10) == b""


# --- a local disk, which has no whole-object writes of its own ----------------------------


@pytest.fixture
def local(tmp_path: Path) -> Store:
    return Store(str(tmp_path))


@pytest.mark.parametrize("operation", ["write", "create"])
def test_half_a_file_is_never_seen(
    operation: str, local: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def look(descriptor: int) -> None:
        seen.append((local.names(), local.exists("new")))

    monkeypatch.setattr(os, "fsync", look)
    getattr(local, operation)("new", b"all of it")
    assert seen == [([], False)]
    assert local.read("new") == b"all of it"


def test_the_old_content_stays_until_the_new_is_whole(
    local: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    local.write("file", b"old")
    seen = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: seen.append(local.read("file")))
    local.write("file", b"new")
    assert seen == [b"old"]


@pytest.mark.parametrize(
    "operation, call",
    [("write", "fsync"), ("write", "replace"), ("create", "fsync"), ("create", "link")],
)
def test_a_disk_that_fails_leaves_what_was_there(
    operation: str, call: str, local: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    if operation == "write":
        local.write("file", b"old")
    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="No space left"):
        getattr(local, operation)("file", b"new")
    left = [path.name for path in tmp_path.iterdir()]
    assert left == (["file"] if operation == "write" else [])


def test_what_a_killed_writer_left_is_not_named(local: Store, tmp_path: Path) -> None:
    (tmp_path / ".aside-k1lled").write_bytes(b"half")
    local.write("file", b"")
    assert local.names() == ["file"]


def test_a_file_is_readable_by_others_as_the_umask_says(local: Store, tmp_path: Path) -> None:
    local.write("file", b"")
    ordinary = tmp_path / "ordinary"
    ordinary.write_bytes(b"")
    assert (tmp_path / "file").stat().st_mode == ordinary.stat().st_mode


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(ValueError, match="nonsense"):
        Store("nonsense://bucket")
    assert "nonsense" not in fsspec.available_protocols()


# --- a store that is away at the start -----------------------------------------------------


def test_the_start_waits_for_a_store_that_is_away_and_tells_so() -> None:
    answers: list[OSError] = [StoreUnavailable("503"), StoreUnavailable("503")]
    told: list[dict[str, Any]] = []
    now = [0.0]

    def find() -> str:
        if answers:
            raise answers.pop()
        return "found"

    def sleep(seconds: float) -> None:
        now[0] += seconds

    found = patiently(
        find, lambda event, **fields: told.append(fields), clock=lambda: now[0], sleep=sleep
    )
    assert found == "found"
    assert told == [{"reason": "503", "seconds": 0.0}, {"reason": "503", "seconds": 5.0}]


def test_the_start_waits_only_so_long() -> None:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    def away() -> None:
        raise StoreUnavailable("503")

    with pytest.raises(StoreUnavailable):
        patiently(away, limit=60.0, clock=lambda: now[0], sleep=sleep)
    assert now[0] == 60.0


def test_what_is_no_outage_is_not_waited_for() -> None:
    def refused() -> None:
        raise OSError("403")

    with pytest.raises(OSError, match="403"):
        patiently(refused, sleep=lambda seconds: pytest.fail("waited"))


# --- stores that nobody has tried yet ------------------------------------------------------


class Foreign(MemoryFileSystem):  # type: ignore[misc]
    """A file system of a kind that is not known."""

    protocol = "foreign"
    careless = False

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        if mode == "create" and not self.careless and self.exists(path):
            raise FileExistsError(path)
        super().pipe_file(path, value, mode="overwrite", **kwargs)


class Careless(Foreign):
    """One that does not know about exclusive creation."""

    protocol = "careless"
    careless = True


def test_a_store_that_creates_exclusively_may_be_of_any_kind() -> None:
    store = Store("foreign://proven", Foreign(skip_instance_cache=True))
    assert store.create("a", b"1") and not store.create("a", b"2")
    assert store.read("a") == b"1"
    assert store.names() == ["a"]
    store.delete("")


def test_a_store_that_replaces_what_it_should_create_is_refused() -> None:
    store = Store("careless://replaced", Careless(skip_instance_cache=True))
    with pytest.raises(OSError, match="replaces files that it should create exclusively"):
        store.create("a", b"1")
    assert not store.exists("a")


@pytest.mark.skipif(not S3, reason="s3:// is tried where s3fs and moto[server] are installed")
def test_s3_creates_exclusively() -> None:
    with s3_store("s3://bucket/run") as store:
        assert store.create("a", b"1") and not store.create("a", b"2")
        store.write("b", b"2")
        assert (store.read("a"), store.read("b", 10), store.names()) == (b"1", b"2", ["a", "b"])
