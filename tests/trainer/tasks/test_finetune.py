"""A language model is fine-tuned alike in every world, and saved as others load it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.storage import StorageServer
from tests.trainer.ranks import forking
from tests.trainer.tasks import stories

STEPS = 6  # two epochs of ten chats, four at a time


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory, _storage: StorageServer) -> dict[str, Any]:
    """What is looked at, in one process: to import transformers takes seconds."""
    folder = tmp_path_factory.mktemp("finetune")
    found = forking(stories.told, folder, "gs://bucket/finetune", _storage.endpoint)
    return {**found, "folder": folder}


def alike(told: dict[str, Any], expected: dict[Any, float], worlds: list[str]) -> None:
    """Asserts that each rank of some worlds has told of its steps what was expected of them."""
    for world in worlds:
        assert {error for _, error in told[world]} == {""}, world
        for log, _ in told[world]:
            found = {name: value for name, value in log if value is not None}
            wanted = {name: expected[name] for name in found}
            assert found and found == pytest.approx(wanted, rel=1e-6, abs=0), world


def test_the_loss_is_that_of_the_answers_in_worlds_of_1_2_and_3(told: dict[str, Any]) -> None:
    found = told["whole"]
    [(plain, _)] = found["plain"]
    expected = dict(plain)
    assert len(expected) == STEPS + 1 and expected[1] > 1.2 * expected[STEPS]
    assert [len(found[world]) for world in "123"] == [1, 2, 3]
    alike(found, expected, ["1", "2", "3"])
    for world in "123":
        rank, *_ = found[world]
        assert [name for name, _ in rank[0]] == [*range(1, STEPS + 1), "evaluated"]


@pytest.mark.soak
def test_adapters_are_the_same_in_a_world_that_changes(tmp_path: Path) -> None:
    found = forking(stories.adapters, tmp_path)
    [(alone, _)] = found["1"]
    assert len(alone) == STEPS + 1 and alone[0][1] > alone[STEPS - 1][1]
    assert len(found["changing"]) == 2
    alike(found, dict(alone), ["changing"])


SAVED = ["folder, whole", "folder, merged", "folder, adapters", "bucket, whole", "bucket, adapters"]


@pytest.mark.parametrize("saved", SAVED)
def test_what_is_saved_loads_and_answers_as_before(told: dict[str, Any], saved: str) -> None:
    found = told["folders"][saved]
    (trained, answered), (loaded, answers) = found["trained"], found["loaded"]
    assert loaded == pytest.approx(trained, rel=1e-4, abs=1e-4)
    assert answers == answered != ""
    files = {"adapter_config.json", "adapter_model.safetensors"}
    whole = {"config.json", "model.safetensors"}
    expected = files if "adapters" in saved else whole
    assert set(found["files"]) & (files | whole) == expected
    assert {"tokenizer.json", "chat_template.jinja"} <= set(found["files"])


def test_a_folder_in_a_bucket_is_trained_as_one_on_this_machine(told: dict[str, Any]) -> None:
    found = told["folders"]
    assert found["folder, whole"]["trained"] == found["bucket, whole"]["trained"]
    assert found["folder, base"] == str(told["folder"] / "folders/model")
    assert found["bucket, base"] == "gs://bucket/finetune/model"
    assert found["copies"] == 1, "the bucket's folder was copied once, for two runs"


@pytest.mark.parametrize("kind", ["whole", "merged", "adapters"])
def test_a_checkpoint_is_exported_as_a_folder_that_loads(told: dict[str, Any], kind: str) -> None:
    found = told["folders"]
    step, (logits, answer) = found[f"exported, {kind}"]
    trained, answered = found[f"folder, {kind}"]["trained"]
    assert step == 4, "two epochs of the ten chats in their five rows, four at a time"
    assert logits == pytest.approx(trained, rel=1e-4, abs=1e-4) and answer == answered


def test_adapters_do_not_go_on_with_another_model(told: dict[str, Any]) -> None:
    id, text = told["folders"]["another base"]
    assert id == "SW5199" and "were trained on another model than the one that was loaded" in text


def test_adapters_that_fit_nowhere_are_refused(told: dict[str, Any]) -> None:
    id, text = told["folders"]["no adapter"]
    assert id == "SW5203" and text.startswith("targets: no adapter fits ['nothing']")


def test_the_pages_example_runs(told: dict[str, Any]) -> None:
    assert told["folders"]["page"] == ["Finetune", "LlamaForCausalLM"]


def test_a_folder_without_a_model_is_refused(told: dict[str, Any]) -> None:
    id, text = told["folders"]["refused"]
    assert id == "SW5198" and "there is no config.json" in text
