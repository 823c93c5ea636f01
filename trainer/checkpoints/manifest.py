"""What a checkpoint says about itself: written last, and whole, or there is no checkpoint.

While a checkpoint is being written, each rank leaves a receipt for its shards. Whoever finds
all receipts of one writing makes the manifest of them. ``writing`` names a writing: the term
of the leader and the generation, and how many ranks write. So what two worlds write of one
step is never mixed. A world of a deposed leader commits nothing once its successor has announced
another world (``trainer.protocol.lease.superseded``). Who checked just before that may still
commit: a state that this run had, at a step that then has no other checkpoint.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from trainer.checkpoints.shardfile import ShardFile
from trainer.checkpoints.shards import Slot
from trainer.rundir import formats
from trainer.rundir.directory import RunDirectory
from trainer.rundir.exclusive import OWNER
from trainer.rundir.names import CHECKPOINTS
from trainer.rundir.numbers import named

MANIFEST = "manifest.json"
RECEIPT = "receipt-"
METRICS = "metrics.json"
OLDEST = 3  # format that is read


@dataclass(frozen=True)
class Manifest:
    """A whole checkpoint.

    Attributes:
        step: steps completed.
        writing: which world wrote it.
        skeleton: the state without its tensors (see trainer.checkpoints.tree).
        slots: its tensors.
        shards: the files with the tensors' content.
        about: what else is known of it: position in the data, seed, versions, metrics, …
    """

    step: int
    writing: str
    skeleton: Any
    slots: list[Slot]
    shards: list[ShardFile]
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """How large all shards are."""
        return sum(shard.bytes for shard in self.shards)

    def to_json(self) -> dict[str, Any]:
        """The content of manifest.json, with a checksum over all of it."""
        value = {
            **formats.MANIFEST.stamp(),
            "step": self.step,
            "writing": self.writing,
            "skeleton": self.skeleton,
            "tensors": [slot.to_json() for slot in self.slots],
            "shards": [vars(shard) for shard in self.shards],
            "about": self.about,
        }
        return signed(value)

    @classmethod
    def from_json(cls, value: dict[str, Any], step: int) -> Manifest:
        """Reads one.

        Raises ValueError when it is damaged, or not one of ``step``, and of these FormatError when
        it is fine but of a newer format.
        """
        require_signed(value, "the manifest")  # first: what is damaged is not newer
        what = f"{folder_of(step)}/{MANIFEST}"
        if formats.MANIFEST.found(value, what) < OLDEST:
            raise ValueError(f"{what} is of a format that is read no more")
        if value.get("step") != step:
            raise ValueError(f"the manifest is not one of step {step}")
        try:
            manifest = cls(
                step,
                str(value["writing"]),
                value["skeleton"],
                [Slot.from_json(one) for one in value["tensors"]],
                [ShardFile.from_json(one) for one in value["shards"]],
                _upgraded(dict(value["about"])),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"the manifest is damaged: {error!r}") from None
        if sum(slot.bytes for slot in manifest.slots) > manifest.bytes:
            raise ValueError("the shards are too small for the tensors")
        return manifest


def _upgraded(about: dict[str, Any]) -> dict[str, Any]:
    """``about`` of a manifest that an older version wrote, in the form of this one."""
    if "leader_epoch" in about:
        about["leader_term"] = about.pop("leader_epoch")
    return about


def signed(value: dict[str, Any]) -> dict[str, Any]:
    """``value`` as JSON has it, with a checksum over it."""
    value = named(value)
    return {**value, "sha256": sha256_of(value)}


def require_signed(value: dict[str, Any], what: str) -> None:
    """Raises ValueError unless ``value`` is as ``signed`` made it."""
    told = {key: one for key, one in value.items() if key not in (OWNER, "sha256")}
    if value.get("sha256") != sha256_of(told):
        raise ValueError(f"{what} does not match its checksum")


def receipt_name(writing: str, rank: int) -> str:
    """The name of a rank's receipt."""
    return f"{RECEIPT}{writing}-{rank:05d}.json"


def receipts_of(writing: str, names: Iterable[str]) -> list[str]:
    """Those of ``names`` that are receipts of ``writing``, by rank."""
    return sorted(name for name in names if name.startswith(f"{RECEIPT}{writing}-"))


def folder_of(step: int) -> str:
    """The folder of the checkpoint of ``step``."""
    return f"{CHECKPOINTS}/step-{step:09d}"


def folders(run_dir: RunDirectory) -> dict[int, list[str]]:
    """The names in each checkpoint's folder, by step, whether it has a manifest or not."""
    found = {}
    for name in run_dir.store.names(CHECKPOINTS):
        number = name.removeprefix("step-")
        if number.isdecimal() and number.isascii() and folder_of(int(number)).endswith(name):
            found[int(number)] = run_dir.store.names(f"{CHECKPOINTS}/{name}")
    return dict(sorted(found.items()))


def committed_steps(run_dir: RunDirectory) -> list[int]:
    """The steps of all checkpoints that have a manifest, ascending."""
    return [step for step, names in folders(run_dir).items() if MANIFEST in names]


def commit(run_dir: RunDirectory, manifest: Manifest, damaged: bool = False) -> bool:
    """Makes a checkpoint of what was written. Returns False if its step has one. Raises OSError.

    Args:
        run_dir: the directory that is to have it.
        manifest: of the checkpoint.
        damaged: whether one that the step has is known to be of no use, and gives way.
    """
    name, value = f"{folder_of(manifest.step)}/{MANIFEST}", manifest.to_json()
    created = run_dir.create_json(name, value)
    if not created and damaged and writing_of(run_dir, manifest.step) != manifest.writing:
        run_dir.store.delete(name)
        created = run_dir.create_json(name, value)
    return created


def read_manifest(run_dir: RunDirectory, step: int) -> Manifest:
    """Reads a checkpoint's manifest.

    Raises FileNotFoundError, ValueError if it is damaged, FormatError if it is of a newer format.
    """
    try:
        return Manifest.from_json(run_dir.read_json(f"{folder_of(step)}/{MANIFEST}"), step)
    except RecursionError:
        raise ValueError("the manifest is nested too deeply") from None


def writing_of(run_dir: RunDirectory, step: int) -> str:
    """Which writing has become the checkpoint of ``step``; "" without one, or if it is damaged.

    Raises OSError.
    """
    with suppress(ValueError, FileNotFoundError):
        return read_manifest(run_dir, step).writing
    return ""


def write_metrics(
    run_dir: RunDirectory, step: int, writing: str, metrics: Mapping[str, float]
) -> None:
    """Says how a checkpoint's state was evaluated, after it was begun to be written. OSError."""
    value = {"writing": writing, "metrics": dict(metrics)}
    run_dir.write_json(f"{folder_of(step)}/{METRICS}", value)


def read_metrics(run_dir: RunDirectory, step: int, names: Iterable[str]) -> dict[str, Any]:
    """The metrics of a checkpoint's own state, by name; {} where none are known.

    Args:
        run_dir: the directory that has it.
        step: its step.
        names: of the files in its folder.

    Raises OSError.
    """
    try:
        return metrics_of(run_dir, read_manifest(run_dir, step), names)
    except (ValueError, FileNotFoundError):
        return {}


def metrics_of(run_dir: RunDirectory, manifest: Manifest, names: Iterable[str]) -> dict[str, Any]:
    """As ``read_metrics``, of a checkpoint whose manifest is known."""
    later: dict[str, Any] = {}
    if METRICS in names:
        with suppress(ValueError, FileNotFoundError):
            later = run_dir.read_json(f"{folder_of(manifest.step)}/{METRICS}")
    if later.get("writing") != manifest.writing:  # what is left of one that was here before
        later = {}
    found: dict[str, Any] = {}
    for metrics in (manifest.about.get("metrics"), later.get("metrics")):
        found |= metrics if isinstance(metrics, dict) else {}
    return found


def sha256_of(value: Any) -> str:
    """The checksum of JSON, independent of how it is written."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
