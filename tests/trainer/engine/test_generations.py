"""One worker through many worlds: nothing is lost, nothing is sent without need."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
import torch

from tests.trainer.ranks import Meeting, Worker, form, formed, workers, world_of
from trainer.engine.portable import Portable
from trainer.protocol.messages import Abort, Done, Form, Pause, Progress, Save, Saved, Stopped

ON_AND_ON = 10**9  # steps


class Held(Portable):
    """A state of one number, and a store of one checkpoint."""

    def __init__(self, step: int, clean: bool, weight: float, checkpoint: int | None) -> None:
        self.step = step
        self.clean = clean
        self.weight = torch.tensor([weight])
        self.checkpoint = checkpoint

    def export(self) -> Any:
        return {"step": self.step, "weight": self.weight}

    def load(self, tree: Any) -> None:
        self.step = tree["step"]
        self.weight = tree["weight"]

    def restore(self) -> bool:
        if self.checkpoint is not None:
            self.load({"step": self.checkpoint, "weight": torch.tensor([0.5])})
        return self.checkpoint is not None


def live(
    channel: Any,
    step: int = 0,
    clean: bool = False,
    weight: float = 0.0,
    limit: int = ON_AND_ON,
    checkpoint: int | None = None,
) -> tuple[int, bool, list[float], list[int]]:
    """Adds the world's size to the weight in every step. Returns all that is held at the end."""
    import horovod.torch as hvd
    from horovod.common.exceptions import HorovodInternalError

    from trainer.engine.generations import Generations

    state = Held(step, clean, weight, checkpoint)
    generations = Generations(channel)
    saves: list[int] = []

    def train() -> bool:
        while state.step < limit:
            generations.check_aborted()
            numbers = torch.tensor([1.0, float(channel.pause_requested())])
            hvd.allreduce_(numbers, op=hvd.Sum, name="step")
            state.weight += numbers[0]
            state.step += 1
            state.clean = True
            generations.step_completed()
            channel.send(Progress(generations.number, state.step))
            if numbers[1]:
                return False
        return True

    def save(order: Save) -> None:
        saves.append(state.step)
        generations.saved(state.step)

    while generations.enter(state, save):
        try:
            if train():
                generations.finish()
                generations.done(state.step, {})
            else:
                generations.leave(state)
        except HorovodInternalError as error:
            generations.leave(state, str(error))
    return state.step, state.clean, state.weight.tolist(), saves


def pause(members: list[Worker], generation: int) -> list[Stopped]:
    """Asks one of them for a pause; all of them stop. Returns what each says."""
    members[-1].send(Pause(generation))
    return [member.until(Stopped) for member in members]


def train_a_little(*members: Worker) -> None:
    for member in members:
        for _ in range(3):
            member.until(Progress)


def test_a_lone_world_trains_to_the_end() -> None:
    with workers(live, [0, False, 0.0, 10]) as (worker,), formed(1, [worker]) as (started,):
        assert (started.generation, started.rank, started.step) == (1, 0, 0)
        assert started.idle is None
        assert [worker.until(Progress).step for _ in range(10)] == list(range(1, 11))
        assert worker.receive() == Done(generation=1, rank=0, step=10, metrics={})
        assert worker.exit() == (10, True, [10.0], [])


def test_a_pause_that_one_is_asked_for_stops_all_after_the_same_step() -> None:
    with workers(live, [], [], []) as three, formed(1, three) as started:
        assert [one.rank for one in started] == [0, 1, 2]
        train_a_little(*three)
        stopped = pause(three, 1)
        assert len({one.step for one in stopped}) == 1
        assert all(one.clean and not one.failed for one in stopped)
        assert len({str(worker.exit()) for worker in three}) == 1


def test_when_all_agree_nothing_is_sent() -> None:
    with workers(live, [], []) as two:
        with formed(1, two) as started:
            assert all(one.bytes > 0 for one in started), "the first has to be made equal"
            train_a_little(*two)
            step = pause(two, 1)[0].step
        with formed(2, two) as started:
            assert [(one.bytes, one.step) for one in started] == [(0, step), (0, step)]
            assert all(one.idle is not None and one.idle >= 0 for one in started)
            pause(two, 2)


def test_a_newcomer_gets_the_state_of_those_who_trained() -> None:
    with workers(live, [], [], []) as (one, two, new):
        with formed(1, [one, two]):
            train_a_little(one, two)
            step = pause([one, two], 1)[0].step
        with formed(2, [new, one, two]) as started:  # it need not be the last in rank
            assert [one.step for one in started] == [step] * 3
            assert all(one.bytes > 0 for one in started)
            stopped = pause([new, one, two], 2)
        last = stopped[0].step
        weight = 2.0 * step + 3.0 * (last - step)
        assert [worker.exit() for worker in (one, two, new)] == [(last, True, [weight], [])] * 3


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_a_killed_peer_costs_the_survivors_no_step(victim: int) -> None:
    with workers(live, [], [], []) as three:
        with formed(1, three):
            train_a_little(*three)
            survivors = [worker for worker in three if worker is not three[victim]]
            three[victim].process.kill()
            stopped = [survivor.until(Stopped) for survivor in survivors]
        assert all(one.clean and one.failed for one in stopped)
        reached = max(one.step for one in stopped)
        assert reached >= 3
        with formed(2, survivors) as started:
            assert [one.step for one in started] == [reached] * 2
            stopped = pause(survivors, 2)
        last = stopped[0].step
        held: Any = (last, True, [3.0 * reached + 2.0 * (last - reached)], [])
        assert [survivor.exit() for survivor in survivors] == [held] * 2


def test_an_abort_wakes_those_who_wait_for_a_silent_peer() -> None:
    with workers(live, [], [], []) as three:
        with formed(1, three):
            train_a_little(*three)
            os.kill(three[1].process.pid, signal.SIGSTOP)  # no packet, no reset
            survivors = [three[0], three[2]]
            for survivor in survivors:
                survivor.send(Abort(1))
            stopped = [survivor.until(Stopped) for survivor in survivors]
        assert all(one.clean and one.failed for one in stopped)
        with formed(2, survivors) as started:
            assert {one.step for one in started} == {max(one.step for one in stopped)}
            pause(survivors, 2)


def test_a_world_that_was_broken_off_before_it_began_is_left_at_once() -> None:
    with workers(live, []) as (worker,), Meeting(world_of(1, 1, generation=3)) as meeting:
        worker.send(Abort(3))
        form(meeting, [worker, worker])  # the second is for a generation that is over, too
        for _ in range(2):
            stopped = worker.until(Stopped)
            assert stopped.generation == 3
            assert not stopped.clean
            assert "broken off" in stopped.failed


def test_a_peer_that_never_comes_costs_only_that_world() -> None:
    with workers(live, [4, True, 1.0]) as (worker,):
        with Meeting(world_of(1, 1)) as meeting:
            env, _ = meeting.environments
            worker.send(Form(1, env, ("127.0.0.1",)))
            meeting.until_somebody_came()
            meeting.break_off()
            worker.send(Abort(1))
            stopped = worker.until(Stopped)
            assert stopped.failed
            assert (stopped.step, stopped.clean) == (4, True)
        with formed(2, [worker]) as (started,):
            assert started.step == 4
            pause([worker], 2)


# step, clean, weight; then whose state counts
HOLDINGS = [
    pytest.param([(5, True, 1.0), (6, True, 2.0), (6, True, 2.0)], 1, id="the most advanced"),
    pytest.param([(7, False, 1.0), (5, True, 2.0), (6, True, 3.0)], 2, id="of those clean"),
    pytest.param([(0, False, 1.0), (0, True, 2.0), (0, False, 3.0)], 1, id="clean at step 0"),
]


@pytest.mark.parametrize("held, root", HOLDINGS)
def test_the_most_advanced_clean_state_counts(
    held: list[tuple[int, bool, float]], root: int
) -> None:
    with workers(live, *held) as three, formed(1, three) as started:
        step, _, weight = held[root]
        assert [one.step for one in started] == [step] * 3
        last = pause(three, 1)[0].step
        expected: Any = (last, True, [weight + 3.0 * (last - step)], [])
        assert [worker.exit() for worker in three] == [expected] * 3


def test_when_nobody_is_clean_the_checkpoint_counts() -> None:
    with (
        workers(live, [9, False, 9.0, ON_AND_ON, 40], [8, False, 8.0, ON_AND_ON, 40]) as two,
        formed(1, two) as started,
    ):
        assert [one.step for one in started] == [40, 40]
        last = pause(two, 1)[0].step
        assert [worker.exit()[2] for worker in two] == [[0.5 + 2.0 * (last - 40)]] * 2


def test_without_a_checkpoint_all_begin_with_the_state_of_rank_0() -> None:
    with workers(live, [0, False, 1.0], [0, False, 2.0]) as two, formed(1, two):
        last = pause(two, 1)[0].step
        assert [worker.exit()[2] for worker in two] == [[1.0 + 2.0 * last]] * 2


def test_between_worlds_it_saves_what_it_holds_if_that_is_worth_it() -> None:
    with workers(live, [7, True], [7, False]) as (clean, unclean):
        for worker, unsaved in ((clean, ""), (unclean, "it is of no completed step")):
            worker.send(Save())
            assert worker.receive() == Saved(7, unsaved)
        assert clean.exit()[3] == [7]
        assert unclean.exit()[3] == []


def test_through_many_worlds_nothing_accumulates() -> None:
    def descriptors(worker: Worker) -> int:
        return len(os.listdir(f"/proc/{worker.process.pid}/fd"))

    with workers(live, [], []) as two:
        counts = []
        for generation in range(1, 7):
            with formed(generation, two):
                pause(two, generation)
            two[0].send(Save())
            two[0].until(Saved)  # it has left the world
            counts.append(descriptors(two[0]))
        assert counts[1:] == [counts[1]] * 5


def test_who_is_complete_answers_a_pause_and_comes_along_again() -> None:
    with workers(live, [0, False, 0.0, 5], [0, False, 0.0, 5]) as two:
        with formed(1, two):
            for worker in two:
                worker.until(Done)
            for worker in two:  # nobody is in a step that could carry it to the others
                worker.send(Pause(1))
            assert [worker.until(Stopped).step for worker in two] == [5, 5]
        with formed(2, two) as started:
            assert [(one.step, one.bytes) for one in started] == [(5, 0), (5, 0)]
            for worker in two:
                worker.until(Done)
        assert [worker.exit()[:2] for worker in two] == [(5, True)] * 2
