"""Weights that another program has written: safetensors, a state dict, a Hugging Face folder.

A run begins from them as from the models of a checkpoint. Rank 0 reads them, and sends them to the
others. A file that ``torch.save`` wrote is read as tensors and plain values only: nothing that is
in it is executed.
"""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Iterator, Mapping
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from trainer.checkpoints.tree import as_bytes, describe, make_like
from trainer.rundir.names import START_FILES, WEIGHTS
from trainer.rundir.store import Store
from trainer.rundir.untrusted import parse_json
from trainer.rundir.usererror import Unusable

# What a Hugging Face folder has, the first that is there: a file, or an index of several.
HUGGING_FACE = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
INSIDE = ("state_dict", "model", "model_state_dict")  # where training scripts keep the weights


def is_weights(url: str) -> bool:
    """Whether a URL to begin from names a file of weights, or a folder: ``FOLDER#weights``."""
    where, _, parts = url.partition("#")
    if where.endswith(START_FILES):
        return parts in ("", WEIGHTS)
    return parts == WEIGHTS and "/step-" not in where


def read_weights(url: str) -> dict[str, Tensor]:
    """All tensors of a file or folder of weights, by name, on the CPU.

    Raises Unusable when it is none, FileNotFoundError, StoreUnavailable, OSError.
    """
    where = url.partition("#")[0].rstrip("/")
    folder, _, name = where.rpartition("/")
    if where.endswith(START_FILES):
        return _tensors(Store(folder or "."), name)
    store = Store(where)
    name = next((one for one in HUGGING_FACE if store.exists(one)), "")
    if not name:
        raise _unusable(
            where,
            f"has none of {', '.join(HUGGING_FACE)}; for a checkpoint of Swell write "
            f"RUN-DIRECTORY/checkpoints/step-N#{WEIGHTS}",
        )
    files = _indexed(store, name) if name.endswith(".json") else [name]
    return {key: value for file in files for key, value in _tensors(store, file).items()}


def load_weights(url: str, exchange: Any, device: torch.device) -> dict[str, Tensor]:
    """``read_weights`` on rank 0, and what it found on all. A collective.

    Args:
        url: what ``is_weights`` takes.
        exchange: the world, see trainer.checkpoints.restore.Exchange.
        device: where the tensors are wanted.

    Raises as ``read_weights`` does, on all ranks alike.
    """
    found: dict[str, Tensor] = {}
    said: dict[str, Any] = {}
    if exchange.rank == 0:
        try:
            found = read_weights(url)
            said = {"tensors": {name: describe(one) for name, one in found.items()}}
        except Unusable as error:
            said = {"unusable": [error.messages[0].text]}
        except FileNotFoundError:
            said = {"unusable": [f"{url.partition('#')[0]} is not there"]}
        except OSError as error:
            said = {"refused": str(error)}
    said = json.loads(exchange.broadcast_bytes(json.dumps(said).encode(), 0))
    if "unusable" in said:
        raise Unusable("SW5007", said["unusable"][0])
    if "refused" in said:
        raise OSError(said["refused"])
    weights = {}
    for name, described in said["tensors"].items():
        sending = exchange.rank == 0
        tensor = found.pop(name).contiguous() if sending else make_like(described, _CPU)
        exchange.broadcast(as_bytes(tensor), 0)
        weights[name] = tensor.to(device)
    return weights


_CPU = torch.device("cpu")


def _indexed(store: Store, name: str) -> list[str]:
    """The files that an index of a Hugging Face folder names."""
    try:
        files = sorted({str(one) for one in parse_json(store.read(name))["weight_map"].values()})
    except (AttributeError, KeyError, TypeError, ValueError):
        raise _unusable(store.path(name), "is no index of weights") from None
    for file in files:
        if "/" in file or not file.endswith(START_FILES):
            raise _unusable(store.path(name), f"names {file[:80]!r}, which is no file beside it")
    return files


def _tensors(store: Store, name: str) -> dict[str, Tensor]:
    data, where = store.read(name), store.path(name)
    try:
        if name.endswith(".safetensors"):
            return safetensors.torch.load(data)
        tree = torch.load(io.BytesIO(data), map_location=_CPU, weights_only=True)
    except (SafetensorError, RuntimeError, EOFError, ValueError) as error:
        raise _unusable(where, f"cannot be read: {_first_line(error)}") from None
    except pickle.UnpicklingError as error:
        raise _unusable(
            where,
            "holds more than tensors and plain values, which could run any code; save the state "
            f"dict alone, as safetensors best ({_first_line(error)})",
        ) from None
    for one in _dicts(tree):
        tensors = {str(key): value for key, value in one.items() if isinstance(value, Tensor)}
        if tensors:
            return {key: value.detach() for key, value in tensors.items()}
    raise _unusable(where, "holds no state dict of a model")


def _dicts(tree: Any) -> Iterator[Mapping[Any, Any]]:
    """What may be a state dict: the tree, or what it has at a usual place."""
    if isinstance(tree, dict):
        yield from (tree[key] for key in INSIDE if isinstance(tree.get(key), dict))
        yield tree


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).partition("\n")[0][:200]


def _unusable(where: str, what: str) -> Unusable:
    return Unusable("SW5007", f"{where} {what}")
