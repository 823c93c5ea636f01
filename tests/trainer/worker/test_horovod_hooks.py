"""Elastic Horovod's own way of surviving, with worlds that come from an agent."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
import torch

from tests.trainer.ranks import Meeting, Worker, form, formed, workers, world_of
from trainer.protocol.messages import Abort, Done, Pause, Progress, Ready, Stopped


def scripted(
    channel: Any, rounds: int, die_in: int = 0, commit_every: int = 2, decay: float = 0.1
) -> dict[str, Any]:
    """A script in the style of Horovod's examples. Returns what it held and went through."""
    from trainer.worker.horovod_hooks import Hooks

    hooks = Hooks(channel)
    hooks.install()
    import horovod.torch as hvd

    told: list[str] = []
    optimizer: Any = None
    try:
        hvd.init()
        torch.manual_seed(os.getpid())  # every process begins with a model of its own
        model = torch.nn.Linear(4, 1)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=decay)
        optimizer = hvd.DistributedOptimizer(optimizer, named_parameters=model.named_parameters())

        @hvd.elastic.run  # type: ignore[untyped-decorator]
        def train(state: Any) -> str:
            told.append(f"{hvd.rank()}/{hvd.size()} from {state.round}")
            while state.round < rounds:
                state.optimizer.zero_grad()
                loss = state.model(torch.ones(2, 4)).square().mean()
                loss.backward()
                if state.round + 1 == die_in:
                    os.kill(os.getpid(), signal.SIGKILL)
                state.optimizer.step()
                state.round += 1
                if state.round % commit_every == 0:
                    state.commit()
            return "returned"

        state = hvd.elastic.TorchState(model=model, optimizer=optimizer, round=0)
        state.register_reset_callbacks([lambda: told.append(f"reset to {hvd.size()}")])
        assert train(state) == "returned"
        hooks.end()
    except SystemExit as ending:
        assert ending.code == 0
    if optimizer is None:
        return {"told": told}
    return {
        "told": told,
        "round": state.round,
        "weight": [round(one, 5) for one in model.weight.flatten().tolist()],
        "steps": int(next(iter(optimizer.state_dict()["state"].values()))["step"]),
    }


ON_AND_ON = 10**9


def pause(generation: int, members: list[Worker]) -> list[Stopped]:
    for member in members:
        member.send(Pause(generation))
    return [member.until(Stopped) for member in members]


def ready(*members: Worker) -> None:
    for member in members:
        member.until(Ready)


def at_work(*members: Worker) -> None:
    for member in members:
        member.until(Progress)


def test_a_script_is_warm_when_it_asks_for_a_world_and_done_when_all_ranks_end() -> None:
    with workers(scripted, [6], [6]) as two:
        ready(*two)
        with formed(1, two) as started:
            assert [(one.rank, one.step, one.bytes) for one in started] == [
                (0, 0, 0),
                (1, 0, 0),
            ]
            done = [one.until(Done) for one in two]
            assert [(one.rank, one.step, one.by_all) for one in done] == [
                (0, 6, True),
                (1, 6, True),
            ]
        one, other = (worker.exit() for worker in two)
    assert one["weight"] == other["weight"], "they were made equal and trained together"
    assert (one["round"], one["steps"]) == (6, 6)
    assert [one["told"], other["told"]] == [["0/2 from 0"], ["1/2 from 0"]]


@pytest.mark.parametrize("leaver", [0, 1])
def test_a_rank_that_ends_alone_breaks_a_collective_of_the_others(leaver: int) -> None:
    plans = [[3 if rank == leaver else ON_AND_ON] for rank in range(2)]
    with workers(scripted, *plans) as two:
        ready(*two)
        with formed(1, two):
            assert two[leaver].until(Done).step == 3
            assert two[1 - leaver].until(Stopped).failed


def test_a_script_that_is_never_needed_ends_well() -> None:
    with workers(scripted, [6]) as (worker,):
        ready(worker)
        assert worker.exit() == {"told": []}


def test_a_notice_stops_all_at_the_same_commit_and_nothing_is_rolled_back() -> None:
    with workers(scripted, [ON_AND_ON], [ON_AND_ON]) as two:
        ready(*two)
        with formed(1, two):
            at_work(*two)
            stopped = pause(1, two)
        assert len({one.step for one in stopped}) == 1
        assert all(one.clean and not one.failed for one in stopped)
        with formed(2, two[1:]) as (started,):
            assert started.step == stopped[0].step
            pause(2, two[1:])
        assert two[0].exit()["told"] == ["0/2 from 0"]
        assert two[1].exit()["told"][1:] == ["reset to 1", f"0/1 from {stopped[0].step}"]


@pytest.mark.parametrize("newcomer_first", [False, True], ids=["last", "rank 0"])
def test_a_newcomer_gets_the_state_whatever_its_rank(newcomer_first: bool) -> None:
    """A spare that replaces a crashed worker of rank 0's member gets rank 0."""
    with workers(scripted, [ON_AND_ON], [ON_AND_ON]) as (old, new):
        ready(old, new)
        with formed(1, [old]):
            at_work(old)
            step = pause(1, [old])[0].step
        both = [new, old] if newcomer_first else [old, new]
        with formed(2, both) as started:
            assert [one.step for one in started] == [step, step]
            at_work(*both)
            ended = pause(2, both)[0].step
        outcomes = [worker.exit() for worker in both]
    assert outcomes[0]["weight"] == outcomes[1]["weight"]
    assert [one["steps"] for one in outcomes] == [ended, ended], "nothing began anew"
    assert ended > step


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_peer_takes_the_others_back_to_their_last_commit(victim: int) -> None:
    plans = [[12, 8 if rank == victim else 0, 3] for rank in range(2)]
    with workers(scripted, *plans) as two:
        ready(*two)
        survivor = two[1 - victim]
        with formed(1, two):
            stopped = survivor.until(Stopped)
            assert (stopped.step, stopped.clean) == (6, True)
            assert stopped.failed
        with formed(2, [survivor]) as (started,):
            assert started.step == 6
            assert survivor.until(Done).step == 12
        outcome = survivor.exit()
    assert (outcome["round"], outcome["steps"]) == (12, 12)
    assert outcome["told"][1:] == ["reset to 1", "0/1 from 6"]


def test_an_abort_breaks_a_script_loose_from_a_silent_peer() -> None:
    with workers(scripted, [ON_AND_ON], [ON_AND_ON]) as two:
        ready(*two)
        with formed(1, two):
            at_work(*two)
            os.kill(two[1].process.pid, signal.SIGSTOP)
            two[0].send(Abort(1))
            assert two[0].until(Stopped).clean
        with formed(2, two[:1]):
            pause(2, two[:1])


def test_nothing_but_gloo_addresses_goes_to_the_rendezvous() -> None:
    with workers(scripted, [6], [6]) as two:
        ready(*two)
        with Meeting(world_of(1, 1)) as meeting:
            form(meeting, two)
            two[0].until(Done)
            scopes = {scope for scope, _, _ in meeting.rows}
        for worker in two:
            worker.exit()
    assert all(scope.startswith(("global", "cross")) for scope in scopes), scopes


def asks_for_what_it_cannot(channel: Any) -> str:
    from trainer.protocol.session import Session
    from trainer.worker.horovod_hooks import Hooks

    os.environ.update(Session(on_nonfinite="skip").to_env())
    try:
        Hooks(channel).init()
    except Exception as error:
        return str(error)
    return "nothing"


def test_a_script_that_swell_does_not_sum_for_cannot_skip_steps() -> None:
    with workers(asks_for_what_it_cannot, []) as (worker,):
        said = worker.exit()
    assert said.startswith("on_nonfinite has no effect on a script that sums its gradients by")
