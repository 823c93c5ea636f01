"""Data sets that are ready to use. Imported lazily: each needs what it reads, and no more."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.data.mixture import Mixture as Mixture
    from trainer.data.stream import Stream as Stream
    from trainer.data.text import Text as Text

__all__ = ["Mixture", "Stream", "Text"]

_PLACES = {
    "Mixture": "trainer.data.mixture",
    "Stream": "trainer.data.stream",
    "Text": "trainer.data.text",
}


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(import_module(_PLACES[name]), name)
    raise AttributeError(f"module 'trainer.data' has no attribute {name!r}")
