"""Collectives of the program's own, by Horovod or by process groups of torch.distributed.

A group is one of processes that are all there. So it lasts as long as the world that it was made
in: whoever leaves that world leaves the group, and the program makes another one in the next. When
a peer is lost, torch raises a RuntimeError with the words of what carried the collective: that is
no fault of the program's, and means what Horovod's own HorovodInternalError does.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from horovod.common.exceptions import HorovodInternalError

from trainer.engine.mistake import Mistake

# A timeout is not among them: connections to a lost peer are broken long before, so that whoever
# waits for longer waits for one that lives, and does not come.
_WORDS = re.compile(
    r"(?is) gloo/transport/ .* (?: by\ peer | broken\ pipe | socket\ closed | refused )"
    r"| ncclRemoteError | NCCL\ communicator\ was\ aborted | remote\ process\ exited",
    re.VERBOSE,
)
# What Horovod says when ranks do not ask for the same; it says so in each world again.
_UNALIKE = re.compile(r"^Mismatched |with the same name as another tensor")
_LATE = re.compile(r"(?i)time(?:d )?out")


def lost(error: BaseException | None) -> bool:
    """Whether a collective of the program's own has failed because a peer is gone."""
    if not isinstance(error, RuntimeError) or isinstance(error, HorovodInternalError):
        return False
    if "DistNetworkError" in {one.__name__ for one in type(error).__mro__}:
        return not _LATE.search(str(error))
    return _WORDS.search(str(error)) is not None


def unalike(error: BaseException | None) -> bool:
    """Whether one by Horovod has failed because ranks have not asked for the same."""
    return isinstance(error, HorovodInternalError) and _UNALIKE.search(str(error)) is not None


def as_lost(error: BaseException | None) -> BaseException | None:
    """The same as Horovod would have raised it, if it means that a peer is gone."""
    if error is None or not lost(error):
        return error
    told = as_horovods(error)
    told.__cause__ = error
    return told


def as_horovods(error: BaseException) -> Exception:
    """Horovod's error for a peer that is gone, with the first line of another library's."""
    told: Exception = HorovodInternalError(str(error).partition("\n")[0])
    return told


@contextmanager
def losses() -> Iterator[None]:
    """What is done in it may have collectives of its own.

    Raises HorovodInternalError when a peer is gone, and Mistake when ranks ask for other ones.
    """
    try:
        yield
    except RuntimeError as error:
        if unalike(error):
            told = f"ranks do not ask for the same collective of the program's own: {error}"
            raise Mistake("SW5164", told) from error
        if lost(error):
            raise as_horovods(error) from error
        raise


def leave() -> None:
    """Leaves the program's groups of several processes, if it has made one."""
    distributed: Any = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return
    if distributed.get_world_size() > 1:
        distributed.destroy_process_group()
