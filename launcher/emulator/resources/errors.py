"""The errors that the emulated APIs answer with, in Google's JSON form."""

from __future__ import annotations

from typing import Any


class ApiError(Exception):
    """An HTTP error answer.

    Args:
        code: the HTTP status code.
        status: the name of the canonical error, such as ``INVALID_ARGUMENT``.
        message: one line that names the field or the resource and what is wrong with it.
        details: messages of google.rpc that say more, each with its ``@type``.
    """

    def __init__(
        self, code: int, status: str, message: str, details: list[dict[str, Any]] | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.status = status
        self.message = message
        self.details = details

    def body(self) -> dict[str, Any]:
        """The JSON body of the answer."""
        error = {"code": self.code, "message": self.message, "status": self.status}
        return {"error": {**error, "details": self.details} if self.details else error}


def invalid_argument(message: str) -> ApiError:
    """The request is wrong whatever the state of the system."""
    return ApiError(400, "INVALID_ARGUMENT", message)


def failed_precondition(message: str) -> ApiError:
    """The request does not fit the present state of what it names."""
    return ApiError(400, "FAILED_PRECONDITION", message)


def not_found(message: str) -> ApiError:
    """What the request names does not exist."""
    return ApiError(404, "NOT_FOUND", message)
