from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.api.apierror import ApiError
from launcher.api.retry import Retries
from trainer.rundir.retry import ONCE, Backoff


@given(st.lists(st.none() | st.floats(0, 300), max_size=50), st.floats(0, 200))
def test_no_try_begins_after_the_limit_and_none_after_success(
    asked: list[float | None], limit: float
) -> None:
    now, tries = 0.0, 0
    answers = list(asked)

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    def send() -> str:
        nonlocal tries
        tries += 1
        assert now <= limit
        if answers:
            raise ApiError("SW0001", "no", transient=True, retry_after=answers.pop(0))
        return "done"

    retries = Retries(Backoff(limit=limit), lambda: now, sleep, lambda: 0.5)
    try:
        assert retries.run(send) == "done"
        assert tries == len(asked) + 1
    except ApiError:
        assert tries <= len(asked)


@given(st.floats(0, 60))
def test_the_api_gets_the_time_that_it_asks_for(asked: float) -> None:
    answers, waits = [asked], list[float]()

    def send() -> None:
        if answers:
            raise ApiError("SW0001", "later", transient=True, retry_after=answers.pop())

    Retries(Backoff(limit=60.0), lambda: 0.0, waits.append, lambda: 0.5).run(send)
    assert waits == [max(asked, 0.75)]


def test_once_is_one_try() -> None:
    tries = []

    def send() -> None:
        tries.append(1)
        raise ApiError("SW0001", "no", transient=True)

    with pytest.raises(ApiError):
        Retries(ONCE).run(send)
    assert len(tries) == 1
