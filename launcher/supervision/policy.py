"""What to do next with a run: the launcher's policy, pure.

``decide`` looks at all attempts on record and at the time, and returns everything that is to be
done now. Of a run as a whole the first row that fits counts:

==============================  ==================================================================
the run                         action
==============================  ==================================================================
has an outcome                  Cancel what is not over: at once if it was cancelled; else after
                                GRACE, for the agents exit by themselves, and a VM may hang.
                                Done when all are over
has reached a limit             Stop if anything runs (it saves a checkpoint and ends);
                                End limited if nothing does, or not in time
has nothing alive               End, if the last one's end says so, or nothing may be sent:
                                see the next table
lacks attempts                  Submit as many as it lacks, each where ``choices`` says, or Wait
has some whose timeout is near  Renew them, once: others are lacking in their place from then on;
                                not with the last attempts of a limit
has trained on dear machines    GoBack, once: then what costs less is tried beside them, as often
for long enough                 as launcher.supervision.preference says
==============================  ==================================================================

Whatever fits, of each attempt that is not over:

==============================  ==================================================================
on record, no CustomJob         Find it: it may have been sent
not wanted any more             Retire it, once, when the world can do without it
                                (launcher.supervision.replacement); when it is out of the world
                                Leave it, which makes it replaced; then Cancel, once
not where the others train      Leave it, which makes it expired; then Cancel, once
no machines for too long        Leave it, which makes it expired; then Cancel, once
apart from all others for       Leave it, which makes it unreachable; then Cancel, once
too long
otherwise                       Watch
==============================  ==================================================================

=======================================  =========================================================
nothing is alive, and the last one       action
=======================================  =========================================================
succeeded                                End succeeded (it was not our agent's to say so)
cancelled                                End cancelled: somebody cancelled the CustomJob
user_error, rejected, gone               End failed: again would be the same again
internal, crash, unknown, preempted,     End failed, when MAX_FRUITLESS rounds of attempts in a
timeout                                  row have not completed a step
any other                                End limited, when as many were made as may be
=======================================  =========================================================

=======================================  =========================================================
the one that ended last                  the next one
=======================================  =========================================================
stockout, quota, expired                 another choice at once, if there is one; else the same
                                         again after a pause, twice as long each time
preempted, timeout, after some steps     the first choice, at once
the same, and internal, crash, unknown,  the first choice, after a pause, twice as long each time
without a step
unsent, replaced                         at once
succeeded, cancelled, beside others      none: the fleet is smaller by one
user_error, rejected, gone, beside       another choice, if there is one
others
unreachable                              another choice, if there is one; while others live, none
                                         is sent again where one was that they did not reach
=======================================  =========================================================

While others train, no end of an attempt ends the run. Vertex AI's own retries of a job come before
a replacement: nothing is sent for a job that is not over. The verdicts in these tables are
launcher.supervision.verdict's; how many are lacking is launcher.supervision.fleet's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from launcher.job.durations import format_duration
from launcher.job.fallback import Limits, Resubmit
from launcher.supervision.attempt import APART, UNREACHABLE, Attempt
from launcher.supervision.choices import Choice, Next, by_end, fruitless, next_choice
from launcher.supervision.fleet import (
    HOPELESS,
    Fleet,
    alive,
    bound_to,
    lack,
    open_choices,
    outdated,
    sent_too_fast,
    spare,
    stray,
    wanted_alive,
)
from launcher.supervision.limits import no_more_attempts, reached, spent
from launcher.supervision.preference import long_dear, paced, sought
from launcher.supervision.replacement import Inside, due, gone, retired
from launcher.supervision.verdict import verdict_of
from trainer.rundir.attempts import REPLACED
from trainer.rundir.names import OutcomeState
from trainer.rundir.usererror import Message
from trainer.rundir.wanted import Wanted

GRACE = 30.0  # seconds that replicas get to exit after the run has ended
# How many rounds in a row may end so, and without a step, before the run has failed.
MAX_FRUITLESS = {"crash": 3, "unknown": 3, "internal": 8, "preempted": 20, "timeout": 3}


@dataclass(frozen=True)
class Terms:
    """What a run was launched with, and asked to be since, as far as the policy goes by it.

    Attributes:
        run_id: the run.
        choices: where it may run, in order.
        created: when it was launched, in Unix seconds.
        resubmit: how long it pauses.
        limits: what it may take.
        fleet: how many attempts it wants alive.
        apart: seconds for which members of an attempt that has its machines may fail to reach
            those of the others, before it is given up.
        saves: whether its replicas can be asked for a last checkpoint.
        renews: whether another attempt can take the place of one that trains: before its timeout,
            or because it is cheaper.
        stop_grace: seconds that they get for it when a limit is reached.
    """

    run_id: str
    choices: tuple[Choice, ...]
    created: float
    resubmit: Resubmit = field(default_factory=Resubmit)
    limits: Limits = field(default_factory=Limits)
    fleet: Fleet = field(default_factory=Fleet)
    apart: float = 300.0
    saves: bool = True
    renews: bool = False
    stop_grace: float = field(kw_only=True)

    def asked_for(self, name: str) -> dict[str, Any]:
        """What the event ``attempt_started`` says of an attempt of a choice, besides its name."""
        ways = (*self.choices, *self.fleet.anchors)
        choice = next((one for one in ways if one.name == name), None)
        if choice is None:
            return {}
        return {
            "replicas": choice.members,
            "wanted": choice.members * self.fleet.jobs,
            "usd_per_hour": choice.usd_per_hour,
            "on_demand": choice.on_demand,
            "flops": choice.flops,
        }


@dataclass(frozen=True)
class Situation:
    """Where a run stands.

    Attributes:
        attempts: in order.
        outcome: outcome.json, if the run has ended.
        cancel_sent: the attempts whose CustomJobs were asked to end.
        since_outcome: seconds since the outcome was first seen.
        stop: why the run was asked to stop, if it was.
        since_stop: seconds since that was first seen.
        unreached: attempts that never were in the world, because their members and those of others
            do not reach each other: why, and seconds since that was first seen.
        world: who trains, and who is to leave the world.
        controllers_usd: what the run's controllers have cost; None when that is not known.
    """

    attempts: tuple[Attempt, ...] = ()
    outcome: Mapping[str, Any] | None = None
    cancel_sent: frozenset[int] = frozenset()
    since_outcome: float = 0.0
    stop: str | None = None
    since_stop: float = 0.0
    unreached: Mapping[int, tuple[str, float]] = field(default_factory=dict)
    world: Inside = field(default_factory=Inside)
    controllers_usd: float | None = 0.0


@dataclass(frozen=True)
class Submit:
    """Send the CustomJob of attempt ``attempt``; ``beside`` as in Attempt."""

    attempt: int
    choice: Choice
    beside: bool = False


@dataclass(frozen=True)
class Wait:
    """Nothing is to be done before ``until``, in Unix seconds; then attempt here."""

    until: float
    choice: Choice


@dataclass(frozen=True)
class Find:
    """Look for an attempt's CustomJob by its labels: it is not known whether there is one."""

    attempt: int


@dataclass(frozen=True)
class Watch:
    """Look again later."""


@dataclass(frozen=True)
class Stop:
    """Ask the run to save a checkpoint, and to end."""

    reason: str


@dataclass(frozen=True)
class Leave:
    """Write down that an attempt is given up, for another as a rule; ``kind`` as in Attempt."""

    attempt: int
    reason: str
    kind: str = ""


@dataclass(frozen=True)
class Renew:
    """Write down that others are wanted in place of these attempts."""

    attempts: frozenset[int]

    @property
    def asks(self) -> Wanted:
        """What to ask for."""
        return Wanted(renew=tuple(self.attempts))


@dataclass(frozen=True)
class GoBack:
    """Write down that something cheaper is wanted in place of these attempts."""

    attempts: frozenset[int]

    @property
    def asks(self) -> Wanted:
        """What to ask for."""
        return Wanted(dear=tuple(self.attempts))


@dataclass(frozen=True)
class Retire:
    """Write down that these attempts are to leave the world."""

    attempts: frozenset[int]

    @property
    def asks(self) -> Wanted:
        """What to ask for."""
        return Wanted(leave=tuple(self.attempts))


@dataclass(frozen=True)
class Cancel:
    """Cancel an attempt's CustomJob."""

    attempt: int


@dataclass(frozen=True)
class End:
    """Write how the run ended."""

    state: OutcomeState
    reason: str


@dataclass(frozen=True)
class Done:
    """Nothing is left to do."""


Action = Submit | Wait | Find | Watch | Stop | Leave | Renew | GoBack | Retire | Cancel | End | Done


def decide(terms: Terms, situation: Situation, now: float) -> list[Action]:
    """Returns all that is to be done now, in order; see the tables above.

    Args:
        terms: what the run was launched with.
        situation: where it stands.
        now: Unix seconds.
    """
    live = alive(situation.attempts)
    actions: list[Action] = [Find(it.attempt) for it in live if it.job is None]
    if situation.outcome is not None:
        actions += _after_the_end(situation, live)
        return actions or [Watch() if live else Done()]
    taken = spent(situation.attempts, now, situation.controllers_usd)
    if limit := situation.stop or reached(terms.limits, taken, now):
        return [*actions, *_at_a_limit(terms, situation, live, limit)] or [Watch()]
    old = outdated(terms.fleet, terms.choices, live)
    dear = sought(terms.fleet, terms.choices, live)
    if wanted_alive(terms.fleet, situation.attempts) == 1:
        old |= frozenset(dear)
    regions = bound_to(terms.fleet, terms.choices, situation.attempts, old)
    away = stray(regions, situation.attempts, old)
    out = gone(terms.fleet, situation.attempts, situation.world)
    world = situation.world
    if going := retired(terms.fleet, terms.choices, situation.attempts, world, frozenset(dear)):
        actions.append(Retire(going))
    for attempt in live:
        if attempt.attempt in out:
            actions.append(Leave(attempt.attempt, "it is not wanted any more", REPLACED))
        elif attempt.attempt in away:
            actions.append(Leave(attempt.attempt, f"the run's other jobs train in {min(regions)}"))
        else:
            actions += _of_its_own(terms, situation, attempt, now)
    if not live and (end := _end_with(situation)):
        return [end]
    if limit := no_more_attempts(terms.limits, taken):
        if not live:
            return [End("limited", _and_last(limit, situation.attempts))]
    else:
        actions += _replacements(terms, situation, regions, dear, now)
        actions += _renewals(terms, situation.attempts, dear, now) if terms.renews else []
    if not live and not actions:
        return [_nothing_left(situation)]
    return actions or [Watch()]


def _after_the_end(situation: Situation, live: Sequence[Attempt]) -> Iterator[Action]:
    assert situation.outcome is not None
    cancelled = situation.outcome.get("state") == "cancelled"
    if cancelled or situation.since_outcome >= GRACE:
        yield from (Cancel(it.attempt) for it in live if _cancels(situation, it))


def _cancels(situation: Situation, attempt: Attempt) -> bool:
    return attempt.job is not None and attempt.attempt not in situation.cancel_sent


def _at_a_limit(
    terms: Terms, situation: Situation, live: Sequence[Attempt], limit: str
) -> Iterator[Action]:
    if not live:
        yield End("limited", _and_last(limit, situation.attempts))
    elif not terms.saves or all(attempt.started is None for attempt in live):
        yield End("limited", limit)
    elif situation.stop is None:
        yield Stop(limit)
    elif situation.since_stop >= terms.stop_grace:
        seconds = round(terms.stop_grace)
        yield End("limited", f"{limit}; no checkpoint was saved within {seconds} s")


def _of_its_own(
    terms: Terms, situation: Situation, attempt: Attempt, now: float
) -> Iterator[Action]:
    """What becomes of an attempt that may have its machines by now, or not for a long time."""
    patience, number = terms.resubmit.patience, attempt.attempt
    if attempt.left:
        if _cancels(situation, attempt):
            yield Cancel(number)
    elif number in situation.unreached:
        why, seconds = situation.unreached[number]
        if seconds >= terms.apart and _others_train(situation, number):
            yield Leave(number, str(Message(APART, why)), UNREACHABLE)
    elif patience is None or attempt.started is not None or attempt.submitted is None:
        return
    elif now - attempt.submitted >= patience.total_seconds():
        why = f"resubmit.patience: it has had no machines for {format_duration(patience)}"
        yield Leave(number, why)


def _others_train(situation: Situation, number: int) -> bool:
    """Whether any other is alive that may be in the world."""
    others = (it for it in alive(situation.attempts) if it.attempt != number and not it.left)
    return any(it.attempt not in situation.unreached for it in others)


def _end_with(situation: Situation) -> End | None:
    """The end of the run that the end of its last attempt is, if it is one."""
    ended = [it for it in by_end(situation.attempts) if verdict_of(it) != "replaced"]
    if not ended:
        return None
    last = ended[-1]
    verdict = verdict_of(last)
    if verdict == "succeeded":
        return End("succeeded", "the CustomJob succeeded")
    if verdict == "cancelled":
        return End("cancelled", "the CustomJob was cancelled")
    if verdict in HOPELESS:
        return End("failed", last.story)
    failed = fruitless(situation.attempts)
    unlike = (n for n, them in enumerate(failed) if any(verdict_of(it) != verdict for it in them))
    alike = next(unlike, len(failed))
    most = MAX_FRUITLESS.get(verdict)
    if most is not None and failed and last in failed[0] and alike >= most:
        said = f"{alike} attempts in a row completed no step; the last: {last.story}"
        return End("failed", str(Message("SW5010", said)))
    return None


def _renewals(
    terms: Terms, attempts: Sequence[Attempt], dear: Mapping[int, Sequence[Choice]], now: float
) -> Iterator[Action]:
    near = sorted(due(terms.fleet, terms.choices, attempts, now))
    lacking = lack(terms.fleet, terms.choices, attempts, frozenset(dear)).total
    room = spare(terms.fleet, terms.limits, attempts) - lacking
    if near := [number for n, number in enumerate(near, start=1) if n <= room]:
        yield Renew(frozenset(near))
    if costly := long_dear(terms.fleet, terms.choices, attempts, terms.resubmit, now):
        yield GoBack(costly)


def _replacements(
    terms: Terms,
    situation: Situation,
    regions: frozenset[str],
    dear: Mapping[int, Sequence[Choice]],
    now: float,
) -> Iterator[Action]:
    """What is sent for what the run lacks, or the wait for it; then for what is too dear."""
    attempts, fleet = situation.attempts, terms.fleet
    lacking = lack(fleet, terms.choices, attempts, frozenset(dear))
    most, bonus = terms.limits.attempts, spare(fleet, terms.limits, attempts)
    room = lacking.sent(bonus)
    if most is not None:
        room = min(room, most - sum(it.sent for it in attempts))
    kinds = [fleet.anchors] * lacking.anchors + [terms.choices] * lacking.others
    live, number = len(alive(attempts)), max((it.attempt for it in attempts), default=0)
    sent = 0
    waits: list[Next] = []
    for choices in kinds[:room]:
        found = _next(terms, situation, choices, regions, live + sent, now)
        if found is None:
            continue
        at = max(found.at, sent_too_fast(attempts, sent, now))
        if at > now:
            waits.append(Next(found.choice, at))
            continue
        sent += 1
        yield Submit(number + sent, found.choice)
        if not fleet.across_regions:
            regions = frozenset({found.choice.region})
    if not sent and waits:
        first = min(waits, key=lambda it: it.at)
        deadline = terms.limits.deadline
        yield Wait(min(first.at, deadline.timestamp() if deadline else first.at), first.choice)
    bonus -= lacking.total
    tried = [choices for _, choices in sorted(dear.items())][len(dear) - lacking.cheaper :]
    for better in tried if terms.resubmit.back is not None else ():
        pauses = paced(terms.resubmit)
        found = _next(terms, situation, better, regions, live + sent, now, pauses)
        if found is None or max(found.at, sent_too_fast(attempts, sent, now)) > now:
            continue
        if bonus < 1:
            return
        bonus, sent = bonus - 1, sent + 1
        yield Submit(number + sent, found.choice, beside=True)


def _nothing_left(situation: Situation) -> End:
    """The end of a run that no choice is left for, though its last attempt would not have ended it.

    Each was given up while others trained.
    """
    hopeless = [it for it in by_end(situation.attempts) if verdict_of(it) in HOPELESS]
    return End("failed", hopeless[-1].story)


def _next(
    terms: Terms,
    situation: Situation,
    choices: Sequence[Choice],
    regions: frozenset[str],
    others: int,
    now: float,
    resubmit: Resubmit | None = None,
) -> Next | None:
    since = min(terms.fleet.since or 0.0, now)
    may = open_choices(choices, situation.attempts, regions, others, since)
    if not may:
        return None
    return next_choice(
        may,
        situation.attempts,
        created=max(since, terms.created),
        now=now,
        resubmit=resubmit or terms.resubmit,
        seed=terms.run_id,
        others=others,
    )


def _and_last(limit: str, attempts: Sequence[Attempt]) -> str:
    ended = by_end(attempts)
    return f"{limit}; the last: {ended[-1].reason}" if ended and ended[-1].reason else limit
