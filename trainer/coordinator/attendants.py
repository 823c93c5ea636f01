"""Looks who looks after the run, and says when nobody does; see trainer.coordinator.unattended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from trainer.coordinator.unattended import Attended
from trainer.rundir.directory import RunDirectory
from trainer.rundir.names import ATTENDANTS

LOOK_EVERY = 30.0  # seconds
Records = dict[str, dict[str, Any]]  # by name

log = logging.getLogger("swell.coordinator")


async def watch(
    run_dir: RunDirectory,
    holds: Callable[[], bool],
    emit: Callable[..., None],
    clock: Callable[[], float],
) -> None:
    """Emits ``unattended`` when nobody looks after the run, and when somebody does again.

    Args:
        run_dir: the run's.
        holds: whether this process still leads; returns when it does not.
        emit: takes an event.
        clock: monotonic seconds.
    """
    attended = Attended()
    known: Records = {}
    while holds():
        await asyncio.sleep(LOOK_EVERY)
        try:
            known = await asyncio.to_thread(read_attendants, run_dir, known)
        except OSError:  # a store that is away for a moment
            continue
        told = attended.look(known, clock())
        if told is None or not holds():
            continue
        emit("unattended", seconds=round(told.seconds, 1), over=told.over)
        if not told.over:
            log.warning(
                "nobody has looked after this run for %.0f s: it trains, but who submits its "
                "attempts and keeps its limits is gone; swell attach goes on with it",
                told.seconds,
            )


def read_attendants(run_dir: RunDirectory, known: Records) -> Records:
    """What all say that look after a run, or did. Raises OSError.

    Args:
        run_dir: the run's.
        known: what they said the last time: who has left says nothing any more, and is not read.
    """
    found: Records = {}
    for name in run_dir.store.names(ATTENDANTS):
        if (before := known.get(name, {})).get("left") is True:
            found[name] = before
            continue
        with suppress(ValueError):  # damaged
            found[name] = run_dir.find_json(f"{ATTENDANTS}/{name}") or {}
    return found
