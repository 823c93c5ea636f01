"""A task is tried: examined, trained alone and in a small world, saved and loaded."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from trainer.check.examination import examine
from trainer.check.rank import Seen, saved, train
from trainer.check.world import Failed, call, formed
from trainer.rundir.usererror import Message
from trainer.task import Task
from trainer.worker.loading import load_class

FINDINGS = "SW62"  # what ids of what is only found here begin with
NEAR = 1e-3  # by which losses of two worlds may differ; rounding in float32 stays below it


@dataclass
class Checked:
    """What came of it.

    Attributes:
        findings: what is wrong, each once.
        alone: what a world of one has seen.
        together: what rank 0 of the other world has seen.
        apart: the largest difference of their losses, as a part of them.
    """

    findings: list[Message] = field(default_factory=list)
    alone: Seen = field(default_factory=Seen)
    together: Seen = field(default_factory=Seen)
    apart: float = 0.0

    def add(self, findings: Sequence[Message]) -> None:
        """Takes in what is not known yet."""
        ids = {one.id for one in self.findings}
        self.findings += [one for one in findings if one.id not in ids]


def made(name: str, args: dict[str, Any]) -> Task:
    """Returns the task of this name. Raises TypeError when it is none."""
    task = load_class(name)(**args)
    if not isinstance(task, Task):
        raise TypeError(f"it is a {type(task).__name__}, and not a trainer.Task")
    return task


def no_task(name: str, error: Exception) -> Message:
    """Returns what a user is told of a name that gives no task, and why it gives none."""
    text = f"swell: {name} gives no task: {error}"
    if name.endswith(".py"):
        text += "; a script has none: swell launch tries it as it is, on this machine"
    return Message("SW6212", text)


def check(make: Callable[[], Task], steps: int, size: int) -> Checked:
    """Tries the tasks that ``make()`` gives.

    Args:
        steps: so many are taken.
        size: workers of the world besides that of one.
    """
    checked = Checked()
    try:
        (found,) = call([(examine, (make,))])
        checked.add(found)
        if any(one.id[:4] != FINDINGS for one in found):  # it is refused, and so it would be again
            return checked
        checked.alone, found = call([(train, (make, {}, steps)), (saved, (make, steps))])
        checked.add([*checked.alone.findings, *found])
        with formed(size) as environments:
            ranks = call([(train, (make, env, steps)) for env in environments])
        checked.together = ranks[0]
        for rank in ranks:
            checked.add(rank.findings)
    except Failed as error:
        text = str(error).strip()
        checked.add([Message("SW6211", f"the task raises {text.splitlines()[-1]}\n{text}")])
        return checked
    checked.add(list(_compare(checked, size)))
    return checked


def _compare(checked: Checked, size: int) -> Iterator[Message]:
    one, other = checked.alone, checked.together
    wrong = [step for step, loss in enumerate(one.losses, 1) if not math.isfinite(loss)]
    if wrong:
        yield Message(
            "SW6207",
            f"step {wrong[0]}: the loss is {one.losses[wrong[0] - 1]}; look for a division by 0, "
            "a logarithm of 0, or a learning rate that is too high",
        )
        return
    checked.apart = max(map(_apart, one.losses, other.losses), default=0.0)
    if checked.apart > NEAR and not checked.findings:  # which would be a cause
        apart = map(_apart, one.losses, other.losses)
        step = next(number for number, by in enumerate(apart, 1) if by > NEAR)
        yield Message(
            "SW6208",
            f"step {step}: the loss is {one.losses[step - 1]:.6g} in a world of one and "
            f"{other.losses[step - 1]:.6g} in one of {size}: it depends on how the batch is "
            "split, as by step.size, by len(batch), or by samples that are compared with each "
            "other",
        )


def _apart(one: float, other: float) -> float:
    return abs(one - other) / max(abs(one), abs(other), 1e-12)
