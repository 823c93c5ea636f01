"""What a run's events, attempts, outcome and audit say about it: ``swell status``, purely.

``swell status RUN --json`` is a contract with other programs::

    run, state       queued | running | waiting | succeeded | failed | cancelled | limited
    step             steps completed; of a torchrun script the last that it has told of
    told_every       steps from one that a torchrun script tells of to the next: so many may have
                     followed; 0 where it has told of one. null of others
    seconds          from the run's creation to its end, or until now; null where not known
    attempts         as in attempts/*.json
    generations      [{generation, world_size, cause, at, step, speed}]; step is where it began,
                     speed its steps a second, but for the first; null where that is not known
    drains, losses   how many replicas left with notice, and without
    steps_lost       completed steps that had to be done again
    steps_unsaved    completed steps that no checkpoint has, of a run that is over without success:
                     they are lost, too; null of others, and where a script keeps its own
    steps_left_out   steps in which something was not finite, and which changed nothing
    samples_repeated, samples_skipped, samples_left_out
                     over all audited epochs, the last those of such steps; null without an audit
    pauses           [{cause, seconds, generation, step}]: from the last step before to the first
    goodput          share of the time of the VMs that were there that went into training; these are
                     defined in launcher.status.accounts and launcher.status.figures
    ledger           what the time of the VMs went into, as ``swell goodput --json`` prints it; null
                     before any was asked for
    speed            {steps, samples, tokens, flops}: a second; mfu, the part of what its GPUs
                     compute at most; data_wait, the part of its time that rank 0 waits for batches;
                     left, seconds to the last step at this speed. Each is null where that is not
                     known. Of a run that goes on, of its newest steps; of one that is over, from
                     the end of its first step to that of its last, with all pauses in between
    checkpoint       {step, age, failed, reason}: the newest one, its age in seconds, how many
                     since then could not be written, and why the last of these
    output           {age, names}: when a torchrun script's output was saved last, in seconds before
                     now, and what was new in it; null where none was
    metrics          the newest value of each metric: a number, or "nan", "inf" or "-inf"
    nonfinite        the step since which a metric is no finite number, by its name
    epochs           [{epoch, samples, left_out, exactly_once}]; exactly_once is null until it is
                     over, and false where samples were left out
    reason           why the run ended
    troubles         what is wrong while the run goes on, in words: a disk here that is full, a
                     worker that lives and comes to no step, a job of a fleet that the others do
                     not reach; and also when it is over, that each process of a torchrun script
                     trains by itself, and that a program's own files have ended with their VM
    attended         [{who, controller, since, seen}]: who looks after the run; empty for nobody,
                     null where that is not known (see launcher.status.attended)
    controllers      as in controllers/*.json
    waits_for        what the run waits for, for how long, and until when, in words; null while it
                     goes on (see trainer.coordinator.explanation, and launcher.status.waits for
                     the time before it has a leader)
    wanted           {version, jobs, region, machine, strategy, by, at}: what a fleet is asked to be
                     (see trainer.rundir.wanted), null where it is as the job file says; by and at
                     are null while nobody has asked. null of a run that is no fleet
    replaced         [{attempt, why, leaves, by}]: attempts that are alive and are to go, why in
                     words, whether they are leaving already, and the attempts in their place
    spent            {usd, controllers, seconds, attempts, remaining: {usd, seconds, attempts,
                     until}}: what the attempts have taken, and what the limits leave; null where
                     there is no price, or no limit (see launcher.supervision.limits). usd is an
                     estimate from above: all VMs of an attempt, from its start to its end. The
                     ledger's counts each while it was there. controllers is what these have cost,
                     in usd
    api              {job, state, reason, error, console}: what the API says of a CustomJob on
                     Vertex AI that is not on record as ended; else null (see launcher.status.api).
                     Of several it is the newest; ``apis`` has all, each with its ``attempt``
    machines         what each replica's machine did last, by name (see launcher.status.machines)

"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

from launcher import home
from launcher.api.reach import reaching
from launcher.disks import troubles_of
from launcher.job.fallback import Limits
from launcher.job.machines import LOCAL
from launcher.job.model import valid
from launcher.job.prices import load_prices
from launcher.local.emulator import goes_on
from launcher.status.attended import (
    attended_by,
    controllers_shown,
    unattended_since,
    unseen_end,
)
from launcher.status.changes import Changes, changes_of
from launcher.status.history import History
from launcher.status.ledger import Timeline, axis_of
from launcher.status.pace import mean_speed
from launcher.status.samples import account as account_samples
from launcher.status.samples import read_audit
from launcher.supervision.attempt import APART, Attempt, read_attempts
from launcher.supervision.attendance import Attendant, read_attendants, who_is_here
from launcher.supervision.controllers import ControllerRecord, read_controllers, usd_of
from launcher.supervision.limits import account
from launcher.supervision.wanted import launched, ways_of
from launcher.words import slow_in_words
from trainer.rundir.attempts import ENDED
from trainer.rundir.directory import RunDirectory
from trainer.rundir.events import read_events
from trainer.rundir.formats import UPDATE_LAUNCHER
from trainer.rundir.numbers import named, number_in, numbers_in
from trainer.rundir.usererror import Message
from trainer.rundir.wanted import newest_wanted

ABANDONED = (
    "the process that launched it is gone, and its local VMs with it; swell attach goes on with it"
)
# A run may succeed with these, and not be what it seems.
NOTABLE = ("no_group", "unsaved_files")
UNATTENDED = "no launch looks after it; its VMs go on, and swell attach sees it through"


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        state: succeeded, failed, cancelled, or limited: it has reached one of its limits.
        reason: one line; a traceback may follow on further lines.
        metrics: the final metrics.
    """

    state: str
    reason: str
    metrics: dict[str, float]

    @classmethod
    def of(cls, outcome: dict[str, Any]) -> Outcome:
        """Returns outcome.json as an Outcome."""
        return cls(
            str(outcome.get("state", "failed")),
            str(outcome.get("reason", "")),
            numbers_in(outcome.get("metrics")),
        )


def build_status(
    run_id: str,
    history: History,
    attempts: list[dict[str, Any]],
    outcome: Outcome | None,
    audit: Iterable[dict[str, Any]] = (),
    abandoned: bool = False,
    limits: Limits | None = None,
    now: float | None = None,
    troubles: Iterable[str] = (),
    unattended: bool = False,
    created: float | None = None,
    attendants: Mapping[int, Attendant] = MappingProxyType({}),
    controllers: Sequence[ControllerRecord] = (),
    changes: Changes | None = None,
    ended: float | None = None,
) -> dict[str, Any]:
    """Returns the status of a run, as the module says.

    Args:
        run_id: the run's id.
        history: its events.
        attempts: its attempts, in order.
        outcome: how it ended, if it has.
        audit: the lines of its audit.
        abandoned: whether the launch of a local run is gone without an outcome, and its VMs, too.
        limits: the run's.
        now: Unix seconds; those of this machine's clock when None.
        troubles: see there.
        unattended: whether that launch is gone, and its VMs are not.
        created: when the run was, in Unix seconds; now when None.
        attendants: who looks after it, or did, by number.
        controllers: its controllers.
        changes: what a fleet is asked to be.
        ended: when the run did, or was last seen to go on, in Unix seconds.
    """
    now = time.time() if now is None else now
    axis, over = axis_of(history), outcome is not None or abandoned
    timeline = Timeline.of(history, None if over else now, axis)
    ledger = None if timeline is None else timeline.between(timeline.start, timeline.end)
    stepped = any(one.stretches for one in history.in_order)
    wait = history.unled(attempts, now if created is None else created) or history.held_up
    # What is alive on record may have ended with the run, and nobody was there to see it.
    paid = now if ended is None else min(now, ended)
    samples = account_samples(
        audit, history.stretches(), outcome is not None and outcome.state == "succeeded"
    )
    metrics, nonfinite = history.metrics, history.nonfinite
    if outcome is not None:
        metrics.update(outcome.metrics)
        ends = {name for name, value in outcome.metrics.items() if math.isfinite(value)}
        nonfinite = {name: step for name, step in nonfinite.items() if name not in ends}
    reason = None if live_of(attempts) else last_reason(attempts)
    if outcome or abandoned or unattended:
        reason = outcome.reason if outcome else ABANDONED if abandoned else UNATTENDED
    if outcome is None and history.unreadable:  # what is shown is not all there is
        reason = f"{history.unreadable}: {UPDATE_LAUNCHER}"
    return {
        "run": run_id,
        "state": state_of(history, attempts, outcome, abandoned),
        "step": history.step,
        "told_every": history.told_every,
        "seconds": None if created is None else round(max(0.0, paid - created), 3),
        "attempts": attempts,
        "generations": [
            {
                "generation": g.generation,
                "world_size": g.world_size,
                "cause": g.cause,
                "at": g.at,
                "step": g.start,
                "speed": g.mean_speed,
            }
            for _, g in sorted(history.generations.items())
        ],
        "drains": history.drains,
        "losses": history.losses,
        "steps_lost": history.steps_lost if history.steps_known else None,
        "steps_unsaved": None if history.kept is None else max(0, history.step - history.kept),
        "steps_left_out": len(history.left_out),
        "samples_repeated": samples.repeated if samples else None,
        "samples_skipped": samples.skipped if samples else None,
        "samples_left_out": samples.left_out if samples else None,
        "pauses": history.pauses,
        "goodput": None if ledger is None or not stepped else round(ledger.goodput or 0.0, 4),
        "ledger": None if ledger is None else ledger.to_json(),
        "speed": mean_speed(history, axis) if over else history.speed,
        "checkpoint": history.checkpoint(now),
        "output": history.output(now),
        "metrics": named(metrics),
        "nonfinite": nonfinite,
        "epochs": samples.epochs if samples else None,
        "reason": reason,
        "waits_for": None if over or wait is None else wait.in_words(now),
        "troubles": [
            *troubles,
            *(one.reason for one in map(history.newest_of.get, NOTABLE) if one and one.reason),
            *([] if over else _troubles(history, attempts, now)),
        ],
        **(changes.to_json() if changes else {"wanted": None, "replaced": []}),
        "spent": account(
            limits or Limits(),
            [Attempt.from_json(attempt) for attempt in attempts],
            paid,
            usd_of(controllers, paid),
        ),
        "attended": [] if over or unattended else attended_by(attendants, now),
        "controllers": controllers_shown(controllers),
        "api": None,  # only swell status asks
        "apis": [],
    }


def _troubles(history: History, attempts: list[dict[str, Any]], now: float) -> list[str]:
    stall = history.stall(now)
    slow = [
        f"{slow_in_words(one.member or '', one.rank or 0, one.ratio or 0.0)} ({one.reason})"
        for one in history.stragglers
    ]
    return [*apart(history, attempts), *([stall] if stall else []), *slow]


def apart(history: History, attempts: list[dict[str, Any]]) -> list[str]:
    """Returns a line for each attempt that the others of its fleet do not reach: what to do."""
    live = {it["attempt"] for it in live_of(attempts) if not it.get("left")}
    return [
        str(
            Message(
                APART,
                f"attempt {job} is not let into the world, which goes on without it: {why}; give "
                "all jobs one network, by psc_interface or network, that lets their VMs connect to "
                "each other on all ports (docs/job.md)",
            )
        )
        for job, why in sorted(history.unreached.items())
        if job in live
    ]


def live_of(attempts: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns those attempts of which something may still run."""
    return [attempt for attempt in attempts if attempt.get("state") not in ENDED]


def last_reason(attempts: Iterable[dict[str, Any]]) -> str | None:
    """Returns why the attempt that ended last has ended."""
    last = max(attempts, key=lambda it: (it.get("ended") or 0.0, it["attempt"]), default={})
    return last.get("reason") or None


def state_of(
    history: History,
    attempts: Iterable[dict[str, Any]],
    outcome: Outcome | None,
    abandoned: bool = False,
) -> str:
    """Returns a run's state in one word."""
    if outcome is not None:
        return outcome.state
    if abandoned:
        return "failed"
    if history.waiting:
        return "waiting"
    live = live_of(attempts)
    running = any(attempt.get("state") == "RUNNING" for attempt in live)
    # Without any that lives, it waits for the next.
    return "running" if live and (running or history.generations) else "queued"


def read_status(
    run_dir: RunDirectory,
    audited: bool = True,
    run: dict[str, Any] | None = None,
    history: History | None = None,
) -> dict[str, Any]:
    """Returns the status of a run from its run directory.

    Args:
        run_dir: the run.
        audited: also read the audit, which may be long.
        run: run.json, if it was read already.
        history: of its events, likewise.

    Raises RunError when it is a newer version's, OSError and ValueError when it cannot be read.
    """
    with reaching(run_dir.url):
        return _read(run_dir, audited, home.read_run(run_dir) if run is None else run, history)


def read_timeline(run_dir: RunDirectory) -> Timeline | None:
    """Returns what became of a run's VMs, from its run directory; None where there is no ledger.

    Raises RunError when it is a newer version's, OSError and ValueError when it cannot be read.
    """
    with reaching(run_dir.url):
        run = home.read_run(run_dir)
        over = run_dir.outcome() is not None
        over = over or (is_unattended(run, run_dir) and is_abandoned(run, run_dir))
        history = History(read_events(run_dir, brief=True))
    return Timeline.of(history, None if over else time.time())


def _read(
    run_dir: RunDirectory, audited: bool, run: dict[str, Any], history: History | None
) -> dict[str, Any]:
    found = run_dir.outcome()
    attendants = read_attendants(run_dir)
    unattended = found is None and is_unattended(run, run_dir, attendants)
    abandoned = unattended and not goes_on(home.local_folder(str(run["id"])))
    if unattended:  # it may have ended between the two looks
        found = run_dir.outcome()
    last_seen = max((it.seen for it in attendants.values()), default=None)
    controllers = read_controllers(run_dir)
    # Side by side, for on an object store each of them waits for many answers.
    reads: list[Callable[[RunDirectory], list[dict[str, Any]]]]
    known = history is not None
    reads = [(lambda _: []) if known else partial(read_events, brief=True), read_attempts]
    events, attempts = run_dir.store.each(lambda read: read(run_dir), reads)
    return build_status(
        str(run["id"]),
        history or History(events),
        attempts,
        Outcome.of(found) if found else None,
        read_audit(run_dir) if audited else (),
        abandoned,
        _limits(run),
        troubles=(
            unseen_end(live_of(attempts), controllers, attendants, time.time())
            if found
            else _of_its_place(run, run_dir, attendants)
        ),
        unattended=unattended,
        created=number_in(run.get("created")),
        attendants=attendants,
        controllers=controllers,
        changes=None if found else _changes(run, run_dir, attempts),
        ended=number_in(found.get("time")) if found else last_seen if abandoned else None,
    )


def _of_its_place(
    run: dict[str, Any], run_dir: RunDirectory, attendants: Mapping[int, Attendant]
) -> list[str]:
    target = str(run.get("target"))
    found = troubles_of(str(run["id"]), run_dir, target)
    nobody = unattended_since(attendants, time.time()) if target == "vertex" else None
    return [*found, nobody] if nobody else found


def _changes(
    run: dict[str, Any], run_dir: RunDirectory, attempts: list[dict[str, Any]]
) -> Changes | None:
    """What changes in a fleet; None for any other run, and for another version's."""
    spec = run.get("spec")
    if not isinstance(spec, dict) or "fleet" not in spec:
        return None
    try:
        job, prices = home.job_of(run), load_prices(home.folder())
        wanted = newest_wanted(run_dir)
        ways = ways_of(job, LOCAL, prices, wanted)
        created = number_in(run.get("created")) or 0.0
        records = [Attempt.from_json(attempt) for attempt in attempts]
        return changes_of(job, ways, wanted or launched(job, ways, created), records)
    except ValueError:
        return None


def _limits(run: dict[str, Any]) -> Limits:
    """The limits in run.json; none, where a version that knows others wrote them."""
    spec = run.get("spec")
    return valid(Limits, (spec.get("limits") if isinstance(spec, dict) else None) or {}) or Limits()


def is_unattended(
    run: dict[str, Any],
    directory: RunDirectory,
    attendants: Mapping[int, Attendant] | None = None,
) -> bool:
    """Whether nobody is known to look after a local run; its VMs may go on.

    Args:
        run: run.json.
        directory: the run's.
        attendants: its, if they were read already.
    """
    if (
        run.get("target") != "local"
        or not home.launched_here(run, directory)
        or home.launch_lives(str(run["id"]))
    ):
        return False
    known = read_attendants(directory) if attendants is None else attendants
    return not any(it.controller for it in who_is_here(known, time.time()))


def is_abandoned(run: dict[str, Any], directory: RunDirectory) -> bool:
    """Whether the launch of a local run is known to be gone, and its VMs with it."""
    return is_unattended(run, directory) and not goes_on(home.local_folder(str(run["id"])))
