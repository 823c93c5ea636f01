"""Data sets that are ready to use. Imported lazily: each needs what it reads, and no more."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.data.images import Augment as Augment
    from trainer.data.images import Pictures as Pictures

__all__ = ["Augment", "Pictures"]

_PLACES = {
    "Augment": "trainer.data.images",
    "Pictures": "trainer.data.images",
}


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(import_module(_PLACES[name]), name)
    raise AttributeError(f"module 'trainer.data' has no attribute {name!r}")
