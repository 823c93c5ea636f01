"""Documents packed into rows of one length, so that hardly a token is padding.

A document is never cut, and sees nothing of its row's others: its positions begin at 0 again, which
is what models tell documents apart by. Which documents share a row depends on their lengths alone,
and is the same everywhere; the order of rows is shuffled like that of any samples.
"""

from __future__ import annotations

from bisect import bisect_left, insort

import torch
import xxhash
from torch import Tensor

from trainer.data.chats import IGNORED, Documents


class Rows:
    """A data set of rows, each of one document or of several.

    Args:
        documents: at least one.
        length: tokens of a row; no document is longer.
        packed: whether documents share rows.
        padding: the token that fills what is left of a row.

    A sample is a dict of int64 tensors of shape [length]: ``tokens``; ``positions``, which begin at
    0 with each document; ``targets``, the token after each where that is to be learned, else -100.
    And ``used``, of shape []: how many of the tokens are no padding.
    """

    def __init__(self, documents: Documents, length: int, packed: bool, padding: int = 0) -> None:
        lengths = documents.lengths().tolist()
        self._rows = pack(lengths, length) if packed else [[one] for one in range(len(lengths))]
        self._documents = documents
        self._length = length
        self._padding = padding

    @property
    def samples_identity(self) -> str:
        """The same where the rows are; not where another tokenizer has made them."""
        documents = self._documents
        sum_ = xxhash.xxh3_128(repr((self._length, self._padding, self._rows)).encode())
        for one in (documents.tokens, documents.learned, documents.bounds):
            sum_.update(one.numpy().tobytes())
        return sum_.hexdigest()

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        def full(number: int) -> Tensor:
            return torch.full((self._length,), number, dtype=torch.int64, device="cpu")

        row = {"tokens": full(self._padding), "positions": full(0), "targets": full(IGNORED)}
        places, at = torch.arange(self._length, device="cpu"), 0
        for number in self._rows[index]:
            tokens, targets = self._documents.document(number)
            end = at + len(tokens)
            row["tokens"][at:end], row["targets"][at:end] = tokens, targets
            # To the end of the row: what pads it counts as more of the last document.
            row["positions"][at:] = places[: self._length - at]
            at = end
        row["used"] = torch.tensor(at, device="cpu")
        return row

    @property
    def used(self) -> float:
        """The part of all rows' tokens that is no padding."""
        return len(self._documents.tokens) / (len(self) * self._length)


def pack(lengths: list[int], room: int) -> list[list[int]]:
    """Which documents go into which row: best fit, the longest first.

    Args:
        lengths: of the documents, each at least 1 and at most ``room``.
        room: of a row.

    Returns rows of documents' numbers. Best fit decreasing needs at most 11/9 of the fewest rows
    there can be, and a few (D. S. Johnson, Near-optimal bin packing algorithms, 1973).
    """
    rows: list[list[int]] = []
    left: dict[int, list[int]] = {}  # by how much room they have: rows
    rooms: list[int] = []  # that some row has, in order
    for number in sorted(range(len(lengths)), key=lambda one: (-lengths[one], one)):
        length = lengths[number]
        at = bisect_left(rooms, length)
        if at == len(rooms):
            rows.append([])
            row, had = len(rows) - 1, room
        else:
            had = rooms[at]
            row = left[had].pop()
            if not left[had]:
                del left[had], rooms[at]
        rows[row].append(number)
        if rest := had - length:
            if rest not in left:
                left[rest] = []
                insort(rooms, rest)
            left[rest].append(row)
    return rows
