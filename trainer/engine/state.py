"""What survives of a user's training loop: models, optimizers, whatever else they name.

    state = State(model=model, optimizer=optimizer, scheduler=scheduler, best=0.0)

Every part that has ``state_dict`` and ``load_state_dict`` travels by them, so GradScaler,
schedulers and stateful data loaders do, too. Any other part is a plain value (a number, a string, a
tensor, a NumPy scalar or array, an enum, a dataclass, dicts and lists of them), read and set as an
attribute. Which parameters are trained, and by which group of an optimizer, is part of the state.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trainer.checkpoints.restore import PARTS
from trainer.checkpoints.tree import NotPortable, flatten
from trainer.engine.buffers import load_buffers, transient_buffers
from trainer.engine.contents import digests_of, numbers_of, tensors_of
from trainer.engine.counters import Counters
from trainer.engine.data import NEWEST, WHOLE
from trainer.engine.device import device_of
from trainer.engine.digest import combined, digest_of
from trainer.engine.generators import generators_state, load_generators_state
from trainer.engine.learned import Learned
from trainer.engine.mistake import UNPORTABLE, Mistake
from trainer.engine.portable import Portable
from trainer.engine.shapes import precision, require_same
from trainer.engine.statistics import places_in
from trainer.engine.values import Unportable, packed, unpacked
from trainer.protocol.session import current_session
from trainer.rundir.names import OPTIMIZER

WATCHED = 200  # the longest list that is looked at after every step


class State(Portable):
    """Models, optimizers and values that every worker of a world holds alike.

    Build the models on the CPU: they move to this worker's device when it joins its
    first world, so that a spare beside an active worker stays off the GPU.

    Args:
        device: where to train; None for the GPU of this worker's slot, or the CPU.
        parts: by name. Models are found by being a ``nn.Module``, optimizers by being
            an ``Optimizer``.

    Attributes:
        stopped: whether training is complete before its last step; see ``elastic.stop``.
        updates_taken: how many optimizer steps the state has seen.
        metrics: the sums of the newest step.
        workers_replaced: how many workers have been replaced because they held another state.
        left_out: how many steps in a row have been left out, because something was not finite.
        avoided: the steps that are left out whatever comes of them.
        last_finite: the last step that was taken: in it everything was finite.
        order_version: of how the samples are ordered (see trainer.engine.data).
        data_mark: from where data without a length can be read on (see trainer.loaders.mark).
        averages: the names of models that begin as another one does.

    Raises ValueError for a name that ``State`` uses itself, AttributeError when an attribute is
    set that is no part: it would be lost with its worker; and Mistake, in the line that sets it,
    for a value that cannot travel.
    """

    stopped = False
    updates_taken = 0
    metrics: Mapping[str, float] = MappingProxyType({})
    workers_replaced = 0
    left_out = 0
    avoided: tuple[int, ...] = ()
    last_finite = 0
    order_version = NEWEST
    data_mark: dict[str, Any] | None = None
    averages: Container[str] = ()

    def __init__(self, *, device: torch.device | str | None = None, **parts: Any) -> None:
        self.device = None if device is None else torch.device(device)
        self._find_start: Callable[[], tuple[Any, int] | None] = lambda: None
        self._begun: Callable[[Any], None] = lambda tree: None
        self._stateful: list[str] = []
        self._values: list[str] = []
        self._counters: dict[str, Counters] = {}
        self._training = False
        for name, part in parts.items():
            self._add(name, part)

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_") or name == "device" or hasattr(type(self), name):
            super().__setattr__(name, value)
            return
        if not (name in self._stateful or name in self._values):
            raise AttributeError(
                f"{name!r} is no part of the state, so it would be lost with its worker; make it "
                f"one: State(…, {name}=…)"
            )
        if name in self._values:
            self._require_own(name, _packed(name, value))
        if name in self._stateful and self._training and value is not self.__dict__[name]:
            raise Mistake(
                "SW5128",
                f"state.{name} is replaced while it is trained; change what it holds, as by "
                "load_state_dict, and leave the object",
            )
        super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"the state has no {name!r}; it was made of {self._named}")

    def _add(self, name: str, part: Any) -> None:
        if name.startswith("_") or name == "device" or hasattr(type(self), name):
            raise ValueError(f"State uses {name!r} itself; give that part another name")
        travels = _is_stateful(part)
        (self._stateful if travels else self._values).append(name)
        setattr(self, name, part)
        if isinstance(part, nn.Module):
            self._counters[name] = Counters(part)

    @property
    def models(self) -> list[nn.Module]:
        """The parts that are models."""
        return list(self.models_by_name().values())

    @property
    def optimizers(self) -> list[Optimizer]:
        """The parts that are optimizers."""
        return list(self.optimizers_by_name().values())

    def models_by_name(self) -> dict[str, nn.Module]:
        """The parts that are models, by their names."""
        return {name: one for name, one in self.stateful().items() if isinstance(one, nn.Module)}

    def optimizers_by_name(self) -> dict[str, Optimizer]:
        """The parts that are optimizers, by their names."""
        return {name: one for name, one in self.stateful().items() if isinstance(one, Optimizer)}

    def stateful(self) -> dict[str, Any]:
        """All parts that have a ``state_dict``, by their names."""
        return {name: getattr(self, name) for name in self._stateful}

    def plain_values(self) -> dict[str, Any]:
        """All parts that are plain values, by their names."""
        return {name: getattr(self, name) for name in self._values}

    @property
    def counters(self) -> dict[str, Counters]:
        """The plain numbers of each model's modules."""
        return self._counters

    @property
    def value_names(self) -> list[str]:
        """The names of the parts that are plain values."""
        return self._values

    def values_changed(self) -> None:
        """Values have been set without an assignment."""

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters of all models, each once, by names like ``model.0.weight``."""
        return {
            f"{part}.{name}": parameter
            for part, model in self.models_by_name().items()
            for name, parameter in model.named_parameters()
        }

    def digests(self) -> list[tuple[str, int]]:
        """What all ranks hold alike, as (name, 64-bit digest): parameters, buffers, optimizers."""
        models, optimizers = self.models_by_name(), self.optimizers_by_name()
        found = digests_of(tensors_of(models, optimizers))
        for name, optimizer in optimizers.items():
            found.append((f"{name}: the numbers that it keeps", digest_of(numbers_of(optimizer))))
            for number, group in enumerate(optimizer.param_groups):
                plain = {
                    key: value.tolist() if isinstance(value, Tensor) else value
                    for key, value in sorted(group.items())
                    # torch adds switches to groups that were made after a state was loaded.
                    if key != "params" and not isinstance(value, bool) and _is_plain(value)
                }
                found.append(
                    (f"{name}: the settings of group {number}", digest_of(flatten(plain)[0]))
                )
        for name, counters in self._counters.items():
            found.append((f"{name}: the classes of its modules", counters.makeup()))
        trees = {name: _packed(name, getattr(self, name)) for name in self._values}
        for name, part in self.stateful().items():
            if name not in models and name not in optimizers:
                trees[name] = part.state_dict()
        for name, tree in trees.items():
            with suppress(NotPortable):  # the newcomer's question, not that of all that are alike
                skeleton, tensors = flatten(tree)
                parts = digests_of((name, tensor) for tensor in tensors)
                whole = combined([digest_of(skeleton), *(one for _, one in parts)])
                found.append((f"state.{name}", whole))
        return found

    def training(self, now: bool) -> None:
        """Says whether it is trained: no part can be replaced meanwhile."""
        self._training = now

    def require_portable(self) -> None:
        """Raises Mistake for what was put into a list or dict of the state and cannot travel.

        Large ones are passed over here; they are looked at when they are to travel.
        """
        for name in self._values:
            value = getattr(self, name)
            if type(value) in (list, dict) and len(value) <= WATCHED:
                _packed(name, value)

    def align(self, tree: dict[str, Any]) -> float:
        """Takes over models and optimizers, and nothing else, of another rank's state.

        Returns how far the parameters were from them: the largest norm of a difference, as a part
        of the parameter's own norm.
        """
        distance = 0.0
        for name, model in self.models_by_name().items():
            own = model.state_dict()
            for key, value in tree["parts"][name].items():
                if value.is_floating_point():
                    apart = (own[key].double() - value.to(own[key].device).double()).norm()
                    norm = value.double().norm().to(apart.device)
                    distance = max(distance, float(apart / norm.clamp_min(1e-30)))
        for name in [*self.models_by_name(), *self.optimizers_by_name()]:
            load_part(getattr(self, name), tree["parts"][name])
        return distance

    def not_finite(self) -> str:
        """The name of the first parameter or buffer that is of no use; "" without one.

        Infinity in a buffer may be meant, as in a mask, but not in running statistics, which no
        later batch mends; nor in what an optimizer keeps for each element of a parameter, which
        would never change again.
        """
        parameters = self.named_parameters()
        for name, parameter in parameters.items():
            if not parameter.detach().isfinite().all():
                return name
        statistics = {id(getattr(*place)) for place in places_in(self.models)}
        for part, model in self.models_by_name().items():
            for name, buffer in model.named_buffers():
                bad = ~buffer.isfinite() if id(buffer) in statistics else buffer.isnan()
                if bad.any():
                    return f"{part}.{name}"
        names = {id(parameter): name for name, parameter in parameters.items()}
        for part, optimizer in self.optimizers_by_name().items():
            for trained, kept in optimizer.state.items():
                for key, value in kept.items() if id(trained) in names else ():
                    alike = isinstance(value, Tensor) and value.shape == trained.shape
                    if alike and not value.isfinite().all():
                        return f"{part}'s {key} of {names[id(trained)]}"
        return ""

    def starts_from(
        self,
        find: Callable[[], tuple[Any, int] | None],
        begun: Callable[[Any], None] = lambda tree: None,
    ) -> None:
        """Sets what finds the tree and step of the newest checkpoint, or None without one.

        ``begun`` is called with a tree that was loaded.
        """
        self._find_start = find
        self._begun = begun

    def prepare(self) -> torch.device:
        if self.device is None:
            self.device = device_of(current_session().slot)
        for model in self.models:
            model.to(self.device)
        return self.device

    def export(self) -> dict[str, Any]:
        parts = self.stateful()
        return {
            "step": self.step,
            "stopped": self.stopped,
            "updates": self.updates_taken,
            "replaced": self.workers_replaced,
            "left_out": self.left_out,
            "avoided": list(self.avoided),
            "finite": self.last_finite,
            "order": self.order_version,
            "data_mark": self.data_mark,
            "metrics": dict(self.metrics),
            "learned": self.learned.plain,
            "trained": {name: one.requires_grad for name, one in self.named_parameters().items()},
            "groups": {
                name: self.groups_of(one) for name, one in self.optimizers_by_name().items()
            },
            "parts": {name: part.state_dict() for name, part in parts.items()},
            "buffers": {
                name: transient_buffers(part)
                for name, part in parts.items()
                if isinstance(part, nn.Module)
            },
            "counters": {name: one.changed() for name, one in self._counters.items()},
            "values": {name: _packed(name, getattr(self, name)) for name in self._values},
            "generators": generators_state(),
        }

    def load_parts(self, tree: dict[str, Any], parts: Container[str]) -> None:
        """Takes over the models alone, or the optimizers, too: everything else begins anew.

        So does the step, and an optimizer keeps the settings that the program gives it.
        """
        for name, part in self.models_by_name().items():
            if name not in tree["parts"]:
                raise ValueError(f"the checkpoint has no {name!r}; it has {sorted(tree['parts'])}")
            require_same(name, part, tree["parts"][name])
            part.load_state_dict(tree["parts"][name])
        for name, optimizer in self.optimizers_by_name().items() if OPTIMIZER in parts else ():
            settings = optimizer.state_dict()["param_groups"]
            state = {**tree["parts"][name], "param_groups": settings}
            load_part(optimizer, state, exact=self._is_as_precise(tree))

    def load(self, tree: dict[str, Any]) -> None:
        missing = {*self._stateful} ^ {*tree["parts"]} | {*self._values} ^ {*tree["values"]}
        if missing:
            raise ValueError(
                f"the state of step {tree['step']} and this script's State differ in "
                f"{sorted(missing)}; give State the parts that it had then"
            )
        for name, part in self.models_by_name().items():
            require_same(name, part, tree["parts"][name])
        self._train_as(tree)
        exact = self._is_as_precise(tree)
        for name, state in tree["parts"].items():
            load_part(getattr(self, name), state, exact=exact)
        for name, buffers in tree["buffers"].items():
            load_buffers(getattr(self, name), buffers)
        for name, changed in tree.get("counters", {}).items():
            self._counters[name].load(changed)
        for name, value in tree["values"].items():
            setattr(self, name, unpacked(value))
        load_generators_state(tree["generators"])
        self.stopped = tree["stopped"]
        self.updates_taken = tree.get("updates", 0)  # states of older versions are without it
        self.workers_replaced = tree.get("replaced", 0)
        self.left_out = tree.get("left_out", 0)
        self.avoided = tuple(tree.get("avoided", ()))
        self.last_finite = tree.get("finite", tree["step"])
        self.order_version = tree.get("order", WHOLE)
        self.data_mark = tree.get("data_mark")
        self.metrics = tree.get("metrics", {})
        self.learned = Learned.of(tree.get("learned"))
        self.step = tree["step"]
        self.clean = True

    def restore(self) -> bool:
        found = self._find_start()
        if found is None:
            return False
        tree, _ = found
        if parts := tree.get(PARTS):
            self.load_parts(tree, parts)
        else:
            self.load(tree)
        self._begun(tree)
        return True

    def groups_of(self, optimizer: Optimizer) -> list[list[str | None]]:
        """The names of the parameters in each of an optimizer's groups."""
        names = {id(one): name for name, one in self.named_parameters().items()}
        return [[names.get(id(one)) for one in g["params"]] for g in optimizer.param_groups]

    def _is_as_precise(self, tree: dict[str, Any]) -> bool:
        """Whether the models of a state have the same kinds of numbers as those here."""
        models = self.models_by_name().items()
        return not any(precision(name, one, tree["parts"].get(name, {})) for name, one in models)

    def _train_as(self, tree: dict[str, Any]) -> None:
        """Trains the parameters that a state trains, in the groups that it has.

        What this process does not know of yet, such as layers that were given to the optimizer
        after some epochs, is given to it now.
        """
        parameters = self.named_parameters()
        for name, trained in tree.get("trained", {}).items():
            if name in parameters:
                parameters[name].requires_grad_(trained)
        for name, groups in tree.get("groups", {}).items():
            optimizer = getattr(self, name)
            own = self.groups_of(optimizer)
            if groups[: len(own)] != own or any(one is None for group in groups for one in group):
                continue  # load_state_dict says what does not fit
            saved = tree["parts"][name].get("param_groups", [{}] * len(groups))
            for group, about in zip(groups[len(own) :], saved[len(own) :], strict=True):
                params: list[Any] = [parameters[one] for one in group]
                if named := about.get("param_names"):
                    params = list(zip(named, params, strict=True))
                optimizer.add_param_group({"params": params})
            if len(groups) > len(own):
                _ignore_again(optimizer, len(own))

    def _require_own(self, name: str, tree: Any) -> None:
        """Raises Mistake for a value whose tensors are a model's own: a newcomer's are copies."""
        tensors = flatten(tree)[1] if isinstance(tree, dict | list | tuple | Tensor) else ()
        held = {one.untyped_storage().data_ptr() for one in tensors if one.numel()}
        for part, model in self.models_by_name().items() if held else ():
            for one in (*model.parameters(), *model.buffers()):
                if one.untyped_storage().data_ptr() in held:
                    raise Mistake(
                        "SW5136",
                        f"state.{name} has tensors that are those of {part} itself, and change "
                        f"with it: copy them (copy.deepcopy({part}.state_dict()))",
                    )

    @property
    def _named(self) -> str:
        return ", ".join([*self.__dict__["_stateful"], *self.__dict__["_values"]]) or "nothing"


def _is_stateful(part: Any) -> bool:
    return hasattr(part, "state_dict") and hasattr(part, "load_state_dict")


def _packed(name: str, value: Any) -> Any:
    try:
        return packed(value, f"state.{name}")
    except Unportable as error:
        raise Mistake(UNPORTABLE, str(error)) from None


def _is_portable(value: Any) -> bool:
    try:
        packed(value, "")
    except Unportable:
        return False
    return True


def _is_plain(value: Any) -> bool:
    try:
        flatten(value)
    except TypeError:
        return False
    return True


def _ignore_again(optimizer: Optimizer, first: int) -> None:
    """Lets the program add the groups from ``first`` on again: a newcomer has them already."""
    add = optimizer.add_param_group
    there = [{id(one) for one in group["params"]} for group in optimizer.param_groups[first:]]

    def add_unless_there(group: dict[str, Any]) -> None:
        params = group.get("params")
        listed = [params] if isinstance(params, Tensor) else list(params or ())
        ids = {id(one[1] if isinstance(one, tuple) else one) for one in listed}
        if ids in there:
            there.remove(ids)
        else:
            add({**group, "params": listed})

    optimizer.add_param_group = add_unless_there  # type: ignore[assignment,method-assign]


def load_part(part: Any, state: dict[str, Any], *, exact: bool = True) -> None:
    """Loads what ``part.state_dict()`` gave elsewhere, bit for bit if ``exact``.

    An optimizer's own ``load_state_dict`` rounds most of its state to the precision of the
    parameters, as NAdam's float32 product to float64: a newcomer would not go on as the others do.
    It is right where the parameters have another precision than they had.
    """
    part.load_state_dict(state)
    if (
        not exact
        or not isinstance(part, Optimizer)
        or not {"state", "param_groups"} <= state.keys()
    ):
        return  # a wrapper that has a form of its own
    names = [name for group in state["param_groups"] for name in group["params"]]
    parameters = [one for group in part.param_groups for one in group["params"]]
    for name, parameter in zip(names, parameters, strict=True):
        own = part.state.get(parameter, {})
        for key, value in state["state"].get(name, {}).items():
            if isinstance(value, Tensor) and own[key].dtype != value.dtype:
                own[key] = value.detach().clone().to(own[key].device)
