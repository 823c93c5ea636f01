"""What is no model's folder is refused, one in a bucket is copied when it has changed."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trainer.rundir.store import Store
from trainer.rundir.usererror import Unusable
from trainer.tasks.finetune import Finetune
from trainer.tasks.pretrained import Files, keeps_apart, local_folder, require_room


def test_a_folder_needs_a_description_and_safetensors(tmp_path: Path) -> None:
    for names, said in (
        ([], "there is no config.json"),
        (["model.safetensors"], "there is no config.json"),
        (["config.json", "pytorch_model.bin"], "has no safetensors; weights in pickles"),
    ):
        for name in names:
            (tmp_path / name).touch()
        with pytest.raises(Unusable, match=said) as caught:
            local_folder(str(tmp_path))
        assert caught.value.id == "SW5198"
        for name in names:
            (tmp_path / name).unlink()
    with pytest.raises(Unusable, match="some/name is no folder of a Hugging Face model"):
        local_folder("some/name")


def test_a_folder_in_a_bucket_is_copied_once_and_again_when_it_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    store = Store(f"memory://{uuid.uuid4().hex}")
    names = {"config.json": b"{}", "model.safetensors": b"one", "model.bin": b"pickle"}
    for name, data in names.items():
        store.write(name, data)
    folder = local_folder(store.url)
    copied = {one.name: one.read_bytes() for one in folder.iterdir() if one.name != ".whole"}
    assert copied == {"config.json": b"{}", "model.safetensors": b"one"}, "no pickle is fetched"
    assert local_folder(store.url) == folder
    (folder / ".whole").unlink()  # whoever copied it was killed
    (folder / "model.safetensors").write_bytes(b"o")
    assert (local_folder(store.url) / "model.safetensors").read_bytes() == b"one"
    store.write("model.safetensors", b"other")
    assert (local_folder(store.url) / "model.safetensors").read_bytes() == b"other"
    store.delete("")


def test_files_come_back_and_know_their_base() -> None:
    files = Files({"a.json": b"{}", "empty": b""}, base=7)
    other = Files({}, base=7)
    other.load_state_dict(files.state_dict())
    assert {k: bytes(v) for k, v in other._files.items()} == {"a.json": b"{}", "empty": b""}
    with pytest.raises(Unusable) as caught:
        Files({}, base=8).load_state_dict(files.state_dict())
    assert caught.value.id == "SW5199"


class Runs(nn.Module):
    """A language model with a state that runs on, or with one that positions begin anew."""

    def __init__(self, mixes: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.config = SimpleNamespace(vocab_size=16)
        self.words = nn.Embedding(16, 8)
        self.mixes = mixes

    def forward(self, input_ids: Tensor, position_ids: Tensor, use_cache: bool) -> Any:
        words = self.words(input_ids)
        sums = words.cumsum(1)
        if not self.mixes:  # what was before a document's beginning does not count
            starts = torch.where(position_ids == 0, torch.arange(words.shape[1]), 0).cummax(1)[0]
            before = (sums - words).gather(1, starts[..., None].expand_as(words))
            sums = sums - before
        return SimpleNamespace(logits=sums)


def test_a_model_has_room_for_rows_and_tokens() -> None:
    config = SimpleNamespace(max_position_embeddings=8)
    model = SimpleNamespace(config=config, get_input_embeddings=lambda: nn.Embedding(5, 2))
    require_room(model, "five.", 8)
    with pytest.raises(Unusable, match="length=9: this model takes 8 tokens at most") as caught:
        require_room(model, "five.", 9)
    assert caught.value.id == "SW5201"
    with pytest.raises(Unusable, match="the tokenizer has 6 tokens, and the model knows 5"):
        require_room(model, "sixsix", 8)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"length": 1}, "a row has 2 tokens at least"),
        ({"rank": -1}, "a rank is 0 "),
        ({"dtype": "bfloat16"}, "updates of the whole model would be lost in rounding"),
    ],
)
def test_arguments_that_cannot_be_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(Unusable, match=said) as caught:
        Finetune("model", "data", **settings)
    assert caught.value.id == "SW5201"


def test_a_model_that_mixes_documents_is_found_out() -> None:
    assert keeps_apart(Runs(mixes=False))
    assert not keeps_apart(Runs(mixes=True))
    assert not keeps_apart(Takes(nn.Linear(2, 2)))


class Takes(nn.Module):
    """A model that takes no positions."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.config = SimpleNamespace(vocab_size=16)
        self.inner = inner

    def forward(self, input_ids: Tensor) -> Any:
        raise AssertionError("it is not called")


def test_a_model_that_is_described_otherwise_does_not_go_on() -> None:
    def files(**settings: Any) -> Files:
        described = {"r": 4, "lora_alpha": 8, "peft_version": "1", "target_modules": ["q"]}
        return Files({"adapter_config.json": json.dumps({**described, **settings}).encode()}, 7)

    then = files().state_dict()
    files(peft_version="2", new_setting=True).load_state_dict(then)
    with pytest.raises(Unusable) as caught:
        files(lora_alpha=16, target_modules=["q", "v"]).load_state_dict(then)
    assert caught.value.id == "SW5210"
    assert str(caught.value) == (
        "the model of this checkpoint was described otherwise than the one that is trained now: "
        "lora_alpha was 8 and is 16; target_modules was ['q'] and is ['q', 'v']; set it back, or "
        "begin a new run"
    )
