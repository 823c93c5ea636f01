"""Modules that compute in a step and are no part of the state: a newcomer makes them anew.

A frozen teacher, a feature extractor, a loss with weights may well stay outside: they are made
alike on all ranks. One that changes while the model trains, such as an average that serves as a
teacher, or that is not the same on all ranks, belongs to the state. In the steps that are examined
it is seen which modules are called, and what they hold. Compiled code calls no module: which ones
are in it is seen as it is compiled, and from then on they count as called.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from trainer.engine.compiling import compiles, once_compiled
from trainer.engine.contents import digests_of, tensors_of
from trainer.engine.digest import combined
from trainer.engine.mistake import Mistake
from trainer.engine.state import State

_ID = "SW5156"
_REMEDY = "make it one: State(…, teacher=teacher); a task returns it in state()"


class Outside:
    """Watches which modules outside a state compute.

    Args:
        state: the modules of its models are not meant.
    """

    def __init__(self, state: State) -> None:
        self._state = state
        self._before: WeakKeyDictionary[nn.Module, list[int]] = WeakKeyDictionary()
        self._found: dict[str, int] = {}
        self._known: set[int] = set()
        self._tensors: set[int] = set()  # the ids of the state's own
        self._handles: list[Any] = []
        self._there: list[ref[nn.Module]] | None = None
        self._compiled: dict[int, None] = {}  # of them those that are in compiled code, by place
        self._moved = ""

    def watch(self) -> None:
        """A step begins whose modules are looked at."""
        self.forget()
        models = self._state.models
        self._known = {id(one) for model in models for one in model.modules()}
        self._tensors = {id(one) for _, one in tensors_of(self._state.models_by_name(), {})}
        register = nn.Module.register_forward_pre_hook  # a scripted module's own refuses
        if compiles():  # a hook of all modules would have everything compiled once more
            self._handles = [register(module, self._hook(at)) for at, module in self._others()]
        else:
            self._handles = [register_module_forward_pre_hook(self._called)]

    def forget(self) -> None:
        """The step is over, or not taken."""
        while self._handles:
            self._handles.pop().remove()
        self._moved, self._found = "", {}

    def told(self, step: int) -> dict[str, int]:
        """What the modules hold that have computed here, as digests by their classes.

        Raises Mistake for one that has changed since the last time.
        """
        others = dict(self._others()) if self._compiled else {}
        for at in self._compiled:
            if at in others:
                self._look(others[at])
        found, moved = self._found, self._moved
        self.forget()
        if moved:
            raise Mistake(
                _ID,
                f"step {step}: a {moved} computes in the step, changes from step to step, and is "
                f"no part of the state: it would begin anew with every newcomer; {_REMEDY}",
            )
        return found

    def require_held(self, told: Sequence[dict[str, int]], rank: int, step: int) -> None:
        """Raises Mistake where others' modules compute in the step, and this rank has none such.

        A newcomer is without a teacher that was copied from the model before it came.

        Args:
            told: by each rank.
            rank: this one.
            step: in which they have computed.
        """
        own = {*told[rank].values()}  # under other names, where ranks have unequal numbers of parts
        missing = {key: one for of in told for key, one in of.items() if key not in told[rank]}
        missing = {key: one for key, one in missing.items() if one not in own}
        if not missing:
            return
        kinds = {key.split()[0] for key in missing}
        held = {self._digest(one) for one in _modules() if type(one).__name__ in kinds}
        for name, digest in missing.items():
            if digest not in held:
                raise Mistake(
                    _ID,
                    f"step {step}: a {name.split()[0]} computes in the step on other ranks, is no "
                    f"part of the state, and rank {rank} has none that holds the same: made on "
                    f"the way, it is missing in a newcomer; {_REMEDY}",
                )

    def _digest(self, module: nn.Module) -> int:
        with suppress(RuntimeError, TypeError, ValueError):
            return combined([one for _, one in digests_of(tensors_of({"": module}, {}))])
        return 0

    def _others(self) -> Iterator[tuple[int, nn.Module]]:
        """The modules outside the state, by number, as they are when first asked; it takes long."""
        if self._there is None:
            self._there = [ref(one) for one in _modules() if id(one) not in self._known]
        for at, one in enumerate(self._there):
            if (module := one()) is not None:
                yield at, module

    def _hook(self, at: int) -> Callable[[nn.Module, Any], None]:
        """One for a module alone: a function, which a copy of the module shares."""

        @once_compiled
        def note() -> None:
            self._compiled[at] = None

        def called(module: nn.Module, args: Any) -> None:
            if torch.compiler.is_compiling():
                note()
            elif self._handles:
                self._look(module)

        return called

    def _called(self, module: nn.Module, args: Any) -> None:
        if not torch.compiler.is_compiling():
            self._look(module)

    def _look(self, module: nn.Module) -> None:
        if id(module) in self._known:
            return
        self._known.update(map(id, module.modules()))
        name = type(module).__name__
        tensors = [*tensors_of({name: module}, {})]
        if all(id(one) in self._tensors for _, one in tensors):
            return  # another grouping of the state's own layers, as model[:3]
        holds: list[int] = []
        with suppress(RuntimeError, TypeError, ValueError):  # tensors that are no plain numbers
            holds = [one for _, one in digests_of(tensors)]
        if not holds:
            return
        number = sum(one.startswith(f"{name} ") for one in self._found) + 1
        self._found[f"{name} {number}"] = combined(holds)
        if self._before.get(module, holds) != holds and not self._is_copy(holds):
            self._moved = self._moved or name
        self._before[module] = holds

    def _is_copy(self, holds: Sequence[int]) -> bool:
        """Whether a module holds what the state's models hold: made anew from them in each step."""
        own = {one for _, one in digests_of(tensors_of(self._state.models_by_name(), {}))}
        return own.issuperset(holds)


def _modules() -> list[nn.Module]:
    """All that there are in this process; it takes long."""
    found = [one for one in gc.get_objects() if issubclass(type(one), nn.Module)]
    return [one for one in found if "_forward_pre_hooks" in vars(one)]  # not half of one


def require_alike(told: Sequence[dict[str, int]], step: int) -> None:
    """Raises Mistake when modules that compute outside the state differ between ranks.

    Args:
        told: by each rank; one without samples has called none.
        step: in which they have computed.
    """
    for name in sorted({key for one in told for key in one}):
        held = Counter(one[name] for one in told if name in one)
        if len(held) > 1:
            sides = " and ".join(
                ", ".join(str(rank) for rank, one in enumerate(told) if one.get(name) == value)
                for value in held
            )
            raise Mistake(
                _ID,
                f"step {step}: a {name.split()[0]} computes in the step, is no part of the state, "
                f"and does not hold the same on ranks {sides}; {_REMEDY}",
            )
