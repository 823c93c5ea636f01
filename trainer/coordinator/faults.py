"""The record of what has failed: in a world, while loading, and on each machine. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from trainer.coordinator.blame import KINDS, Failure, Kind, Strikes, Whose, then, whose
from trainer.coordinator.roster import Roster
from trainer.protocol import signals
from trainer.protocol.world import MemberId
from trainer.rundir.usererror import Message

_OTHERS = ("killed", "again")  # ends that others cause, as a rule
_DEATHS = ("crash", *_OTHERS)  # of a process, without a word of what it met


@dataclass
class Ruling:
    """What follows from failures.

    Attributes:
        orders: to carry out.
        out: members that are out of the run, with these orders.
        ends: why the run has failed; empty if it goes on.
        step: how many steps were completed then.
    """

    orders: signals.Orders = field(default_factory=signals.Orders)
    out: list[MemberId] = field(default_factory=list)
    ends: str = ""
    step: int = 0

    def leaves_nobody(self, members: Roster) -> bool:
        """Whether all are out, and none of them will come back as another machine."""
        gone = [one for one in self.orders if isinstance(one, signals.Release) and not one.rejoin]
        return bool(gone) and len(gone) == len(members)


class Faults:
    """What has failed, and was not judged yet; and how often each machine was at fault.

    Args:
        members: all that there are.

    Attributes:
        strikes: what may be the program's doing, until the step is passed.
        kills: what is somebody else's, unless it comes again and again.
        peer_lost: whether a member of the newest world was lost, of which others may die.
    """

    def __init__(self, members: Roster) -> None:
        self.strikes = Strikes()
        self.kills = Strikes()
        self.peer_lost = False
        self._members = members
        self._open: dict[MemberId, list[Failure]] = {}
        self._counts: dict[str, int] = {}  # by replica

    @property
    def careful(self) -> bool:
        """Whether workers are to say which samples they are about to take."""
        return self.strikes.any or self.kills.any

    def reached(self, step: int) -> None:
        """So many steps are completed."""
        self.strikes.reached(step)
        self.kills.reached(step)

    def forget(self) -> None:
        """The run gets on, as far as anybody can tell."""
        self.strikes.forget()
        self.kills.forget()

    def note(self, member: MemberId, raw: signals.Failure | signals.TaskFailed) -> Failure:
        """A worker has failed; ``judge`` says later what comes of it."""
        failure = _failure_of(member, raw)
        self._open.setdefault(member, []).append(failure)
        return failure

    def crashed(
        self, member: MemberId, raw: signals.Failure | None, inside: bool, left: bool
    ) -> None:
        """A worker's process has ended.

        What dies before it is ready is its agent's to count. The end of one who was killed counts
        as the loss of a peer; that of one who ends to be replaced says nothing where all are to
        leave anyway.

        Args:
            member: whose it was.
            raw: how, if that may be somebody's fault.
            inside: whether it was in the world, and had not left it.
            left: whether all are to leave that world.
        """
        if raw is not None and raw.kind == "again":
            if inside and not left:
                self.note(member, raw)
        elif raw is not None and (inside or raw.kind not in _DEATHS):
            self.note(member, raw)
            self.peer_lost |= raw.kind == "killed"
        elif inside and not self.has_failed(member):
            self.peer_lost = True

    def forgive(self, member: MemberId) -> None:
        """The member can train after all."""
        self._open.pop(member, None)

    def has_failed(self, member: MemberId) -> bool:
        """Whether there is a failure of this member that was not judged yet."""
        return member in self._open

    def others_train(self, steps: int) -> bool:
        """Whether somebody who has not failed holds the state of a completed step."""
        return steps > 0 and any(
            one.holds and not self.has_failed(one.id) for one in self._members.values()
        )

    def loading_is_clear(self, steps: int) -> bool:
        """Whether those who could not load can be judged: another could, or all have failed."""
        others = [one for one in self._members.values() if not self.has_failed(one.id)]
        clear = not others or any(one.usable for one in others) or self.others_train(steps)
        return bool(self._open) and clear

    def judge(self, steps: int, machines: int = 0) -> Ruling:
        """Judges all that is open, and counts it against the machines that are at fault.

        Args:
            steps: that are completed.
            machines: how many members their world had; 0 for failures outside a world.
        """
        others = [one for one in self._members.values() if not self.has_failed(one.id)]
        loads = not machines and any(one.usable for one in others)
        held = self.others_train(steps) or loads
        failures = [
            # A process that died may have been further than its last word.
            (member, replace(one, step=max(one.step, steps)) if one.kind in _DEATHS else one)
            for member, some in self._open.items()
            for one in some
        ]
        self._open.clear()
        failed = len({member for member, one in failures if one.kind not in ("", *_OTHERS)})
        if not self.peer_lost:
            self._count([one for _, one in failures if _counts(one)], held)
        self._count_kills([one for _, one in failures])
        alike = machines > 1 and not self.peer_lost and failed == machines
        ruling = Ruling(step=steps)
        for member, failure in failures:
            times = (self.kills if failure.kind in _OTHERS else self.strikes).times
            times = max(times, self.peer_lost)
            who = whose(failure, alike=alike, held=held, times=times)
            if who == "program":
                ruling.ends, ruling.step = self._told(failure), failure.step
                return ruling
            if who in ("machine", "newcomer", "script"):
                self._blame(member, failure, who, ruling)
        if ruling.leaves_nobody(self._members):
            why = _last_line(failures[-1][1].reason)
            ruling.ends = str(
                Message("SW5006", f"no machine is left that can train; the last: {why}")
            )
        return ruling

    def _count(self, failures: Sequence[Failure], held: bool) -> None:
        """What dies before it has trained, while others train, may be its machine's fault alone.

        Not if others have died at this step: it has taken the place of one of them.
        """
        new = all(one.kind == "crash" and not one.trained for one in failures)
        if not (new and held) or self.strikes.any:
            self.strikes.add(failures)

    def _count_kills(self, failures: Sequence[Failure]) -> None:
        """Who ended to be replaced has most often lost a peer: then that is what counts."""
        killed = [one for one in failures if one.kind == "killed"]
        alone = not self.peer_lost and all(one.kind == "again" for one in failures)
        self.kills.add(killed or (failures if alone else ()))

    def _blame(self, member: MemberId, failure: Failure, who: Whose, ruling: Ruling) -> None:
        """It is a machine's fault. Its agent replaces the process by itself."""
        faults = self._counts[member.replica] = self._counts.get(member.replica, 0) + 1
        follows, why = then(faults), _last_line(failure.reason)
        if who == "newcomer" and member in self._members and self._members[member].holds:
            follows = "process"  # a spare of one that trains
        ruling.orders.emit(
            "fault",
            member=member.replica,
            incarnation=member.incarnation,
            rank=failure.rank if failure.rank >= 0 else None,
            step=failure.step,
            reason=why,
            whose=who,
            faults=faults,
            then=follows,
        )
        if follows != "process" and member in self._members and member not in ruling.out:
            again = follows == "replica"
            ruling.orders.append(signals.Release(member, why, rejoin=again, broken=True))
            ruling.out.append(member)
            if not again:
                self._members.expect_without(self._members[member])

    def _told(self, failure: Failure) -> str:
        """Why the run ends: the program is at fault."""
        if failure.kind in _DEATHS:
            strikes = self.kills if failure.kind in _OTHERS else self.strikes
            return str(Message("SW5005", strikes.told()))
        return str(Message("SW5001", f"the program failed in {failure.where}\n{failure.reason}"))


def _counts(failure: Failure) -> bool:
    """Whether it may be the program's doing, if it comes again."""
    return failure.kind in ("unsure", "crash") or (failure.kind == "raised" and failure.trained)


def _last_line(reason: str) -> str:
    """Of a traceback what was raised."""
    return (reason.strip().splitlines() or ["it failed"])[-1]


def _failure_of(member: MemberId, raw: signals.Failure | signals.TaskFailed) -> Failure:
    """What an agent says of a failure; a kind that is not known here is nobody's fault."""
    kind: Kind = next((one for one in KINDS if one == raw.kind), "")
    if isinstance(raw, signals.TaskFailed):
        return Failure(kind, member.replica, raw.rank, raw.step, raw.reason, raw.trained)
    return Failure(
        kind,
        member.replica,
        raw.rank,
        raw.step,
        raw.reason,
        raw.trained,
        raw.samples,
        raw.count,
    )
