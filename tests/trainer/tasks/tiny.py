"""A language model that is made on the spot, as the sample of `swell new task` is, and chats."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

CHATS = tuple(
    [
        {"role": "user", "content": f"what is {number}"},
        {"role": "assistant", "content": " ".join(["it", "is", "the", *str(number)][: 2 + number])},
    ]
    for number in range(10)
)


def make(folder: Path, dtype: torch.dtype = torch.float32, seed: int = 0) -> None:
    """A folder with a model of a few thousand parameters, and its tokenizer."""
    from trainer.tasks.sample_chats import make_model  # it imports what takes seconds

    make_model(folder, dtype, seed)


def write(file: Path, lines: Sequence[Any]) -> str:
    """A file of JSON lines. Returns its path."""
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(file)
