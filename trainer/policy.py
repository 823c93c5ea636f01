"""The limits of an elastic run: one place, one hierarchy, checked when a run starts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Policy:
    """The limits of a run. All times are in seconds.

    Attributes:
        min_workers: no world is smaller.
        max_workers: no world is larger.
        start_wait: how long the first generation waits for absent replicas, once
            ``min_workers`` are ready.
        hold_off: how long the first newcomer waits for others to be admitted with it.
        admission_interval: least time between two re-formations for growth.
        suspicion: silence of an active member, without any step, that counts as its loss.
        idle_suspicion: the same for members that are not in the world.
        stop_limit: how long a world may take to stop before it is broken off, and then
            before the workers that still do not stop are killed.
        forming_limit: how long a world may take to form.
        adoption_wait: how long a new leader waits for the members of the world it found.
        setback_limit: worlds lost in a row without one completed step, before giving up.
    """

    min_workers: int = 1
    max_workers: int = 1
    start_wait: float = 60.0
    hold_off: float = 1.0
    admission_interval: float = 5.0
    suspicion: float = 2.0
    idle_suspicion: float = 10.0
    stop_limit: float = 35.0
    forming_limit: float = 60.0
    adoption_wait: float = 5.0
    setback_limit: int = 25

    def __post_init__(self) -> None:
        if not 1 <= self.min_workers <= self.max_workers:
            raise ValueError(
                f"min_workers {self.min_workers} must be at least 1 and at most "
                f"max_workers {self.max_workers}"
            )
        if not self.suspicion <= self.idle_suspicion:
            raise ValueError("idle_suspicion must not be shorter than suspicion")
        if not self.suspicion < self.stop_limit:
            raise ValueError("stop_limit must be longer than suspicion")
