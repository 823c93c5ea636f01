"""Weights of other programs fit a model by name, or it is said what does not."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from tests.trainer.engine.loops import trained
from tests.trainer.ranks import alone
from trainer import Task
from trainer.engine.fitting import fitted, renamed
from trainer.engine.mistake import Mistake
from trainer.protocol.session import CheckpointSettings, Session


class Tied(nn.Module):
    """Two names for one parameter, one more, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(3, 2), nn.Linear(2, 3)
        self.head.weight = self.embed.weight
        self.register_buffer("count", torch.tensor(0))


GIVEN = {
    "module.embed.weight": torch.ones(3, 2),
    "module.head.bias": torch.ones(3),
    "module.count": torch.tensor(7),
}
STRIPPED = {"module.*": "*"}


def fit(
    weights: Mapping[str, Tensor],
    rename: Mapping[str, str] | None = None,
    fresh: Sequence[str] = (),
) -> tuple[dict[str, Any], list[str]]:
    parts, said = fitted("x.pt", weights, {"model": Tied()}, rename or {}, fresh)
    return parts["model"], said


@pytest.mark.parametrize(
    "name, table, expected",
    [
        ("a.b", {}, "a.b"),
        ("module.a.b", {"module.*": "*"}, "a.b"),
        ("h.3.attn.w", {"h.*.attn.*": "blocks.*.attention.*"}, "blocks.3.attention.w"),
        ("h.3.w", {"h.*.w": "last"}, "last"),
        ("h.3.mask", {"*.mask": ""}, ""),
        ("a.b", {"a.*": "c.*", "*": ""}, "c.b"),
        ("axb", {"a.b": "no"}, "axb"),
        ("a", {"a": "*.*"}, "."),
    ],
)
def test_a_name_is_that_of_the_first_pattern(
    name: str, table: dict[str, str], expected: str
) -> None:
    assert renamed(name, table) == expected


def test_a_tied_parameter_is_given_by_one_of_its_names() -> None:
    state, said = fit(GIVEN, STRIPPED)
    assert torch.equal(state["head.weight"], torch.ones(3, 2))
    assert torch.equal(state["embed.weight"], torch.ones(3, 2)) and state["count"] == 7
    assert said == ["4 tensors of the models are those of x.pt"]


def test_what_is_left_out_and_what_begins_anew_is_said() -> None:
    weights = {**GIVEN, "module.old": torch.ones(1)}
    del weights["module.head.bias"]
    state, said = fit(weights, {"*.old": "", **STRIPPED}, ["head.*"])
    assert state["head.bias"].shape == (3,)
    assert said == [
        "3 tensors of the models are those of x.pt",
        "1 of its tensors are not used",
        "head.bias begin as the program has made them",
    ]


@pytest.mark.parametrize(
    "weights, rename, wrong",
    [
        (GIVEN, {}, "embed.weight is missing in it; .*; module.embed.weight is only in it"),
        ({**GIVEN, "x": torch.ones(1)}, STRIPPED, "x is only in it"),
        ({**GIVEN, "module.head.bias": torch.ones(4)}, STRIPPED, r"is \[4\] in it, \[3\] here"),
        ({**GIVEN, "module.count": torch.tensor(0.5)}, STRIPPED, r"here"),
        ({**GIVEN, "count": torch.tensor(1)}, STRIPPED, "count becomes count, as another does"),
        ({}, {}, "head.bias is missing in it"),
    ],
)
def test_what_does_not_fit_is_listed_with_the_ways_to_go_on(
    weights: dict[str, Tensor], rename: dict[str, str], wrong: str
) -> None:
    with pytest.raises(Mistake, match=rf"x\.pt do not fit the model: .*{wrong}.*--rename 'OLD"):
        fit(weights, rename, ["nothing.*"])


def test_weights_for_several_models_begin_with_the_models_names() -> None:
    models = {"one": nn.Linear(1, 1, bias=False), "two": nn.Linear(1, 1, bias=False)}
    weights = {"one.weight": torch.ones(1, 1), "two.weight": torch.zeros(1, 1)}
    parts, _ = fitted("x", weights, models, {}, [])
    assert [float(part["weight"]) for part in parts.values()] == [1, 0]


# --- runs ----------------------------------------------------------------------------------


def session(run: Path, start: Path, **how: Any) -> dict[str, str]:
    settings = CheckpointSettings(every=3600, start_from=str(start), **how)
    return Session(str(run), f"w-{os.getpid()}", checkpoint=settings).to_env()


class Start:
    """A loop that says which weights it begins with, on each rank."""

    def __init__(self, run: Path, start: Path) -> None:
        self.run, self.start = run, start

    def __call__(self, log: list[Any]) -> None:
        from trainer import elastic

        os.environ.update(session(self.run, self.start, rename={"w": "weight"}, fresh=["bias"]))
        torch.manual_seed(0)
        model = nn.Linear(2, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        state = elastic.State(model=model, optimizer=optimizer)
        for step in elastic.steps(state, elastic.batches(4, 4), total=1):
            log.append((model.weight.tolist(), step.number))
            with step:
                model(torch.ones(len(step.indices), 2)).sum().backward()
                optimizer.step()


@pytest.mark.parametrize("size", [1, 2])
def test_all_ranks_begin_with_the_weights(tmp_path: Path, size: int) -> None:
    start = tmp_path / "x.safetensors"
    safetensors.torch.save_file({"w": torch.tensor([[3.0, 4.0]])}, start)
    for outcome in trained(size, Start(tmp_path / "run", start)):
        assert (outcome.error, outcome.log) == ("", [([[3.0, 4.0]], 1)])


@pytest.mark.parametrize("name", ["missing.pt", "damaged.safetensors"])
def test_what_cannot_be_read_ends_the_run_on_all_ranks(tmp_path: Path, name: str) -> None:
    (tmp_path / "damaged.safetensors").write_bytes(b"x")
    for outcome in trained(2, Start(tmp_path / "run", tmp_path / name)):
        assert name in outcome.error and outcome.log == []


class Averaged(Task):
    """Its average begins with the weights, too."""

    ema = 0.5

    def dataset(self) -> Any:
        return torch.ones(4, 2)

    def model(self) -> nn.Module:
        return nn.Linear(2, 1)

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.0)

    def loss(self, model: nn.Module, batch: Tensor) -> Tensor:
        out: Tensor = model(batch).mean()
        return out

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        return {"weight": float(model.weight.sum())}  # type: ignore[operator]


def of_a_task(run: Path, start: Path) -> dict[str, float]:
    from trainer import fit

    os.environ.update(session(run, start))
    return fit(Averaged())


def test_a_tasks_average_begins_with_the_weights(tmp_path: Path) -> None:
    torch.save({"weight": torch.tensor([[3.0, 4.0]]), "bias": torch.zeros(1)}, tmp_path / "x.pt")
    assert alone(of_a_task, tmp_path / "run", tmp_path / "x.pt") == {"weight": 7.0}
