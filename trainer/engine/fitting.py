"""Weights of another program, fitted to a state's models by their names.

Nothing stays as it was made in silence: what a model has and the weights lack, and what they have
and no model takes, is an error that lists it, unless the run says that it is meant so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from trainer.engine.mistake import Mistake
from trainer.engine.shapes import listed


def renamed(name: str, table: Mapping[str, str]) -> str:
    """A name by the first pattern of a table that it matches; "" for what is not wanted.

    Args:
        name: of a tensor.
        table: from patterns to names. A ``*`` stands for anything; in the new name, for what it
            stood for in the old one.
    """
    for pattern, new in table.items():
        found = re.fullmatch("(.*)".join(map(re.escape, pattern.split("*"))), name)
        if found:
            pieces = new.split("*")
            inner = [*found.groups(), *[""] * len(pieces)]
            return pieces[0] + "".join(a + b for a, b in zip(inner, pieces[1:], strict=False))
    return name


def fitted(
    url: str,
    weights: Mapping[str, Tensor],
    models: Mapping[str, nn.Module],
    rename: Mapping[str, str],
    fresh: Sequence[str],
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """What each model is to load.

    Args:
        url: where the weights are, for errors.
        weights: by name; of several models each name begins with the model's.
        models: by name.
        rename: see ``renamed``.
        fresh: patterns of names in the models that stay as the program has made them.

    Returns a state dict of each model, and what is to be said of it. Raises Mistake when something
    does not fit.
    """
    given: dict[str, Tensor] = {}
    twice = []
    for name, tensor in weights.items():
        if new := renamed(name, rename):
            twice += [f"{name} becomes {new}, as another does"] * (new in given)
            given[new] = tensor
    states = {part: model.state_dict(keep_vars=True) for part, model in models.items()}
    several = len(states) > 1
    own = {
        f"{part}.{name}" if several else name: value
        for part, state in states.items()
        for name, value in state.items()
        if isinstance(value, Tensor)
    }
    # A tied parameter has several names, and files have one of them.
    taken = {_place(own[name]): value for name, value in given.items() if name in own}
    found = {name: given.get(name, taken.get(_place(value))) for name, value in own.items()}
    stays = [n for n, v in found.items() if v is None and any(fnmatchcase(n, p) for p in fresh)]
    wrong = [
        *twice,
        *(f"{n} is missing in it" for n, v in found.items() if v is None and n not in stays),
        *(f"{n} is only in it" for n in given if n not in own),
        *(
            f"{n} is {_form(value)} in it, {_form(own[n])} here"
            for n, value in found.items()
            if value is not None and _form(value) != _form(own[n])
        ),
    ]
    if wrong:
        raise _misfit(url, wrong)
    parts = {
        part: {
            name: one
            if (there := found.get(f"{part}.{name}" if several else name)) is None
            else there
            for name, one in state.items()
        }
        for part, state in states.items()
    }
    said = [f"{len(own) - len(stays)} tensors of the models are those of {url}"]
    left = len(weights) - len(given)
    said += [f"{left} of its tensors are not used"] * bool(left)
    said += [f"{listed(stays)} begin as the program has made them"] * bool(stays)
    return parts, said


def _misfit(url: str, wrong: Sequence[str]) -> Mistake:
    return Mistake(
        "SW5152",
        f"the weights {url} do not fit the model: {listed(wrong)}. What can be done: "
        "--rename 'OLD*=NEW*' gives tensors of the file the model's names, --rename 'NAME=' leaves "
        "one out, --fresh NAME lets what the file lacks begin as the program has made it",
    )


def _place(tensor: Tensor) -> tuple[int, ...]:
    """The same for tied tensors, and for no others."""
    return (tensor.data_ptr(), *tensor.shape) if tensor.numel() else (id(tensor),)


def _form(tensor: Tensor) -> str:
    kind = "" if tensor.is_floating_point() else " of whole numbers"
    return f"{list(tensor.shape)}{kind}"
