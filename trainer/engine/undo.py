"""What the program has changed in a step is put back when the step is not taken.

A worker is lost in the middle of a step, and the others take the step again. Their parameters are
untouched by then, but not what the program itself has changed since the step was given to it, in
its block, before it or after it: batch statistics, a counter, a value of the state, a learning
rate, a schedule, an average of the weights. All of that would be changed twice.

What is small is copied before every step. Parameters, and other large tensors, are only watched, by
their versions: those that have moved before the gradients were summed, or after the block, are
copied from then on, the first ones before each step, the others when one has failed. What has moved
and was not copied cannot be put back. Then the state is torn: it is nobody's to copy, and this
worker receives another one's, or goes back to a checkpoint.
"""

from __future__ import annotations

from collections.abc import Container, Iterator

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trainer.engine.counters import OWN
from trainer.engine.memory import Mapping, Memory, Place
from trainer.engine.state import State
from trainer.engine.statistics import places_in


class Undo:
    """Remembers what a state held when a step was given to the program.

    Args:
        state: whose models are on their device, and whose optimizers exist.
    """

    def __init__(self, state: State) -> None:
        self._state = state
        modules = {id(one): one for model in state.models for one in model.modules()}
        self._modules = list(modules.values())
        self._watched = list({id(p): p for m in state.models for p in m.parameters()}.values())
        # torch changes them without a new version, so nobody can see it.
        self._moving = {(id(one._buffers), name) for one, name in places_in(state.models)}
        self._of_modules: list[tuple[Mapping, list[str]]] = []  # their moving places
        self._early: set[int] = set()  # parameters that move before the sum, by their ids
        self._late: set[int] = set()  # and after the block
        self._buffers: dict[Place, tuple[int, int]] = {}
        self._versions: list[int] = []
        self._clones: dict[int, Tensor] = {}
        self._optimizers = state.optimizers
        self._groups: list[int] = []  # of theirs, by id
        self._before = Memory()
        self._memory = self._before
        self._fresh = False  # whether the memory is of all places that are known to change
        self._learned = False
        self._whole = False  # whether all parameters are copied
        self._summed = False
        self._examined = False

    def begin(self, examine: bool, whole: bool = False) -> None:
        """A step is given to the program.

        Args:
            examine: whether to learn from this step what changes.
            whole: whether to copy all parameters, too: the first step of a run may be the one that
                shows what must be known before it, and nobody knows yet which of them move early.
        """
        self._examined = examine
        self._whole = whole
        self._summed = False
        if examine:
            self._before = self._memory = Memory(
                [*self._small(), *self._all_of_modules()],
                self._moving if self._learned else True,
            )
            self._buffers = self._buffer_versions()
        else:
            self._remember()
        self._watch(self._early)

    def summed(self, taken: bool = True) -> None:
        """The gradients are summed: whatever has moved by now was no optimizer.

        Args:
            taken: whether the step goes on; copies of what does not move are let go then.
        """
        if not self._summed:
            self._summed = True
            self._early |= self._moved()
        if taken and self._whole:
            self._whole = False
            self._clones = {key: one for key, one in self._clones.items() if key in self._early}

    def left(self) -> None:
        """The block is over, and the step was taken; what follows the block may run again."""
        self._remember()
        self._watch(())

    def taken(self) -> None:
        """What follows the block is over, too."""
        self._late |= self._moved()
        if not self._examined:
            return
        self._learned = True
        self._moving |= self._before.changed()
        now = self._buffer_versions()
        self._moving |= {place for place in now if now[place] != self._buffers.get(place)}
        found = [
            (of, [name for name in of if (id(of), name) in self._moving])
            for one in self._modules
            for of in (one._buffers, vars(one))
        ]
        self._of_modules = [(of, names) for of, names in found if names]
        self._fresh = False

    def undo(self) -> None:
        """The step is not taken, or what follows its block runs again. May be called again.

        What cannot be put back tears the state.
        """
        torn = ""
        moved = self._moved()
        with torch.no_grad():
            for one in self._watched:
                if id(one) in self._clones:
                    one.copy_(self._clones[id(one)])
                elif id(one) in moved:
                    torn = torn or self._name(one)
        torn = self._memory.put_back() or torn
        self._state.values_changed()
        if torn:
            self._state.tear(torn)
        self._watch(self._early | self._late)

    # --- what there is ----------------------------------------------------------------

    def _remember(self) -> None:
        """Remembers everything that is small, and what moves."""
        groups = [id(group) for one in self._optimizers for group in one.param_groups]
        known = self._fresh and self._memory is not self._before and groups == self._groups
        if not (known and self._memory.again()):
            self._memory = Memory([*self._small(), *self._of_modules], self._moving)
            self._groups, self._fresh = groups, True

    def _small(self) -> Iterator[tuple[Mapping, list[str] | None]]:
        """Values of the state, settings of optimizers, and what other parts have."""
        state = self._state
        yield vars(state), state.value_names
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                yield group, [key for key in group if key != "params"]
        seen: set[int] = set()
        for part in state.stateful().values():
            yield from _inside(part, seen)

    def _all_of_modules(self) -> Iterator[tuple[Mapping, list[str]]]:
        """All attributes of modules, and the buffers that move: all, before the first step."""
        for one in self._modules:
            buffers = one._buffers
            moving = [n for n in buffers if not self._learned or (id(buffers), n) in self._moving]
            yield buffers, moving
            yield vars(one), [name for name in vars(one) if name not in OWN]

    def _watch(self, copied: Container[int]) -> None:
        self._versions = [one._version for one in self._watched]
        wanted = self._watched if self._whole else [p for p in self._watched if id(p) in copied]
        self._clones = {id(p): p.detach().clone() for p in wanted}

    def _moved(self) -> set[int]:
        """The parameters that have changed since they are watched, by their ids."""
        now = [one._version for one in self._watched]
        if now == self._versions:
            return set()
        pairs = zip(self._watched, now, self._versions, strict=True)
        return {id(one) for one, version, before in pairs if version != before}

    def _buffer_versions(self) -> dict[Place, tuple[int, int]]:
        """Tells of each buffer whether it is written to, or replaced."""
        return {
            (id(one._buffers), name): (0, 0) if buffer is None else (id(buffer), buffer._version)
            for one in self._modules
            for name, buffer in one._buffers.items()
        }

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
