"""Data sets that are ready to use. Imported lazily: each needs what it reads, and no more."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.data.images import Augment as Augment
    from trainer.data.images import Pictures as Pictures
    from trainer.data.mixture import Mixture as Mixture
    from trainer.data.shards.dataset import Shards as Shards
    from trainer.data.shards.writer import write_shards as write_shards
    from trainer.data.stream import Stream as Stream
    from trainer.data.text import Text as Text

__all__ = ["Augment", "Mixture", "Pictures", "Shards", "Stream", "Text", "write_shards"]

_PLACES = {
    "Augment": "trainer.data.images",
    "Mixture": "trainer.data.mixture",
    "Pictures": "trainer.data.images",
    "Shards": "trainer.data.shards.dataset",
    "Stream": "trainer.data.stream",
    "Text": "trainer.data.text",
    "write_shards": "trainer.data.shards.writer",
}


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(import_module(_PLACES[name]), name)
    raise AttributeError(f"module 'trainer.data' has no attribute {name!r}")
