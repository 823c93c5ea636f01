"""What is trained: the parameters of the state's models that require a gradient, as they are now.

That may change between two steps: ``requires_grad``, and the groups of an optimizer. What
cannot be followed is refused: a parameter that no model of the state has would be lost with its
worker, and a module that comes later would be missing in a newcomer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator
from contextlib import suppress
from operator import is_
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.nn.modules import module as registration
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import UninitializedParameter, is_lazy
from torch.optim import LBFGS, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from trainer.checkpoints.tree import NotPortable, flatten
from trainer.engine.digest import combined, digest_of
from trainer.engine.mistake import UNPORTABLE, Mistake
from trainer.engine.state import State


class Trained:
    """Watches what a state's models and optimizers train.

    Args:
        state: whose models are on their device, and whose optimizers exist.

    Attributes:
        parameters: those with ``requires_grad``, in the order of the models.
        layout: a digest of their names: equal on ranks that train alike.

    Raises Mistake for what cannot be trained: nothing, complex or lazy parameters, optimizers that
    search along a line, parameters that no model has.
    """

    def __init__(self, state: State) -> None:
        self._state = state
        self._optimizers = state.optimizers
        self._names = {id(one): name for name, one in state.named_parameters().items()}
        self._all = [p for model in state.models for p in model.parameters()]
        self._all = list({id(p): p for p in self._all}.values())
        self._groups: list[list[int]] = []  # of ids of parameters
        self._shapes = self._shapes_now()
        self._owners: dict[int, Optimizer] = {}
        self._loose: WeakKeyDictionary[Optimizer, int] = WeakKeyDictionary()  # first steps
        self.parameters: list[nn.Parameter] = []
        self.layout = 0
        self._dtypes: list[torch.dtype] = []
        self._refuse_what_cannot_be()
        self.follow()
        self.require_same_model()

    def follow(self) -> bool:
        """Takes in what changed since the last call. Returns whether anything did."""
        self._follow_groups()
        same = self._dtypes == [p.dtype for p in self.parameters]
        if self.parameters and same and not self.changed:
            return False
        self.parameters = [p for p in self._all if p.requires_grad]
        if not self.parameters:
            raise Mistake(
                "SW5101",
                "no parameter of the state's models requires a gradient, so there is nothing to "
                "train; leave some unfrozen",
            )
        self.layout = combined([digest_of(self.name(p)) for p in self.parameters])
        self._dtypes = [p.dtype for p in self.parameters]
        return True

    @property
    def changed(self) -> bool:
        """Whether other parameters require a gradient than when ``follow`` was called."""
        now = [p for p in self._all if p.requires_grad]
        return len(now) != len(self.parameters) or not all(map(is_, now, self.parameters))

    def name(self, parameter: Any) -> str:
        """A parameter's name in the state, as ``model.0.weight``."""
        known = self._names.get(id(parameter))
        return known or f"a parameter of shape {list(parameter.shape)}"

    def owner(self, optimizer: Optimizer, running: bool = False) -> bool:
        """Whether an optimizer is one of the state's.

        Raises Mistake for another one that changes the state's parameters; and, in a running step,
        for one that changes parameters outside the state, each worker its own.
        """
        if id(optimizer) in self._owners:
            return True
        if optimizer in self._state.optimizers or self._is_wrapped(optimizer):
            self._owners[id(optimizer)] = optimizer
            return True
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if id(parameter) in self._names:
                    raise Mistake(
                        "SW5102",
                        f"a {type(optimizer).__name__} that is no part of the state changes "
                        f"{self.name(parameter)}: what it remembers would be lost with its worker; "
                        "make it one: State(…, optimizer=…)",
                    )
                # A tensor that a step makes, to attack its inputs, has an optimizer of that step.
                first = self._loose.setdefault(optimizer, self._state.step) if running else 0
                kept = running and parameter.requires_grad and first != self._state.step
                if kept or (running and isinstance(parameter, nn.Parameter)):
                    raise Mistake(
                        "SW5102",
                        f"a {type(optimizer).__name__} that is no part of the state changes a "
                        f"parameter of shape {list(parameter.shape)} that no model of the state "
                        "has: each worker would train its own; make both parts of the state",
                    )
        return False

    def unused(self, stepped: Container[int]) -> list[nn.Parameter]:
        """The parameters whose gradients no optimizer has used.

        Args:
            stepped: the ids of the optimizers that have taken a step.
        """
        if not self._optimizers:
            return self.parameters
        groups = [g for one in self._optimizers if id(one) not in stepped for g in one.param_groups]
        return [p for group in groups for p in group["params"]]

    def require_unchanged(self) -> None:
        """Raises Mistake when a parameter has begun to require a gradient inside a step."""
        if not self.changed:
            return
        known = {id(p) for p in self.parameters}
        for parameter in self._all:
            if parameter.requires_grad and id(parameter) not in known:
                raise Mistake(
                    "SW5103",
                    f"{self.name(parameter)} has required a gradient since the middle of a step, "
                    "in which no other worker could take it into account; set requires_grad "
                    "between two steps, before `with step:`",
                )

    def require_own_gradients(self) -> None:
        """Raises Mistake when gradients are parts of tensors that the program has made."""
        held = [p for p in self.parameters if p.grad is not None and p.numel()]
        shared = Counter(p.grad.untyped_storage().data_ptr() for p in held if p.grad is not None)
        if held and len(held) == len(self.parameters) and all(n > 1 for n in shared.values()):
            raise Mistake(
                "SW5160",
                f"the gradients of {self.name(held[0])} and others are parts of one tensor of the "
                "program's own, which backward does not fill here, as gradients are summed in "
                "buckets: read and change those of each parameter (nn.utils.clip_grad_norm_)",
            )

    def require_schedules(self) -> None:
        """Raises Mistake for an optimizer with a schedule that is no part of the state."""
        scheduled = {id(one) for part in self._state.stateful().values() for one in _followed(part)}
        for name, optimizer in self._state.optimizers_by_name().items():
            if hasattr(optimizer.step, "_wrapped_by_lr_sched") and id(optimizer) not in scheduled:
                raise Mistake(
                    "SW5157",
                    f"a schedule sets the learning rate of {name}, and is no part of the state: it "
                    "would begin anew with every newcomer, and after a cold start; make it one: "
                    "State(…, scheduler=scheduler)",
                )

    def require_same_model(self) -> None:
        """Raises Mistake when a newcomer, which builds the models anew, could not hold this state.

        To be called now and then: buffers come, grow and go, and optimizers may keep what does not
        travel.
        """
        now = self._shapes_now()
        for name in sorted({*now, *self._shapes}):
            if now.get(name) != self._shapes.get(name):
                raise Mistake(
                    "SW5108",
                    f"{name} has come, gone or changed its shape since training began: a newcomer "
                    "would be without it; build the whole model before the State is made, and "
                    "register as not persistent what can be computed again",
                )
        try:
            flatten(self._state.export())
        except NotPortable as error:
            raise Mistake(
                UNPORTABLE, f"the state could not be sent to a newcomer, nor saved: {error}"
            ) from None

    def _shapes_now(self) -> dict[str, tuple[int, ...]]:
        return {
            f"{part}.{name}": tuple(value.shape)
            for part, model in self._state.models_by_name().items()
            for name, value in model.state_dict(keep_vars=True).items()
            if isinstance(value, torch.Tensor) and not is_lazy(value)
        }

    def _follow_groups(self) -> None:
        groups = [[*map(id, g["params"])] for o in self._optimizers for g in o.param_groups]
        if groups == self._groups:
            return
        self._require_added(groups)
        self._groups = groups
        for name, optimizer in self._state.optimizers_by_name().items():
            for number, group in enumerate(optimizer.param_groups):
                for parameter in group["params"]:
                    if id(parameter) not in self._names:
                        raise Mistake(
                            "SW5104",
                            f"{name} changes a parameter of shape {list(parameter.shape)} (in its "
                            f"group {number}) that no model of the state has: it would be lost "
                            "with its worker; make the module that holds it a part: "
                            "State(…, head=head)",
                        )

    def _require_added(self, groups: list[list[int]]) -> None:
        """Raises Mistake when groups have changed otherwise than by further ones."""
        after = iter(groups)
        if not all(any(one == other for other in after) for one in self._groups):
            raise Mistake(
                "SW5137",
                "the groups of an optimizer have lost parameters, or have others than before, "
                "which a newcomer cannot follow: leave them, and set their learning rate to 0 or "
                "requires_grad_(False); add_param_group() may add more",
            )

    def _is_wrapped(self, optimizer: Optimizer) -> bool:
        """Whether a part of the state, such as a sharpness-aware optimizer, steps this one."""
        parts = self._state.stateful().values()
        return any(one is optimizer for part in parts for one in vars(part).values())

    def _refuse_what_cannot_be(self) -> None:
        for name, optimizer in self._state.optimizers_by_name().items():
            if isinstance(optimizer, LBFGS):
                raise Mistake(
                    "SW5105",
                    f"{name} is an LBFGS, which evaluates the loss several times in a step; a step "
                    "has one evaluation, so take an optimizer that needs no more",
                )
        for name, model in self._state.models_by_name().items():
            for path, module in model.named_modules():
                _refuse_module(f"{name}.{path}".rstrip("."), module)
        for parameter in self._all:
            if isinstance(parameter, UninitializedParameter):
                raise Mistake(
                    "SW5106",
                    f"{self.name(parameter)} is not initialized: call the lazy module once, with a "
                    "batch, before the State is made",
                )
            if parameter.is_complex():
                raise Mistake(
                    "SW5107",
                    f"{self.name(parameter)} is complex, and gradients of complex numbers are not "
                    "summed over workers; hold it as two real numbers (torch.view_as_real)",
                )


def _refuse_module(name: str, module: nn.Module) -> None:
    if isinstance(module, _BatchNorm) and type(module).__name__ == "SyncBatchNorm":
        raise Mistake(
            "SW5147",
            f"{name} is a SyncBatchNorm, whose collectives wait for each other when workers have "
            "unequal numbers of parts; take BatchNorm, and units: each of them has its own "
            "statistics, the same in every world (unit in a Task, or batches(…, unit=8))",
        )
    if not isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return
    if module.scale_grad_by_freq:
        raise Mistake(
            "SW5158",
            f"{name} scales gradients by how often a word occurs in a batch "
            "(scale_grad_by_freq), and each worker sees the words of its own samples only; leave "
            "it off, and weigh the samples in the loss if that is needed",
        )
    if module.max_norm is not None:
        raise Mistake(
            "SW5159",
            f"{name} shortens rows in its forward pass (max_norm), and each worker those of its "
            "own samples only; leave it off, and shorten them after optimizer.step(), under "
            "torch.no_grad(): weight.renorm_(2, 0, max_norm)",
        )


def _followed(part: object) -> Iterator[object]:
    """The optimizers whose schedule a part is, or has inside."""
    for one in (part, *getattr(part, "__dict__", {}).values()):
        if isinstance(one, LRScheduler):
            yield one.optimizer


class Guard:
    """Refuses, in the line that does it, modules and parameters that come to a model in training.

    A newcomer builds its model as the program does at its start, so it would be without them.
    """

    def __init__(self, state: State) -> None:
        self._places = {
            id(module): f"{part}.{name}".rstrip(".")
            for part, model in state.models_by_name().items()
            for name, module in model.named_modules()
        }
        self._handles = [
            registration.register_module_parameter_registration_hook(self._parameter),
            registration.register_module_module_registration_hook(self._module),
        ]

    def close(self) -> None:
        """From now on anything may come."""
        while self._handles:
            self._handles.pop().remove()

    def _parameter(self, module: nn.Module, name: str, parameter: Any) -> None:
        known = id(module) in self._places
        if known and parameter is not None and parameter is not getattr(module, name, None):
            self._refuse(module, name)

    def _module(self, module: nn.Module, name: str, added: Any) -> None:
        before = getattr(module, name, None)
        if id(module) not in self._places or added is None or added is before:
            return
        for _ in _tensors_of(added):
            self._refuse(module, name)
        if isinstance(before, nn.Module) and not _alike(before, added):
            raise Mistake(
                "SW5165",
                f"{self._places[id(module)]}.{name} was replaced after training had begun, a "
                f"{type(before).__name__} by a {type(added).__name__}: a newcomer, or the program "
                "after a cold start, would go on with the first one; build both before the State "
                "is made, and let a value of the state, or step.number, say which is used; or "
                "change its attributes (dropout.p), which travel",
            )

    def _refuse(self, module: nn.Module, name: str) -> None:
        raise Mistake(
            "SW5108",
            f"{self._places[id(module)]}.{name} came to the model after training had begun: a "
            "newcomer would be without it; build the whole model before the State is made, and "
            "freeze what is trained later (requires_grad_(False))",
        )


def _alike(one: nn.Module, other: nn.Module) -> bool:
    """Whether two modules without tensors compute the same, as far as they tell."""
    return type(one) is type(other) and repr(one) == repr(other)


def _tensors_of(module: nn.Module) -> Iterator[torch.Tensor]:
    with suppress(AttributeError):  # of a class that is no module after all
        yield from module.parameters()
        yield from module.buffers()
