"""Events in plain words, for people: one short line for what is worth a line."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from decimal import ROUND_HALF_UP, Decimal
from typing import TYPE_CHECKING, Any

from launcher.records import EventRecord
from launcher.run_states import info_of
from trainer.rundir.formats import UPDATE_LAUNCHER
from trainer.rundir.numbers import numbers_in

if TYPE_CHECKING:
    from trainer.rundir.events import Event  # needs fsspec, which is slow to import

WIDTH = 200  # characters of a line
WAIT_WIDTH = 400  # of one that says what a run waits for, and where its ranks are
LONG = frozenset({"standstill", "held_up", "straggler"})

# Why worlds form.
CAUSES = {
    "start": "start",
    "grow": "a machine came",
    "drain": "a machine left with notice",
    "break": "a connection broke",
    "repeat": "a step is taken again",
    "rollback": "the run goes back to a checkpoint",
    "failure": "the script failed",
    "loss": "a worker was lost",
    "leader": "another coordinator leads",
}
# Of what time a speed is (launcher.status.figures).
NEWEST_SPEED, MEAN_SPEED = "newest steps", "mean, with pauses"
CENT = 0.005  # USD; of less, no share is told
# What VMs spend their time on (launcher.status.accounts).
LOSSES = {
    "absent": "absent",
    "starting": "starting",
    "training": "training",
    "communication": "communication",
    "data_wait": "waiting for data",
    "waiting": "waiting for the slowest",
    "re_forming": "re-forming",
    "checkpoint": "held up by checkpoints",
    "repeated": "lost work",
    "evaluation": "evaluation",
    "stopped": "stopped",
}
_WHOSE = {"newcomer": "it could not begin", "script": "the others go on, as in Horovod"}
_THEN = {
    "process": "another process takes its place",
    "replica": "its replica is started anew",
    "out": "the run goes on without it",
}


def line_of(event: Event) -> str | None:
    """Returns ``event`` in plain words.

    None when it is not worth a line, or not of the documented form.
    """
    record = EventRecord.of(event)
    text = _text(record)
    width = WAIT_WIDTH if record.event in LONG else WIDTH
    return None if text is None else one_line(text, width)


def at_clock(unix: float) -> str:
    """Returns the local time of day of ``unix`` seconds."""
    return time.strftime("%H:%M:%S", time.localtime(unix))


def span(seconds: float) -> str:
    """Returns a duration as people read it: 0.4 s, 42 s, 3:07, 1:02:09."""
    if seconds < 10:
        return f"{seconds:.1f} s" if seconds % 1 else f"{seconds:.0f} s"
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def count(number: int, noun: str) -> str:
    """Returns ``1 worker``, ``3 workers``, ``1,797 samples``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def one_line(text: str, width: int = WIDTH) -> str:
    """Returns ``text`` fit for a terminal's line: no control characters, not too long."""
    clean = "".join(c if c.isprintable() else " " for c in text)
    clean = " ".join(clean.split())
    return clean if len(clean) <= width else clean[: width - 1] + "…"


def number(value: float | str) -> str:
    """Returns a metric's value in few digits; the name of one that is not finite, as it is."""
    if isinstance(value, str):
        return value
    if not math.isfinite(value):
        return str(value)
    if isinstance(value, int) or (value == int(value) and abs(value) < 1e6):
        return f"{int(value):,}"
    return f"{value:.4g}" if abs(value) >= 1e-3 else f"{value:.2e}"


def part(of_one: float) -> str:
    """Returns a part of a whole as ``12.5 %``."""
    return f"{100 * of_one:.1f} %"


def dollars(usd: float) -> str:
    """Returns a sum as ``12.50``, in cents as people round, however exactly it is known."""
    if not math.isfinite(usd):
        return str(usd)
    cents = Decimal(repr(round(usd, 4))).quantize(Decimal("0.01"), ROUND_HALF_UP)
    return f"{cents:,}"


def usd_in_words(usd: float) -> str:
    """Returns ``about 12.50 USD``, or that it is less than a cent."""
    return f"about {dollars(usd)} USD" if usd >= CENT else "less than 0.01 USD"


def saving_in_words(spent: float | None, saving: float | None) -> str | None:
    """Returns what a run costs against on demand as ``12.5 % less``, or ``more``.

    None if that is not known, or if less than a cent was spent: its share would be one of noise.

    Args:
        spent: USD; None if a machine has no price.
        saving: of the price of the same training on demand, a part of 1; below 0, it costs more.
    """
    if spent is None or saving is None or spent < CENT:
        return None
    return f"{part(abs(saving))} {'less' if saving >= 0 else 'more'}"


def is_exact(step: int, every: int | None) -> bool:
    """Whether no other step than this can be the last; both as ``step_in_words`` has them."""
    return every in (None, 1) or not step


def step_in_words(step: int, every: int | None) -> str:
    """Returns how many steps are completed, as far as that is known.

    Args:
        step: the last that anybody has told of.
        every: a torchrun script tells of every so many; 0 where it has told of one; else None.
    """
    return f"{step:,}" if is_exact(step, every) else f"at least {step:,}"


def unsaved_in_words(unsaved: int | None) -> str:
    """Returns ``, 9 in no checkpoint`` of steps that are lost with a run; "" if none are."""
    return f", {unsaved:,} lost: no checkpoint has them" if unsaved else ""


def output_in_words(output: Mapping[str, Any]) -> str:
    """Returns ``saved 12 s ago, with ck-000100.pt``; ``output`` is as ``swell status`` has it."""
    names = output["names"]
    newest = f", with {one_line(names[-1], 60)}" if names else ""
    return f"saved {span(output['age'])} ago{newest}"


def begun_in_words(step: int | None, every: int | None) -> str:
    """Returns after which step a generation began, as far as that is known; see above."""
    if step is None:
        return "never began" if every is None else "not known"
    return f"{step:,}" if is_exact(step, every) else f"about {step:,}"


def speed_told(state: str, speed: Mapping[str, float | None]) -> tuple[str, str]:
    """Returns what a run's speed is one of, and ``speed_in_words`` of it; "" where nobody knows.

    Args:
        state: the run's: once it is over, its speed is that of the whole.
        speed: as ``swell status --json`` has it.
    """
    over = bool(info_of(state).ending)
    return MEAN_SPEED if over else NEWEST_SPEED, speed_in_words(speed)


def speed_in_words(speed: Mapping[str, float | None]) -> str:
    """Returns ``12.5 steps/s, 400 samples/s, data wait 3 %, 1:02:09 left``, as far as known."""
    rates = ((name, speed.get(name)) for name in ("steps", "samples", "tokens"))
    said = [f"{number(value)} {name}/s" for name, value in rates if value is not None]
    if (mfu := speed.get("mfu")) is not None:
        said.append(f"MFU {part(mfu)}")
    elif (flops := speed.get("flops")) is not None:
        said.append(f"{flops / 1e12:,.3g} TFLOP/s")
    if (waited := speed.get("data_wait")) is not None:
        said.append(f"data wait {100 * waited:.0f} %")
    if left := speed.get("left"):
        said.append(f"{span(left)} left")
    return ", ".join(said)


def goodput_in_words(ledger: Mapping[str, Any]) -> str:
    """Returns ``81.3 % of the time of the VMs was training; re-forming 9.0 %, …``.

    Args:
        ledger: as ``Ledger.to_json`` returns it.
    """
    goodput, seconds = ledger["goodput"], ledger["seconds"]
    said = f"{part(goodput['there'] or 0.0)} of the time of the VMs was training"
    if goodput["wanted"] is not None and goodput["wanted"] != goodput["there"]:
        said += f", {part(goodput['wanted'])} of those wanted"
    return "; ".join(filter(None, [said, losses_in_words(seconds)]))


def losses_in_words(seconds: Mapping[Any, float], most: int = 3) -> str:
    """Returns what took most of the time of VMs that were there, besides training.

    Args:
        seconds: of VMs, by account.
        most: how many accounts to name.
    """
    there = sum(took for name, took in seconds.items() if name != "absent")
    lost = {name: seconds[name] for name in LOSSES if name not in ("absent", "training")}
    largest = sorted(lost, key=lambda name: -lost[name])[:most]
    told = [(name, lost[name] / there) for name in largest if lost[name] >= 0.001 * there > 0]
    return ", ".join(f"{LOSSES[name]} {part(share)}" for name, share in told)


def metrics_in_words(
    metrics: Mapping[str, float | str], nonfinite: Mapping[str, int]
) -> dict[str, str]:
    """Returns each metric's value in few digits, and since when it is no finite number.

    Args:
        metrics: the values, by name.
        nonfinite: the steps since which some are not finite, by name.
    """
    since = {name: f" (since step {step:,})" for name, step in nonfinite.items()}
    return {name: number(value) + since.get(name, "") for name, value in metrics.items()}


def wait_in_words(what: str, seconds: float, left: float | None, then: str | None) -> str:
    """Says what a run waits for, for so many seconds, and what comes after that.

    Args:
        what: is waited for.
        seconds: for so long already.
        left: seconds until that is over, whatever comes; None if it may last.
        then: what comes then.
    """
    said = f"waiting for {span(seconds)}: {one_line(what, WAIT_WIDTH)}"
    if left is None or left < 0 or then is None:
        return said
    return f"{said}; in {span(left)} {one_line(then)}"


def stall_in_words(seconds: float, member: str | None) -> str:
    """Says that there is no step although everybody lives.

    Args:
        seconds: for how long.
        member: the replica of the only worker, which is not broken off; None if there are several.
    """
    said = f"no step for {span(seconds)}, although all workers live"
    if member is None:
        return said
    return (
        f"no step for {span(seconds)}, although {member} lives: nobody else has its state, so "
        f"nobody ends it; swell logs RUN --replica {member} says what it does, swell cancel ends it"
    )


def slow_in_words(member: str, rank: int, ratio: float) -> str:
    """Says which worker is slower than the others, and by how much."""
    return f"rank {rank} ({member}) takes {ratio:.1f} times as long as the others"


def _text(event: EventRecord) -> str | None:
    first, *_ = (event.reason or "").strip().splitlines() or [""]
    why = f" ({first})" if first else ""
    match event:
        # The launcher's.
        case EventRecord(event="attempt_started", attempt=int(attempt), region=str(region)):
            beside = ", beside what is dearer" if event.beside else ""
            return f"attempt {attempt}: CustomJob submitted in {event.choice or region}{beside}"
        case EventRecord(event="attempt_ended", attempt=int(attempt), state=str(state)):
            return f"attempt {attempt} ended: {state.lower()}{why}"
        case EventRecord(
            event="attempt_due", attempt=int(attempt), choice=str(choice), seconds=float(seconds)
        ):
            return f"attempt {attempt} is due in {span(seconds)}: {choice}"
        case EventRecord(event="attempt_left", attempt=int(attempt)):
            return f"attempt {attempt} is given up for another{why}"
        case EventRecord(event="attempt_replaced", attempt=int(attempt)):
            return f"attempt {attempt} goes{why}"
        case EventRecord(
            event="controller_started", controller=int(controller), region=str(region)
        ):
            return f"controller {controller}: CustomJob submitted in {region}"
        case EventRecord(event="controller_ended", controller=int(controller), state=str(state)):
            return f"controller {controller} ended: {state.lower()}{why}"
        case EventRecord(event="wanted", jobs=int(jobs)):
            asked = [count(jobs, "job"), event.region, event.machine, event.strategy]
            who = f" (asked by {one_line(event.by)})" if event.by else ""
            return f"wanted from now on: {', '.join(filter(None, asked))}{who}"
        case EventRecord(event="moved", region=str(region)):
            return (
                f"the run moves to {region}; its run directory does not: checkpoints are traffic "
                "between regions now"
            )
        case EventRecord(event="stockout", region=str(region)):
            return f"no capacity in {region}{why}"
        case EventRecord(event="stop_asked"):
            return f"the run is to save a checkpoint and to end{why}"
        case EventRecord(event="notification_failed" | "telemetry_failed", reason=str(reason)):
            return reason
        case EventRecord(event="unreadable", reason=str(reason)):
            return f"{reason}: {UPDATE_LAUNCHER}"
        # The world's.
        case EventRecord(event="leader_changed", member=str(member)):
            return f"{member} coordinates"
        case EventRecord(event="member_ready", member=str(member)):
            return f"{member} is ready"
        case EventRecord(
            event="connected", member=str(member), peer=str(peer), latency=float(latency)
        ):
            rate = "" if event.bandwidth is None else f", {event.bandwidth / 1e6:,.0f} MB/s"
            return f"{member} and {peer} reach each other: {1000 * latency:.1f} ms{rate}"
        case EventRecord(event="unreachable", member=str(member)):
            return f"{member} is not let into the world{why}"
        case EventRecord(event="drain", member=str(member), deadline_seconds=None):
            return f"{member} leaves at the next step{why}"
        case EventRecord(event="drain", member=str(member)):
            # For how long it counts on its machine is not how long it has that.
            then = "it leaves at the next step" if event.step else "it leaves"
            then = "all ranks of the script are to save, and to end" if event.script else then
            return f"{member} has notice that it will be taken away; {then}"
        case EventRecord(event="loss", member=str(member)):
            return f"{member} is lost{why}"
        case EventRecord(
            event="generation_formed",
            generation=int(generation),
            world_size=int(size),
            cause=str(cause),
        ) if cause in CAUSES:
            return f"generation {generation} forms: {count(size, 'worker')} ({CAUSES[cause]})"
        case EventRecord(event="resumed", cause=str(cause), step=int(step)):
            verb = "training goes on" if step or cause != "start" else "training starts"
            # Its first step is not made yet: a pause ends with that, and is longer.
            pause = f", re-formed in {span(event.seconds)}" if event.seconds else ""
            lost = f", {count(event.lost_steps, 'step')} lost" if event.lost_steps else ""
            return f"{verb} at step {step}{pause}{lost}"
        case EventRecord(event="resumed", step=None, cause=str(cause)):
            return "the script starts" if cause == "start" else "the script starts anew"
        case EventRecord(event="rank_failed", rank=int(rank), member=str(member)):
            last = one_line((event.reason or "").strip().rpartition("\n")[2])
            return f"rank {rank} ({member}) has failed: {last}"
        case EventRecord(event="output_committed", names=list(names)):
            newest = f", with {names[-1]}" if names else ""
            return f"the script's output is saved{newest}"
        case EventRecord(event="resized", before=int(before), world_size=int(size)) if before > 0:
            times = number(size / before)
            return (
                f"the world has {count(size, 'worker')}, not {before} any more: a batch that the "
                f"script sets for each worker is {times} times as large in all"
            )
        case EventRecord(event="held_up", reason=str(awaited), seconds=float(seconds)):
            left = None if event.limit is None else event.limit - seconds
            return wait_in_words(awaited, seconds, left, event.then)
        case EventRecord(event="standstill", seconds=float(seconds), reason=str(reason)):
            stacks = f"; their stacks are in {event.stacks}" if event.stacks else ""
            return f"no step for {span(seconds)}: {one_line(reason, WAIT_WIDTH)}{stacks}"
        case EventRecord(event="gpu_error", member=str(member), reason=str(reason)):
            return f"{member}: {reason}"
        case EventRecord(event="unfit", member=str(member), then=str(then)) if then in _THEN:
            return f"{member} is not let in{why}; {_THEN[then]}"
        case EventRecord(event="straggler", member=str(member), rank=int(rank), over=True):
            return f"rank {rank} ({member}) is as fast as the others again"
        case EventRecord(
            event="straggler", member=str(member), rank=int(rank), ratio=float(ratio)
        ) if math.isfinite(ratio):
            then = "; it is started anew on another machine" if event.then else ""
            return f"{slow_in_words(member, rank, ratio)}{why}{then}"
        case EventRecord(event="unattended", seconds=float(seconds), over=over):
            if over:
                return f"somebody looks after the run again, after {span(seconds)}"
            return (
                f"nobody has looked after the run for {span(seconds)}: it goes on, but nobody "
                "submits its next attempt; swell attach does"
            )
        case EventRecord(event="stalled", seconds=float(seconds)):
            return stall_in_words(seconds, event.member)
        case EventRecord(event="waiting", slots=int(slots), min_workers=int(least)):
            return f"waiting for machines: {slots} of at least {count(least, 'worker')}"
        # Training's.
        case EventRecord(event="evaluated", step=int(step), metrics=dict(metrics)):
            values = numbers_in(metrics).items()
            shown = ", ".join(f"{name} {number(value)}" for name, value in values)
            return f"evaluated at step {step}: {shown}"
        case EventRecord(event="profiled", profile=int(wish), rank=int(rank)):
            if event.reason:
                return f"profile {wish}: rank {rank} has seen nothing: {event.reason}"
            seen = f"steps {event.first or 0:,} to {event.step or 0:,}"
            return f"profile {wish}: rank {rank} has seen {seen}: {', '.join(event.names or [])}"
        case EventRecord(event="units", step=int(step), unit=int(unit)):
            return f"from step {step} on, training goes by units of {count(unit, 'sample')}{why}"
        case EventRecord(event="checkpoint_committed", step=int(step)):
            return f"checkpoint of step {step} is saved"
        case EventRecord(event="checkpoint_rejected", step=int(step)):
            return f"checkpoint of step {step} is unusable{why}"
        case EventRecord(event="checkpoint_failed", step=int(step)):
            return f"the checkpoint of step {step} could not be written{why}"
        case EventRecord(event="no_best" | "no_group" | "unsaved_files", reason=str(reason)):
            return reason
        case EventRecord(event="checkpoint_skipped", step=int(step)):
            return f"step {step} is not saved{why}"
        case EventRecord(event="audit_failed", step=int(step)):
            return f"the audit of step {step} and of those that follow waits for the store{why}"
        case EventRecord(event="store_unavailable"):
            return f"the run directory does not answer{why}; trying again"
        case EventRecord(event="worker_replaced", rank=int(rank)):
            return f"the worker of rank {rank} is replaced{why}"
        case EventRecord(event="fault", member=str(member), then=str(then)) if then in _THEN:
            whose = _WHOSE.get(event.whose or "", "the machine is at fault")
            short = f" ({one_line(first, 110)})" if first else ""  # what follows is to be read, too
            return f"{member} has failed{short}: {whose}; {_THEN[then]}"
        case EventRecord(event="begun", url=str(url), step=int(step)):
            changes = "".join(f"; {one}" for one in event.changes or ())
            return f"begins at step {step} with {url}{changes}"
        case EventRecord(event="nonfinite", step=int(step), reason=str(reason)):
            where = "" if event.rank is None else f" on rank {event.rank}"
            what = {"skip": "the step is left out", "stop": "the run ends"}.get(event.action or "")
            if event.action == "rollback" and event.checkpoint is not None:
                what = f"back to the checkpoint of step {event.checkpoint}"
            return f"step {step}: {reason}{where}" + (f": {what}" if what else "")
        case EventRecord(event="micro_batch_halved", rank=int(rank), samples=int(samples)):
            parts = f"parts have at most {count(samples, 'sample')} from now on"
            return f"rank {rank} is out of memory: {parts}"
        case EventRecord(event="agent_failed", member=str(member), reason=str()):
            return f"{member} cannot take part: {first}"
        case EventRecord(event="task_failed", member=str(member), rank=rank, step=step):
            # Of a traceback, what was raised; of a message with an id, its first line.
            ours = re.search(r" \[SW\d{4}\]$", first)
            last = (event.reason or "").strip().rpartition("\n")[2]
            what = f": {first if ours else last}" if first else ""
            if rank is None:
                return f"the program failed in a worker of {member} while it loaded{what}"
            far = f"after step {step}" if step else "before it had completed a step"
            return f"the program failed in rank {rank} ({member}) {far}{what}"
        case EventRecord(event="finished", state=str(state)) if ending := info_of(state).ending:
            told = " at least" if event.least else ""
            at = f" at step {event.step}{told}" if event.step else ""
            return f"the run {ending}{at}"
    return None
