"""Whether a state is that of a model: its tensors by name, their shapes and their precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

LISTED = 10  # differences that an error names


def listed(lines: Sequence[str], most: int = LISTED) -> str:
    """The first of some texts, and how many more there are."""
    more = f" and {len(lines) - most} more" if len(lines) > most else ""
    return "; ".join(lines[:most]) + more


def unlike(model: nn.Module, found: Mapping[str, Any]) -> list[str]:
    """How the tensors of a state differ from those of ``model`` in name or shape, each a line."""
    own, other = _tensors(model.state_dict()), _tensors(found)
    return [
        *(f"{key} is missing in it" for key in own if key not in other),
        *(f"{key} is only in it" for key in other if key not in own),
        *(
            f"{key} is {list(other[key].shape)} in it, {list(own[key].shape)} here"
            for key in own
            if key in other and own[key].shape != other[key].shape
        ),
    ]


def require_same(name: str, model: nn.Module, found: Mapping[str, Any]) -> None:
    """Raises ValueError, listing the differences, when a state is that of another model."""
    if lines := unlike(model, found):
        raise ValueError(f"the checkpoint is of another {name}: {listed(lines)}")


def precision(name: str, model: nn.Module, found: Mapping[str, Any]) -> list[str]:
    """Which kinds of numbers a model called ``name`` has now, and had in a state; each a line."""
    own, other = _tensors(model.state_dict()), _tensors(found)
    kinds = {
        (_kind(own[key]), _kind(other[key]))
        for key in own
        if key in other and own[key].dtype != other[key].dtype
    }
    return [f"{name} is {now} instead of {then}" for now, then in sorted(kinds)]


def _tensors(state: Mapping[str, Any]) -> dict[str, Tensor]:
    return {key: one for key, one in state.items() if isinstance(one, Tensor)}


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
