"""Pictures in folders of classes: read, augmented and made into batches, in loaders or here.

    photos/cat/001.jpg
    photos/dog/001.jpg

Augmentation belongs to a sample: its random numbers are seeded by (seed, epoch, sample), so what is
made of a picture depends neither on who makes it nor on what it shares a batch with. A picture is
decoded no larger than needed, where its format allows that (JPEG in eighths), and batches are of
bytes: a model normalises them where it computes.
"""

from __future__ import annotations

import copy
import io
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xxhash
from torch import Tensor

from trainer.data.extras import require
from trainer.loaders.sample import SampleError, told
from trainer.rundir.store import Store
from trainer.rundir.usererror import Unusable

if TYPE_CHECKING:
    from PIL.Image import Image

FOLDER, PICTURE = "SW5205", "SW5206"
SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}
LISTED = 4  # files in a message
ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
# What is opened, whatever a file is called. (A format such as EPS would run another program.)
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
MOST_PIXELS = 2**28  # of a picture; what says it has more is no picture, but a trap

# Makes of a picture and its number in the data set what goes into a batch: uint8, [3, h, w].
Make = Callable[["Image", int], Tensor]


class Pictures:
    """A data set of pictures, by class.

    Args:
        url: a folder that has a folder for each class: a path, or anything that fsspec lists.
        classes: the names of the classes, in order; None for those that there are, sorted.

    Attributes:
        classes: the names of the classes; a label is a place among them.
        labels: int64, shape [samples].
        left_out: the names of the files that are no pictures in a class.

    A sample is a picture as it is, uint8 of shape [3, height, width], and its label. Other files
    are left out; a file that has another size when it is read than when it was listed is an error.

    Raises Unusable when Pillow is missing, when there is no picture, an empty file, parts of a data
    set in place of classes, or a class that is not among ``classes``; OSError.
    """

    def __init__(self, url: str, classes: Sequence[str] | None = None) -> None:
        require("images")
        self._url = url
        self._opened: Store | None = None
        files = self._store.sizes()
        self._names = [n for n in files if "/" in n and n.lower().endswith(ENDINGS)]
        self._sizes = np.asarray([files[name] for name in self._names], np.int64)
        self.left_out = sorted(files.keys() - {*self._names})
        found = sorted({name.partition("/")[0] for name in self._names})
        if not found:
            raise Unusable(
                FOLDER,
                f"{url} has no pictures in folders of classes; write them as "
                f"{url.rstrip('/')}/CLASS/NAME.jpg ({', '.join(ENDINGS)})",
            )
        if SPLITS.issuperset(one.lower() for one in found):
            raise Unusable(
                FOLDER,
                f"{url} has the parts of a data set ({', '.join(found)}), and no classes: those "
                f"would be told apart; name one: {url.rstrip('/')}/{found[0]}",
            )
        if empty := [one for one, size in zip(self._names, self._sizes, strict=True) if not size]:
            more = f" and {len(empty) - LISTED} more" if len(empty) > LISTED else ""
            raise Unusable(
                PICTURE,
                f"{url} has pictures of 0 bytes: {', '.join(empty[:LISTED])}{more}; copy them "
                "anew, or take them away",
            )
        self.classes = found if classes is None else list(classes)
        if unknown := [one for one in found if one not in self.classes]:
            raise Unusable(
                FOLDER,
                f"{url} has a class {unknown[0]!r}, and the pictures that are trained on have none "
                f"of that name; they have {', '.join(self.classes[:8])}",
            )
        places = {name: place for place, name in enumerate(self.classes)}
        labels = [places[name.partition("/")[0]] for name in self._names]
        self.labels = torch.tensor(labels, dtype=torch.int64, device="cpu")

    @property
    def samples_identity(self) -> str:
        """The same where names, sizes and labels are, and the first and the last picture."""
        sum_ = xxhash.xxh3_128(repr((self.classes, self._names)).encode())
        sum_.update(self._sizes.tobytes())
        sum_.update(self.labels.numpy().tobytes())
        for index in {0, len(self) - 1}:
            sum_.update(self._data(index))
        return sum_.hexdigest()

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return pixels(self.open(index)), int(self.labels[index])

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_opened": None}  # a loader opens a client of its own

    def part(self, numbers: Tensor) -> Pictures:
        """The data set of some of the pictures, with the same classes: int64, shape [n]."""
        part = copy.copy(self)
        part._names = [self._names[number] for number in numbers.tolist()]
        part._sizes = self._sizes[numbers.numpy()]
        part.labels = self.labels[numbers]
        return part

    def path(self, index: int) -> str:
        """Where a picture is."""
        return f"{self._url.rstrip('/')}/{self._names[index]}"

    def open(self, index: int, data: bytes | None = None, least: int = 0) -> Image:
        """A picture, decoded, as it is to be looked at.

        Args:
            index: which one.
            data: its file, if that was read.
            least: pixels that its shorter side needs; it may be decoded as small as that.

        Raises Unusable, which names the file, when it is none.
        """
        from PIL import Image, ImageOps

        Image.MAX_IMAGE_PIXELS = MOST_PIXELS // 2  # at twice that Pillow refuses
        try:
            read = self._data(index) if data is None else data
            with Image.open(io.BytesIO(read), formats=FORMATS) as image:
                if least:
                    scale = max(1.0, min(image.size) / least)
                    image.draft("RGB", (int(image.width / scale), int(image.height / scale)))
                return ImageOps.exif_transpose(image).convert("RGB")
        except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
            said = f"{self.path(index)} cannot be read as a picture: {told(error)}"
            raise Unusable(PICTURE, f"{said}; mend it, or take it away") from error

    def batch(self, indices: Tensor, make: Make, least: int = 0) -> tuple[Tensor, Tensor]:
        """Pictures and labels: uint8 of shape [n, 3, h, w], and int64 of shape [n].

        Args:
            indices: int64, shape [n].
            make: makes of a picture what is in the batch; all of one shape.
            least: see ``open``.

        Raises SampleError, which names the sample and its file.
        """
        numbers = indices.tolist()
        found = []
        for number, data in zip(numbers, self._store.each(self._read, numbers), strict=True):
            try:
                found.append(make(self.open(number, data, least), number))
            except Unusable as error:
                raise SampleError(f"sample {number} of the data set: {error}") from error
        return torch.stack(found), self.labels[indices]

    def _read(self, index: int) -> bytes:
        try:
            return self._data(index)
        except Unusable as error:
            raise SampleError(f"sample {index} of the data set: {error}") from error

    def _data(self, index: int) -> bytes:
        try:
            data = self._store.read(self._names[index])
        except FileNotFoundError:
            raise Unusable(PICTURE, f"{self.path(index)} is not there any more") from None
        if len(data) != self._sizes[index]:
            raise Unusable(
                PICTURE,
                f"{self.path(index)} has changed since it was listed: it had {self._sizes[index]} "
                f"bytes, and has {len(data)}; put it back, or begin a new run",
            )
        return data

    @property
    def _store(self) -> Store:
        if self._opened is None:
            self._opened = Store(self._url)
        return self._opened


@dataclass(frozen=True)
class Augment:
    """A part of a picture, perhaps its mirror image, in somewhat other colours.

    Attributes:
        size: pixels of a side of what comes out.
        area: the least part of the picture that is taken.
        ratio: the most that the part's width may be of its height, or its height of its width.
        flip: how often it is mirrored.
        jitter: by how much brightness, contrast and saturation change at most, as a factor.
        seed: fixes all of it.
    """

    size: int
    area: float = 0.35
    ratio: float = 4 / 3
    flip: float = 0.5
    jitter: float = 0.0
    seed: int = 0

    def __call__(self, image: Image, epoch: int, sample: int) -> Tensor:
        """What is made of a picture in an epoch: uint8, shape [3, size, size]."""
        from PIL import Image, ImageEnhance, ImageOps

        chance = random.Random(f"{self.seed}/{epoch}/{sample}")
        part = image.resize(
            (self.size, self.size), Image.Resampling.BICUBIC, box=self._part(image, chance)
        )
        if chance.random() < self.flip:
            part = ImageOps.mirror(part)
        if self.jitter:
            for kind in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
                part = kind(part).enhance(1 + self.jitter * (2 * chance.random() - 1))
        return pixels(part)

    @property
    def least(self) -> int:
        """Pixels that a picture's shorter side needs, so that no part is made larger for it."""
        return math.ceil(self.size / math.sqrt(self.area / self.ratio))

    def _part(self, image: Image, chance: random.Random) -> tuple[float, float, float, float]:
        """The part that is taken: left, top, right, bottom, in pixels."""
        area = (self.area + (1 - self.area) * chance.random()) * image.width * image.height
        ratio = math.exp(math.log(self.ratio) * (2 * chance.random() - 1))
        width = min(math.sqrt(area * ratio), image.width)
        height = min(math.sqrt(area / ratio), image.height)
        left = (image.width - width) * chance.random()
        top = (image.height - height) * chance.random()
        return left, top, left + width, top + height


def middle(image: Image, size: int, part: float = 0.875) -> Tensor:
    """The middle of a picture, as it is evaluated: uint8, shape [3, size, size].

    Args:
        image: the picture.
        size: pixels of a side.
        part: of the picture's shorter side.
    """
    from PIL import Image

    side = min(image.size) * part
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    return pixels(image.resize((size, size), Image.Resampling.BICUBIC, box=box))


def pixels(image: Image) -> Tensor:
    """A picture's pixels: uint8, shape [3, height, width]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
