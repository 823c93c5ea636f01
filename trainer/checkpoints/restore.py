"""Loading: the newest checkpoint that is valid, on all ranks together.

Each rank reads and checks its share of the shards, then they exchange: every byte is read
from the store once for the whole world. Whatever is wrong with a checkpoint, on whichever
rank, it is rejected by all, loudly, and the one before is tried.

A checkpoint that is whole, but of a newer format, is no such case. Training on from the one before
would throw away what a newer image has done, and all for want of that image: so nobody trains.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import torch
from torch import Tensor

from trainer.checkpoints.manifest import (
    Manifest,
    committed_steps,
    folder_of,
    read_manifest,
)
from trainer.checkpoints.shardfile import ShardFile
from trainer.checkpoints.shards import Assembly
from trainer.checkpoints.tree import unflatten
from trainer.checkpoints.weights import is_weights, load_weights
from trainer.rundir.directory import RunDirectory
from trainer.rundir.formats import FormatError
from trainer.rundir.names import CHECKPOINTS, START_FILES, START_PARTS, WEIGHTS
from trainer.rundir.retry import StoreUnavailable
from trainer.rundir.usererror import Unusable, UserError

READERS = 4  # threads
FINE, INVALID, AWAY = 0, 1, 2
# In a tree besides the state:
ABOUT = "__about__"  # what the manifest says of it
ORIGIN = "__origin__"  # the URL that a new run begins from
PARTS = "__parts__"  # which of its parts count, if not all
FOREIGN = "__weights__"  # tensors that another program has written, by its names, instead of parts

Report = Callable[..., None]


class NoneValid(UserError, ValueError):
    """There are checkpoints, and none can be used."""


class Exchange(Protocol):
    """What loading needs of a world; every call is a collective."""

    rank: int
    size: int

    def broadcast_bytes(self, data: bytes, root: int) -> bytes:
        """Returns the root's ``data`` on every rank."""

    def broadcast(self, tensor: Tensor, root: int) -> None:
        """Fills every rank's uint8 ``tensor``, of the same length, with the root's."""

    def worst(self, code: int) -> int:
        """Returns the highest of all ranks' codes."""


class Alone:
    """The exchange of a rank that is by itself."""

    rank = 0
    size = 1

    def broadcast_bytes(self, data: bytes, root: int) -> bytes:
        return data

    def broadcast(self, tensor: Tensor, root: int) -> None:
        return None

    def worst(self, code: int) -> int:
        return code


def load_newest(
    places: Sequence[RunDirectory], report: Report, exchange: Exchange, device: torch.device
) -> tuple[Any, int] | None:
    """Returns (tree, step) of the newest valid checkpoint, or None if there is none at all.

    A collective; it returns or raises alike on all ranks. Each checkpoint that is not valid
    is reported as ``checkpoint_rejected``, by the ranks that found it out.

    Args:
        places: the directories that have the run's checkpoints; of a step that several have, the
            first one's comes first.
        report: called with events of trainer.rundir.events.
        exchange: the world.
        device: where the tensors are wanted.

    Raises NoneValid when there are checkpoints and none is valid, FormatError when the newest that
    is not damaged is of a newer format, StoreUnavailable when the store stays away (then nobody
    knows which is the newest), OSError when it refuses.
    """

    def find() -> list[tuple[int, int]]:
        return [(step, -at) for at, place in enumerate(places) for step in committed_steps(place)]

    found = shared(exchange, find)
    for step, at in sorted(found, reverse=True):
        loaded = _load(places[-at], step, report, exchange, device)
        if loaded is not None:
            return _with_about(*loaded), step
    if found:
        where = " and ".join(f"{place.url}/{CHECKPOINTS}" for place in places)
        raise NoneValid(
            "SW5003",
            f"none of the {len(found)} checkpoints in {where} is valid; "
            "swell checkpoints RUN --verify says what is wrong with each",
        )
    return None


def find_start(
    places: Sequence[RunDirectory],
    url: str,
    report: Report,
    exchange: Exchange,
    device: torch.device,
) -> tuple[Any, int] | None:
    """What a world without any state begins from: (tree, step), or None. A collective.

    Args:
        places: the directories that have the run's checkpoints; the newest comes first.
        url: of a checkpoint, or of weights, that a new run begins from; "" for none.
        report, exchange, device: as for ``load_newest``, which says what it raises.
    """
    found = load_newest(places, report, exchange, device)
    if found is None and is_weights(url):
        weights = load_weights(url, exchange, device)
        tree = {"step": 0, "parts": {}, "values": {}, FOREIGN: weights}
        return {**tree, ORIGIN: url, PARTS: [WEIGHTS]}, 0
    if found is None and url:
        found = load_from(url, report, exchange, device)
    return found


def load_from(
    url: str, report: Report, exchange: Exchange, device: torch.device
) -> tuple[Any, int]:
    """Returns (tree, step) of a checkpoint anywhere, for a run that begins from it.

    A collective. ``url#weights`` means the models only, ``url#weights,optimizer`` the optimizers,
    too: the rest, and the step, begin anew.

    Args:
        url: ``…/checkpoints/step-000001200``.
        report, exchange, device: as for ``load_newest``.

    Raises NoneValid when there is no valid checkpoint at ``url``, FormatError, StoreUnavailable.
    """
    run_url, step, parts = split_url(url)
    loaded = _load(RunDirectory(run_url), step, report, exchange, device)
    if loaded is None:
        raise NoneValid(
            "SW5003",
            f"{url.partition('#')[0]} is not a valid checkpoint; "
            "swell checkpoints RUN lists those that are",
        )
    tree = {**_with_about(*loaded), ORIGIN: url}
    return ({**tree, PARTS: parts}, 0) if parts else (tree, step)


def split_url(url: str) -> tuple[str, int, list[str]]:
    """What a URL to begin from names; Unusable.

    Returns the run directory's URL, the step, and the parts of the state; all if there are none.
    """
    where, _, parts = url.partition("#")
    run_url, _, name = where.rstrip("/").rpartition(f"/{CHECKPOINTS}/step-")
    if not run_url or not name.isdecimal() or parts not in ("", *START_PARTS):
        ways = " or ".join(f"#{one}" for one in START_PARTS)
        raise Unusable(
            "SW5004",
            f"{url} is not a checkpoint; write RUN-DIRECTORY/{CHECKPOINTS}/step-N, with {ways} for "
            f"a part of it; or a file of weights ({', '.join(START_FILES)}), or FOLDER#{WEIGHTS}",
        )
    return run_url, int(name), parts.split(",") if parts else []


def load(
    run_dir: RunDirectory,
    step: int,
    report: Report,
    exchange: Exchange,
    device: torch.device,
) -> Any | None:
    """Returns the tree of one checkpoint; None, after a report, if it is not valid.

    A collective. Raises FormatError when it is of a newer format, StoreUnavailable.
    """
    loaded = _load(run_dir, step, report, exchange, device)
    return None if loaded is None else loaded[0]


def _with_about(tree: Any, about: dict[str, Any]) -> Any:
    return {**tree, ABOUT: about} if isinstance(tree, dict) else tree


def _load(
    run_dir: RunDirectory,
    step: int,
    report: Report,
    exchange: Exchange,
    device: torch.device,
) -> tuple[Any, dict[str, Any]] | None:
    """As ``load``, with what the manifest says about it."""

    def rejected(error: Exception) -> None:
        report("checkpoint_rejected", step=step, reason=f"{type(error).__name__}: {error}")

    def read() -> Any:
        try:
            return read_manifest(run_dir, step).to_json()
        except (FormatError, StoreUnavailable):
            raise
        except (ValueError, OSError) as error:
            rejected(error)
            return None

    value = shared(exchange, read)
    if value is None:
        return None
    manifest = Manifest.from_json(value, step)
    mine: dict[int, bytes] = {}
    code, away = FINE, ""
    try:
        mine = _read_share(run_dir, manifest, exchange)
    except StoreUnavailable as error:
        code, away = AWAY, str(error)
    except (ValueError, OSError) as error:
        code = INVALID
        rejected(error)
    worst = exchange.worst(code)
    if worst == AWAY:
        raise StoreUnavailable(away or f"{run_dir.url} does not answer another rank")
    if worst == INVALID:
        return None
    try:  # what goes wrong from here on does so alike on all ranks
        assembly = Assembly(manifest.slots, device)
        for number, shard in enumerate(manifest.shards):
            data = _exchanged(exchange, mine.pop(number, None), shard, _reader(number, exchange))
            assembly.add(data)
        return unflatten(manifest.skeleton, assembly.finish()), manifest.about
    except ValueError as error:
        if exchange.rank == 0:
            rejected(error)
        return None


def _read_share(run_dir: RunDirectory, manifest: Manifest, exchange: Exchange) -> dict[int, bytes]:
    numbers = [
        number
        for number in range(len(manifest.shards))
        if _reader(number, exchange) == exchange.rank
    ]

    def read(number: int) -> bytes:
        return read_shard(run_dir, manifest.step, manifest.shards[number])

    with ThreadPoolExecutor(READERS) as pool:
        return dict(zip(numbers, pool.map(read, numbers), strict=True))


def read_shard(run_dir: RunDirectory, step: int, shard: ShardFile) -> bytes:
    """Returns a shard that is as its manifest says; ValueError, FileNotFoundError if it is not."""
    data = run_dir.store.read(f"{folder_of(step)}/{shard.name}", shard.bytes)
    shard.check(data)
    return data


def _reader(number: int, exchange: Exchange) -> int:
    """Which rank reads a shard: in turn, since shards are of one size."""
    return number % exchange.size


def _exchanged(exchange: Exchange, data: bytes | None, shard: ShardFile, root: int) -> bytes:
    if exchange.size == 1:
        assert data is not None
        return data
    if data is not None:
        flat = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    else:
        flat = torch.empty(shard.bytes, dtype=torch.uint8, device="cpu")
    exchange.broadcast(flat, root)
    return flat.numpy().tobytes() if data is None else data


def shared(exchange: Exchange, find: Callable[[], Any]) -> Any:
    """What rank 0 finds, as JSON, on every rank. Raises FormatError or OSError on all."""
    said: dict[str, Any] = {}
    if exchange.rank == 0:
        try:
            said = {"found": find()}
        except FormatError as error:
            said = {"newer": str(error)}
        except StoreUnavailable as error:
            said = {"away": str(error)}
        except OSError as error:
            said = {"refused": str(error)}
    said = json.loads(exchange.broadcast_bytes(json.dumps(said).encode(), 0))
    if "newer" in said:
        raise FormatError(said["newer"])
    if "away" in said:
        raise StoreUnavailable(said["away"])
    if "refused" in said:
        raise OSError(said["refused"])
    return said["found"]
