"""Data sets that are ready to use, and what they are written with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.data.shards.dataset import Shards as Shards
    from trainer.data.shards.writer import write_shards as write_shards

__all__ = ["Shards", "write_shards"]


def __getattr__(name: str) -> Any:
    if name == "Shards":
        from trainer.data.shards.dataset import Shards

        return Shards
    if name == "write_shards":
        from trainer.data.shards.writer import write_shards

        return write_shards
    raise AttributeError(f"module 'trainer.data' has no attribute {name!r}")
