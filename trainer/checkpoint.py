"""Checkpoints: the fallback for when no worker holds the state any more.

    checkpoints/step-000001200/state-4a1f….safetensors  the tensors, named after their checksum
    checkpoints/step-000001200/manifest.json            written last, exclusively

No manifest, no checkpoint: a half-written one is never seen. Training pauses for the
copy to host memory only; a background thread writes. Loading verifies sizes and
checksums, and falls back to the checkpoint before, loudly.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from trainer.rundir import CHECKPOINTS, RunDirectory
from trainer.tree import flatten, unflatten

FORMAT = 1
MANIFEST = "manifest.json"

Report = Callable[..., None]


class Checkpointer:
    """Writes and reads the checkpoints of one run.

    Args:
        run_dir: where they live.
        keep: how many of the newest to keep, at least 1.
        report: called as ``report(event, **fields)`` with events of trainer.events.
    """

    def __init__(self, run_dir: RunDirectory, keep: int, report: Report) -> None:
        if keep < 1:
            raise ValueError(f"{keep} checkpoints to keep: there must be at least one")
        self._run_dir = run_dir
        self._keep = keep
        self._report = report
        self._thread: threading.Thread | None = None

    def save(self, tree: Any, step: int, *, wait: bool = False) -> bool:
        """Copies ``tree`` to host memory and has it written as the checkpoint of ``step``.

        Returns False, having done nothing, while the one before is still being written
        and ``wait`` is false. With ``wait`` it returns when the checkpoint is durable.
        """
        if self._thread is not None:
            if not wait and self._thread.is_alive():
                return False
            self._thread.join()
        skeleton, tensors = flatten(tree)
        copies = {str(i): t.to("cpu", copy=True).contiguous() for i, t in enumerate(tensors)}
        self._thread = threading.Thread(
            target=self._write, args=(skeleton, copies, step), name="swell-checkpoint"
        )
        self._thread.start()
        if wait:
            self._thread.join()
        return True

    def load_newest(self) -> tuple[Any, int] | None:
        """Returns (tree, step) of the newest valid checkpoint, or None if there is none at all.

        Each one that is not valid is reported as ``checkpoint_rejected``. Raises
        ValueError when there are checkpoints and none is valid.
        """
        steps = committed_steps(self._run_dir)
        for step in reversed(steps):
            try:
                return self._load(step), step
            except Exception as error:  # whatever is wrong with it: the one before may do
                reason = f"{type(error).__name__}: {error}"
                self._report("checkpoint_rejected", step=step, reason=reason)
        if steps:
            raise ValueError(
                f"none of the {len(steps)} checkpoints in "
                f"{self._run_dir.url}/{CHECKPOINTS} is valid"
            )
        return None

    def _write(self, skeleton: Any, tensors: dict[str, torch.Tensor], step: int) -> None:
        began = time.monotonic()
        try:
            data = save_tensors(tensors)
            store = self._run_dir.store
            folder = _folder(step)
            digest = _sha256(data)
            # Whoever else writes this step cannot touch a shard that is not the same.
            shard = f"state-{digest[:16]}.safetensors"
            store.write(f"{folder}/{shard}", data)
            manifest = {
                "format": FORMAT,
                "step": step,
                "skeleton": skeleton,
                "skeleton_sha256": _sha256_of_json(skeleton),
                "shards": [{"name": shard, "bytes": len(data), "sha256": digest}],
                "torch": str(torch.__version__),
            }
            if not self._run_dir.create_json(f"{folder}/{MANIFEST}", manifest):
                return  # this step has its checkpoint
            seconds = round(time.monotonic() - began, 4)
            self._report("checkpoint_committed", step=step, bytes=len(data), seconds=seconds)
            # Later steps are those that were rejected: they must not push this one out.
            until_now = [one for one in committed_steps(self._run_dir) if one <= step]
            for old in until_now[: -self._keep]:
                # The manifest goes first, so that what is left is no checkpoint.
                store.delete(f"{_folder(old)}/{MANIFEST}")
                store.delete(_folder(old))
        except OSError as error:
            self._report("checkpoint_failed", step=step, reason=str(error))

    def _load(self, step: int) -> Any:
        manifest = self._run_dir.read_json(f"{_folder(step)}/{MANIFEST}")
        if manifest.get("format") != FORMAT or manifest.get("step") != step:
            raise ValueError(f"the manifest is not one of step {step} in format {FORMAT}")
        if _sha256_of_json(manifest["skeleton"]) != manifest["skeleton_sha256"]:
            raise ValueError("the manifest does not match its checksum")
        tensors: dict[str, torch.Tensor] = {}
        for shard in manifest["shards"]:
            name, size = str(shard["name"]), int(shard["bytes"])
            if "/" in name:
                raise ValueError(f"{name!r} is not the name of a shard")
            data = self._run_dir.store.read(f"{_folder(step)}/{name}", size)
            if len(data) != size:
                raise ValueError(f"{name} has {len(data)} bytes, its manifest says {size}")
            if _sha256(data) != shard["sha256"]:
                raise ValueError(f"{name} does not match its checksum")
            tensors.update(load_tensors(data))
        return unflatten(manifest["skeleton"], [tensors[str(i)] for i in range(len(tensors))])


def committed_steps(run_dir: RunDirectory) -> list[int]:
    """The steps of all checkpoints that have a manifest, ascending."""
    steps = []
    for name in run_dir.store.names(CHECKPOINTS):
        number = name.removeprefix("step-")
        if number.isdecimal() and MANIFEST in run_dir.store.names(f"{CHECKPOINTS}/{name}"):
            steps.append(int(number))
    return sorted(steps)


def _folder(step: int) -> str:
    return f"{CHECKPOINTS}/step-{step:09d}"


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _sha256_of_json(value: Any) -> str:
    return _sha256(json.dumps(value, sort_keys=True).encode())
