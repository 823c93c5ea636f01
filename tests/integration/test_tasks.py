"""Tasks that come with Swell, launched from their job files, through what their markets do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.integration.command import ROOT, Swell
from tests.trainer.ranks import forking
from tests.trainer.tasks import pictures, tiny
from trainer.tasks.images import load

pytestmark = pytest.mark.soak


def launched(swell: Swell, name: str, **args: Any) -> dict[str, Any]:
    """Launches a job file of examples/. Returns the status of its run when that has ended."""
    settings = [f"--set=args.{key}={json.dumps(value)}" for key, value in args.items()]
    job = str(ROOT / f"examples/{name}.yaml")
    launch = swell("launch", job, "--run-id", name, *settings)
    assert launch.returncode == 0, launch.stdout + launch.stderr
    return swell.status(name)


def drained(status: dict[str, Any]) -> bool:
    """Whether a run has succeeded, through a drain that cost no step."""
    causes = [one["cause"] for one in status["generations"]]
    return status["state"] == "succeeded" and "drain" in causes and not status["steps_lost"]


def folder_of(place: Path) -> None:
    """A model, and chats, in a process that may import transformers."""
    tiny.make(place / "model")
    tiny.write(place / "chats.jsonl", [{"messages": chat} for chat in 3 * tiny.CHATS])


def loaded(place: Path) -> list[list[float]]:
    """The logits of a folder's model."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(place)
    with torch.no_grad():
        found: list[list[float]] = model(torch.arange(8)[None]).logits[0].tolist()
    return found


def test_pictures(swell: Swell, tmp_path: Path) -> None:
    photos = pictures.make(tmp_path / "photos", 40, side=32)
    saved = str(tmp_path / "classifier")
    # A mirror image of a left one is a right one.
    status = launched(swell, "images", data=photos, save=saved, flip=0.0, lr=0.2)
    assert drained(status), status
    assert status["metrics"]["accuracy"] > 0.9
    assert load(saved)[1]["classes"] == list(pictures.CLASSES)


def test_a_fine_tuning(swell: Swell, tmp_path: Path) -> None:
    forking(folder_of, tmp_path)
    status = launched(
        swell,
        "finetune",
        model=str(tmp_path / "model"),
        data=str(tmp_path / "chats.jsonl"),
        save=str(tmp_path / "tuned"),
        length=96,
        batch=4,
        lr=1e-2,
    )
    assert drained(status), status
    exported = tmp_path / "exported"
    exported.mkdir()
    answer = swell("checkpoints", "finetune", "--export", f"{exported}/")
    assert answer.returncode == 0, answer.stderr
    merged, adapters = forking(loaded, tmp_path / "tuned"), forking(loaded, exported)
    for one, other in zip(merged, adapters, strict=True):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-3)
    assert merged[0] != forking(loaded, tmp_path / "model")[0], "it has learned something"
