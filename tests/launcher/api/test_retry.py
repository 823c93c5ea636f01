from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.api.apierror import ApiError
from launcher.api.retry import ONCE, Backoff, Retries


@given(
    st.floats(0, 100), st.floats(0, 1000), st.integers(1, 10**6), st.floats(0, 1, exclude_max=True)
)
def test_a_delay_grows_up_to_the_longest_and_is_never_much_shorter(
    first: float, longest: float, failures: int, draw: float
) -> None:
    backoff = Backoff(first, longest)
    delay = backoff.delay(failures, None, draw)
    assert delay <= longest
    assert backoff.delay(failures + 1, None, draw) >= delay
    assert delay >= min(longest, first) / 2
    assert backoff.delay(failures, 10**4, draw) == 10**4, "what the API asks for, it gets"


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
            raise ApiError("no", transient=True, retry_after=answers.pop(0))
        return "done"

    retries = Retries(Backoff(limit=limit), lambda: now, sleep, lambda: 0.5)
    try:
        assert retries.run(send) == "done"
        assert tries == len(asked) + 1
    except ApiError:
        assert tries <= len(asked)


def test_once_is_one_try() -> None:
    tries = []

    def send() -> None:
        tries.append(1)
        raise ApiError("no", transient=True)

    with pytest.raises(ApiError):
        Retries(ONCE).run(send)
    assert len(tries) == 1
