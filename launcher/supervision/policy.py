"""What to do next with a run: the launcher's policy, pure.

``decide`` looks at what is on record and at the time. The first row that fits counts:

====================  ==========================  ==============================================
outcome               last attempt                action
====================  ==========================  ==============================================
any                   on record, no CustomJob     Find it: it may have been sent
cancelled             not over                    Cancel the CustomJob, once; then Watch
another               not over                    Watch: the agents exit by themselves;
                                                  Cancel after GRACE, a VM may hang
any                   none, or over               Done
none                  not over                    Watch, unless a limit is reached:
                                                  Stop if it runs (it saves a checkpoint and ends),
                                                  End limited if it does not, or not in time;
                                                  Leave if it has no machines for too long, which
                                                  makes it expired; then Cancel, once
none                  succeeded                   End succeeded (it was not our agent's to say so)
none                  cancelled                   End cancelled: somebody cancelled the CustomJob
none                  user_error, rejected, gone  End failed: again would be the same again
none                  internal, crash, unknown,   End failed, when MAX_FRUITLESS attempts in a
                      preempted, timeout          row have not completed a step
none                  none, or over               End limited, when a limit is reached; else
                                                  Submit where ``choices`` says, or Wait:
====================  ==========================  ==============================================

=====================================  ==========================================================
the last attempt                       the next one
=====================================  ==========================================================
stockout, quota, expired               another choice at once, if there is one; else the same
                                       again after a pause, twice as long each time
preempted, timeout, after some steps   the first choice, at once
the same, and internal, crash,         the first choice, after a pause, twice as long each time
unknown, without a step
unsent                                 at once
=====================================  ==========================================================

The verdicts in these tables are launcher.supervision.verdict's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from launcher.job.durations import format_duration
from launcher.job.fallback import Limits, Resubmit
from launcher.supervision.attempt import Attempt
from launcher.supervision.choices import Choice, fruitless, next_choice
from launcher.supervision.limits import no_more_attempts, reached, spent
from launcher.supervision.verdict import verdict_of
from trainer.rundir.names import OutcomeState
from trainer.rundir.usererror import Message

GRACE = 30.0  # seconds that replicas get to exit after the run has ended
# How many attempts in a row may end so, and without a step, before the run has failed.
MAX_FRUITLESS = {"crash": 3, "unknown": 3, "internal": 8, "preempted": 20, "timeout": 3}
HOPELESS = frozenset({"user_error", "rejected", "gone"})


@dataclass(frozen=True)
class Terms:
    """What a run was launched with, as far as the policy goes by it.

    Attributes:
        run_id: the run.
        choices: where it may run, in order.
        created: when it was launched, in Unix seconds.
        resubmit: how long it pauses.
        limits: what it may take.
        saves: whether its replicas can be asked for a last checkpoint.
        stop_grace: seconds that they get for it when a limit is reached.
    """

    run_id: str
    choices: tuple[Choice, ...]
    created: float
    resubmit: Resubmit = field(default_factory=Resubmit)
    limits: Limits = field(default_factory=Limits)
    saves: bool = True
    stop_grace: float = field(kw_only=True)


@dataclass(frozen=True)
class Situation:
    """Where a run stands.

    Attributes:
        attempts: in order.
        outcome: outcome.json, if the run has ended.
        cancel_sent: whether the last attempt's CustomJob was asked to end.
        since_outcome: seconds since the outcome was first seen.
        stop: why the run was asked to stop, if it was.
        since_stop: seconds since that was first seen.
    """

    attempts: tuple[Attempt, ...] = ()
    outcome: Mapping[str, Any] | None = None
    cancel_sent: bool = False
    since_outcome: float = 0.0
    stop: str | None = None
    since_stop: float = 0.0

    @property
    def last(self) -> Attempt | None:
        """The last attempt."""
        return self.attempts[-1] if self.attempts else None


@dataclass(frozen=True)
class Submit:
    """Send the CustomJob of attempt ``attempt``."""

    attempt: int
    choice: Choice


@dataclass(frozen=True)
class Wait:
    """Nothing is to be done before ``until``, in Unix seconds; then attempt here."""

    until: float
    choice: Choice


@dataclass(frozen=True)
class Find:
    """Look for the attempt's CustomJob by its labels: it is not known whether there is one."""


@dataclass(frozen=True)
class Watch:
    """Look again later."""


@dataclass(frozen=True)
class Stop:
    """Ask the run to save a checkpoint, and to end."""

    reason: str


@dataclass(frozen=True)
class Leave:
    """Write down that the attempt is given up for another."""

    reason: str


@dataclass(frozen=True)
class Cancel:
    """Cancel the attempt's CustomJob."""


@dataclass(frozen=True)
class End:
    """Write how the run ended."""

    state: OutcomeState
    reason: str


@dataclass(frozen=True)
class Done:
    """Nothing is left to do."""


Action = Submit | Wait | Find | Watch | Stop | Leave | Cancel | End | Done


def decide(terms: Terms, situation: Situation, now: float) -> Action:
    """Returns what to do next; see the tables above. ``now`` is in Unix seconds."""
    last = situation.last
    if last is not None and not last.over and last.job is None:
        return Find()
    if situation.outcome is not None:
        return _after_the_end(situation)
    if last is not None and not last.over:
        return _while_it_lives(terms, situation, last, now)
    if last is not None and (end := _end_with(situation, last)):
        return end
    taken = spent(situation.attempts, now)
    over = situation.stop or reached(terms.limits, taken, now)
    if limit := over or no_more_attempts(terms.limits, taken):
        return End("limited", _and_last(limit, last))
    found = next_choice(
        terms.choices,
        situation.attempts,
        created=terms.created,
        now=now,
        resubmit=terms.resubmit,
        seed=terms.run_id,
    )
    if found.at > now:
        deadline = terms.limits.deadline
        return Wait(min(found.at, deadline.timestamp() if deadline else found.at), found.choice)
    return Submit(last.attempt + 1 if last else 1, found.choice)


def _after_the_end(situation: Situation) -> Action:
    last, outcome = situation.last, situation.outcome
    if last is None or last.over:
        return Done()
    assert outcome is not None
    overdue = outcome.get("state") == "cancelled" or situation.since_outcome >= GRACE
    return Cancel() if overdue and not situation.cancel_sent else Watch()


def _while_it_lives(terms: Terms, situation: Situation, last: Attempt, now: float) -> Action:
    limit = situation.stop or reached(terms.limits, spent(situation.attempts, now), now)
    if limit is None:
        return _while_it_waits(terms, situation, last, now)
    if last.started is None or not terms.saves:
        return End("limited", limit)
    if situation.stop is None:
        return Stop(limit)
    if situation.since_stop >= terms.stop_grace:
        seconds = round(terms.stop_grace)
        return End("limited", f"{limit}; no checkpoint was saved within {seconds} s")
    return Watch()


def _while_it_waits(terms: Terms, situation: Situation, last: Attempt, now: float) -> Action:
    """What becomes of an attempt that may have its machines by now, or not for a long time."""
    if last.left:
        return Watch() if situation.cancel_sent else Cancel()
    patience = terms.resubmit.patience
    if patience is None or last.started is not None or last.submitted is None:
        return Watch()
    if now - last.submitted < patience.total_seconds():
        return Watch()
    return Leave(f"resubmit.patience: it has had no machines for {format_duration(patience)}")


def _end_with(situation: Situation, last: Attempt) -> End | None:
    """The end of the run that the last attempt's end is, if it is one."""
    verdict = verdict_of(last)
    if verdict == "succeeded":
        return End("succeeded", "the CustomJob succeeded")
    if verdict == "cancelled":
        return End("cancelled", "the CustomJob was cancelled")
    reason = last.reason or f"the CustomJob ended {last.state}"
    if verdict in HOPELESS:
        return End("failed", reason)
    failed = fruitless(situation.attempts)
    alike = next((n for n, it in enumerate(failed) if verdict_of(it) != verdict), len(failed))
    if verdict in MAX_FRUITLESS and failed[:1] == [last] and alike >= MAX_FRUITLESS[verdict]:
        said = f"{alike} attempts in a row completed no step; the last: {reason}"
        return End("failed", str(Message("SW5010", said)))
    return None


def _and_last(limit: str, last: Attempt | None) -> str:
    if last is None or not last.reason:
        return limit
    return f"{limit}; the last: {last.reason}"
