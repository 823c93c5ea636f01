"""A keeper's decisions: one process in a generation, and nothing of it in the next."""

from __future__ import annotations

import pytest

from trainer.protocol import messages
from trainer.protocol.messages import (
    Abort,
    Done,
    Exit,
    Exited,
    Form,
    Pause,
    Progress,
    Start,
    Started,
    Steps,
    Stopped,
)
from trainer.worker.keeping import (
    ABORT_GRACE,
    REST_GRACE,
    Keeping,
    Kill,
    Leave,
    Phase,
    Spawn,
    Terminate,
)

WHOLE = Stopped(3, 0, True, "", whole=True)  # what it wrote is finished
STOPPED = Stopped(3, 0, True, "", whole=False)


def formed(generation: int = 3) -> Keeping:
    keeping = Keeping()
    assert keeping.take(Form(generation, {"RANK": "1", "WORLD_SIZE": "2"}, ()), 0.0) == []
    return keeping


def running(generation: int = 3) -> Keeping:
    keeping = formed(generation)
    keeping.take(Start(generation, "10.0.0.1", 15001), 1.0)
    assert keeping.phase is Phase.RUNNING
    return keeping


def test_the_process_starts_with_its_place_and_with_where_rank_0_listens() -> None:
    variables = {
        "RANK": "1",
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "10.0.0.1",
        "MASTER_PORT": "15001",
    }
    started = Started(3, 1, step=0, idle=None, bytes=0, seconds=0.0)
    assert formed().take(Start(3, "10.0.0.1", 15001), 1.0) == [Spawn(variables), started]


def test_a_start_of_another_generation_or_a_second_one_starts_nothing() -> None:
    assert formed().take(Start(2, "10.0.0.1", 15001), 1.0) == []
    assert running().take(Start(3, "10.0.0.1", 15001), 1.0) == []
    assert Keeping().take(Start(3, "10.0.0.1", 15001), 1.0) == []


def test_a_pause_gives_the_process_as_long_as_it_says_and_a_kill_after_that() -> None:
    keeping = running()
    assert keeping.take(Pause(3, 10.0), 5.0) == [Terminate()]
    assert keeping.tick(14.9) == []
    assert keeping.tick(15.0) == [Kill()]
    keeping.exited(-9, "killed by SIGKILL", 15.1)
    assert keeping.gone() == [STOPPED]
    assert keeping.phase is Phase.IDLE


def test_what_outlives_its_process_is_asked_to_end_then_and_has_a_short_time() -> None:
    keeping = running()
    keeping.take(Pause(3, 10.0), 5.0)
    assert keeping.exited(-15, "killed by SIGTERM", 6.0) == [Terminate()], "it did as it was asked"
    assert keeping.tick(5.9 + REST_GRACE) == []
    assert keeping.tick(6.0 + REST_GRACE) == [Kill()]
    assert keeping.gone() == [STOPPED]


def test_what_outlives_its_process_has_no_longer_than_that() -> None:
    keeping = running()
    keeping.take(Pause(3, 2.0), 5.0)
    keeping.exited(0, "", 6.0)
    assert keeping.tick(7.0) == [Kill()]


def test_it_has_stopped_only_when_nothing_of_the_process_is_left() -> None:
    keeping = running()
    keeping.take(Abort(3), 5.0)
    assert keeping.exited(0, "", 5.1) == [Terminate()]
    assert keeping.phase is Phase.ENDING, "what it has started may live on"
    assert keeping.gone() == [WHOLE]
    assert keeping.gone() == [], "once"


def test_an_abort_shortens_a_pause_and_nothing_lengthens_it() -> None:
    keeping = running()
    keeping.take(Pause(3, 20.0), 5.0)
    assert keeping.take(Abort(3), 6.0) == []
    keeping.take(Pause(3, 20.0), 6.5)
    assert keeping.tick(6.0 + ABORT_GRACE) == [Kill()]


def test_a_stopped_process_would_not_hear_and_is_killed_at_once() -> None:
    keeping = running()
    keeping.take(Abort(3), 5.0, frozen=True)
    assert keeping.tick(5.0) == [Kill()]


def test_a_process_that_fails_is_told_of_and_what_it_left_behind_is_ended() -> None:
    keeping = running()
    assert keeping.exited(1, "KeyError: 'a'", 5.0) == [Exited(3, 1, 1, 4.0, "KeyError: 'a'")]
    assert keeping.gone() == [], "whether its world is to be left is not the keeper's to say"
    assert keeping.take(Abort(3), 5.0) == [Terminate()]
    assert keeping.tick(5.0 + ABORT_GRACE) == [Kill()]
    assert keeping.gone() == [STOPPED]


def test_a_process_that_ends_well_is_done_and_can_still_be_called_back() -> None:
    keeping = running()
    assert keeping.exited(0, "", 5.0) == [Done(3, 1, 0, {}, by_all=True)]
    assert keeping.gone() == [], "the world goes on"
    assert keeping.take(Abort(3), 6.0) == [Terminate()]
    assert keeping.gone() == [WHOLE]
    assert keeping.take(Form(4, {"RANK": "0"}, ()), 7.0) == []
    assert keeping.phase is Phase.FORMED


@pytest.mark.parametrize("order", [Pause(3, 1.0), Abort(3)])
def test_a_world_can_be_left_before_it_has_started(order: messages.Pause) -> None:
    keeping = formed()
    keeping.take(order, 1.0)
    assert keeping.gone() == [WHOLE]
    assert keeping.take(Start(3, "10.0.0.1", 15001), 2.0) == [], "too late"


@pytest.mark.parametrize("order", [Pause(2, 1.0), Abort(2)])
def test_orders_about_an_earlier_generation_mean_nothing(order: messages.Pause) -> None:
    keeping = running()
    assert keeping.take(order, 1.0) == []
    assert keeping.phase is Phase.RUNNING


def test_the_end_of_its_life_takes_the_process_along() -> None:
    assert Keeping().take(Exit(), 0.0) == [Leave()]
    keeping = running()
    assert keeping.take(Exit(), 5.0) == [Terminate()]
    assert keeping.tick(5.0 + ABORT_GRACE) == [Kill()]
    assert keeping.gone() == [Leave()]


def test_how_long_files_are_restored_and_a_script_computes_nobody_can_know() -> None:
    assert not Keeping().waiting
    assert not formed().waiting
    keeping = running()
    assert not keeping.waiting
    keeping.take(Abort(3), 5.0)
    assert keeping.waiting, "it has a second for it"


def test_how_far_the_script_is_stays_with_its_generation() -> None:
    keeping = running()
    assert keeping.progressed(0, {}) == [], "that is no step"
    assert keeping.progressed(7, {"loss": 0.5}) == [
        Progress(3, 7),
        Steps(3, 7, {"loss": [0.5]}),
    ]
    assert keeping.exited(0, "", 9.0) == [Done(3, 1, 7, {}, by_all=True)]
    keeping.take(Abort(3), 9.0)
    assert keeping.gone() == [Stopped(3, 7, True, "", whole=True)]
    assert keeping.progressed(8, {}) == [], "too late"
