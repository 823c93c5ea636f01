"""Which checkpoints a worker writes, under which name, and what they say about themselves."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from trainer.checkpoints.manifest import (
    MANIFEST,
    Manifest,
    committed_steps,
    folder_of,
    folders,
    read_manifest,
    read_metrics,
)
from trainer.checkpoints.restore import Alone
from trainer.checkpoints.retention import Retention
from trainer.engine import saving
from trainer.engine.generations import Generations
from trainer.engine.portable import Portable
from trainer.engine.saving import Saving
from trainer.protocol.channel import LoneChannel
from trainer.protocol.messages import Event, FromWorker, Save, Saved
from trainer.protocol.session import CheckpointSettings, Session
from trainer.rundir.directory import RunDirectory
from trainer.rundir.retry import Backoff

AGAIN = Backoff(first=0.01, longest=0.01, limit=0.05)


class Held(Portable):
    """A state of one tensor."""

    def export(self) -> Any:
        return {"weight": torch.full((3,), float(self.step))}


class Worker:
    """A rank of the seventh world of a run, which the third leader formed."""

    def __init__(self, path: Path | None, rank: int = 0, size: int = 1, lost: bool = False) -> None:
        self.told: list[FromWorker] = []
        channel = LoneChannel(self.told.append)
        channel.aborted = lambda generation: lost  # type: ignore[method-assign]
        generations = Generations(channel)
        generations.number, generations.leader_term = 7, 3
        generations.rank, generations.size = rank, size
        session = Session(
            run_dir_url=None if path is None else str(path),
            checkpoint=CheckpointSettings(every=0.0, every_steps=2),
            job_sha256="of the job",
        )
        self.state = Held()
        self.saving = Saving(
            session, generations, self.state, lambda: {"epoch": 5}, lambda: 1, again=AGAIN
        )

    def at(self, step: int) -> Saving:
        self.state.step = step
        return self.saving

    def events(self) -> list[str]:
        return [message.name for message in self.told if isinstance(message, Event)]


def saved(worker: Worker) -> list[Saved]:
    return [message for message in worker.told if isinstance(message, Saved)]


def manifest(path: Path, step: int) -> Manifest:
    run_dir = RunDirectory(str(path))
    assert committed_steps(run_dir) == [step]
    return read_manifest(run_dir, step)


def test_rank_0_says_when_one_is_due(tmp_path: Path) -> None:
    first, other = Worker(tmp_path), Worker(tmp_path, rank=1)
    assert [first.saving.due(step) for step in (1, 2, 3)] == [False, True, True]
    assert not other.saving.due(2), "it is told by what travels with the gradients"
    first.at(2).save(wait=True)
    assert [first.saving.due(step) for step in (3, 4)] == [False, True]
    first.saving.close()


def test_a_step_is_saved_once(tmp_path: Path) -> None:
    worker = Worker(tmp_path)
    for _ in range(2):
        worker.at(1).save(wait=True)
    worker.saving.finish()
    worker.saving.save_left(Save())
    worker.saving.close()
    assert worker.events() == ["checkpoint_committed"]


def test_a_checkpoint_says_where_it_comes_from(tmp_path: Path) -> None:
    worker = Worker(tmp_path)
    worker.at(4).finish()
    found = manifest(tmp_path, 4)
    assert found.writing == "000003-000007-w1"
    told = {"generation": 7, "leader_term": 3, "job_sha256": "of the job", "epoch": 5}
    assert told.items() <= found.about.items()


def test_those_who_are_left_write_under_a_name_of_their_own(tmp_path: Path) -> None:
    """What the whole world of five was writing of this step is another checkpoint."""
    workers = [Worker(tmp_path, rank, size=5) for rank in (3, 1)]
    for rank, worker in enumerate(workers):
        worker.at(4).save_left(Save(rank, size=2))
    for worker in workers:
        worker.saving.close()
    assert manifest(tmp_path, 4).writing == "000003-000007-left-w2"


def test_it_is_said_to_be_saved_when_it_is_there_and_not_before(tmp_path: Path) -> None:
    workers = [Worker(tmp_path, rank) for rank in (0, 1)]
    workers[0].at(4).save_left(Save(0, size=2))
    assert saved(workers[0]) == [], "another holds the other half"
    workers[1].at(4).save_left(Save(1, size=2))
    for worker in workers:
        worker.saving.close()
    assert saved(workers[0]) == [Saved(4)]
    assert saved(workers[1]) in ([], [Saved(4)]), "whoever saw that all is there"
    workers[0].at(4).save_left(Save())
    assert saved(workers[0]) == [Saved(4)] * 2


def test_when_the_best_is_gone_the_next_best_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saving, "WorldExchange", lambda collective: Alone())
    worker = Judged(tmp_path, keep=2)
    worker.at(4).save(wait=True)
    worker.finds(5, 0.9)
    worker.finds(6, 0.8)
    assert worker.at(7).go_back(8, good=4) == (4, "")
    assert committed_steps(RunDirectory(str(tmp_path))) == [4]
    worker.finds(6, 0.8)
    worker.saving.close()
    assert committed_steps(RunDirectory(str(tmp_path))) == [4, 6]


def test_what_could_not_be_saved_between_worlds_says_why(tmp_path: Path) -> None:
    worker = Worker(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step-000000005").write_text("in the way")
    worker.at(5).save_left(Save())
    worker.saving.close()
    (said,) = saved(worker)
    assert said.step == 5 and "step-000000005" in said.unsaved
    late = Worker(tmp_path)
    late.at(6).save(wait=True)
    late.at(7).save_left(Save(until=0.0))
    assert saved(late) == [Saved(7, "there was no time for it")]
    late.saving.close()


def test_at_the_end_rank_0_writes_everything_when_another_is_lost(tmp_path: Path) -> None:
    worker = Worker(tmp_path, size=2, lost=True)
    worker.at(4).finish()
    assert worker.events() == ["checkpoint_failed", "checkpoint_committed"]
    assert manifest(tmp_path, 4).writing == "000003-000007-alone-w1"


def test_an_end_that_the_store_does_not_take_is_said_with_what_is_lost(tmp_path: Path) -> None:
    worker = Worker(tmp_path)
    worker.at(2).save(wait=True)
    assert worker.saving.unsaved() == ""
    (tmp_path / "checkpoints" / "step-000000005").write_text("in the way")
    worker.at(5).finish()
    assert set(worker.events()[1:]) == {"checkpoint_failed"}
    said = worker.saving.unsaved()
    assert said.startswith("training is complete, but its end is not saved: ")
    url = f"{tmp_path}/checkpoints/step-000000002"
    assert said.endswith(
        f"the steps 3 to 5 are lost; make room, and take them again with swell "
        f"launch JOB --from {url} [SW5150]"
    )


def test_the_end_is_tried_again_until_the_store_takes_it(tmp_path: Path) -> None:
    worker = Worker(tmp_path)
    (in_the_way := tmp_path / "checkpoints").write_text("")
    emit = worker.saving._generations.emit

    def heard(event: str, **fields: Any) -> None:
        emit(event, **fields)
        if fields.get("failures") == 3:
            in_the_way.unlink()

    worker.saving._checkpointer._report = heard  # type: ignore[union-attr]
    worker.at(5).finish()
    assert worker.saving.unsaved() == ""
    assert worker.events() == [*["checkpoint_failed"] * 3, "checkpoint_committed"]


@pytest.mark.parametrize("rank", [0, 1])
def test_outside_a_run_nothing_is_saved(rank: int) -> None:
    worker = Worker(None, rank)
    saving = worker.at(4)
    saving.enter()
    assert not saving.due(4)
    saving.save()
    saving.save_left(Save())
    saving.finish()
    saving.close()
    assert saving.unsaved() == ""
    assert (saving.start(), saving.seconds, worker.events()) == (None, 0.0, [])


# --- the best ----------------------------------------------------------------------------


class Judged(Worker):
    """A worker whose best checkpoint goes by its accuracy."""

    def __init__(self, path: Path, keep: int = 1) -> None:
        super().__init__(path)
        self._said: tuple[int, dict[str, float]] = (-1, {})
        self.saving._about = self._own_metrics
        self.saving._retention = Retention(keep, best="accuracy")
        self.saving._checkpointer._retention = self.saving._retention  # type: ignore[union-attr]

    def finds(self, step: int, accuracy: float) -> None:
        self.says(step, {"accuracy": accuracy})

    def says(self, step: int, metrics: dict[str, float]) -> None:
        self._said = step, metrics
        self.at(step).evaluated(metrics)

    def _own_metrics(self) -> dict[str, Any]:
        """A checkpoint has what was said of its state before, as those of a loop have."""
        return {"metrics": self._said[1] if self._said[0] == self.state.step else {}}


def there(path: Path) -> dict[int, Any]:
    """The accuracy of each checkpoint that there is."""
    run_dir = RunDirectory(str(path))
    return {
        step: read_metrics(run_dir, step, names).get("accuracy")
        for step, names in folders(run_dir).items()
        if MANIFEST in names
    }


def test_when_the_best_could_not_be_written_the_next_best_is(tmp_path: Path) -> None:
    worker = Judged(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step-000000004").write_text("in the way")
    worker.finds(4, 0.9)
    worker.saving._checkpointer.flush()  # type: ignore[union-attr]
    worker.finds(5, 0.8)
    worker.saving.close()
    assert worker.events() == ["checkpoint_failed", "checkpoint_committed"]
    (tmp_path / "checkpoints" / "step-000000004").unlink()
    assert there(tmp_path) == {5: 0.8}


def test_a_better_one_that_comes_while_the_best_is_being_written_is_saved(tmp_path: Path) -> None:
    worker = Judged(tmp_path)
    run_dir = worker.saving._checkpointer._place  # type: ignore[union-attr]
    slow, goes_on = run_dir.store.create, threading.Event()

    def create(*args: Any) -> bool:
        goes_on.wait(600)
        return slow(*args)

    run_dir.store.create = create  # type: ignore[method-assign]
    worker.finds(4, 0.8)
    threading.Timer(0.2, goes_on.set).start()
    worker.finds(5, 0.9)
    worker.saving.close()
    assert worker.events() == ["checkpoint_committed"] * 2
    assert there(tmp_path) == {5: 0.9}


def test_what_is_said_of_a_state_again_counts(tmp_path: Path) -> None:
    worker = Judged(tmp_path)
    worker.finds(4, 0.9)
    worker.finds(4, 0.3)
    worker.finds(5, 0.5)
    worker.saving.close()
    assert there(tmp_path) == {5: 0.5}


def test_of_two_that_are_equal_the_newer_is_the_best_if_it_is_saved_anyway(tmp_path: Path) -> None:
    worker = Judged(tmp_path)
    worker.finds(3, 0.9)
    worker.finds(5, 0.9)
    worker.saving._checkpointer.flush()  # type: ignore[union-attr]
    assert there(tmp_path) == {3: 0.9}
    for step, accuracy in ((6, 0.9), (8, 0.1)):
        worker.at(step).save(wait=True)
        worker.finds(step, accuracy)
    worker.at(10).save(wait=True)
    worker.saving.close()
    assert there(tmp_path) == {6: 0.9, 10: None}


def test_the_checkpoint_that_a_run_goes_on_from_may_be_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was written when the machine had notice, and is evaluated by those who come after."""
    monkeypatch.setattr(saving, "WorldExchange", lambda collective: Alone())
    before = Judged(tmp_path)
    before.at(4).save_left(Save())
    before.saving.close()
    after = Judged(tmp_path)
    found = after.saving.start()
    assert found is not None and found[1] == 4
    after.finds(4, 0.9)
    after.finds(5, 0.5)
    after.at(6).save(wait=True)
    after.saving.close()
    assert there(tmp_path) == {4: 0.9, 6: None}


def test_of_another_runs_checkpoint_nothing_is_said_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saving, "WorldExchange", lambda collective: Alone())
    other = Judged(tmp_path / "other")
    other.at(4).save(wait=True)
    other.saving.close()
    worker = Judged(tmp_path / "own")
    url = f"{tmp_path}/other/checkpoints/step-000000004"
    settings = CheckpointSettings(every=0.0, every_steps=2, start_from=url)
    worker.saving._session = replace(worker.saving._session, checkpoint=settings)
    assert worker.saving.start() is not None
    worker.finds(4, 0.9)
    worker.saving.close()
    assert there(tmp_path / "own") == {4: 0.9}
    assert there(tmp_path / "other") == {4: None}


def test_the_best_by_itself_does_not_break_off_what_all_are_writing(tmp_path: Path) -> None:
    """Its copy may take as long as ranks of a world that is over are waited for."""
    worker = Judged(tmp_path)
    worker.saving.enter()
    checkpointer = worker.saving._checkpointer
    worker.finds(4, 0.9)
    assert checkpointer is not None and checkpointer._world == "000003-000007"
    worker.saving.close()


@pytest.mark.parametrize(
    "metrics, told",
    [
        ([{"accuracy": 0.5}, {"loss": 1.0}], []),
        ([{"accuracy": float("nan")}], []),
        ([{"loss": 1.0, "acuracy": 0.9}, {"loss": 1.0}], ["acuracy, loss"]),
        ([], ["nothing"]),
    ],
)
def test_a_metric_that_nobody_reports_is_said_once(
    tmp_path: Path, metrics: list[dict[str, float]], told: list[str]
) -> None:
    worker = Judged(tmp_path)
    for step, one in enumerate(metrics, 1):
        worker.says(step, one)
    worker.at(9).finish()
    worker.saving.close()
    said = [str(one.fields.get("reason")) for one in worker.told if isinstance(one, Event)]
    assert [one for one in said if "keep_best" in one] == [
        f"keep_best goes by accuracy, and none was reported so far; reported was {names}: no "
        "checkpoint is the best yet [SW5163]"
        for names in told
    ]


def test_what_was_found_damaged_gives_way_to_what_is_saved_at_its_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a run that ends there would say that its end is saved."""
    monkeypatch.setattr(saving, "WorldExchange", lambda collective: Alone())
    before = Judged(tmp_path, keep=9)
    for step in (2, 4, 6):
        before.at(step).save(wait=True)
    before.saving.close()
    (shard,) = (tmp_path / folder_of(4)).glob("*.safetensors")
    shard.write_bytes(b"damaged")
    (tmp_path / folder_of(6) / MANIFEST).write_bytes(b"{")
    after = Judged(tmp_path, keep=9)
    found = after.saving.start()
    assert found is not None and found[1] == 2
    after.at(4).finish()
    assert after.saving.unsaved() == ""
    after.saving.close()
    again = Judged(tmp_path)
    found = again.saving.start()
    assert found is not None and found[1] == 4 and found[0]["weight"].tolist() == [4.0] * 3
