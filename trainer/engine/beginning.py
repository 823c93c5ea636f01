"""What a run begins from: whether a state is one to go on from, and what becomes of its settings.

Each difference between a checkpoint and the program is carried out, if it is plain what is wanted,
and said; or it is an error that names the ways to go on.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

import horovod.torch as hvd
from torch.optim import Optimizer

from trainer.checkpoints.restore import ABOUT, FOREIGN, ORIGIN, PARTS
from trainer.engine.fitting import fitted
from trainer.engine.mistake import Mistake
from trainer.engine.saving import Saving
from trainer.engine.setup import HOW, Setup, differences, is_number, refrozen
from trainer.engine.shapes import listed, precision, unlike
from trainer.engine.state import State
from trainer.protocol.session import CheckpointSettings
from trainer.rundir.names import OPTIMIZER, START_PARTS


class Beginning:
    """Looks at what a worker begins from, before and after its state takes it over.

    Args:
        state: this rank's.
        now: the setup of its program, with ``override``.
        total: steps of the run.
        settings: of them ``override``, which counts more than what program and checkpoint say, and
            how weights of another program fit.
        saving: finds what the run begins from.
        emit: emits an event, on rank 0.

    Attributes:
        setup: what checkpoints remember.
    """

    def __init__(
        self,
        state: State,
        now: Setup,
        total: int,
        settings: CheckpointSettings,
        saving: Saving,
        emit: Callable[..., None],
    ) -> None:
        self.setup = now
        self._state = state
        self._total = total
        self._settings = settings
        self._saving = saving
        self._emit = emit
        self._carried_out: Sequence[str] = ()

    def start(self) -> tuple[Any, int] | None:
        """The tree that a world without any state begins with, and its step. A collective.

        None if there is none. Raises Mistake, with the ways to go on, if it is none to go on from.
        """
        found = self._saving.start()
        if found is None:
            return None
        tree, step = found
        said: list[str] = []
        if FOREIGN in tree:
            how, state = self._settings, self._state
            models = {k: m for k, m in state.models_by_name().items() if k not in state.averages}
            weights = tree.pop(FOREIGN)
            tree["parts"], said = fitted(tree[ORIGIN], weights, models, how.rename, how.fresh)
        override = self._settings.override
        usable = require_usable(tree, self._state, self.setup, self._total, override)
        self._carried_out = [*said, *usable]
        trained = {**tree.get("trained", {}), **self._trained_otherwise(tree)}
        avoided = [*tree.get("avoided", ()), *self._saving.avoided()]
        return {**tree, "trained": trained, "avoided": avoided}, step

    def _trained_otherwise(self, tree: Mapping[str, Any]) -> dict[str, bool]:
        """Whether the parameters are trained that the program has frozen, or not, since then."""
        if tree.get(ORIGIN) is None:
            return {}
        thawed, frozen = refrozen(Setup.of_checkpoint(tree, tree.get(ABOUT, {})), self.setup)
        return {**dict.fromkeys(thawed, True), **dict.fromkeys(frozen, False)}

    def begun(self, tree: Mapping[str, Any]) -> None:
        """The state has taken a tree over. Raises Mistake for an override that nothing has."""
        origin = tree.get(ORIGIN)
        if origin is None:
            return
        changes = [*self._carried_out, *override(self._state, self._settings.override)]
        if hvd.rank() == 0:
            self._emit("begun", url=origin, step=self._state.step, changes=changes)


def require_usable(
    tree: Mapping[str, Any], state: State, now: Setup, total: int, override: Mapping[str, float]
) -> tuple[str, ...]:
    """Raises Mistake, with the ways to go on, unless a checkpoint is one to go on from.

    Args:
        tree: what was loaded (see trainer.checkpoints.restore).
        state: this program's, not trained yet.
        now: its setup, as it is to be recorded: with ``override``.
        total: steps of the run.
        override: settings of the optimizers that count more than those of either.

    Returns what is done as the program says, and not as it was done, in words.
    """
    origin, parts, step = tree.get(ORIGIN), tree.get(PARTS) or (), tree["step"]
    then = Setup.of_checkpoint(tree, tree.get(ABOUT, {})).overridden(override)
    found = differences(then, now, step)
    models, orders = _other_models(tree, state), _other_orders(tree, state)
    if origin is None:  # the run's own: its program may have read the data anew
        if wrong := [*found.data, *models, *orders]:
            raise _changed_under_way(step, wrong)
        return found.carried_out
    if models:
        raise _other_model(origin, models)
    precise = [
        line
        for name, model in state.models_by_name().items()
        for line in precision(name, model, tree["parts"].get(name, {}))
    ]
    kinds = [*found.kinds, *orders, *_other_parts(tree, state, parts)]
    if parts:
        if OPTIMIZER in parts and kinds:
            raise _misfit(origin, kinds)
        return tuple(precise)
    wrong = [*kinds, *found.data, *found.settings, *found.fixed, *found.schedules]
    if not wrong and total <= step:
        done = f"it is of step {step}, and this run has {total} steps in all"
        raise _misfit(origin, [done], "let it train longer", with_optimizer=True)
    if wrong:
        only_settings = len(wrong) == len(found.settings)
        way = "set it back to what it was"
        if only_settings:
            way = "write --override NAME=NUMBER, as lr=0.01, for what is to hold from now on"
        raise _misfit(origin, wrong, way, with_optimizer=not kinds)
    return (*found.carried_out, *precise)


def override(state: State, values: Mapping[str, float]) -> list[str]:
    """Sets settings of all optimizers that have them, and lets their schedules follow.

    Returns what was set, in words. Raises Mistake for one that no optimizer has, or that is no
    number.
    """
    said = []
    for name, value in values.items():
        having = {
            part: optimizer
            for part, optimizer in state.optimizers_by_name().items()
            if name not in HOW and name in optimizer.param_groups[0]
        }
        if not having:
            known = {key for one in state.optimizers for key in one.param_groups[0]} - HOW
            raise Mistake(
                "SW5131",
                f"--override {name}={value:g}: no optimizer of the state has this setting; there "
                f"are {', '.join(sorted(known)) or 'none'}",
            )
        for part, optimizer in having.items():
            was = optimizer.param_groups[0][name]
            if not (is_number(was) or hasattr(was, "fill_")):
                raise Mistake(
                    "SW5131",
                    f"--override {name}={value:g}: {part}'s {name} is {was}, and no number; set it "
                    "in the program, and begin with #weights,optimizer, or #weights if its state "
                    "is another one then",
                )
            for group in optimizer.param_groups:
                _set(group, name, value)
            if name == "lr":
                _follow(state, optimizer)
            said.append(f"{part}'s {name} is {value:g} from now on")
    return said


def _set(group: dict[str, Any], name: str, value: float) -> None:
    """Sets a setting; a rate that a schedule has changed stays at its place in the schedule."""
    first = group.get("initial_lr") if name == "lr" else None
    if first is not None:
        group["initial_lr"] = value
        value = value * float(group["lr"]) / float(first) if first else value
    if hasattr(group[name], "fill_"):
        group[name].fill_(value)
    else:
        group[name] = value


def _follow(state: State, optimizer: Optimizer) -> None:
    """Lets the schedules of an optimizer go on from its groups' rates."""
    groups = optimizer.param_groups
    for part in state.stateful().values():
        if getattr(part, "optimizer", None) is optimizer and hasattr(part, "base_lrs"):
            part.base_lrs = [group.get("initial_lr", group["lr"]) for group in groups]
            part._last_lr = [group["lr"] for group in groups]


def _other_parts(tree: Mapping[str, Any], state: State, parts: Container[str]) -> list[str]:
    """Parts of the state that the checkpoint has not; if all count, those of it that it has not."""
    there = {*tree["parts"], *tree["values"]}
    if parts:
        return [f"it has no {one}" for one in sorted({*state.optimizers_by_name()} - there)]
    here = {*state.stateful(), *state.plain_values()}
    lacking = [f"it has no {one}" for one in sorted(here - there)]
    return lacking + [f"it has {one}, and the state has not" for one in sorted(there - here)]


def _other_models(tree: Mapping[str, Any], state: State) -> list[str]:
    """How the models of both differ, where both have them."""
    return [
        f"{name} is another model: {listed(lines)}"
        for name, model in state.models_by_name().items()
        if name in tree["parts"] and (lines := unlike(model, tree["parts"][name]))
    ]


def _other_orders(tree: Mapping[str, Any], state: State) -> list[str]:
    """Optimizers that have their parameters in another order: a state would be another one's."""
    found = []
    for name, optimizer in state.optimizers_by_name().items():
        pairs = zip(tree.get("groups", {}).get(name, ()), state.groups_of(optimizer), strict=False)
        for number, (then, now) in enumerate(pairs):
            known = None not in then and None not in now and len(then) == len(now)
            at = next((i for i, (a, b) in enumerate(zip(then, now, strict=False)) if a != b), None)
            if known and at is not None:
                where = f"parameter {at} of its group {number}"
                found.append(f"{name} had {then[at]} as {where}, and has {now[at]}")
                break
    return found


def _other_model(origin: str, wrong: Sequence[str]) -> Mistake:
    url = origin.partition("#")[0]
    return Mistake(
        "SW5130",
        f"the checkpoint {url} does not fit this program: {'; '.join(wrong)}. What can be done: "
        "give the model the tensors that it had then, with their names and shapes",
    )


def _misfit(
    origin: str, wrong: Sequence[str], way: str = "", *, with_optimizer: bool = False
) -> Mistake:
    url = origin.partition("#")[0]
    ways = [way] if way else []
    if with_optimizer:
        ways.append(
            f"begin at step 0 with its models and optimizers: --from {url}#{START_PARTS[1]}"
        )
    ways.append(f"begin at step 0 with its models alone: --from {url}#{START_PARTS[0]}")
    return Mistake(
        "SW5130",
        f"the checkpoint {url} does not fit this program: {'; '.join(wrong)}. What can be done: "
        + ", or ".join(ways),
    )


def _changed_under_way(step: int, wrong: Sequence[str]) -> Mistake:
    return Mistake(
        "SW5130",
        f"the run's checkpoint of step {step} does not fit its program any more: "
        f"{'; '.join(wrong)}. Set it back to what it was, or launch a new run from the checkpoint, "
        f"with #{START_PARTS[1]} after its URL",
    )
