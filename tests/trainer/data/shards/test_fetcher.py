"""Shards are fetched ahead by a process that nothing depends on."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.trainer.data.shards.shelf import SAMPLES, Shelf
from trainer.data import Shards
from trainer.data.shards.fetcher import TRIES
from trainer.data.shards.fetching import Fetching

PATIENCE = 600.0  # seconds; only a test that fails waits so long


def until(state: Callable[[], bool]) -> bool:
    ends = time.monotonic() + PATIENCE
    while not state():
        assert time.monotonic() < ends
        time.sleep(0.01)
    return True


def pid_of(data: Shards) -> int:
    assert data._fetcher is not None and data._fetcher.process is not None
    return data._fetcher.process.pid


def test_what_is_expected_is_there_before_it_is_read(shelf: Shelf) -> None:
    data = shelf.open()
    data.expect([2, 0])
    assert until(lambda: shelf.cached() == ["0", "2"])
    data.expect([1])
    assert until(lambda: shelf.cached() == ["0", "1", "2"]), "the newest word counts"
    process = pid_of(data)
    data.close()
    assert not Path(f"/proc/{process}").exists()
    assert data[0]["number"] == 0, "it can be read all the same"
    data.close()


def test_a_process_that_is_lost_is_replaced_and_at_last_done_without(
    shelf: Shelf, caplog: pytest.LogCaptureFixture
) -> None:
    data = shelf.open()
    for number in range(TRIES):
        data.expect([number])
        assert until(lambda number=number: str(number) in shelf.cached())  # type: ignore[misc]
        fetcher = data._fetcher
        assert fetcher is not None and fetcher.process is not None
        os.kill(pid_of(data), signal.SIGKILL)
        fetcher.process.wait()
    with caplog.at_level(logging.WARNING, "swell.data"):
        data.expect([4])
        data.expect([5])
    ended = "the process that fetches shards ahead has ended with exit code -9"
    again = f"{ended}, and another takes its place"
    assert [one.getMessage() for one in caplog.records if one.name == "swell.data"] == [
        *[again] * (TRIES - 1),
        f"{ended}; they are fetched when needed",
    ]
    assert [data[index]["number"] for index in range(SAMPLES)] == list(range(SAMPLES))
    data.close()


def test_until_the_process_is_ready_this_one_fetches(shelf: Shelf) -> None:
    data = shelf.open()
    data.expect([2])
    fetcher = data._fetcher
    assert fetcher is not None and fetcher.process is not None and fetcher._meanwhile is not None
    os.kill(fetcher.process.pid, signal.SIGSTOP)
    assert until(lambda: shelf.cached() == ["2"])
    os.kill(fetcher.process.pid, signal.SIGCONT)

    def taken_over() -> bool:
        data.expect([2])
        return fetcher._meanwhile is None

    assert until(taken_over)
    data.expect([3])
    assert until(lambda: shelf.cached() == ["2", "3"])
    data.close()
    assert until(lambda: not any(one.name == "fetches shards" for one in threading.enumerate()))


def test_it_ends_with_the_process_that_has_started_it(shelf: Shelf) -> None:
    program = (
        "import os, sys; from trainer.data import Shards; "
        f"data = Shards({shelf.url!r}, folder={str(shelf.cache)!r}); data.expect([0]); "
        "print(data._fetcher.process.pid, flush=True); sys.stdin.read(); os._exit(1)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert parent.stdout is not None and parent.stdin is not None
    child = int(parent.stdout.readline())
    assert until(lambda: shelf.cached() == ["0"])
    parent.kill()
    parent.communicate()
    assert until(lambda: not _lives(child))


def _lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def test_it_does_without_torch() -> None:
    program = "import sys, trainer.data.shards.fetching; print('torch' in sys.modules)"
    command = [sys.executable, "-c", program]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "False\n"


def test_what_is_wanted_is_held_and_no_more_than_its_part_of_the_room(shelf: Shelf) -> None:
    data = shelf.open(cache="1MiB")
    sizes = [one.size for one in data._index.shards]
    fetching = Fetching(data._reader_of_its_own())
    fetching.start()
    fetching.want([3, 1, 2, 0], sizes[3] + sizes[1])
    assert until(lambda: sorted(fetching._held) == [1, 3])
    assert shelf.cached() == ["1", "3"]
    other = shelf.open(cache=sizes[3] + sizes[1] + 1)
    assert other[0]["number"] == 0
    assert shelf.cached() == ["1", "3"], "neither was removed to make room"
    fetching.close()
    assert fetching._held == {}
    other.close()
    again = shelf.open(cache=sizes[3] + sizes[1] + 1)
    assert again[0]["number"] == 0
    assert "0" in shelf.cached()


def test_what_cannot_be_fetched_is_left_to_those_who_need_it(shelf: Shelf) -> None:
    data = shelf.open()
    shelf.store.delete("shard.00001.mds")
    fetching = Fetching(data._reader_of_its_own())
    fetching.start()
    fetching.want([1, 2], 2**20)
    assert until(lambda: sorted(fetching._held) == [2] and 1 in fetching._not_before)
    fetching.close()


def test_it_is_tried_again_and_fetched_when_it_can_be(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.data.shards.fetching.AGAIN", 0.05)
    data = shelf.open()
    whole = shelf.store.read("shard.00001.mds")
    shelf.store.delete("shard.00001.mds")
    fetching = Fetching(data._reader_of_its_own())
    fetching.start()
    fetching.want([1, 2], 2**20)
    assert until(lambda: sorted(fetching._held) == [2] and 1 in fetching._not_before)
    shelf.store.write("shard.00001.mds", whole)
    assert until(lambda: sorted(fetching._held) == [1, 2])
    fetching.close()
    assert until(lambda: not any(one.name == "fetches shards" for one in threading.enumerate()))
