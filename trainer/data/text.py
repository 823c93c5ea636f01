"""Text to train a language model on: tokenised once, and read in windows of tokens.

A file is a document, or with a name that ends in ``.jsonl`` each of its lines is one. Their tokens
are put one after another, with one that ends each, and kept on the machine's disk under a name that
is made of all that they depend on: what is in the files, and the tokenizer. So every rank has the
same, a run that starts again has them at once, and a text that changes is another one.

The price: whoever starts reads all of the text to know it. A text of many gigabytes in a bucket is
better tokenised once, and its folder of tokens mounted or copied to the VMs (``Text.opened``).
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import fsspec
import numpy
import torch
import xxhash
from numpy.typing import NDArray
from torch import Tensor

from trainer.data.tokenizer import BYTES, UNREADABLE, Tokenizer, tokenizer_of
from trainer.data.tokens import Tokens, kept
from trainer.rundir.names import ENV_SCRATCH
from trainer.rundir.usererror import Unusable

PIECE = 2**20  # bytes of a long document that are tokenised at once; cut at the end of a line
AT_ONCE = 1000  # documents
LISTED = 8  # fields that an error shows
_VERSION = 1  # of how a text becomes tokens


class Text:
    """Windows of tokens, as int64 tensors of shape [length + 1]: what is seen, and what follows.

    Window i begins at token i * length, and its last token is the next one's first; so each token
    is to be predicted exactly once in an epoch.

    Args:
        sources: one file or several, in this order; anything that fsspec opens, ``gs://`` too.
            ``.gz`` and the like are unpacked.
        length: tokens that a window sees.
        tokenizer: ``bytes``, or a file of the ``tokenizers`` library.
        field: what of each line of JSON is the text.
        cache: a folder of this machine for tokens; by default one in the user's cache, or in a
            VM's SWELL_SCRATCH.

    Attributes:
        tokens: all of them.
        tokenizer: what they were made by; None for those of a folder.
        length: see above.

    Raises Unusable, with file and line, for what cannot be read, or is too short for one window.
    """

    def __init__(
        self,
        sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        length: int,
        tokenizer: str = BYTES,
        field: str = "text",
        cache: str | os.PathLike[str] | None = None,
    ) -> None:
        several = [sources] if isinstance(sources, str | os.PathLike) else sources
        files = [os.fspath(one) for one in several]
        made = tokenizer_of(tokenizer)
        sums = [_sum(file) for file in files]
        tokens = kept(
            _cache() if cache is None else Path(cache),
            _key(files, sums, made, field),
            made.vocabulary,
            lambda: _tokens(files, sums, made, field),
        )
        self._begin(tokens, length, made)

    @classmethod
    def opened(cls, folder: str | os.PathLike[str], length: int) -> Text:
        """The windows of tokens that are there already, made by another ``Text``."""
        text = cls.__new__(cls)
        text._begin(Tokens(Path(folder)), length, None)
        return text

    def _begin(self, tokens: Tokens, length: int, tokenizer: Tokenizer | None) -> None:
        if length < 1:
            raise Unusable(UNREADABLE, f"windows of {length} tokens: write at least 1")
        self.tokens, self.length, self.tokenizer = tokens, length, tokenizer
        self._first, self._count = 0, max(0, len(tokens) - 1) // length
        if not self._count:
            raise Unusable(
                UNREADABLE,
                f"a text of {len(tokens)} tokens has no window of {length} and the one that "
                "follows: give more text, or a shorter window",
            )

    @property
    def vocabulary(self) -> int:
        """How many different tokens there may be."""
        return self.tokens.vocabulary

    @property
    def samples_identity(self) -> str:
        """The same where the windows are."""
        return f"{self.tokens.identity} {self._first} {self._count} {self.length}"

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Tensor:
        if not -self._count <= index < self._count:
            raise IndexError(f"window {index} of {self._count}")
        start = (self._first + index % self._count) * self.length
        window = self.tokens.take(start, start + self.length + 1)
        return torch.from_numpy(window.astype(numpy.int64))

    def take(self, indices: Tensor) -> Tensor:
        """Windows as one tensor: int64, shape [n, length + 1]."""
        windows = torch.empty(len(indices), self.length + 1, dtype=torch.int64)
        for row, index in zip(windows.numpy(), indices.tolist(), strict=True):
            start = (self._first + index) * self.length
            row[:] = self.tokens.take(start, start + self.length + 1)
        return windows

    def split(self, held_out: float) -> tuple[Text, Text]:
        """Two texts: all but the last windows, and the last ones, of which there are so many.

        Args:
            held_out: a part of all, between 0 and 1; each of the two has one window at least.

        Raises Unusable when there are not two windows.
        """
        count = round(self._count * held_out)
        if not 0 < held_out < 1 or self._count < 2:
            raise Unusable(
                UNREADABLE,
                f"{held_out:g} of {self._count} windows cannot be held out: write a part between 0 "
                "and 1, of at least 2 windows",
            )
        count = min(max(count, 1), self._count - 1)
        return self._part(0, self._count - count), self._part(self._count - count, count)

    def _part(self, first: int, count: int) -> Text:
        text = type(self).__new__(type(self))
        text.tokens, text.length, text.tokenizer = self.tokens, self.length, self.tokenizer
        text._first, text._count = self._first + first, count
        return text


def _cache() -> Path:
    scratch = os.environ.get(ENV_SCRATCH)
    if scratch:
        return Path(scratch) / "text"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "swell/text"


def _key(files: Sequence[str], sums: Sequence[str], tokenizer: Tokenizer, field: str) -> str:
    """Names the tokens by all that they depend on."""
    about = [_VERSION, tokenizer.identity, field, [*map(_has_lines, files)], *sums]
    return xxhash.xxh3_128_hexdigest(json.dumps(about).encode())


def _sum(file: str) -> str:
    """The checksum of what is in a file, once it is unpacked."""
    sum_ = xxhash.xxh3_128()
    for line in _lines(file):
        sum_.update(line)
    return sum_.hexdigest()


def _tokens(
    files: Sequence[str], sums: Sequence[str], tokenizer: Tokenizer, field: str
) -> Iterator[NDArray[Any]]:
    """The tokens of all documents. Raises Unusable; also when a file has changed meanwhile."""
    end = numpy.array([tokenizer.end])
    for file, known in zip(files, sums, strict=True):
        sum_ = xxhash.xxh3_128()
        lines = _summed(_lines(file), sum_)
        if _has_lines(file):
            for texts in _groups(_texts(file, lines, field), AT_ONCE):
                encoded = tokenizer.encode(texts)
                yield numpy.concatenate([part for one in encoded for part in (one, end)])
        else:
            for piece in _pieces(file, lines):
                yield from tokenizer.encode([piece])
            yield end
        if sum_.hexdigest() != known:
            raise Unusable(UNREADABLE, f"{file}: has changed while it was read; start again")


def _has_lines(file: str) -> bool:
    """Whether each line is a document."""
    return ".jsonl" in Path(file).suffixes


def _lines(file: str) -> Iterator[bytes]:
    try:
        with fsspec.open(file, "rb", compression="infer") as opened:
            yield from opened
    except (OSError, EOFError, zlib.error, ImportError, ValueError) as error:
        # The last two are fsspec's, of a scheme, or of a compression, that is not known here.
        why = getattr(error, "strerror", None) or error
        raise Unusable(UNREADABLE, f"{file}: cannot be read: {why}") from None


def _summed(lines: Iterator[bytes], sum_: Any) -> Iterator[bytes]:
    for line in lines:
        sum_.update(line)
        yield line


def _texts(file: str, lines: Iterator[bytes], field: str) -> Iterator[bytes]:
    """The documents of lines of JSON; empty lines are none."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:  # UnicodeDecodeError, too
            raise Unusable(UNREADABLE, f"{file}:{number}: is no line of JSON: {error}") from None
        if not isinstance(record, dict) or field not in record:
            has = ", ".join(list(record)[:LISTED]) if isinstance(record, dict) else "no fields"
            raise Unusable(UNREADABLE, f"{file}:{number}: has no field {field!r}; it has {has}")
        text = record[field]
        if not isinstance(text, str):
            raise Unusable(UNREADABLE, f"{file}:{number}: {field} is {text!r:.60}; write a text")
        try:
            yield text.encode()
        except UnicodeEncodeError:
            raise Unusable(
                UNREADABLE, f"{file}:{number}: {field} has half a character (\\ud800 …)"
            ) from None


def _pieces(file: str, lines: Iterator[bytes]) -> Iterator[bytes]:
    """One long document in pieces that end where lines do. Raises Unusable for what is no UTF-8."""
    held: list[bytes] = []
    size = 0
    for number, line in enumerate(lines, start=1):
        try:
            line.decode()
        except UnicodeDecodeError as error:
            raise Unusable(UNREADABLE, f"{file}:{number}: is no text in UTF-8: {error}") from None
        held.append(line)
        size += len(line)
        if size >= PIECE:
            yield b"".join(held)
            held, size = [], 0
    if held:
        yield b"".join(held)


def _groups(texts: Iterator[bytes], most: int) -> Iterator[list[bytes]]:
    while group := list(islice(texts, most)):
        yield group
