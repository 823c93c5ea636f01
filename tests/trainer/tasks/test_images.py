"""A classifier learns pictures alike in every world, and is evaluated and saved as it is."""

from __future__ import annotations

import functools
import io
import os
import re
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.trainer.engine.loops import Outcome, trained
from tests.trainer.ranks import alone
from tests.trainer.tasks import pictures
from trainer.data.images import Pictures, middle
from trainer.rundir.usererror import Unusable
from trainer.tasks.classifiers import VITS, classifier
from trainer.tasks.images import Images, load

EACH, EPOCHS, BATCH = 10, 4, 10
STEPS = EPOCHS * 3
SETTINGS: dict[str, Any] = {
    "size": 8,
    "width": 8,  # with 4, torch 2.13 may write past the end of a gradient in channels_last
    "batch": BATCH,
    "unit": 5,
    "epochs": EPOCHS,
    "lr": 0.2,
}
SETTINGS |= {"mixup": 0.2, "average": 0.7, "flip": 0.0, "jitter": 0.2, "area": 0.8, "held_out": 4}


class Exact(Images):
    """In float64, where every difference shows."""

    def model(self) -> nn.Module:
        return super().model().double()


def losses(folder: str, workers: int, log: list[Any]) -> None:
    """Logs what each step and the last evaluation have come to."""
    from trainer import fit
    from trainer.engine.steps import Steps

    completed, report = Steps._completed, Steps.report

    def watched(self: Steps, step: Any) -> None:
        completed(self, step)
        log.append(step.metrics["loss"])

    def reported(self: Steps, metrics: dict[str, float]) -> None:
        report(self, metrics)
        log.append(metrics)

    Steps._completed, Steps.report = watched, reported  # type: ignore[method-assign]
    try:
        fit(Exact(folder, workers=workers, **SETTINGS))
    finally:
        Steps._completed, Steps.report = completed, report  # type: ignore[method-assign]


def curves(outcomes: list[Outcome]) -> list[list[Any]]:
    """What all ranks have logged. Fails if one has raised."""
    assert {one.error for one in outcomes} == {""}
    return [one.log for one in outcomes]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Several would wait for each other by spinning."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return pictures.make(tmp_path_factory.mktemp("images") / "pictures", EACH)


def test_losses_and_accuracy_do_not_depend_on_the_world_or_on_loaders(folder: str) -> None:
    [expected] = curves(trained(1, functools.partial(losses, folder, 1)))
    steps = [one for one in expected if isinstance(one, float)]
    evaluated = [one for one in expected if isinstance(one, dict)]
    assert len(steps) == STEPS and len(evaluated) == EPOCHS
    assert evaluated[-1]["accuracy"] > 0.6, "by chance it were a quarter"
    for size in (2, 3):
        for log in curves(trained(size, functools.partial(losses, folder, 0))):
            assert [one for one in log if isinstance(one, float)] == pytest.approx(steps, rel=1e-9)
            found = [one for one in log if isinstance(one, dict)]
            for one, other in zip(found, evaluated, strict=True):
                assert one["accuracy"] == other["accuracy"]
                assert one["val_loss"] == pytest.approx(other["val_loss"], rel=1e-9)


def saved(folder: str, where: str) -> dict[str, float]:
    """Trains, and saves."""
    from trainer import fit

    return fit(Images(folder, save=where, workers=0, **{**SETTINGS, "epochs": 1}))


def test_what_is_saved_is_what_was_evaluated(folder: str, tmp_path: Path) -> None:
    results = alone(saved, folder, str(tmp_path / "saved"))
    model, about = load(str(tmp_path / "saved"))
    assert about["classes"] == list(pictures.CLASSES)
    numbers = torch.arange(4 * EACH)
    held = Pictures(folder).part(numbers[numbers % 4 == 2])
    batch, labels = held.batch(torch.arange(len(held)), lambda image, n: middle(image, 8), least=10)
    right = (model(batch).argmax(1) == labels).float().mean().item()
    assert right == pytest.approx(results["accuracy"])


def page(folder: str, place: str) -> str:
    """Runs the example in docs/images.md. Returns what it prints."""
    text = (Path(__file__).parents[3] / "docs/images.md").read_text()
    [example] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    os.chdir(place)
    os.symlink(folder, "photos")
    with redirect_stdout(io.StringIO()) as said:
        exec(example, {})
    return said.getvalue()


def test_the_pages_example_runs(folder: str, tmp_path: Path) -> None:
    found, results, label = alone(page, folder, str(tmp_path)).splitlines()
    assert found == "images: photos: 40 pictures in 4 classes"
    assert results.startswith("{'accuracy': ") and label in pictures.CLASSES


def test_evaluated_pictures_are_none_that_are_trained_on(folder: str) -> None:
    task = Images(folder, held_out=4, workers=0)
    training, testing = task.dataset(), task.validation()
    assert testing is not None
    paths = [{one.path(index) for index in range(len(one))} for one in (training, testing)]
    assert not paths[0] & paths[1] and len(paths[0] | paths[1]) == 4 * EACH
    assert testing.labels.unique().tolist() == [0, 1, 2, 3]
    assert Images(folder, held_out=0).validation() is None


@pytest.mark.parametrize("size", [8, 64], ids=["small", "large"])
@pytest.mark.parametrize("name", ["resnet18", "resnet50", "vit_tiny"])
def test_each_parameter_is_learned(name: str, size: int) -> None:
    torch.manual_seed(0)
    model = classifier(name, 5, size, 24 if name == "vit_tiny" else 4)
    for parameter in model.parameters():  # what begins at 0 lets nothing through
        torch.nn.init.normal_(parameter, std=0.1)
    logits = model(torch.randint(0, 256, (4, 3, size, size), dtype=torch.uint8))
    assert (logits.shape, logits.dtype) == ((4, 5), torch.float32)
    logits.square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("resnet18", 11.69),
        ("resnet34", 21.80),
        ("resnet50", 25.56),
        ("vit_tiny", 5.72),
        ("vit_small", 22.05),
        ("vit_base", 86.57),
    ],
)
def test_parameters_are_those_of_the_papers(name: str, millions: float) -> None:
    """Of a ViT those of DeiT, less its token and its learned positions."""
    with torch.device("meta"):
        model = classifier(name, 1000, 224)
    width = VITS.get(name, (0, 0))[0]
    counted = sum(p.numel() for p in model.parameters()) + width * (1 + 197)
    assert counted / 1e6 == pytest.approx(millions, abs=0.01)


@pytest.mark.parametrize(
    "settings", [{"area": 0.0}, {"flip": 2.0}, {"jitter": 1.0}, {"mixup": -1.0}], ids=str
)
def test_arguments_that_cannot_be_are_refused(folder: str, settings: dict[str, Any]) -> None:
    with pytest.raises(Unusable) as caught:
        Images(folder, **settings)
    assert caught.value.id == "SW5208"


@pytest.mark.parametrize(("name", "size"), [("resnet", 224), ("vit_tiny", 100)])
def test_classifiers_that_there_are_not_are_refused(folder: str, name: str, size: int) -> None:
    with pytest.raises(Unusable) as caught:
        Images(folder, model=name, size=size).model()
    assert caught.value.id == "SW5207"
