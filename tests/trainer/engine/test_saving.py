"""Which checkpoints a worker writes, under which name, and what they say about themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from trainer.checkpoints.manifest import Manifest, committed_steps, read_manifest
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
    worker = Worker(tmp_path)
    worker.saving._retention = Retention(best="accuracy")
    worker.saving._checkpointer._retention = worker.saving._retention  # type: ignore[union-attr]
    worker.at(4).save(wait=True)
    worker.at(5).evaluated({"accuracy": 0.9})
    worker.at(6).evaluated({"accuracy": 0.8})
    assert worker.at(7).go_back(8, good=4) == (4, "")
    assert committed_steps(RunDirectory(str(tmp_path))) == [4]
    worker.at(6).evaluated({"accuracy": 0.8})
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
