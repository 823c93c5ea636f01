"""What became of a run, in a paragraph. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from launcher.run_states import info_of
from launcher.words import (
    CAUSES,
    count,
    dollars,
    is_exact,
    losses_in_words,
    one_line,
    part,
    saving_in_words,
    span,
    usd_in_words,
)

LONG = 600  # characters of a reason


def what_was_lost(status: Mapping[str, Any]) -> str:
    """Returns what a run lost, and why.

    Args:
        status: as ``swell status --json`` prints it.
    """
    return " ".join(_sentences(status))


def _sentences(status: Mapping[str, Any]) -> Iterator[str]:
    yield from _ending(status)
    yield from _time(status["ledger"])
    yield from _machines(status)
    yield from _pauses(status["pauses"])
    lost, out = status["steps_lost"], status["steps_left_out"]
    if lost is None:
        yield "How many steps were lost is not known: the script does not say where it is."
    elif lost:
        yield f"{_begin(count(lost, 'completed step'))} had to be done again."
    else:
        yield "No completed step had to be done again."
    if unsaved := status["steps_unsaved"]:
        yield f"{_begin(count(unsaved, 'completed step'))} are lost, as no checkpoint has them."
    if out:
        yield f"{_begin(count(out, 'step'))} changed nothing: something was not finite."
    if failed := status["checkpoint"]["failed"]:
        why = one_line(status["checkpoint"]["reason"] or "", LONG)
        yield (
            f"{_begin(count(failed, 'checkpoint'))} could not be written since the newest that is "
            f"there ({why})."
        )
    for name, step in status["nonfinite"].items():
        yield f"{one_line(name, 60)} has been no finite number since step {step:,}."


def _ending(status: Mapping[str, Any]) -> Iterator[str]:
    state, ending = str(status["state"]), info_of(str(status["state"])).ending
    at = f" at step {status['step']:,}" if status["step"] else ""
    at += "" if is_exact(status["step"], status["told_every"]) else " at least"
    yield f"The run {ending}{at}." if ending else f"The run goes on{at}: it is {state}."
    reason = _without_traceback(str(status.get("reason") or ""))
    if reason and state != "succeeded":
        yield f"The reason: {reason.rstrip('.')}."
    if waits := status.get("waits_for"):
        yield f"It is {one_line(waits, LONG)}."


def _time(ledger: Mapping[str, Any] | None) -> Iterator[str]:
    if ledger is None or not ledger["wanted"]:
        yield "Where the time of its VMs went is not known."
        return
    seconds, goodput = ledger["seconds"], ledger["goodput"]
    yield (
        f"Of {span(ledger['wanted'])} of VM time that was wanted, {part(goodput['wanted'] or 0.0)} "
        "was training."
    )
    absent = seconds["absent"] / ledger["wanted"]
    if absent >= 0.001:
        yield f"In {part(absent)} of it the VM was not there."
    if said := losses_in_words(seconds, most=5):
        yield f"While VMs were there, they lost most to: {said}."
    spent = ledger["spent"]
    if spent is None:
        yield "The cost is not known: a machine has no price."
    elif saving := saving_in_words(spent, ledger["saving"]):
        yield (
            f"It has cost about {dollars(spent)} USD, {saving} than the same training "
            f"on demand with nothing lost ({dollars(ledger['on_demand'])} USD)."
        )
    else:
        yield f"It has cost {usd_in_words(spent)}."


def _machines(status: Mapping[str, Any]) -> Iterator[str]:
    taken, lost = status["drains"], status["losses"]
    if not taken and not lost:
        yield "No machine was taken away."
        return
    notices = f"{count(taken, 'replica')} left with notice" if taken else ""
    losses = f"{count(lost, 'replica')} went, or lost a worker, without notice" if lost else ""
    yield f"{_begin(' and '.join(filter(None, [notices, losses])))}."


def _pauses(pauses: list[Mapping[str, Any]]) -> Iterator[str]:
    if not pauses:
        return
    total = sum(pause["seconds"] for pause in pauses)
    longest = max(pauses, key=lambda pause: float(pause["seconds"]))
    causes = Counter(str(pause["cause"]) for pause in pauses)
    told = ", ".join(
        f"{cause_in_words(cause)}: {count(number, 'time')}"
        for cause, number in causes.most_common()
    )
    yield (
        f"The world formed anew {count(len(pauses), 'time')} ({told}), with pauses of "
        f"{span(total)} in all; the longest, {span(longest['seconds'])}, led to generation "
        f"{longest['generation']}."
    )


def _without_traceback(reason: str) -> str:
    """A reason in one line: of one with a traceback what failed, and what was raised."""
    first, trace, rest = reason.strip().partition("\nTraceback (most recent call last):")
    last = rest.strip().rpartition("\n")[2]
    return one_line(f"{first}: {last}" if trace and last else reason, LONG)


def cause_in_words(cause: str) -> str:
    """Returns why a world ended, in words; one that a newer version tells, as it is."""
    return CAUSES.get(cause, one_line(cause, 60))


def _begin(text: str) -> str:
    return text[:1].upper() + text[1:]
