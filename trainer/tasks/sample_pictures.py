"""A few pictures to try it on, until there are yours: bright on one side, and dark on the other.

python sample.py    makes the folder sample/photos, with a folder for each class
"""

from __future__ import annotations

from pathlib import Path

import numpy
from PIL import Image

EACH, SIDE = 24, 24  # pictures of a class; their pixels


def make(folder: Path = Path("sample/photos")) -> None:
    """Makes the pictures, unless they are there."""
    chance = numpy.random.RandomState(0)
    for name in ("bottom", "left", "right", "top"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(EACH):
            shades = chance.rand(SIDE, SIDE, 3) * 160
            rows = slice(SIDE // 2, None) if name in ("bottom", "right") else slice(SIDE // 2)
            (shades[rows] if name in ("bottom", "top") else shades[:, rows])[:] += 90
            file = folder / name / f"{number:02}.png"
            if not file.exists():
                Image.fromarray(shades.astype(numpy.uint8)).save(file)


if __name__ == "__main__":
    make()
