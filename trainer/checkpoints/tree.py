"""Nested state as (JSON, tensors), for the network and for checkpoints.

A state dict is a tree of dicts, lists, numbers, strings, and tensors. ``flatten``
takes the tensors out and leaves a skeleton that JSON can carry; ``unflatten`` puts
them back. No pickle is involved on either side.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.rundir.numbers import named, number_in

_TENSOR = "__tensor__"
_PAIRS = "__pairs__"
_TUPLE = "__tuple__"
_NUMBER = "__number__"  # one that JSON lacks


class NotPortable(TypeError):
    """Some state is neither a tensor nor something JSON can carry."""


def flatten(tree: Any) -> tuple[Any, list[Tensor]]:
    """Returns the skeleton of ``tree`` and its tensors in the order of the skeleton.

    Raises NotPortable, naming the place, for anything but dicts, lists, tuples,
    tensors, numbers, strings, booleans and None.
    """
    tensors: list[Tensor] = []
    return _flatten(tree, tensors, "state"), tensors


def unflatten(skeleton: Any, tensors: list[Tensor]) -> Any:
    """The inverse of ``flatten``. Raises ValueError when the skeleton is damaged."""
    try:
        return _unflatten(skeleton, tensors)
    except TypeError as error:
        raise ValueError(f"the state's skeleton is damaged: {error}") from error


def _unflatten(skeleton: Any, tensors: list[Tensor]) -> Any:
    if isinstance(skeleton, dict):
        if _TENSOR in skeleton:
            index = skeleton[_TENSOR]
            if not isinstance(index, int) or not 0 <= index < len(tensors):
                raise ValueError(f"tensor {index!r} of {len(tensors)} is named in the state")
            return tensors[index]
        if _NUMBER in skeleton:
            return number_in(skeleton[_NUMBER])
        if _TUPLE in skeleton:
            return tuple(_unflatten(value, tensors) for value in skeleton[_TUPLE])
        if _PAIRS in skeleton:
            return {key: _unflatten(value, tensors) for key, value in skeleton[_PAIRS]}
        return {key: _unflatten(value, tensors) for key, value in skeleton.items()}
    if isinstance(skeleton, list):
        return [_unflatten(value, tensors) for value in skeleton]
    return skeleton


def _flatten(tree: Any, tensors: list[Tensor], where: str) -> Any:
    if isinstance(tree, np.generic):
        if isinstance(tree, np.floating) and tree.dtype != np.float64:
            raise NotPortable(f"{where} is a NumPy {tree.dtype}; write float(…)")
        tree = tree.item()  # the same number, to compute with
    if isinstance(tree, Tensor):
        tensors.append(tree.detach())
        return {_TENSOR: len(tensors) - 1}
    if isinstance(tree, dict):
        for key in tree:
            if not isinstance(key, str | int):
                raise NotPortable(f"{where} has the key {key!r}; keys must be strings or integers")
        values = {key: _flatten(value, tensors, f"{where}.{key}") for key, value in tree.items()}
        plain = all(isinstance(key, str) and not key.startswith("__") for key in values)
        # JSON would turn integer keys into strings.
        return values if plain else {_PAIRS: [[key, value] for key, value in values.items()]}
    if isinstance(tree, tuple):
        return {_TUPLE: [_flatten(value, tensors, f"{where}[{i}]") for i, value in enumerate(tree)]}
    if isinstance(tree, list):
        return [_flatten(value, tensors, f"{where}[{i}]") for i, value in enumerate(tree)]
    if isinstance(tree, float) and not math.isfinite(tree):
        return {_NUMBER: named(tree)}
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    raise NotPortable(f"{where} is a {type(tree).__name__}; only tensors and plain values travel")


def names_in(skeleton: Any) -> list[str]:
    """The names of the tensors of a skeleton that ``flatten`` made, in their order.

    A name is the path of keys to a tensor: ``model.0.weight``.
    """
    names: dict[int, str] = {}
    _find_names(skeleton, "", names)
    return [names[index] for index in range(len(names))]


def _find_names(skeleton: Any, path: str, names: dict[int, str]) -> None:
    if isinstance(skeleton, list):
        children = list(enumerate(skeleton))
    elif not isinstance(skeleton, dict):
        return
    elif _TENSOR in skeleton:
        names[skeleton[_TENSOR]] = path.removeprefix(".")
        return
    elif _TUPLE in skeleton:
        children = list(enumerate(skeleton[_TUPLE]))
    elif _PAIRS in skeleton:
        children = skeleton[_PAIRS]
    else:
        children = list(skeleton.items())
    for key, value in children:
        _find_names(value, f"{path}.{key}", names)


def describe(tensor: Tensor) -> dict[str, Any]:
    """What a receiver must know to make room for ``tensor``: ``{"dtype", "shape"}``."""
    return {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape)}


def make_like(description: dict[str, Any], device: torch.device) -> Tensor:
    """An uninitialised tensor for ``describe``'s answer. Raises ValueError if that is no tensor."""
    dtype = getattr(torch, str(description.get("dtype")), None)
    shape = description.get("shape")
    if (
        not isinstance(dtype, torch.dtype)
        or not isinstance(shape, list)
        or not all(isinstance(size, int) and size >= 0 for size in shape)
    ):
        raise ValueError(f"not a description of a tensor: {description!r}")
    return torch.empty(shape, dtype=dtype, device=device)


def size_of(description: dict[str, Any]) -> int:
    """How many bytes the tensor has that ``describe`` answered so for."""
    dtype: torch.dtype = getattr(torch, description["dtype"])
    return int(math.prod(description["shape"]) * dtype.itemsize)


def as_bytes(tensor: Tensor) -> Tensor:
    """A flat uint8 view of a contiguous tensor; it shares the tensor's memory."""
    return tensor.reshape(-1).view(torch.uint8)
