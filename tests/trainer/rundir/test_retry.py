"""How long one waits before trying again; what an object store's answer means, from any client."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest
from gcsfs.retry import HttpError
from hypothesis import given
from hypothesis import strategies as st

from trainer.rundir.retry import ONCE, Backoff, http_status, is_transient

SECONDS = st.floats(0, 1000)
DRAWS = st.floats(0, 1, exclude_max=True)
backoffs = st.builds(Backoff, SECONDS, SECONDS, jitter=st.floats(0, 1))


@given(backoffs, st.integers(1, 10**6), DRAWS)
def test_a_wait_grows_up_to_the_longest(backoff: Backoff, failures: int, draw: float) -> None:
    wait = backoff.wait(failures, draw)
    assert 0 <= wait <= backoff.longest * (1 + 1e-9)
    assert wait <= backoff.wait(failures + 1, draw)


@given(backoffs, st.integers(1, 10**6), DRAWS)
def test_chance_has_its_share_of_a_wait_and_no_more(
    backoff: Backoff, failures: int, draw: float
) -> None:
    without = Backoff(backoff.first, backoff.longest, jitter=0.0).wait(failures, draw)
    wait = backoff.wait(failures, draw)
    assert without * (1 - backoff.jitter) <= wait * (1 + 1e-9)
    assert wait <= without * (1 + 1e-9)


def test_a_wait_is_twice_the_last() -> None:
    assert list(islice(Backoff(3.0, 20.0, jitter=0.0).waits(), 5)) == [3.0, 6.0, 12.0, 20.0, 20.0]


@given(st.floats(0.5, 10), st.floats(0.5, 10), st.floats(0, 100), st.floats(0, 1), DRAWS)
def test_waits_fill_the_limit_and_end(
    first: float, longest: float, limit: float, jitter: float, draw: float
) -> None:
    waits = list(Backoff(first, longest, limit, jitter / 2).waits(lambda: draw))
    assert sum(waits) == pytest.approx(limit)
    assert all(0 < wait <= longest for wait in waits)


def test_who_failed_together_does_not_come_back_together() -> None:
    assert len({next(Backoff().waits()) for _ in range(10)}) > 1


def test_once_is_one_try() -> None:
    assert list(ONCE.waits()) == []


class ClientError(Exception):
    """As botocore's: the answer is in a dictionary."""

    def __init__(self, status: Any) -> None:
        super().__init__("an error")
        self.response = {"ResponseMetadata": {"HTTPStatusCode": status}}


def through_s3fs(status: Any) -> OSError:
    """As s3fs raises it: an OSError with botocore's as its cause."""
    error = OSError(22, "an error")
    error.__cause__ = ClientError(status)
    return error


@pytest.mark.parametrize("status", [429, 503])
def test_a_store_that_is_busy_may_not_be_so_later(status: int) -> None:
    for error in (HttpError({"code": status}), ClientError(status), through_s3fs(status)):
        assert http_status(error) == status and is_transient(error)


@pytest.mark.parametrize("status", [400, 403, 404, 412, 416])
def test_a_store_that_refuses_will_do_so_again(status: int) -> None:
    for error in (HttpError({"code": status}), ClientError(status), through_s3fs(status)):
        assert http_status(error) == status and not is_transient(error)


@pytest.mark.parametrize("error", [OSError(5, "disk"), ValueError(), ClientError(None)])
def test_an_error_without_an_answer_has_no_status(error: Exception) -> None:
    assert http_status(error) is None and not is_transient(error)


def test_a_connection_that_broke_may_not_break_again() -> None:
    assert is_transient(ConnectionResetError()) and is_transient(TimeoutError())
