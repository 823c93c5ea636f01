"""What survives of a user's training loop: models, optimizers, whatever else they name.

    state = State(model=model, optimizer=optimizer, scheduler=scheduler, best=0.0)

Every part that has ``state_dict`` and ``load_state_dict`` travels by them, so GradScaler,
schedulers and stateful data loaders do, too. Any other part is a plain value (a number,
a string, a tensor, dicts and lists of them), read and set as an attribute.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from trainer.checkpoints.restore import WEIGHTS_ONLY
from trainer.engine.device import device_of
from trainer.engine.generators import generators_state, load_generators_state
from trainer.engine.portable import Portable
from trainer.protocol.session import current_session

LISTED = 10  # differences that an error names


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

    Raises ValueError for a name that ``State`` uses itself, and AttributeError when an
    attribute is set that is no part: it would be lost with its worker.
    """

    stopped = False

    def __init__(self, *, device: torch.device | str | None = None, **parts: Any) -> None:
        self.device = None if device is None else torch.device(device)
        self._find_start: Callable[[], tuple[Any, int] | None] = lambda: None
        self._stateful: list[str] = []
        self._values: list[str] = []
        for name, part in parts.items():
            self._add(name, part)

    def __setattr__(self, name: str, value: Any) -> None:
        own = name.startswith("_") or name == "device" or hasattr(type(self), name)
        if not (own or name in self._stateful or name in self._values):
            raise AttributeError(
                f"{name!r} is no part of the state, so it would be lost with its worker; make it "
                f"one: State(…, {name}=…)"
            )
        super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"the state has no {name!r}; it was made of {self._named}")

    def _add(self, name: str, part: Any) -> None:
        if name.startswith("_") or name == "device" or hasattr(type(self), name):
            raise ValueError(f"State uses {name!r} itself; give that part another name")
        travels = hasattr(part, "state_dict") and hasattr(part, "load_state_dict")
        (self._stateful if travels else self._values).append(name)
        setattr(self, name, part)

    @property
    def models(self) -> list[nn.Module]:
        """The parts that are models."""
        return [one for one in self._parts() if isinstance(one, nn.Module)]

    @property
    def optimizers(self) -> list[Optimizer]:
        """The parts that are optimizers."""
        return [one for one in self._parts() if isinstance(one, Optimizer)]

    def starts_from(self, find: Callable[[], tuple[Any, int] | None]) -> None:
        """Sets what finds the tree and step of the newest checkpoint, or None without one."""
        self._find_start = find

    def prepare(self) -> torch.device:
        if self.device is None:
            self.device = device_of(current_session().slot)
        for model in self.models:
            model.to(self.device)
        return self.device

    def export(self) -> dict[str, Any]:
        parts = {name: getattr(self, name) for name in self._stateful}
        return {
            "step": self.step,
            "stopped": self.stopped,
            "parts": {name: part.state_dict() for name, part in parts.items()},
            "buffers": {
                name: _transient_buffers(part)
                for name, part in parts.items()
                if isinstance(part, nn.Module)
            },
            "values": {name: getattr(self, name) for name in self._values},
            "generators": generators_state(),
        }

    def load_weights(self, tree: dict[str, Any]) -> None:
        """Takes over the models alone: everything else begins anew, at step 0."""
        for name, part in self._models_by_name().items():
            if name not in tree["parts"]:
                raise ValueError(f"the checkpoint has no {name!r}; it has {sorted(tree['parts'])}")
            _require_same(name, part, tree["parts"][name])
            part.load_state_dict(tree["parts"][name])

    def load(self, tree: dict[str, Any]) -> None:
        missing = {*self._stateful} ^ {*tree["parts"]} | {*self._values} ^ {*tree["values"]}
        if missing:
            raise ValueError(
                f"the state of step {tree['step']} and this script's State differ in "
                f"{sorted(missing)}; give State the parts that it had then"
            )
        for name, part in self._models_by_name().items():
            _require_same(name, part, tree["parts"][name])
        for name, state in tree["parts"].items():
            getattr(self, name).load_state_dict(state)
        with torch.no_grad():
            for name, buffers in tree["buffers"].items():
                own = dict(getattr(self, name).named_buffers())
                for buffer, value in buffers.items():
                    own[buffer].copy_(value)
        for name, value in tree["values"].items():
            setattr(self, name, value)
        load_generators_state(tree["generators"])
        self.stopped = tree["stopped"]
        self.step = tree["step"]
        self.clean = True

    def restore(self) -> bool:
        found = self._find_start()
        if found is None:
            return False
        tree, _ = found
        if tree.get(WEIGHTS_ONLY):
            self.load_weights(tree)
        else:
            self.load(tree)
        return True

    def _models_by_name(self) -> dict[str, nn.Module]:
        parts = {name: getattr(self, name) for name in self._stateful}
        return {name: part for name, part in parts.items() if isinstance(part, nn.Module)}

    def _parts(self) -> list[Any]:
        return [getattr(self, name) for name in self._stateful]

    @property
    def _named(self) -> str:
        return ", ".join([*self.__dict__["_stateful"], *self.__dict__["_values"]]) or "nothing"


def _require_same(name: str, model: nn.Module, found: dict[str, Any]) -> None:
    """Raises ValueError, listing the differences, when a state is that of another model."""
    own, other = _shapes(model.state_dict()), _shapes(found)
    lines = [
        *(f"{key} is missing in it" for key in own if key not in other),
        *(f"{key} is only in it" for key in other if key not in own),
        *(
            f"{key} is {list(other[key])} in it, {list(own[key])} here"
            for key in own
            if key in other and own[key] != other[key]
        ),
    ]
    if lines:
        more = f" and {len(lines) - LISTED} more" if len(lines) > LISTED else ""
        raise ValueError(f"the checkpoint is of another {name}: {'; '.join(lines[:LISTED])}{more}")


def _shapes(state: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(one.shape) for key, one in state.items() if hasattr(one, "shape")}


def _transient_buffers(module: nn.Module) -> dict[str, Any]:
    """The buffers that ``state_dict`` leaves out (``persistent=False``)."""
    persistent = module.state_dict().keys()
    return {name: one for name, one in module.named_buffers() if name not in persistent}
