"""Pictures that are made on the spot: bright on one side, and dark on the other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("bottom", "left", "right", "top")


def make(folder: Path, each: int, side: int = 24, seed: int = 0) -> str:
    """Writes ``each`` pictures of every class. Returns the folder's path."""
    chance = np.random.RandomState(seed)
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
        for number in range(each):
            shades = chance.rand(side, side, 3) * 160
            half = shades[side // 2 :] if name == "bottom" else shades[: side // 2]
            if name in ("left", "right"):
                half = shades[:, : side // 2] if name == "left" else shades[:, side // 2 :]
            half += 90
            image = Image.fromarray(shades.astype(np.uint8))
            image.save(folder / name / f"{number:03}.{'png' if number % 2 else 'jpg'}")
    return str(folder)
