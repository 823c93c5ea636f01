"""Tokens in a folder: made once, whole or not at all, and read through memory maps.

::

    tokens-00000.bin   little-endian integers of one width, as NumPy's tofile() writes them
    tokens-00001.bin
    index.json         how many are in each, and their xxh3-128; what they were made of

The folder is written under another name and renamed when all of it is on the disk. One that is
there is checked to the last byte before it is used: tokens that differ on one rank would train
another model, and nobody would notice.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy
import xxhash
from numpy.typing import NDArray

from trainer.rundir.private import make_private
from trainer.rundir.usererror import Unusable

INDEX = "index.json"
FORMAT = 1
UNKEPT = "SW5195"  # tokens that are not where they should be, or cannot be put there
SHARD = 2**27  # tokens
_WIDTHS = ("<u2", "<u4")


class Tokens:
    """Tokens, by place: memory-mapped, so that all processes of a machine share what is read.

    Args:
        folder: as ``write`` has made it.

    Attributes:
        folder: where they are.
        vocabulary: how many different ones there may be.
        identity: the same for the same tokens.

    Raises Unusable when the folder is not whole.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            index = json.loads(written := (folder / INDEX).read_bytes())
            if index["format"] != FORMAT or index["width"] not in _WIDTHS:
                raise ValueError(f"its format is {index['format']!r}, and {FORMAT} is known here")
            self.vocabulary = int(index["vocabulary"])
            self.identity = xxhash.xxh3_128_hexdigest(written)
            self._counts = [int(one["tokens"]) for one in index["shards"]]
            self._maps = [
                _opened(folder / _name(number), index["width"], one["tokens"], one["xxh3"])
                for number, one in enumerate(index["shards"])
            ]
        except (OSError, ValueError, KeyError, TypeError) as error:
            told = f"{type(error).__name__}: {error}"
            raise Unusable(UNKEPT, f"{folder}: is no whole folder of tokens: {told}") from None
        self._ends = numpy.cumsum(self._counts)

    def __reduce__(self) -> tuple[Any, ...]:
        about = self.folder, self.vocabulary, self.identity
        return _mapped, (*about, self._counts, self._maps[0].dtype.str if self._maps else "")

    def __len__(self) -> int:
        return sum(self._counts)

    def take(self, start: int, stop: int) -> NDArray[Any]:
        """The tokens [start, stop), of which there are some, in the width that they lie in."""
        first, last = numpy.searchsorted(self._ends, [start, stop - 1], side="right").tolist()
        begin = int(self._ends[first]) - self._counts[first]
        if first == last:
            found: NDArray[Any] = self._maps[first][start - begin : stop - begin]
            return found
        middle = int(self._ends[first])
        return numpy.concatenate([self.take(start, middle), self.take(middle, stop)])


def kept(
    cache: Path, key: str, vocabulary: int, make: Callable[[], Iterable[NDArray[Any]]]
) -> Tokens:
    """The tokens that are cached under a key; made now, if they are not there, or not whole.

    Processes that ask for the same at the same time wait for the one that makes it.

    Args:
        cache: a folder of this machine.
        key: a name for a folder in it, which nothing else has.
        vocabulary: how many different tokens there may be.
        make: gives the tokens, in parts.

    Raises Unusable when the folder cannot be written, and what ``make`` raises; there is no folder
    of that key then.
    """
    folder = cache / key
    with _alone(cache, key):
        if folder.is_dir():
            try:
                return Tokens(folder)
            except Unusable as error:
                print(f"made again: {error}", flush=True)
                shutil.rmtree(folder)
        try:
            write(folder, vocabulary, make())
        except OSError as error:
            raise Unusable(
                UNKEPT, f"{folder}: tokens cannot be written: {error.strerror or error}"
            ) from None
    return Tokens(folder)


def write(folder: Path, vocabulary: int, parts: Iterable[NDArray[Any]], shard: int = SHARD) -> None:
    """Writes a folder of tokens that is not there yet, whole or not at all.

    Args:
        folder: where.
        vocabulary: how many different tokens there may be.
        parts: the tokens, in parts of any length.
        shard: tokens of a file.

    Raises OSError, and what ``parts`` raise.
    """
    aside = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(aside, ignore_errors=True)  # of a process that was killed
    aside.mkdir(mode=0o700)
    try:
        width = _WIDTHS[vocabulary > 2**16]
        shards = []
        for number, pieces in enumerate(_shards(parts, shard)):
            sum_ = xxhash.xxh3_128()
            count = 0
            with (aside / _name(number)).open("xb") as file:
                for piece in pieces:
                    data = piece.astype(width).tobytes()
                    file.write(data)
                    sum_.update(data)
                    count += len(piece)
                _synced(file.fileno())
            shards.append({"tokens": count, "xxh3": sum_.hexdigest()})
        index = {"format": FORMAT, "width": width, "vocabulary": vocabulary, "shards": shards}
        with (aside / INDEX).open("x") as text:
            text.write(json.dumps(index, indent=1) + "\n")
            text.flush()
            _synced(text.fileno())
        os.rename(aside, folder)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def _shards(parts: Iterable[NDArray[Any]], most: int) -> Iterator[Iterator[NDArray[Any]]]:
    """The parts in groups of ``most`` tokens; each group is to be used up before the next."""
    rest = iter(parts)
    held: list[NDArray[Any]] = []

    def group() -> Iterator[NDArray[Any]]:
        room = most
        while room:
            part = held.pop() if held else next(rest, None)
            if part is None:
                return
            if len(part) > room:
                held.append(part[room:])
            yield part[:room]
            room -= min(room, len(part))

    while True:
        if not held:
            part = next((one for one in rest if len(one)), None)
            if part is None:
                return
            held.append(part)
        yield group()


def _opened(path: Path, width: str, count: int, sum_: str) -> NDArray[Any]:
    mapped: NDArray[Any] = numpy.memmap(path, width, "r")
    if len(mapped) != count:
        raise ValueError(f"{path.name} has {len(mapped)} tokens instead of {count}")
    if xxhash.xxh3_128_hexdigest(mapped.data) != sum_:
        raise ValueError(f"{path.name} is damaged: its checksum is another one")
    return mapped


def _mapped(folder: Path, vocabulary: int, identity: str, counts: list[int], width: str) -> Tokens:
    """The same tokens in another process of this machine, which were checked in the first."""
    tokens = object.__new__(Tokens)
    tokens.folder, tokens.vocabulary, tokens.identity = folder, vocabulary, identity
    tokens._counts = counts
    tokens._maps = [
        numpy.memmap(folder / _name(number), width, "r", shape=(count,))
        for number, count in enumerate(counts)
    ]
    tokens._ends = numpy.cumsum(counts)
    return tokens


def _name(number: int) -> str:
    return f"tokens-{number:05d}.bin"


def _synced(handle: int) -> None:
    os.fsync(handle)


@contextmanager
def _alone(cache: Path, key: str) -> Iterator[None]:
    """Keeps other processes that want the same waiting; the kernel ends it with this process."""
    try:
        make_private(cache)
        lock = (cache / f"{key}.lock").open("a")
    except OSError as error:
        raise Unusable(
            UNKEPT, f"{cache}: cannot be used: {error.strerror or error}; give a cache"
        ) from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
