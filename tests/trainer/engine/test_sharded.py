"""Samples of shards are taken once in each epoch, whatever becomes of the world or of loaders."""

from __future__ import annotations

import functools
import os
import shutil
import signal
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.trainer.engine.loops import CHANGING, Outcome, trained, travelled
from tests.trainer.ranks import alone
from trainer.data import write_shards
from trainer.protocol.session import CheckpointSettings, Session

SAMPLES, BATCH, EPOCHS = 44, 12, 3
STEPS_PER_EPOCH = -(-SAMPLES // BATCH)
STEPS = EPOCHS * STEPS_PER_EPOCH
Sample = tuple[int, int]  # its epoch, and its number


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder of shards in an archive: it is none of this machine's, and needs no server."""
    folder = tmp_path_factory.mktemp("sharded")
    write_shards(({"n": n} for n in range(SAMPLES)), folder / "data", shard_size=350)
    path = shutil.make_archive(str(folder / "data"), "zip", folder / "data")
    return f"zip://::{path}"


def loop(
    url: str,
    folder: Path,
    log: list[Any],
    workers: int = 2,
    kills: Collection[int] = (),
    total: int = STEPS,
) -> None:
    """Logs the samples of each step; in some steps it kills its loaders, and what fetches."""
    from trainer import elastic
    from trainer.data import Shards

    torch.manual_seed(0)
    model = nn.Linear(1, 1).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    state = elastic.State(model=model, optimizer=optimizer)
    data = Shards(url, folder=folder, cache=2000, lanes=4)
    batches = elastic.batches(data, BATCH, unit=3)
    assert batches.shards is not None
    for step in elastic.steps(state, batches, total=total, data=data, workers=workers):
        taken: list[Sample] = []
        with step:
            if step.number in kills:
                pids = elastic.running()._supply.pids  # type: ignore[union-attr]
                assert data._fetcher is not None and data._fetcher.process is not None
                for pid in [*pids, data._fetcher.process.pid]:
                    os.kill(pid, signal.SIGKILL)
            for part in step.split(None):
                numbers = step.batch["n"]
                assert numbers.tolist() == part.tolist()
                taken += [(step.epoch, int(one)) for one in numbers]
                loss = model(numbers.double().unsqueeze(1)).square().sum() / step.batch_size
                loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        if step.applied:
            log.append((step.number, taken))


def logged(url: str, folder: Path, **how: Any) -> list[tuple[int, list[Sample]]]:
    log: list[tuple[int, list[Sample]]] = []
    loop(url, folder, log, **how)
    return log


def taken_by(outcomes: Collection[Outcome]) -> dict[int, list[Sample]]:
    """The samples of each step, of all ranks."""
    found: dict[int, list[Sample]] = {}
    for outcome in outcomes:
        assert outcome.error == ""
        for number, samples in outcome.log:
            found.setdefault(number, []).extend(samples)
    return {number: sorted(one) for number, one in sorted(found.items())}


def alike(url: str, folder: Path) -> dict[int, list[Sample]]:
    """The samples of each step in a world of one without loaders."""
    log = alone(functools.partial(logged, url, folder, workers=0))
    return {number: sorted(samples) for number, samples in log}


def test_a_world_of_one_takes_each_sample_once(url: str, tmp_path: Path) -> None:
    found = alike(url, tmp_path)
    assert [*found] == list(range(1, STEPS + 1))
    taken = Counter(one for samples in found.values() for one in samples)
    assert taken == Counter((epoch, n) for epoch in range(EPOCHS) for n in range(SAMPLES))


def test_so_does_one_of_two_with_loaders_killed(url: str, tmp_path: Path) -> None:
    outcomes = trained(2, functools.partial(loop, url, tmp_path, kills=(3, 7)))
    assert taken_by(outcomes) == alike(url, tmp_path)


def test_and_worlds_of_three_and_two_that_change(url: str, tmp_path: Path) -> None:
    outcomes = travelled(CHANGING, functools.partial(loop, url, tmp_path, kills=(2, 6, 10)))
    found, meant = taken_by(outcomes.values()), alike(url, tmp_path)
    assert [*found] == [*meant]
    # Before step 4 the one who is gone has taken a part.
    assert {n: one for n, one in found.items() if n >= 4} == {
        n: one for n, one in meant.items() if n >= 4
    }
    for number in (1, 2, 3):
        assert {*found[number]} < {*meant[number]}


def saved(url: str, folder: Path, run: str, total: int) -> list[tuple[int, list[Sample]]]:
    settings = CheckpointSettings(every=0.0, every_steps=3)
    os.environ.update(Session(run, f"w-{os.getpid()}", checkpoint=settings).to_env())
    return logged(url, folder, workers=0, total=total)


def test_in_the_middle_of_an_epoch_it_goes_on_where_it_was(url: str, tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    alone(functools.partial(saved, url, tmp_path, run, total=6))
    rest = alone(functools.partial(saved, url, tmp_path, run, total=STEPS))
    assert [number for number, _ in rest] == list(range(7, STEPS + 1)), "and nothing is replayed"
    meant = alike(url, tmp_path)
    assert {n: sorted(one) for n, one in rest} == {n: one for n, one in meant.items() if n > 6}
