"""What the program has changed in a step is put back when the step is not taken.

A worker is lost in the middle of a step, and the others take the step again. Their parameters are
untouched by then, but not what the program itself has changed since the step was given to it, in
its block, before it or after it: batch statistics, a counter, a value of the state, a learning
rate, a schedule, an average of the weights. All of that would be changed twice.

What is small is copied before every step, and of everything else it is remembered which object is
where (trainer.engine.outline). Parameters, buffers and what optimizers keep are only watched, by
their versions: those that have moved before the gradients were summed, or after the block, are
copied from then on, the first ones before each step, the others after each block. Programs also
write in ways that change no version (``.data``, NumPy): in the steps that are examined, contents
are compared as well. What has moved and was not copied cannot be put back. Then the state is torn:
it is nobody's to copy, and this worker receives another one's, or goes back to a checkpoint.
"""

from __future__ import annotations

import copy
from array import array
from collections import deque
from collections.abc import Hashable, Iterator, MutableMapping, Set
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from trainer.engine.attributes import Mapping, is_plain, is_plain_object
from trainer.engine.contents import digests_of
from trainer.engine.counters import OWN
from trainer.engine.memory import Memory
from trainer.engine.outline import Outline, Tensors
from trainer.engine.state import State
from trainer.engine.statistics import places_in

_CHANGE = (Tensor, np.ndarray, list, dict, tuple, set, deque, bytearray, array)
_NUMBERS = (bool, int, float, str)
_PARTS = (nn.Module, Optimizer, LRScheduler)


class Undo:
    """Remembers what a state held when a step was given to the program.

    Args:
        state: whose models are on their device, and whose optimizers exist.
    """

    def __init__(self, state: State) -> None:
        self._state = state
        self._optimizers = state.optimizers
        modules = {id(one): one for model in state.models for one in model.modules()}
        self._modules = list(modules.values())
        self._watched = list({id(p): p for m in state.models for p in m.parameters()}.values())
        self._others = [one for one in state.stateful().values() if not _is_seen_otherwise(one)]
        # torch changes them without a new version, so nobody can see it.
        self._moving: set[Hashable] = {
            (id(one._buffers), name) for one, name in places_in(state.models)
        }
        # Torch's own modules whose attributes change, by vars.
        self._changing = {id(vars(one)) for one in self._modules if _is_tuned(one)}
        self._inside: list[tuple[Mapping, list[str]]] = []  # attributes that can change inside
        # What moves before the sum, and after the block: parameters, and what optimizers keep.
        self._early: set[Hashable] = set()
        self._numbers = False  # whether other things than tensors do that optimizers keep
        self._late: set[Hashable] = set()
        self._versions: list[int] = []
        self._clones: dict[int, Tensor] = {}
        self._trained: list[bool] = []
        self._groups: list[tuple[list[Any], list[Any]]] = []
        self._memory = Memory()
        self._known: tuple[int, list[int]] = (-1, [])  # what the memory was made for
        self._told: list[tuple[Any, Any]] = []  # by parts that keep what cannot be seen
        self._attributes = Outline()
        self._buffers = Tensors(
            one._buffers for one in self._modules if one._buffers or not _is_torchs(one)
        )
        self._kept = Tensors()  # by optimizers
        self._contents: dict[Hashable, int] = {}  # digests, in a step that is examined
        self._learned = False
        self._whole = False  # whether all parameters are copied
        self._summed = False
        self._examined = False
        self._kinds: list[type] | None = None  # of attributes; what can change is one of some
        self._states: list[int] = []  # the versions of what optimizers keep, before a step
        self._of_states: tuple[list[int], list[Tensor]] = ([], [])

    def begin(self, examine: bool, whole: bool = False) -> None:
        """A step is given to the program.

        Args:
            examine: whether to learn from this step what changes.
            whole: whether to copy all parameters, too: the first step of a run may be the one that
                shows what must be known before it, and nobody knows yet which of them move early.
        """
        if examine or self._examined:
            self._attributes = Outline(self._of_modules(examine), OWN)
        self._examined = examine
        self._whole = whole
        self._summed = False
        self._remember(self._early, whole=examine and not self._learned)
        self._contents = self._contents_now() if examine else {}
        self._states = [one._version for one in self._of_optimizers()]

    def summed(self, taken: bool = True) -> None:
        """The gradients are summed: whatever has moved by now was no optimizer.

        Args:
            taken: whether the step goes on; copies of what does not move are let go then.
        """
        if not self._summed:
            self._summed = True
            self._early |= self._moved()
            if self._examined:
                self._early |= self._changed_of_others(self._contents_now())
                self._numbers |= bool(self._kept.replaced())
        if taken and self._whole:
            self._whole = False
            self._clones = {key: one for key, one in self._clones.items() if key in self._early}

    def left(self) -> None:
        """The block is over, and the step was taken; what follows the block may run again."""
        now = self._contents_now() if self._examined else {}
        self._learn(now)
        self._remember(self._late)
        self._contents = now
        self._states = []  # the optimizers have written to them

    def taken(self) -> None:
        """What follows the block is over, too."""
        self._late |= self._moved()
        now = self._contents_now() if self._examined else {}
        self._learn(now)
        if self._examined:
            self._late |= self._changed_of_others(now)
            self._numbers |= bool(self._kept.replaced())
            self._contents = {}
            self._learned = True

    def undo(self) -> None:
        """The step is not taken, or what follows its block runs again. May be called again.

        What cannot be put back tears the state.
        """
        moved = self._moved()
        if self._contents:
            moved |= self._changed(self._contents_now())
        torn = ""
        with torch.no_grad():
            for one in self._watched:
                if id(one) in self._clones:
                    one.copy_(self._clones[id(one)])
                elif id(one) in moved:
                    torn = torn or self._name(one)
        torn = torn or self._buffers.lost(moved) or self._kept.lost(moved)
        torn = torn or self._written_by_none()
        torn = self._memory.put_back() or torn
        for part, told in self._told:
            part.load_state_dict(copy.deepcopy(told))
        self._attributes.put_back()
        self._buffers.put_back()
        self._kept.put_back()
        for one, trained in zip(self._watched, self._trained, strict=True):
            if one.requires_grad != trained:
                one.requires_grad_(trained)
        for groups, before in self._groups:
            groups[:] = before
        self._state.values_changed()
        if torn:
            self._state.tear(torn)
        self._watch(self._early | self._late)
        self._keep(self._early | self._late)

    # --- what there is ----------------------------------------------------------------

    def _remember(self, copied: Set[Hashable] = frozenset(), whole: bool = False) -> None:
        """What there is now is what will be put back.

        Args:
            copied: the parameters that are copied, and what optimizers keep.
            whole: whether everything else is copied, however large it is.
        """
        self._attributes.remember()
        kinds = self._attributes.kinds
        found = self._examined or kinds != self._kinds
        if found:
            self._kinds = kinds
            self._find_inside()
        groups = [id(group) for one in self._optimizers for group in one.param_groups]
        known = (len(self._moving), groups)
        if whole or found or known != self._known or not self._memory.again():
            self._memory = Memory([*self._small(), *self._inside], whole or self._moving)
            self._known = (-1, groups) if whole else known
        unseen = [one for one in self._others if _keeps_unseen(one)]
        self._told = [(one, copy.deepcopy(one.state_dict())) for one in unseen]
        self._buffers.remember()
        self._buffers.copy(whole or self._moving)
        self._watch(copied)
        self._keep(copied)
        self._trained = [one.requires_grad for one in self._watched]
        self._groups = [(one.param_groups, [*one.param_groups]) for one in self._optimizers]

    def _learn(self, now: dict[Hashable, int]) -> None:
        """What has moved by itself is copied from now on."""
        self._moving |= self._buffers.written()
        if self._examined:
            changed = self._changed(now)
            self._moving |= {place for place, _ in self._buffers.named if place in changed}
            written = self._memory.written()
            self._moving |= written
            self._changing |= self._attributes.replaced() | {of for of, _ in written}

    def _of_modules(self, all_of_them: bool) -> Iterator[Mapping]:
        """The attributes of modules. Those of torch's own modules change only if a program does it,
        which a step that is examined will show.
        """
        for one in self._modules:
            if all_of_them or not _is_torchs(one) or id(vars(one)) in self._changing:
                yield vars(one)

    def _small(self) -> Iterator[tuple[Mapping, list[str] | None]]:
        """Values of the state, settings of optimizers, and what other parts have."""
        state = self._state
        if state.value_names:
            yield vars(state), state.value_names
        for optimizer in self._optimizers:
            own = vars(optimizer)
            yield own, [key for key, value in own.items() if type(value) in _NUMBERS]
            for group in optimizer.param_groups:
                yield group, [key for key in group if key != "params"]
        seen: set[int] = set()
        for part in state.stateful().values():
            yield from _inside(part, seen)

    def _find_inside(self) -> None:
        """Finds the attributes of modules that can change inside, each object once."""
        seen: set[int] = set()
        self._inside = []
        for of in self._of_modules(self._examined):
            names = [
                name
                for name, value in of.items()
                if name not in OWN and id(value) not in seen and _can_change(value)
            ]
            seen.update(id(of[name]) for name in names)
            if names:
                self._inside.append((of, names))

    def _keep(self, copied: Set[Hashable]) -> None:
        """Remembers what optimizers keep: in examined steps, and where a program changes it."""
        wanted = self._examined or self._numbers
        changing = self._early | self._late
        if wanted or (changing and any(isinstance(one, tuple) for one in changing)):
            self._kept = Tensors(self._mappings(), copied)
        elif self._kept.size:
            self._kept = Tensors()

    def _mappings(self) -> Iterator[MutableMapping[Any, Any]]:
        """Where optimizers keep things: mostly a mapping for each parameter."""
        for optimizer in self._optimizers:
            yield optimizer.state
            yield from (one for one in optimizer.state.values() if isinstance(one, dict))

    def _of_optimizers(self) -> list[Tensor]:
        """The tensors that optimizers keep; they are found anew when parameters have come."""
        states = [one.state for one in self._optimizers]
        lengths = [*map(len, states)]
        if self._examined or lengths != self._of_states[0]:
            inside = (value for mapping in self._mappings() for value in mapping.values())
            self._of_states = lengths, [one for one in inside if isinstance(one, Tensor)]
        return self._of_states[1]

    def _written_by_none(self) -> str:
        """What a program, and no optimizer, has changed of what optimizers keep; "" if nothing."""
        written = [one._version for one in self._of_optimizers()] != self._states
        return "what an optimizer keeps" if self._states and written and not self._kept.size else ""

    def _watch(self, copied: Set[Hashable]) -> None:
        self._versions = [one._version for one in self._watched]
        self._clones = {}  # before there are others: they may be as large as the model
        if self._whole or copied:
            wanted = [p for p in self._watched if self._whole or id(p) in copied]
            self._clones = {id(p): p.detach().clone() for p in wanted}

    def _moved(self) -> set[Hashable]:
        """The parameters that have changed since they are watched, by their ids."""
        now = [one._version for one in self._watched]
        if now == self._versions:
            return set()
        pairs = zip(self._watched, now, self._versions, strict=True)
        return {id(one) for one, version, before in pairs if version != before}

    def _changed(self, now: dict[Hashable, int]) -> set[Hashable]:
        """What holds other numbers now than before: parameters, buffers, what optimizers keep."""
        return {key for key, one in self._contents.items() if now.get(key, one) != one}

    def _changed_of_others(self, now: dict[Hashable, int]) -> set[Hashable]:
        """The same without buffers, of which ``_learn`` knows."""
        return self._changed(now) - {place for place, _ in self._buffers.named}

    def _contents_now(self) -> dict[Hashable, int]:
        tensors: list[tuple[Hashable, Tensor]] = [(id(one), one) for one in self._watched]
        tensors += self._buffers.named
        tensors += self._kept.named
        found = digests_of(("", one) for _, one in tensors)
        return {key: one for (key, _), (_, one) in zip(tensors, found, strict=True)}

    def _name(self, parameter: Tensor) -> str:
        named = self._state.named_parameters().items()
        return next((name for name, one in named if one is parameter), "a parameter")


def _inside(part: object, seen: set[int]) -> Iterator[tuple[Mapping, None]]:
    """What a part keeps that is no model and no optimizer, and the parts inside it."""
    if isinstance(part, nn.Module | Optimizer | Tensor | type) or id(part) in seen:
        return
    if not (hasattr(part, "state_dict") and hasattr(part, "__dict__")):
        return
    seen.add(id(part))
    yield vars(part), None
    for value in list(vars(part).values()):
        for one in value if isinstance(value, list | tuple) and len(value) <= 32 else (value,):
            yield from _inside(one, seen)


def _is_torchs(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch.nn.modules.")


def _is_tuned(module: nn.Module) -> bool:
    """Whether all that a module has is a number, as the chance of a dropout: programs change it."""
    empty = not (module._parameters or module._buffers or module._modules)
    return empty and any(isinstance(value, float) for value in vars(module).values())


def _is_seen_otherwise(part: object) -> bool:
    return isinstance(part, nn.Module | Optimizer) or type(part).__module__.startswith("torch.")


def _keeps_unseen(part: object) -> bool:
    """Whether a part keeps what only its ``state_dict`` tells, such as a generator's position."""
    return not hasattr(part, "__dict__") or not all(map(_is_seen, vars(part).values()))


def _is_seen(value: object) -> bool:
    return isinstance(value, _PARTS) or is_plain(value) or is_plain_object(value)


def _can_change(value: object) -> bool:
    return not isinstance(value, nn.Parameter) and (
        isinstance(value, _CHANGE) or is_plain_object(value)
    )
