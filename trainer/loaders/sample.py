"""A sample that cannot be made: which one, and what its data set has raised, wherever it was."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trainer.rundir.usererror import UserError, shown

LISTED = 8  # samples of a batch in a message


class SampleError(RuntimeError):
    """A data set has raised; what it was is the cause."""


class _InLoader(Exception):
    """The traceback of another process, as the cause of what it has raised."""

    def __str__(self) -> str:
        return f"\n\nin a loader process:\n{self.args[0]}"


def samples_of(dataset: Any, indices: Sequence[int]) -> list[Any]:
    """Returns samples of a data set. Raises SampleError for the first that cannot be made."""
    found = []
    for index in indices:
        try:
            found.append(dataset[index])
        except MemoryError:
            raise
        except Exception as error:
            raise SampleError(f"sample {index} of the data set: {told(error)}") from error
    return found


def listed(indices: Sequence[int]) -> str:
    """Some samples, for a message; none are those that every data set is known by."""
    if not indices:
        return "the first and the last samples, and some between"
    more = f" and {len(indices) - LISTED} more" if len(indices) > LISTED else ""
    word = "sample" if len(indices) == 1 else "samples"
    return f"{word} {', '.join(map(str, indices[:LISTED]))}{more}"


def told(error: BaseException) -> str:
    """An error in one line; one for people as they are shown it."""
    if isinstance(error, UserError):
        return shown(error).partition("\n")[0]
    text = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@dataclass(frozen=True)
class Trouble:
    """An error on its way from a loader.

    Attributes:
        text: of a SampleError; else that of the error, in one line.
        sample: whether it is of one sample, and not of a batch.
        error: what the data set raised; None if that cannot travel.
        trace: its traceback.
    """

    text: str
    sample: bool
    error: BaseException | None
    trace: str

    @classmethod
    def of(cls, error: BaseException) -> Trouble:
        """That of what was raised."""
        sample = isinstance(error, SampleError)
        cause = error.__cause__ if sample else error
        trace = "".join(traceback.format_exception(cause))
        try:
            pickle.loads(pickle.dumps(cause))
        except Exception:  # whatever a class of the program's own does there
            cause = None
        return cls(str(error) if sample else told(error), sample, cause, trace)

    def raised(self, indices: Sequence[int]) -> SampleError:
        """The error to be raised where the batch was wanted."""
        text = self.text if self.sample else f"{listed(indices)} of the data set: {self.text}"
        error, trace = SampleError(text), _InLoader(self.trace)
        if self.error is None:
            error.__cause__ = trace
        else:
            self.error.__cause__ = trace
            error.__cause__ = self.error
        return error
