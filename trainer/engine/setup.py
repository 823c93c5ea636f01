"""How a program trains: its data, optimizers and schedules, as a checkpoint remembers them.

A state that was trained in one way is not always one to go on from in another: its step stands for
a place in the data, its optimizers have the settings of then. So what a checkpoint knows is
compared with what the program does now; trainer.engine.beginning says what follows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from typing import Any

from torch.optim import Optimizer

from trainer.engine.curves import Curve, curves_of, differences_of
from trainer.engine.data import ENDLESS, Order
from trainer.engine.shapes import listed
from trainer.engine.state import State
from trainer.loaders.likeness import UNKNOWN, Likeness
from trainer.rundir.numbers import number_in

# Settings of a group that say how a step is computed, not what; and what a schedule has set.
HOW = frozenset({"params", "foreach", "fused", "capturable", "differentiable", "initial_lr"})
_NONE = {"class": "schedule of no kind"}


@dataclass(frozen=True)
class OptimizerSetup:
    """An optimizer as the program has made it.

    Attributes:
        kind: its class; "" where only its state is known.
        groups: of each, the settings by name: numbers, texts and lists of them.
        sizes: how many parameters each has.
    """

    kind: str
    groups: tuple[Mapping[str, Any], ...]
    sizes: tuple[int, ...] = ()

    @classmethod
    def of(cls, optimizer: Optimizer) -> OptimizerSetup:
        """That of an optimizer that has not been trained with."""
        sizes = tuple(len(group["params"]) for group in optimizer.param_groups)
        return cls(type(optimizer).__name__, _settings(optimizer.param_groups), sizes)


@dataclass(frozen=True)
class Setup:
    """How a program trains; None, and nothing, for what is not known.

    Attributes:
        samples, batch, seed, unit, version: of its data (see trainer.engine.data.Order).
        shards: how its data's shards are ordered, in words; "" where it is not of shards.
        total: steps of the whole run.
        random: the seed of what is random in a step.
        frozen: the parameters that the program has made, and does not train at first.
        optimizers: by name.
        schedules: by name; of each, its class (as ``class``) and settings, as texts.
        curves: by name; of each, what its functions give (see trainer.engine.curves).
        likeness: what its data is like.
    """

    samples: int | None = None
    batch: int | None = None
    seed: int | None = None
    unit: int | None = None
    version: int | None = None
    shards: str = ""
    total: int | None = None
    random: int | None = None
    frozen: tuple[str, ...] | None = None
    optimizers: Mapping[str, OptimizerSetup] = field(default_factory=dict)
    schedules: Mapping[str, Mapping[str, str]] | None = None
    curves: Mapping[str, Mapping[str, Curve | None]] | None = None
    likeness: Likeness = UNKNOWN

    @classmethod
    def of_program(
        cls,
        state: State,
        order: Order | None,
        total: int,
        random: int | None = None,
        likeness: Likeness = UNKNOWN,
    ) -> Setup:
        """That of this process, before it has trained.

        Args:
            state: with its optimizers as they were made.
            order: of the data, if there is any.
            total: steps of the whole run.
            random: the seed of what is random in a step.
            likeness: what the data is like.
        """
        parameters = state.named_parameters()
        schedules = {
            name: part
            for name, part in state.stateful().items()
            if isinstance(getattr(part, "optimizer", None), Optimizer)
        }
        data = {} if order is None else vars(order)
        shards = None if order is None else order.shards
        return cls(
            **{**data, "shards": "" if shards is None else shards.told},
            total=total,
            random=random,
            frozen=tuple(name for name, one in parameters.items() if not one.requires_grad),
            optimizers={
                name: OptimizerSetup.of(one) for name, one in state.optimizers_by_name().items()
            },
            schedules={name: _schedule(part) for name, part in schedules.items()},
            curves={name: curves_of(part, total) for name, part in schedules.items()},
            likeness=likeness,
        )

    @classmethod
    def of_checkpoint(cls, tree: Mapping[str, Any], about: Mapping[str, Any]) -> Setup:
        """What a checkpoint knows: by its manifest, and by its state where that knows less.

        Args:
            tree: the state.
            about: what the manifest says of it.
        """
        optimizers = {
            name: OptimizerSetup("", _settings(part["param_groups"]))
            for name, part in tree["parts"].items()
            if isinstance(part, dict) and isinstance(part.get("param_groups"), list)
        }
        for name, one in about.get("optimizers", {}).items():
            groups = tuple(one["groups"])
            optimizers[name] = OptimizerSetup(one["class"], groups, tuple(one["sizes"]))
        return cls(
            samples=about.get("samples"),
            batch=about.get("global_batch"),
            seed=about.get("order_seed"),
            unit=about.get("unit"),
            version=about.get("order"),
            shards=about.get("shards", ""),
            total=about.get("total_steps"),
            random=about.get("seed"),
            frozen=None if "frozen" not in about else tuple(about["frozen"]),
            optimizers=optimizers,
            schedules=about.get("schedules"),
            curves=_curves(about.get("curves")),
            likeness=Likeness(*about.get("likeness", ())),
        )

    def overridden(self, values: Mapping[str, float]) -> Setup:
        """The same with other settings in all optimizers that have them."""
        optimizers = {
            name: OptimizerSetup(
                one.kind, tuple(_with(group, values) for group in one.groups), one.sizes
            )
            for name, one in self.optimizers.items()
        }
        return replace(self, optimizers=optimizers)

    def to_about(self) -> dict[str, Any]:
        """What a manifest says of it."""
        known = {
            "samples": self.samples,
            "global_batch": self.batch,
            "order_seed": self.seed,
            "unit": self.unit,
            "order": self.version,
            "shards": self.shards or None,
            "total_steps": self.total,
            "seed": self.random,
            "frozen": None if self.frozen is None else list(self.frozen),
            "schedules": self.schedules,
            "curves": None if self.curves is None else _plain_curves(self.curves),
            "likeness": None if self.likeness == UNKNOWN else [*astuple(self.likeness)],
        }
        return {
            **{name: value for name, value in known.items() if value is not None},
            "optimizers": {
                name: {"class": one.kind, "groups": list(one.groups), "sizes": list(one.sizes)}
                for name, one in self.optimizers.items()
            },
        }


@dataclass(frozen=True)
class Differences:
    """What differs between the setup of a checkpoint and that of a program, in words.

    Attributes:
        kinds: of optimizers for which the state is none.
        data: what makes the step another place in the data.
        settings: of optimizers; they could be set to others.
        fixed: of these, what is no number: a pair of betas.
        schedules: of schedules, which are functions of the step, and loaded with the state.
        carried_out: what can be done as the program says now.
    """

    kinds: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    schedules: tuple[str, ...] = ()
    carried_out: tuple[str, ...] = ()


def differences(then: Setup, now: Setup, step: int) -> Differences:
    """Compares the setup of a checkpoint of ``step`` with a program's.

    What one of them does not know is no difference.
    """
    data, carried = _of_data(then, now, step)
    if _differ(then.unit, now.unit):
        carried.append(f"{_units(now.unit)} instead of {_units(then.unit)}")
    if _differ(then.total, now.total):
        carried.append(f"{now.total} steps in all instead of {then.total}")
    if then.version and now.version and then.version < now.version:
        carried.append(f"the samples come in the order of version {then.version}, as they did then")
    if _differ(then.random, now.random):
        carried.append(f"what is random is that of seed {now.random} instead of {then.random}")
    thawed, frozen = refrozen(then, now)
    for names, become in ((thawed, "trained"), (frozen, "frozen")):
        if names:
            carried.append(f"{listed(names, 3)} {'is' if len(names) == 1 else 'are'} {become} now")
    kinds: list[str] = []
    settings: dict[str, None] = {}  # each once, whatever groups have it
    fixed: dict[str, None] = {}
    for name in sorted(then.optimizers.keys() & now.optimizers.keys()):
        before, after = then.optimizers[name], now.optimizers[name]
        unlike = _unlike(name, before, after)
        kinds += unlike
        if not unlike:
            for one, other in zip(before.groups, after.groups, strict=False):
                if not before.kind:  # a schedule may have changed all others by now
                    one = {"lr": one.get("lr")}
                numbers = {key: value for key, value in other.items() if is_number(value)}
                rest = {key: value for key, value in other.items() if key not in numbers}
                settings |= dict.fromkeys(_changed(name, one, numbers))
                fixed |= dict.fromkeys(_changed(name, one, rest))
    schedules: list[str] = []
    if then.schedules is not None:
        there = now.schedules or {}
        for name in sorted({*then.schedules, *there}):
            was, became = then.schedules.get(name, _NONE), there.get(name, _NONE)
            if was["class"] == became["class"]:
                schedules += _changed(name, was, became)
                known = None if then.curves is None else then.curves.get(name)
                carried += differences_of(name, known, (now.curves or {}).get(name, {}))
            else:
                schedules.append(f"{name} was {_a(was['class'])} and is {_a(became['class'])}")
    found = (kinds, data, settings, fixed, schedules, carried)
    return Differences(*map(tuple, found))


def is_number(value: Any) -> bool:
    """Whether a setting can be another number; a switch is none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def refrozen(then: Setup, now: Setup) -> tuple[list[str], list[str]]:
    """The parameters that a program trains from the start, and did not then; and the reverse."""
    if then.frozen is None or now.frozen is None:
        return [], []
    return sorted({*then.frozen} - {*now.frozen}), sorted({*now.frozen} - {*then.frozen})


def _of_data(then: Setup, now: Setup, step: int) -> tuple[list[str], list[str]]:
    """What makes a step another place in the data, and what matters only from now on."""
    data: list[str] = []
    recorded = any(one.kind for one in then.optimizers.values())  # else by an older version
    if recorded and (then.samples is None) != (now.samples is None):
        without, of_some = "without a data set", "of a data set"
        words = (without, of_some) if then.samples is None else (of_some, without)
        data.append(f"its steps were {words[0]} and are {words[1]}")
    if _differ(then.batch, now.batch):
        data.append(f"the global batch was {then.batch} and is {now.batch}")
    if _differ(then.samples, now.samples):
        had, has = f"{then.samples} samples", str(now.samples)
        if then.samples == ENDLESS:
            had, has = "no length", f"{has} samples"
        elif now.samples == ENDLESS:
            has = "no length"
        data.append(f"the data set had {had} and has {has}")
    order = []
    if _differ(then.seed, now.seed):
        order.append(f"the data's order was that of seed {then.seed} and is that of {now.seed}")
    if then.samples and now.samples and then.shards != now.shards:
        was, became = (one.shards or "one by one, and not by shard" for one in (then, now))
        order.append(f"the data's order was that of {was} and is that of {became}")
    if then.samples == now.samples and then.likeness.differs(now.likeness):
        order.append("the data set had other samples than it has now, in as many")
    if then.version and now.version and then.version > now.version:
        data.append(
            f"the data's order is of version {then.version}, and this is a Swell of before, with "
            f"version {now.version}"
        )
    between_epochs = True
    if then.batch and then.samples:
        between_epochs = step % -(-then.samples // then.batch) == 0
    # Between two epochs all samples have been used once, in whatever order the next ones come.
    return (data, order) if between_epochs else (data + order, [])


def _unlike(name: str, then: OptimizerSetup, now: OptimizerSetup) -> list[str]:
    """Why the state of one optimizer is none for another; empty if it is."""
    if not then.kind and then.groups[0].keys() != now.groups[0].keys():
        names = [", ".join(sorted(one.groups[0])) for one in (then, now)]
        return [f"{name} had the settings {names[0]} and has {names[1]}"]
    if then.kind and then.kind != now.kind:
        return [f"{name} was {_a(then.kind)} and is {_a(now.kind)}"]
    if then.kind and then.sizes != now.sizes:
        sizes = list(then.sizes), list(now.sizes)
        return [f"{name} had groups of {sizes[0]} parameters and has {sizes[1]}"]
    switches = [
        {key: value for key, value in group.items() if isinstance(value, bool)}
        for group in (then.groups[0], now.groups[0])
    ]
    return _changed(name, *switches)


def _changed(name: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [
        f"{name}'s {key} was {then[key]} and is {now[key]}"
        for key in sorted(then.keys() & now.keys())
        if then[key] != now[key]
    ]


def _plain_curves(curves: Mapping[str, Mapping[str, Curve | None]]) -> dict[str, Any]:
    """Curves in the form in which JSON has them: as pairs."""
    return {
        name: {place: None if one is None else [*one.items()] for place, one in of.items()}
        for name, of in curves.items()
    }


def _curves(plain: Mapping[str, Any] | None) -> dict[str, dict[str, Curve | None]] | None:
    """The inverse of ``_plain_curves``."""
    if plain is None:
        return None
    return {
        name: {
            place: None if pairs is None else {n: number_in(value) or 0.0 for n, value in pairs}
            for place, pairs in of.items()
        }
        for name, of in plain.items()
    }


def _settings(groups: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], ...]:
    """The settings of an optimizer's groups; a rate is the one before any schedule."""
    return tuple(
        {
            name: _plain(group.get("initial_lr", value) if name == "lr" else value)
            for name, value in group.items()
            if name not in HOW
        }
        for group in groups
    )


def _with(group: Mapping[str, Any], values: Mapping[str, float]) -> dict[str, Any]:
    return {name: values.get(name, value) for name, value in group.items()}


def _schedule(part: Any) -> dict[str, str]:
    """A schedule's class and settings, as it was made; functions are none of them."""
    settings = {"class": type(part).__name__}
    for key, value in part.state_dict().items():
        inner = key == "_schedulers"  # those that a sequence has
        if key != "base_lrs" and (inner or not key.startswith("_")):
            text = str(value)
            if " at 0x" not in text:
                settings[key] = text
    return settings


def _plain(value: Any) -> Any:
    """A setting in the form in which JSON gives it back."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value if value is None or isinstance(value, int | float | str) else str(value)


def _differ(one: int | None, other: int | None) -> bool:
    return one is not None and other is not None and one != other


def _units(samples: int | None) -> str:
    return f"units of {samples} samples" if samples else "no units"


def _a(kind: str) -> str:
    return f"{'an' if kind[:1] in 'AEIOU' else 'a'} {kind}"
