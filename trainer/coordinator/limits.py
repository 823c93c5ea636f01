"""The limits of an elastic run: one place, one hierarchy, checked when a run starts.

Those that are fixed for a run are its ``Limits``. How patient the coordinator is with a world
depends on how long its steps take: a false alarm costs a step, so it may take longer to be sure
where steps are long. ``Limits.timeouts(pace)`` gives those for steps of ``pace`` seconds.

Who waits for what, and for how long. p is the measured time of a step
(trainer.coordinator.liveness; 0: not known yet). In seconds:

============  ======  ======  =======  ==============================================
limit         p = 0   p = 10  p = 600  when it is over
============  ======  ======  =======  ==============================================
heartbeat        0.3     0.3      0.3  an agent, and each worker, shows that it lives
suspicion        1.5     1.5     15.0  an agent is silent and no step completes: lost
hang            10.0    10.0     30.0  a worker is silent and no step completes: hung
abort            3.0     3.0      3.0  in a broken collective still: killed
gloo_timeout     9.5    29.5     63.0  a collective without an answer fails by itself
last_copy       12.5    32.5     66.0  as abort, for the last clean copy of the state
pause           17.5    67.5   1871.0  the world has not left together: broken off
linger          77.5   177.5   4931.0  as abort, for a worker that computes meanwhile
forming         60.0    60.0    126.0  all wait for one another: broken off
stall         3600.0   600.0  12000.0  no step, although everybody lives: broken off
============  ======  ======  =======  ==============================================

After 30 s or ten times p without a step, and at the latest after half of stall, all are asked what
they do (trainer.coordinator.standstill): that changes nothing.

The only holder of the state is given up after stall alone, or when its connection is gone; who
computes, not even then. After each stall the next is twice as long.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

PACES = (0.0, 0.01, 0.1, 1.0, 10.0, 60.0, 600.0, 3600.0)  # at which the hierarchy is checked


@dataclass(frozen=True)
class Timeouts:
    """How long a world with steps of one length is waited for, in seconds; the shorter comes first.

    Attributes:
        suspicion: silence of an active member's agent, without any step, that counts as
            its loss; also how long a worker may be stopped by a signal.
        hang: silence of a worker process, without any step, that counts as a hang.
        abort: how long a worker may stay in a collective that was broken off.
        gloo_timeout: after which a collective that nobody answers fails by itself.
        last_copy: like ``abort``, for what may be the last clean copy of the state.
        pause: how long a world may take to leave at a step boundary.
        linger: like ``abort``, for a worker that computes and has not noticed yet.
        forming: how long all workers of a forming world may wait for one another.
        stall: how long a world may go without a step although all its workers live.
    """

    suspicion: float
    hang: float
    abort: float
    gloo_timeout: float
    last_copy: float
    pause: float
    linger: float
    forming: float
    stall: float

    @property
    def of_only_holder(self) -> Timeouts:
        """For the only member that holds the state, which is lost with it: its silence says little.

        Its machine may be so loaded that it shows no life. Nobody else can go on, so that there is
        nothing to be gained by giving it up, unless it stays so.
        """
        return replace(self, suspicion=self.stall, hang=self.stall)


@dataclass(frozen=True)
class Limits:
    """The limits of a run. All times are in seconds.

    Attributes:
        min_workers: no world is smaller.
        max_workers: no world is larger.
        start_wait: how long the first generation waits for absent replicas, once
            ``min_workers`` are ready.
        hold_off: how long the first newcomer waits for others to be admitted with it.
        admission_interval: least time between two re-formations for growth.
        heartbeat: how often agents and workers show that they live.
        suspicion: the shortest of ``Timeouts.suspicion``.
        hang: the shortest of ``Timeouts.hang``.
        abort: see ``Timeouts.abort``.
        hung_grace: how long a worker that hangs has to leave a broken generation.
        forming: see ``Timeouts.forming``.
        standstill: after so long without a step, at least, all are asked what they do.
        stall: the shortest of ``Timeouts.stall``.
        idle_suspicion: silence that counts as the loss of a member outside the world.
        lease_timeout: how long a leader leads without renewing its lease.
        lease_renew: how often it does renew it.
        setback_limit: worlds lost in a row without one completed step, before giving up.
        sizes: the sizes that a world may have, in workers; none for all between the bounds.
        max_restarts: of a torchrun script, see trainer.coordinator.tries; None for all others.
        grace: how long a torchrun script's processes have to end, if the notice allows it.
        replace_stragglers: how many times as slow as the others a worker is that is replaced when
            it stays so (trainer.coordinator.stragglers); None for never.
    """

    min_workers: int = 1
    max_workers: int = 1
    start_wait: float = 60.0
    hold_off: float = 1.0
    admission_interval: float = 5.0
    heartbeat: float = 0.3
    suspicion: float = 1.5
    hang: float = 10.0
    abort: float = 3.0
    hung_grace: float = 0.5
    forming: float = 60.0
    standstill: float = 30.0
    stall: float = 600.0
    idle_suspicion: float = 10.0
    lease_timeout: float = 5.0
    lease_renew: float = 0.5
    setback_limit: int = 25
    sizes: tuple[int, ...] = ()
    max_restarts: int | None = None
    grace: float = 0.0
    replace_stragglers: float | None = None

    @property
    def lease_doubt(self) -> float:
        """How long a lease may go without renewal before that is a sign that its holder is lost."""
        return 2.5 * self.lease_renew

    @property
    def coming_over(self) -> float:
        """How long an agent may take to find a new leader, which it looks for in the store."""
        return 2 * self.lease_renew

    @property
    def adoption_wait(self) -> float:
        """How long a new leader waits for somebody to bring the world that it is to lead."""
        return self.coming_over + self.suspicion

    def timeouts(self, pace: float) -> Timeouts:
        """Returns the timeouts of a world whose steps take ``pace`` seconds.

        0 says that no step has been measured yet; the first may include compilation.
        """
        suspicion = max(self.suspicion, min(pace / 10, 15.0))
        hang = max(self.hang, 2 * suspicion)
        # A collective begins when all have something to send, so its length is that of the
        # transfer, not of the step; but whoever is slow to compute is slow to send, too.
        gloo_timeout = suspicion + self.abort + min(5.0 + 2 * pace, 45.0)
        last_copy = gloo_timeout + self.abort
        pause = last_copy + 5.0 + 3 * pace
        linger = pause + 60.0 + 5 * pace
        return Timeouts(
            suspicion=suspicion,
            hang=hang,
            abort=self.abort,
            gloo_timeout=gloo_timeout,
            last_copy=last_copy,
            pause=pause,
            linger=linger,
            forming=max(self.forming, 2 * gloo_timeout),
            stall=max(self.stall if pace else 6 * self.stall, 2 * linger, 20 * pace, hang),
        )

    def __post_init__(self) -> None:
        if not 1 <= self.min_workers <= self.max_workers:
            raise ValueError(
                f"min_workers {self.min_workers} must be at least 1 and at most "
                f"max_workers {self.max_workers}"
            )
        if not 0 < self.heartbeat < self.suspicion:
            raise ValueError(
                f"heartbeat {self.heartbeat:g} s must be shorter than suspicion "
                f"{self.suspicion:g} s, and longer than none"
            )
        if not self.suspicion <= self.idle_suspicion:
            raise ValueError(
                f"suspicion {self.suspicion:g} s must not be longer than idle_suspicion "
                f"{self.idle_suspicion:g} s"
            )
        if not self.lease_renew > 0:
            raise ValueError("lease_renew must be longer than none")
        for name, least in (("suspicion", self.suspicion), ("lease_doubt", self.lease_doubt)):
            if not least < self.lease_timeout:
                raise ValueError(
                    f"lease_timeout {self.lease_timeout:g} s must be longer than {name} {least:g} s"
                )
        for pace in PACES:
            self._check_hierarchy(pace)

    def _check_hierarchy(self, pace: float) -> None:
        timeouts = self.timeouts(pace)
        rising = (
            ("heartbeat", self.heartbeat),
            ("suspicion", timeouts.suspicion),
            ("gloo_timeout", timeouts.gloo_timeout),
            ("last_copy", timeouts.last_copy),
            ("pause", timeouts.pause),
            ("linger", timeouts.linger),
            ("stall", timeouts.stall),
        )
        for (shorter, least), (longer, most) in pairwise(rising):
            if not least < most:
                raise ValueError(
                    f"{shorter} ({least:g} s) must be shorter than {longer} ({most:g} s) "
                    f"for steps of {pace:g} s"
                )
        if not timeouts.suspicion < timeouts.hang <= timeouts.stall:
            raise ValueError(
                f"hang ({timeouts.hang:g} s) must be longer than suspicion and at most stall"
            )
        if not timeouts.suspicion + timeouts.abort < timeouts.gloo_timeout < timeouts.forming:
            raise ValueError(
                f"gloo_timeout ({timeouts.gloo_timeout:g} s) must be longer than suspicion and "
                f"abort together, and shorter than forming ({timeouts.forming:g} s)"
            )
