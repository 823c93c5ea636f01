"""Weights of other programs are read in their forms, and nothing in a file is executed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from trainer.checkpoints.weights import is_weights, read_weights
from trainer.rundir.usererror import Unusable

WEIGHTS = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.tensor([1], dtype=torch.int64)}


def in_parts(folder: Path, kind: str, save: Callable[[Any, Path], None]) -> None:
    """A folder whose weights are in two files, and an index of them."""
    names = {name: f"part-{number}.{kind}" for number, name in enumerate(WEIGHTS)}
    for name, file in names.items():
        save({name: WEIGHTS[name]}, folder / file)
    stem = {"safetensors": "model", "bin": "pytorch_model"}[kind]
    (folder / f"{stem}.{kind}.index.json").write_text(json.dumps({"weight_map": names}))


def same(found: dict[str, Tensor]) -> bool:
    return found.keys() == WEIGHTS.keys() and all(
        torch.equal(found[name], one) and found[name].dtype == one.dtype
        for name, one in WEIGHTS.items()
    )


def test_each_form_is_read(tmp_path: Path) -> None:
    safetensors.torch.save_file(WEIGHTS, tmp_path / "x.safetensors")
    torch.save(WEIGHTS, tmp_path / "x.pt")
    for place in ("state_dict", "model", "model_state_dict"):
        torch.save({"epoch": 3, place: WEIGHTS}, tmp_path / f"{place}.ckpt")
    for file in tmp_path.iterdir():
        assert same(read_weights(str(file))), file.name
        assert is_weights(str(file)) and is_weights(f"{file}#weights")
    assert same(read_weights(f"file://{tmp_path}/x.pt")), "a URL"


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_a_hugging_face_folder_is_read_whole_or_in_parts(tmp_path: Path, kind: str) -> None:
    save: Any = safetensors.torch.save_file if kind == "safetensors" else torch.save
    in_parts(tmp_path, kind, save)
    assert same(read_weights(f"{tmp_path}#weights"))
    name = {"safetensors": "model.safetensors", "bin": "pytorch_model.bin"}[kind]
    save(WEIGHTS, tmp_path / name)
    assert same(read_weights(f"{tmp_path}/#weights")), "the whole one comes first"


def test_a_checkpoint_is_no_folder_of_weights() -> None:
    assert is_weights("gs://b/models/gpt2#weights")
    for url in (
        "gs://b/run/checkpoints/step-000000001#weights",
        "gs://b/run",
        "gs://b/x#optimizer",
    ):
        assert not is_weights(url)


class Code:
    """What would run when it is unpickled."""

    def __reduce__(self) -> Any:
        return (print, ("executed",))


def test_what_is_no_file_of_weights_says_so(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = safetensors.torch.save(WEIGHTS)
    (tmp_path / "short.safetensors").write_bytes(whole[:-5])
    (tmp_path / "text.safetensors").write_text("no tensors")
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "text.pth").write_text("no tensors")
    torch.save({"model": WEIGHTS, "extra": Code()}, tmp_path / "code.pt")
    torch.save({"epoch": 3}, tmp_path / "none.pt")
    torch.save([1, 2], tmp_path / "list.bin")
    for name, said in {
        "short.safetensors": "cannot be read",
        "text.safetensors": "cannot be read",
        "empty.pt": "cannot be read",
        "text.pth": "cannot be read|holds more than tensors",
        "code.pt": "holds more than tensors and plain values, which could run any code",
        "none.pt": "holds no state dict",
        "list.bin": "holds no state dict",
    }.items():
        with pytest.raises(Unusable, match=f"{name} ({said})"):
            read_weights(str(tmp_path / name))
    assert "executed" not in capfd.readouterr().out
    with pytest.raises(FileNotFoundError):
        read_weights(str(tmp_path / "nowhere.pt"))
    with pytest.raises(Unusable, match=r"has none of model.safetensors, .* for a checkpoint of"):
        read_weights(f"{tmp_path}#weights")


@pytest.mark.parametrize(
    "index",
    ["[]", "{", '{"weight_map": {"a": "../secret.bin"}}', '{"weight_map": {"a": 3}}', "{}"],
)
def test_an_index_names_files_beside_it_and_no_others(tmp_path: Path, index: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(Unusable, match=r"is no index of weights|which is no file beside it"):
        read_weights(f"{tmp_path}#weights")
