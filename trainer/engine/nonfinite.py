"""What becomes of a step whose loss, or whose gradients, are not finite.

Both are sums that all ranks have alike before anybody's optimizer steps, so all decide alike, in
the same step, and no parameter has changed. A GradScaler that skips a step because its gradients
have become infinite does what it is for: that is none of these.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

from horovod.common.exceptions import HorovodInternalError

from trainer.checkpoints.rollbacks import NONE_GOOD
from trainer.engine.mistake import Mistake
from trainer.engine.state import State
from trainer.engine.sums import Summed

Policy = Literal["stop", "skip", "rollback"]
POLICIES: tuple[Policy, ...] = get_args(Policy)
IN_A_ROW = 10  # steps that are left out; with more it is not the samples
NOTHING = "the loss is a mean over nothing: in no sample of the step is there anything to learn"
LEAST_SCALE = 2.0**-24  # of a GradScaler: what is infinite below it is so at any scale
SHOWN = 10  # sample ids in a message


class GoesBack(HorovodInternalError):  # type: ignore[misc]  # that has no types
    """All ranks go back to a checkpoint, in another world."""

    @staticmethod
    def cause_of(error: HorovodInternalError) -> str:
        """Why the ranks leave their world by themselves; "" if they do not."""
        return "rollback" if isinstance(error, GoesBack) else ""


class LeftOut(Exception):
    """All ranks leave out the running step."""


def policy_of(*wanted: str | None) -> Policy:
    """The first policy that is given; ``stop`` without one.

    Raises ValueError for what is none.
    """
    for one in filter(None, wanted):
        for policy in POLICIES:
            if one == policy:
                return policy
        raise ValueError(f"on_nonfinite is {one!r}; write one of {', '.join(POLICIES)}")
    return "stop"


def what_is_not_finite(
    metrics: Mapping[str, float], norm: float, scale: Callable[[], float | None]
) -> str:
    """What is not finite in a step, as ``the loss is nan``; "" if all is.

    Args:
        metrics: the sums over all ranks; the one called ``loss`` counts.
        norm: of the summed gradients.
        scale: gives that of the program's GradScaler; None without an enabled one.
    """
    loss = metrics.get("loss", 0.0)
    if not math.isfinite(loss):
        return f"the loss is {loss}"
    if math.isfinite(norm):
        return ""
    scaled = scale()
    if scaled is not None and scaled >= LEAST_SCALE:
        return ""  # the scaler skips this step, and lowers its scale
    return f"the norm of the gradients is {norm}"


class Nonfinite:
    """Carries out what a run does about such steps.

    Args:
        policy: what that is.
        state: this rank's; it counts the steps that are left out in a row.
        emit: emits an event; told on rank 0.
        good: gives the URL of the newest checkpoint up to a step; "" if there is none.
        go_back: makes the newest checkpoint up to a step, the second one, the newest of all, and
            has the first one left out from now on. Returns the step of that checkpoint, or None and
            why it cannot be. A collective.
    """

    def __init__(
        self,
        policy: Policy,
        state: State,
        emit: Callable[..., None],
        good: Callable[[int], str],
        go_back: Callable[[int, int], tuple[int | None, str]],
    ) -> None:
        self.policy = policy
        self._state = state
        self._emit = emit
        self._good = good
        self._go_back = go_back

    def judge(
        self,
        step: int,
        metrics: Mapping[str, float],
        summed: Summed,
        ids_of: Callable[[int], Sequence[int]],
        tells: bool,
    ) -> None:
        """Ends a step in which something is not finite, or was before; all ranks call it alike.

        Args:
            step: its number.
            metrics: the step's.
            summed: what has come of it.
            ids_of: gives the samples of a rank in the step.
            tells: whether this rank emits the event.

        Raises LeftOut when the step is left out, GoesBack when the world goes back to a checkpoint,
        Mistake when the run is to end.
        """
        if step in self._state.avoided:
            raise LeftOut
        scale = lambda: loss_scale(self._state.stateful())  # noqa: E731
        what = NOTHING if summed.nothing else what_is_not_finite(metrics, summed.norm, scale)
        if not what:
            return
        ids = {rank: ids_of(rank) for rank in summed.nonfinite}
        found: list[tuple[int | None, Sequence[int] | None]] = [*ids.items()] or [(None, None)]
        action, to, why = self._action(step)
        for rank, samples in found if tells else ():
            self._emit(
                "nonfinite",
                step=step,
                rank=rank,
                ids=samples,
                reason=what,
                action=action,
                checkpoint=to,
                metrics=dict(metrics),
            )
        if action == "skip":
            raise LeftOut
        if action == "rollback":
            self._state.clean = False  # on all ranks: the next world begins with the checkpoint
            raise GoesBack(f"step {step}: {what}; back to the checkpoint of step {to}")
        where = "".join(f", on {_with(rank, samples)}" for rank, samples in ids.items())
        raise self._end(f"step {step}: {what}{where}; {why}")

    def require_finite(self, step: int) -> None:
        """Raises Mistake when the state at the end of all steps is of no use."""
        name = self._state.not_finite()
        if name:
            what = f"step {step}: {name} is not finite at the end of training"
            raise self._end(what, seen=False)

    def _action(self, step: int) -> tuple[Policy, int | None, str]:
        """What is done, the checkpoint to go back to, and why the run is to end."""
        if self._state.left_out >= IN_A_ROW:
            many = f"{IN_A_ROW} steps in a row have been left out already: it is not the samples"
            return "stop", None, many
        if self.policy != "rollback":
            return self.policy, None, "on_nonfinite is stop"
        to, why = self._go_back(step, self._state.last_finite - 1)
        return ("stop", None, why) if to is None else ("rollback", to, "")

    def _end(self, what: str, seen: bool = True) -> Mistake:
        """Why the run ends; ``seen``: it is what a policy would have been about."""
        # That of the last step may hold what has led to this: no step has been taken since.
        good = self._good(self._state.last_finite - 1)
        again = f"the newest good checkpoint is {good}" if good else "there is no good checkpoint"
        remedy = "begin again with a lower learning rate, or without such data"
        more = ", or set on_nonfinite: skip or rollback" if seen and self.policy == "stop" else ""
        said = [what, *([] if what.endswith(NONE_GOOD) else [again]), f"{remedy}{more}"]
        return Mistake("SW5129", "; ".join(said))


def _with(rank: int, samples: Sequence[int]) -> str:
    if not samples:
        return f"rank {rank}"
    shown = ", ".join(map(str, samples[:SHOWN]))
    more = f" and {len(samples) - SHOWN} more" if len(samples) > SHOWN else ""
    return f"rank {rank} (samples {shown}{more})"


def loss_scale(parts: Mapping[str, Any]) -> float | None:
    """The least scale of the enabled GradScalers among the parts of a state; None without one."""
    from torch.amp.grad_scaler import GradScaler

    scales = [
        one.get_scale()
        for one in parts.values()
        if isinstance(one, GradScaler) and one.is_enabled()
    ]
    return min(scales, default=None)
