"""Who is told of a run, and when: the threads beside its leader."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.trainer.telemetry.runs import Run
from trainer.telemetry import eventfile, herald
from trainer.telemetry.board import LOGS
from trainer.telemetry.curves import Point
from trainer.telemetry.herald import Herald
from trainer.telemetry.position import TOLD, last_position


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


@pytest.fixture
def launched(run: Run) -> Iterator[Callable[..., Herald]]:
    heralds: list[Herald] = []

    def launch(every: float = 3600.0, **settings: object) -> Herald:
        about = {"id": "r-1", "spec": {"name": "digits"}, "settings": {"telemetry": settings}}
        run.directory.write_json("run.json", {**about, "format": 2})
        heralds.append(Herald(run.directory, 1, run.complaints.append, every))
        return heralds[-1]

    yield launch
    for one in heralds:
        one.close()
        one._thread.join()


def test_a_run_that_ends_is_told_to_its_last_step(
    run: Run, launched: Callable[..., Herald]
) -> None:
    one = launched()
    run.steps(1, 3.0)
    one.finish(2)
    run.steps(2, 2.0)  # written a moment after the end
    one.close()
    assert run.losses() == [(1, 3.0), (2, 2.0)] and run.complaints == []


def test_while_it_goes_on_it_is_told_again_and_again(
    run: Run, launched: Callable[..., Herald]
) -> None:
    run.steps(1, 3.0)
    launched(every=0.01)
    while not run.directory.store.names(TOLD):
        threading.Event().wait(0.01)
    assert run.losses() == [(1, 3.0)]


def test_a_tracker_that_does_not_answer_keeps_nobody_waiting(
    run: Run, launched: Callable[..., Herald], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, release = threading.Event(), threading.Event()

    class Hanging:
        def __init__(self, *_: str) -> None:
            pass

        def tell(self, points: Sequence[Point]) -> None:
            asked.set()
            release.wait()

        def close(self) -> None:
            pass

    monkeypatch.setattr(herald, "Apart", Hanging)
    run.steps(1, 3.0)
    launched(every=0.01, wandb="digits")
    assert asked.wait(60.0)
    run.steps(2, 2.0)
    while last_position(run.directory, 2).curves.step < 2:
        threading.Event().wait(0.01)
    release.set()
    assert run.losses() == [(1, 3.0), (2, 2.0)]


def test_nothing_is_written_where_nobody_wants_it(
    run: Run, launched: Callable[..., Herald]
) -> None:
    one = launched(tensorboard=False)
    run.steps(1, 3.0)
    one.finish(1)
    one.close()
    assert run.directory.store.names(LOGS) == [] and run.complaints == []


def test_a_folder_without_a_run_has_nothing_to_tell(run: Run) -> None:
    one = Herald(run.directory, 1, run.complaints.append)
    one._thread.join()
    assert run.complaints == [] and run.directory.store.names(LOGS) == []


@pytest.mark.parametrize("required", [False, True])
def test_without_the_library_that_is_said_where_the_job_asks_for_it(
    run: Run, launched: Callable[..., Herald], monkeypatch: pytest.MonkeyPatch, required: bool
) -> None:
    monkeypatch.setattr(eventfile, "NEEDED", ("no_such_library",))
    one = launched(required=required)
    one.finish(0)
    one.close()
    said = (
        "no event files for TensorBoard are written: no_such_library is not installed in the "
        "image; add swell[board] [SW6241]"
    )
    assert run.complaints == ([said] if required else [])


def test_a_position_that_nobody_understands_ends_it_with_a_word(
    run: Run, launched: Callable[..., Herald]
) -> None:
    run.directory.write_json(f"{TOLD}/000000.json", {"late": 1})
    launched()._thread.join()
    (said,) = run.complaints
    assert said.startswith("nothing is told elsewhere of this run: ") and said.endswith("[SW6240]")
