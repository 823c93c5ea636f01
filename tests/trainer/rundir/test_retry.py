"""What an object store's answer means, whichever client tells it."""

from __future__ import annotations

from typing import Any

import pytest
from gcsfs.retry import HttpError

from trainer.rundir.retry import http_status, is_transient


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
