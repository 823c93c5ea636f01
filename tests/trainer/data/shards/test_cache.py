"""Files in the cache: whole or not there, fetched once, and never more of them than may be."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.disks import disk, with_disks
from trainer.data.shards.cache import Cache, NoRoom, full
from trainer.data.shards.failure import ShardError

SIZE = 1000


def filled(content: bytes = b"x" * SIZE) -> Callable[[int], None]:
    return lambda fd: None if os.write(fd, content) == SIZE else pytest.fail("too short")


def got(cache: Cache, name: str) -> bytes:
    """The content of a file that is there, or is fetched."""
    fd = cache.get(name, SIZE, filled(name.encode().ljust(SIZE)))
    try:
        return os.pread(fd, SIZE, 0)
    finally:
        os.close(fd)


def there(cache: Cache) -> list[str]:
    return sorted(str(one.relative_to(cache.folder)) for one in cache.folder.glob("*/*"))


def test_what_was_fetched_is_there(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 10 * SIZE)
    assert cache.hold("k/1") is None
    assert got(cache, "k/1").strip() == b"k/1"
    fd = cache.get("k/1", SIZE, lambda fd: pytest.fail("it is there"))
    os.close(fd)
    assert there(cache) == ["k/1"]
    assert (cache.folder / "k" / "1").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("written", [0, 500, SIZE])
def test_what_is_broken_off_is_not_there(tmp_path: Path, written: int) -> None:
    cache = Cache(tmp_path, 10 * SIZE)

    def fails(fd: int) -> None:
        os.write(fd, bytes(written))
        raise RuntimeError("the bucket is gone")

    with pytest.raises(RuntimeError, match="the bucket is gone"):
        cache.get("k/1", SIZE, fails)
    assert there(cache) == []
    assert got(cache, "k/1").strip() == b"k/1"


def test_what_a_dead_process_has_left_is_taken_over(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 2 * SIZE)
    got(cache, "k/0")
    (cache.folder / "k" / "1.part").write_bytes(bytes(3 * SIZE))
    assert got(cache, "k/1").strip() == b"k/1"
    assert there(cache) == ["k/0", "k/1"]
    (cache.folder / "k" / "7.part").write_bytes(bytes(SIZE))
    os.utime(cache.folder / "k" / "7.part", (1, 1))
    got(cache, "k/2")
    assert "k/7.part" not in there(cache), "it went first"


def test_one_fetches_and_the_others_wait(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 10 * SIZE)
    begun, go, fetched = threading.Event(), threading.Event(), []

    def fill(fd: int) -> None:
        fetched.append(fd)
        begun.set()
        assert go.wait(600)
        filled()(fd)

    def fetch() -> None:
        os.close(cache.get("k/1", SIZE, fill))

    threads = [threading.Thread(target=fetch) for _ in range(4)]
    for one in threads:
        one.start()
    assert begun.wait(600)
    assert there(cache) == ["k/1.part"]
    go.set()
    for one in threads:
        one.join()
    assert len(fetched) == 1
    assert there(cache) == ["k/1"]


def test_who_waits_for_a_shard_gets_it_though_another_keeps_it_at_once(tmp_path: Path) -> None:
    cache = Cache(tmp_path, SIZE)
    got(cache, "k/0")  # so that the folder is there
    aside = cache.folder / "k/1.part"
    fd = os.open(aside, os.O_RDWR | os.O_CREAT)
    fcntl.flock(fd, fcntl.LOCK_EX)
    found: list[bytes] = []
    waiting = threading.Thread(target=lambda: found.append(got(cache, "k/1")), daemon=True)
    waiting.start()
    while sum(os.path.realpath(one) == str(aside) for one in Path("/proc/self/fd").iterdir()) < 2:
        time.sleep(0.001)
    os.write(fd, b"fetched".ljust(SIZE))
    aside.rename(cache.folder / "k/1")
    fcntl.flock(fd, fcntl.LOCK_SH)
    waiting.join(600)
    assert found == [b"fetched".ljust(SIZE)]
    os.close(fd)


def test_many_get_what_they_fetch_where_there_is_room_for_one(tmp_path: Path) -> None:
    cache = Cache(tmp_path, SIZE)
    found: list[bytes] = []

    def fetch(name: str) -> None:
        for _ in range(20):
            try:
                found.append(got(cache, name))
            except NoRoom:  # another one is just fetching
                found.append(name.encode().ljust(SIZE))

    threads = [threading.Thread(target=fetch, args=(f"k/{number}",)) for number in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert sorted(found) == sorted(
        f"k/{n}".encode().ljust(SIZE) for n in range(4) for _ in range(20)
    )
    assert cache.used() <= SIZE


def test_what_is_fetched_can_be_read_if_it_is_removed_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, rename = Cache(tmp_path, SIZE), Path.rename

    def renamed(self: Path, target: Path) -> Path:
        found = rename(self, target)
        target.unlink()
        return found

    monkeypatch.setattr(Path, "rename", renamed)
    assert got(cache, "k/1").strip() == b"k/1"


def test_what_was_used_least_recently_goes_first(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 3 * SIZE)
    for name in ("k/1", "k/2", "other/3"):
        got(cache, name)
        os.utime(cache.folder / name, (int(name[-1]), int(name[-1])))
    fd = cache.hold("k/1")
    assert fd is not None
    os.close(fd)
    got(cache, "k/4")
    assert there(cache) == ["k/1", "k/4", "other/3"]
    assert cache.used() == 3 * SIZE


def test_what_is_held_stays(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 2 * SIZE)
    got(cache, "k/1"), got(cache, "k/2")
    held = [cache.keep(name) for name in ("k/1", "k/2")]
    with pytest.raises(NoRoom) as raised:
        got(cache, "k/3")
    assert not full(raised.value)
    assert there(cache) == ["k/1", "k/2"]
    assert held[0] is not None and held[1] is not None
    os.close(held[0])
    got(cache, "k/3")
    assert there(cache) == ["k/2", "k/3"]
    os.close(held[1])


def test_a_file_that_is_open_can_be_read_when_it_was_removed(tmp_path: Path) -> None:
    cache = Cache(tmp_path, SIZE)
    fd = cache.get("k/1", SIZE, filled(b"1" * SIZE))
    got(cache, "k/2")
    assert there(cache) == ["k/2"]
    assert os.pread(fd, SIZE, 0) == b"1" * SIZE
    os.close(fd)


def test_what_is_larger_than_the_cache_has_no_room(tmp_path: Path) -> None:
    cache = Cache(tmp_path, SIZE - 1)
    with pytest.raises(NoRoom):
        got(cache, "k/1")
    assert there(cache) == []


def test_files_that_are_not_of_the_cache_stay(tmp_path: Path) -> None:
    cache = Cache(tmp_path, SIZE)
    got(cache, "k/1")
    mine = cache.folder / "k" / "notes.txt"
    mine.write_bytes(bytes(5 * SIZE))
    (tmp_path / "own").write_bytes(b"")
    got(cache, "k/2")
    assert there(cache) == ["k/2", "k/notes.txt"]


@with_disks
def test_a_disk_that_is_full_gives_what_it_has(tmp_path: Path) -> None:
    with disk(tmp_path / "disk", "size=64k") as small:
        cache = Cache(small.path, "1GiB")

        def fetch(name: str) -> None:
            os.close(cache.get(name, 2**14, lambda fd: None))

        for number in range(10):
            fetch(f"k/{number}")
        assert 0 < len(there(cache)) < 5, "others had to go"
        held = [cache.keep(name) for name in there(cache)]
        small.fill()
        with pytest.raises(NoRoom) as raised:
            fetch("k/11")
        assert full(raised.value)
        assert len(there(cache)) == len(held)
        for fd in held:
            assert fd is not None
            os.close(fd)


def test_a_folder_that_others_may_write_to_is_not_used(tmp_path: Path) -> None:
    cache = Cache(tmp_path, SIZE)
    cache.folder.mkdir()
    cache.folder.chmod(0o777)
    with pytest.raises(ShardError) as raised:
        got(cache, "k/1")
    assert raised.value.id == "SW5179"
    assert str(raised.value) == (
        f"the cache of shards, {cache.folder}, is no folder of this user's, or others may write to "
        "it; name another one: Shards(…, folder=…), or remove it"
    )


def test_neither_is_a_link_nor_a_file(tmp_path: Path) -> None:
    cache = Cache(tmp_path, SIZE)
    (tmp_path / "elsewhere").mkdir()
    cache.folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ShardError, match="is no folder of this user's"):
        got(cache, "k/1")
    cache.folder.unlink()
    cache.folder.write_bytes(b"")
    with pytest.raises(ShardError, match="cannot be used: "):
        got(cache, "k/1")


@pytest.mark.parametrize(
    "limit, size", [("1KiB", 1024), ("1.5 GiB", 3 * 2**29), (7, 7), ("20GiB", 20 * 2**30)]
)
def test_a_limit_is_a_size(tmp_path: Path, limit: str | int, size: int) -> None:
    assert Cache(tmp_path, limit).limit == size


@pytest.mark.parametrize("limit", ["20GB", "much", "", -1, True, None, "1e3GiB"])
def test_nothing_else_is(tmp_path: Path, limit: str | int) -> None:
    with pytest.raises(ShardError, match="is no size; write one such as 20GiB"):
        Cache(tmp_path, limit)


def is_locked(path: Path) -> bool:
    """Whether anybody has a lock on a file."""
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def test_nothing_is_locked_any_more_when_it_was_fetched(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 2 * SIZE)
    path = cache.folder / "k" / "1"
    fetched = cache.get("k/1", SIZE, filled())
    try:
        assert not is_locked(path), "though whoever has fetched it has it open"
        kept = cache.keep("k/1")
        assert kept is not None
        assert is_locked(path)
        os.close(kept)
        assert not is_locked(path)
    finally:
        os.close(fetched)
