"""Whoever waits for an API hears after seconds what is not answering, why, and for how long yet."""

from __future__ import annotations

from launcher.supervision.silence import LONGEST, Silence


class Ticks:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def silence(patience: float | None = None) -> tuple[Silence, Ticks]:
    ticks = Ticks()
    return Silence(patience, ticks), ticks


def test_nothing_is_told_while_it_answers() -> None:
    it, ticks = silence()
    assert it.told() == []
    for _ in range(3):
        it.ask("e has not answered")
        ticks.now += 1.0
        assert it.told() == []
        it.answered()
        ticks.now += 60.0
        assert it.told() == []


def test_a_call_that_does_not_come_back_is_told_after_seconds_and_always_alike() -> None:
    it, ticks = silence(patience=600.0)
    it.ask("e has not answered")
    for _ in range(3):
        ticks.now += 5.0
        assert it.told() == ["e has not answered for 5 s; trying for 595 s more"]
    it.answered()
    assert it.told() == []


def test_without_patience_there_is_no_end_unless_the_question_has_one() -> None:
    it, ticks = silence()
    it.ask("e has not answered")
    ticks.now += 5.0
    assert it.told() == ["e has not answered for 5 s; asking until it does"]
    it.answered()
    it.ask("e has not taken it", limit=120.0)
    ticks.now += 5.0
    assert it.told() == ["e has not taken it for 5 s; trying for 115 s more"]


def test_the_first_reason_is_told_too() -> None:
    it, ticks = silence()
    it.ask("e has not answered")
    it.failed("no route to host")
    it.ask("e has not answered")
    ticks.now += 5.0
    it.failed("no route to host, by process 7")
    assert it.told()[1:] == ["no route to host"]
    it.answered()
    it.ask("e has not answered")
    ticks.now += 5.0
    assert it.told()[1:] == []


def test_it_is_given_up_when_it_was_asked_for_long_enough() -> None:
    it, ticks = silence(patience=60.0)
    for _ in range(7):
        it.ask("e has not answered")
        assert not it.failed("why")
        ticks.now += 10.0
    assert it.failed("why")
    it.answered()
    it.ask("e has not answered")
    assert not it.failed("why"), "an answer begins it anew"


def test_who_was_stopped_for_an_hour_has_not_asked_for_an_hour() -> None:
    it, ticks = silence(patience=2 * LONGEST)
    it.ask("e has not answered")
    ticks.now += 3600.0
    assert not it.failed("the connection broke")
    ticks.now += 3600.0
    assert not it.failed("the connection broke")
    ticks.now += 1.0
    assert it.failed("the connection broke")


def test_who_loses_patience_gives_up_at_the_next_failure() -> None:
    it, ticks = silence(patience=600.0)
    it.ask("e has not answered")
    it.patience = 0.0
    ticks.now += 0.1
    assert it.failed("why")
