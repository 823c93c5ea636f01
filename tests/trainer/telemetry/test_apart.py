"""A tracker's process is told each point once, in order, whatever becomes of it."""

from __future__ import annotations

import json
import os
import resource
import select
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trainer.telemetry import apart
from trainer.telemetry.apart import AT_ONCE, Apart
from trainer.telemetry.curves import Point

# What stands in for a tracker: it writes down the steps that it takes, until it has as many as it
# is said to take; and then does what it is said to do.
TRACKER = """
import json, pathlib, sys, time
folder = pathlib.Path(sys.argv[0]).parent
takes, then = json.loads((folder / "plan").read_text())
for line in sys.stdin:
    points = json.loads(line)
    answer = True
    with (folder / "taken").open("a") as file:
        for number, point in enumerate(points if isinstance(points, list) else (), 1):
            if takes == 0:
                answer = then
                break
            takes -= 1
            print(point["step"], file=file)
            print(number)
    sys.stdout.flush()
    if answer == "end":
        break
    if answer == "hang":
        time.sleep(1000)
    print(json.dumps(answer) if answer != "babble" else "babble", flush=True)
"""


class Stand:
    """What stands in for a tracker's process, and what it has taken."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "tracker.py").write_text(TRACKER)
        python = folder / "python"
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "{folder}/tracker.py"\n')
        python.chmod(0o700)
        self.python = str(python)
        self.plan()

    def plan(self, takes: int = -1, then: str = "") -> None:
        """From its next process on it takes so many points, and then does this; -1: all."""
        (self._folder / "plan").write_text(json.dumps([takes, then]))

    @property
    def taken(self) -> list[int]:
        file = self._folder / "taken"
        return [int(line) for line in file.read_text().split()] if file.exists() else []


@pytest.fixture
def stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stand:
    made = Stand(tmp_path)
    monkeypatch.setattr(sys, "executable", made.python)
    return made


@pytest.fixture
def told() -> Iterator[list[Apart]]:
    """Those that are closed in the end, and whose processes have ended then."""
    made: list[Apart] = []
    yield made
    for one in made:
        process = one._process
        one.close()
        if process is not None:
            process.wait()


@pytest.fixture
def one(told: list[Apart]) -> Apart:
    told.append(Apart("wandb", "digits", "run-1", "digits"))
    return told[0]


def points(*steps: int) -> list[Point]:
    return [Point(step, 100.0 + step, {"train/loss": 1.0}) for step in steps]


def test_points_are_told_once_and_in_order(stand: Stand, one: Apart) -> None:
    for first in (1, 3):
        one.tell(points(first, first + 1))
    one.tell([])
    assert stand.taken == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("takes", "then", "why"),
    [
        (0, "it is full", "it is full"),
        (1, "end", "has ended"),
        (AT_ONCE - 1, "babble", "answers b'babble'"),
        (AT_ONCE, "it is full", "it is full"),
        (AT_ONCE + 1, "end", "has ended"),
    ],
)
def test_what_it_has_taken_before_it_fails_it_is_not_told_again(
    stand: Stand, one: Apart, takes: int, then: str, why: str
) -> None:
    last = 2 * AT_ONCE
    stand.plan(takes, then)
    with pytest.raises(OSError, match=why):
        one.tell(points(*range(1, last)))
    assert stand.taken == [*range(1, takes + 1)] and one._process is None
    stand.plan(0, then)
    with pytest.raises(OSError, match=why):
        one.tell(points(last))
    stand.plan()
    for _ in range(2):
        one.tell([])
        assert stand.taken == [*range(1, last + 1)]


def test_one_that_hangs_in_the_middle_is_killed_and_told_the_rest(
    stand: Stand, one: Apart, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand.plan(2, "hang")
    one.tell(points(1, 2))
    with monkeypatch.context() as patch:
        patch.setattr(apart, "ANSWER", 0.1)
        with pytest.raises(OSError, match="has not answered"):
            one.tell(points(3, 4))
    stand.plan()
    one.tell(points(5))
    assert stand.taken == [1, 2, 3, 4, 5]


def test_a_process_that_reads_nothing_is_not_waited_for(
    one: Apart, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has said yes to what comes first, and its pipe holds less than a thousand points."""
    deaf = tmp_path / "python"
    deaf.write_text("#!/bin/sh\necho true\nexec sleep 1000\n")
    deaf.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(deaf))
    monkeypatch.setattr(apart, "_wait_for", impatient(apart._wait_for, monkeypatch))
    with pytest.raises(OSError, match="has not answered"):
        one.tell(points(*range(AT_ONCE)))
    assert one._process is None


def impatient(wait: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Waits as ever for an answer, and hardly until there is room to write."""

    def wait_for(pipe: int, what: int) -> None:
        with monkeypatch.context() as patch:
            if what == select.POLLOUT:
                patch.setattr(apart, "ANSWER", 0.1)
            wait(pipe, what)

    return wait_for


def test_a_process_with_more_files_than_select_can_watch_tells_as_well(
    stand: Stand, one: Apart
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 1200:
        pytest.skip(f"no more than {hard} files can be open here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1200), hard))
    files = [os.open(os.devnull, os.O_RDONLY)]
    try:
        while files[-1] < 1024:
            files.append(os.open(os.devnull, os.O_RDONLY))
        one.tell(points(1, 2))
        assert one._process is not None and one._process.stdout is not None
        assert one._process.stdout.fileno() > 1023
    finally:
        for file in files:
            os.close(file)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert stand.taken == [1, 2]


def test_one_that_cannot_begin_says_why_and_is_another_process_the_next_time(
    told: list[Apart],
) -> None:
    one = Apart("mlflow", "nowhere://x", "run-1", "digits")
    one._begin["kind"] = "abacus"
    told.append(one)
    with pytest.raises(OSError, match="KeyError: 'abacus'"):
        one.tell(points(1, 2))
    assert one._process is None


def test_one_that_does_not_answer_is_killed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, told: list[Apart]
) -> None:
    silent = tmp_path / "python"
    silent.write_text("#!/bin/sh\nexec sleep 1000\n")
    silent.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(silent))
    monkeypatch.setattr(apart, "ANSWER", 0.1)
    one = Apart("wandb", "digits", "run-1", "digits")
    told.append(one)
    started: list[Any] = []
    start = one._start

    def start_and_note() -> Any:
        started.append(start())
        return started[-1]

    monkeypatch.setattr(one, "_start", start_and_note)
    with pytest.raises(OSError, match="has not answered"):
        one.tell(points(1, 2))
    assert started[0].returncode == -9 and one._process is None
    with pytest.raises(ProcessLookupError):
        os.kill(started[0].pid, 0)


def test_nothing_to_tell_starts_nothing(told: list[Apart]) -> None:
    one = Apart("wandb", "digits", "run-1", "digits")
    told.append(one)
    one.tell([])
    assert one._process is None and str(one) == "Weights & Biases"
