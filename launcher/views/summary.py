"""What a person sees when a run has ended."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from launcher.api.transport import is_emulator
from launcher.run_states import info_of
from launcher.status.attended import in_words
from launcher.status.machines import machine_errors, machines_in_words
from launcher.status.status import live_of
from launcher.views.output import unpadded
from launcher.words import (
    begun_in_words,
    count,
    dollars,
    goodput_in_words,
    metrics_in_words,
    one_line,
    output_in_words,
    span,
    speed_told,
    step_in_words,
    unsaved_in_words,
    usd_in_words,
)
from trainer.rundir.attempts import ENDED
from trainer.rundir.usererror import Message

_ATTEMPTS = 5
_SHOWN = 24  # generations; a long run's middle is left out


def print_summary(
    console: Console, status: dict[str, Any], where: str, seconds: float | None
) -> None:
    """Prints the summary of a run; into a file or pipe without control codes and padding.

    Args:
        console: where to.
        status: the run's status, as ``swell status --json`` has it.
        where: URL of the run directory.
        seconds: how long the run took, when that is known.
    """
    if console.is_terminal:
        _print(console, status, where, seconds)
        return
    with unpadded(console):
        _print(console, status, where, seconds)


def _print(console: Console, status: dict[str, Any], where: str, seconds: float | None) -> None:
    state = str(status["state"])
    colour = info_of(state).colour
    seconds = status["seconds"] if seconds is None else seconds
    since = "after" if info_of(state).ending else "for"
    took = f" {since} {span(seconds)}" if seconds is not None else ""
    console.print()
    console.print(Text.assemble((f"{status['run']} ", "bold"), (state, f"bold {colour}"), took))
    if status["generations"]:
        console.print()
        console.print(Padding(_generations(status), (0, 0, 0, 2)))
    console.print()
    console.print(Padding(_facts(status), (0, 0, 0, 2)))
    # Paths and tracebacks keep their lines, to be copied.
    console.print(Text.assemble(("  run directory", "dim"), f"   {where}"), soft_wrap=True)
    for page in filter(None, (api["console"] for api in status.get("apis") or ())):
        console.print(Text.assemble(("  console      ", "dim"), f"   {page}"), soft_wrap=True)
    errors = machine_errors(status.get("machines") or {})
    for line in [
        *(status.get("troubles") or ()),
        *errors,
        *filter(None, [status.get("waits_for")]),
    ]:
        console.print(Text(f"\n{line}", style="bold yellow"), soft_wrap=True)
    reason = str(status.get("reason") or "").strip()
    if state != "succeeded" and reason:
        console.print()
        for line in reason.splitlines():
            console.print(Text(line.expandtabs(4), style=colour), soft_wrap=True)


def _generations(status: dict[str, Any]) -> Table:
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="dim")
    table.add_column("generation", justify="right")
    table.add_column("workers", justify="right")
    table.add_column("cause")
    table.add_column("from step", justify="right")
    table.add_column("pause", justify="right")
    pauses = {pause.get("generation"): pause["seconds"] for pause in status["pauses"]}
    generations = list(status["generations"])
    rows: list[dict[str, Any] | None] = list(generations)
    if len(rows) > _SHOWN:
        rows[_SHOWN // 2 : -_SHOWN // 2] = [None]
    for row in rows:
        if row is None:
            table.add_row("…", "", f"{len(generations) - _SHOWN} more", "", "")
            continue
        pause = pauses.get(row["generation"])
        began = row.get("step")
        table.add_row(
            str(row["generation"]),
            "?" if row["world_size"] is None else f"{row['world_size']:,}",
            str(row["cause"] or ""),
            begun_in_words(began, status["told_every"]),
            "" if pause is None else f"{pause:.2f} s",
        )
    return table


def _facts(status: dict[str, Any]) -> Table:
    table = Table.grid(padding=(0, 3, 0, 0))
    table.add_column(style="dim", no_wrap=True, min_width=len("run directory"))
    table.add_column(overflow="fold")
    for name, what in _attempts(status):
        table.add_row(name, what)
    for name, what in _attended(status):
        table.add_row(name, what)
    for name, said in _changes(status):
        table.add_row(name, said)
    if said := machines_in_words(status.get("machines") or {}):
        table.add_row("machines", said)
    if spent := _spent(status.get("spent"), status["ledger"]):
        table.add_row("spent", spent)
    lost = status["steps_lost"]
    left_out = status["steps_left_out"]
    out = f", {left_out:,} left out" if left_out else ""
    if lost is None:
        table.add_row("steps", "not known: the script does not say (torchrun.progress, or report)")
    else:
        done = step_in_words(status["step"], status["told_every"])
        unsaved = unsaved_in_words(status["steps_unsaved"])
        again = f"{lost:,}" if lost else "none"
        table.add_row("steps", f"{done} completed, {again} done again{unsaved}{out}")
    if status["drains"]:
        table.add_row("taken away", f"{count(status['drains'], 'replica')}, with notice")
    if status["losses"]:  # the machine, or a worker of it
        table.add_row("lost", f"{count(status['losses'], 'replica')}, without notice")
    if saved := _checkpoint(status):
        table.add_row("checkpoint", saved)
    if output := status["output"]:
        table.add_row("output", output_in_words(output))
    if status["samples_repeated"] is not None:
        table.add_row("samples", _samples(status))
    for name, value in metrics_in_words(status["metrics"], status["nonfinite"]).items():
        table.add_row(one_line(name.replace("_", " "), 24), value)
    if status["pauses"]:
        total = sum(pause["seconds"] for pause in status["pauses"])
        table.add_row("paused", f"{total:.1f} s in all")
    of, speed = speed_told(str(status["state"]), status["speed"])
    if speed:
        table.add_row("speed", f"{speed} ({of})")
    if status["goodput"] is not None:
        table.add_row("goodput", goodput_in_words(status["ledger"]))
    return table


def _attempts(status: dict[str, Any]) -> Iterator[tuple[str, Text]]:
    """Yields the run's CustomJobs as on record, and what the API says of those that live."""
    attempts, apis = status["attempts"], {it["attempt"]: it for it in status.get("apis") or ()}
    if not apis and len(attempts) < 2 and all(is_emulator(str(a["endpoint"])) for a in attempts):
        return
    live = [it["attempt"] for it in live_of(attempts)]
    over = [it for it in attempts if it["attempt"] not in live]
    # The last to end, which need not be the last that was sent: one may train beside many in vain.
    ended = [it["attempt"] for it in sorted(over, key=lambda it: it.get("ended") or 0.0)]
    shown = {*live, *ended[-max(1, _ATTEMPTS - len(live)) :]}
    for attempt in attempts:
        number = attempt["attempt"]
        if number not in shown:
            continue
        api = apis.get(number)
        job = str(attempt.get("job") or (api or {}).get("job") or "")
        which = f"CustomJob {job.rpartition('/')[2]} in " if job else ""
        reason = one_line(str(attempt.get("reason") or ""))
        why = f": {reason}" if reason and reason != str(status.get("reason")) else ""
        state = str(attempt["state"]).lower()
        yield f"attempt {number}", Text(f"{which}{attempt['region']}, {state}{why}")
        if api:
            yield "Vertex AI", _answer(api, attempt)


def _attended(status: dict[str, Any]) -> Iterator[tuple[str, Text]]:
    """Yields who looks after a run that goes on, and its controllers' CustomJobs."""
    attended, controllers = status.get("attended"), status.get("controllers") or []
    if not info_of(str(status["state"])).ending and attended is not None:
        yield "looked after", Text(f"by {in_words(attended)}", style="" if attended else "yellow")
    for it in [one for one in controllers if one["state"] not in ENDED] or controllers[-1:]:
        job = str(it["job"] or "").rpartition("/")[2]
        which = f"CustomJob {job} in " if job else ""
        text = f"{which}{it['region']}, {it['machine']}, {str(it['state']).lower()}"
        yield f"controller {it['number']}", Text(text)


def _changes(status: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yields what a fleet is asked to be, if anybody has asked, and what others replace."""
    wanted = status.get("wanted")
    if wanted and wanted["by"]:
        asked = [count(wanted["jobs"], "job"), wanted["region"], wanted["machine"]]
        what = ", ".join(filter(None, [*asked, wanted["strategy"]]))
        since = time.strftime("%Y-%m-%d %H:%M", time.localtime(wanted["at"]))
        yield "wanted", f"{what} (asked for by {wanted['by']}, {since})"
    for one in status.get("replaced") or ():
        by = " and ".join(f"attempt {number}" for number in one["by"])
        then = "leaves now" if one["leaves"] else "stays until another trains"
        beside = f"; {by} {'is' if len(one['by']) == 1 else 'are'} beside it" if by else ""
        yield "replaced", f"attempt {one['attempt']} {then}{beside}: {one['why']}"


def _answer(api: dict[str, Any], attempt: dict[str, Any]) -> Text:
    """What the API says of an attempt's CustomJob."""
    if api["error"]:
        error = str(Message(api.get("id") or "", api["error"]))
        return Text(error.expandtabs(4), style="yellow")
    differs = api["state"] != attempt["state"]
    reason = f": {one_line(api['reason'])}" if api["reason"] else ""
    return Text(f"{api['state'].lower()}{reason}", style="yellow" if differs else "")


def _checkpoint(status: dict[str, Any]) -> Text | None:
    """The newest checkpoint, and what is wrong with those that should have followed."""
    newest = status["checkpoint"]
    if newest["step"] is None and not newest["failed"]:
        return None
    text = Text("none yet")
    if newest["step"] is not None:
        text = Text(f"of step {newest['step']:,}, {span(newest['age'])} ago")
    if newest["failed"]:
        since = "failed since" if newest["step"] is not None else "failed"
        text.append(f"; {newest['failed']:,} {since}", style="bold yellow")
        text.append(f" ({one_line(newest['reason'])})")
    return text


def _spent(spent: dict[str, Any] | None, ledger: dict[str, Any] | None) -> str:
    """What the attempts have taken and what is left, where there is a price or a limit."""
    if not spent:
        return ""
    left, there = spent["remaining"], (ledger or {}).get("spent")
    parts = []
    if there is not None and there + (spent["controllers"] or 0.0) > 0:
        parts.append(usd_in_words(there))  # as goodput, compare and report say it
        if spent["controllers"]:
            parts.append(f"{usd_in_words(spent['controllers'])} for controllers")
    elif spent["usd"] is None:
        parts.append("an unknown sum")
    elif spent["usd"]:
        parts.append(f"at most about {dollars(spent['usd'])} USD")
    if left["usd"] is not None:
        counted = f"{dollars(spent['usd'])} USD count against the limit"
        parts.append(f"{counted} ({dollars(left['usd'])} left)")
    if left["seconds"] is not None:
        parts.append(f"{span(spent['seconds'])} ({span(left['seconds'])} left)")
    if left["attempts"] is not None:
        parts.append(f"{count(spent['attempts'], 'attempt')} ({left['attempts']} left)")
    if left["until"] is not None:
        until = time.strftime("%Y-%m-%d %H:%M", time.localtime(left["until"]))
        parts.append(f"to be over by {until}")
    return ", ".join(parts)


def _samples(status: dict[str, Any]) -> Text:
    epochs = [epoch for epoch in status["epochs"] if epoch["exactly_once"] is not None]
    repeated, skipped = status["samples_repeated"], status["samples_skipped"]
    left_out = status["samples_left_out"]
    out = f"{left_out:,} left out with their steps" if left_out else ""
    if repeated or skipped:
        wrong = f"{repeated:,} used twice, {skipped:,} never used"
        return Text(", ".join(filter(None, [wrong, out])), style="bold red")
    if not epochs:
        return Text("none used twice; no epoch was completed")
    if out:
        return Text(f"{out}, {count(len(epochs), 'epoch')} with all others exactly once")
    sizes = {epoch["samples"] for epoch in epochs}
    each = f" of {sizes.pop():,}" if len(sizes) == 1 else ""
    return Text(f"{count(len(epochs), 'epoch')}{each}, each sample exactly once in each")
