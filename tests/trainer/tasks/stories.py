"""What tests of fine-tuning look at, in a process that has imported transformers and peft once."""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Callable, Sequence
from math import cos, pi
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tests.conformance.journey import Stage
from tests.trainer.engine.loops import trained, travelled
from tests.trainer.tasks import tiny
from trainer.rundir import formats
from trainer.rundir.usererror import UserError

LENGTH, BATCH = 96, 4
# Of two one is killed in a step, and one that has nothing comes, as rank 0.
JOURNEY = [Stage((0, 1), 1, 3, dies=1), Stage((2, 0), 3)]


def told(folder: Path, bucket: str, endpoint: str) -> dict[str, Any]:
    """All that the suite asks of the whole model, and what is saved of it and of adapters.

    Args:
        folder: an empty one.
        bucket: where in Cloud Storage to work.
        endpoint: the storage's.
    """
    found = {"whole": worlds(folder / "whole", 0, (1, 2, 3), [])}
    found["folders"] = folders(folder / "folders", bucket, endpoint)  # its client has threads
    return found


def adapters(folder: Path) -> dict[str, Any]:
    """The losses of adapters alone, and in a world that changes."""
    return worlds(folder, 4, (1,), JOURNEY)


def worlds(folder: Path, rank: int, sizes: Sequence[int], stages: list[Stage]) -> dict[str, Any]:
    """The losses of each step in several worlds, and those of a plain loop.

    Args:
        folder: where to work.
        rank: of adapters; 0 for none, and a plain loop beside them.
        sizes: of worlds.
        stages: of one that changes.
    """
    tiny.make(folder / "model", torch.float64)
    data = tiny.write(folder / "chats.jsonl", [{"messages": chat} for chat in tiny.CHATS])
    run = functools.partial(_losses, str(folder / "model"), data, rank)
    found: dict[str, Any] = {
        str(size): [(one.log, one.error) for one in trained(size, run)] for size in sizes
    }
    if stages:
        found["changing"] = [(one.log, one.error) for one in travelled(stages, run).values()]
    if not rank:
        found["plain"] = [(_plainly(folder / "model"), "")]
    return found


def task_of(model: str, data: str, **settings: Any) -> Any:
    """A fine-tuning of little size."""
    from trainer.tasks.finetune import Finetune

    defaults = {"length": LENGTH, "batch": BATCH, "lr": 1e-2, "epochs": 2}
    return Finetune(model, data, **{**defaults, **settings})


def _losses(model: str, data: str, rank: int, log: list[Any]) -> None:
    from trainer import fit
    from trainer.engine.steps import Steps

    completed = Steps._completed

    def watched(self: Steps, step: Any) -> None:
        completed(self, step)
        log.append((step.number, step.metrics["loss"]))

    Steps._completed = watched  # type: ignore[method-assign]
    try:
        result = fit(
            task_of(model, data, rank=rank, dtype="float64", packed=False, validation=data)
        )
    finally:
        Steps._completed = completed  # type: ignore[method-assign]
    log.append(("evaluated", result.get("val_loss")))


def _plainly(folder: Path) -> list[Any]:
    """The same chats one by one, without rows, by what transformers and torch alone do."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from trainer.engine.data import Order

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    samples = [_by_hand(tokenizer, chat) for chat in tiny.CHATS]
    order = Order(len(samples), BATCH, 0)
    steps = 2 * order.steps_per_epoch
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda at: (1 + cos(pi * at / steps)) / 2
    )
    log: list[Any] = []
    for number in range(steps):
        start, stop = order.bounds(number)
        total, count = torch.zeros((), dtype=torch.float64), 0
        for index in order.permutation(order.epoch_of(number))[start:stop].tolist():
            tokens, first = samples[index]
            summed = _answer_loss(model, tokens, first)
            total, count = total + summed, count + len(tokens) - first
        optimizer.zero_grad()
        (total / count).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        log.append((number + 1, float(total.detach()) / count))
    with torch.no_grad():
        sums = [float(_answer_loss(model, *sample)) for sample in samples]
    log.append(("evaluated", sum(sums) / sum(len(tokens) - first for tokens, first in samples)))
    return log


def _by_hand(tokenizer: Any, chat: list[dict[str, str]]) -> tuple[Tensor, int]:
    """A chat's tokens, and where its answer begins: ChatML, written out."""
    question, answer = (one["content"] for one in chat)
    before = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    head, tail = (
        tokenizer(text, add_special_tokens=False)["input_ids"]
        for text in (before, f"{answer}<|im_end|>\n")
    )
    return torch.tensor(head + tail), len(head)


def _answer_loss(model: Any, tokens: Tensor, first: int) -> Tensor:
    logits = model(input_ids=tokens[None]).logits[0]
    return functional.cross_entropy(logits[first - 1 : -1], tokens[first:], reduction="sum")


def folders(folder: Path, bucket: str, endpoint: str) -> dict[str, Any]:
    """Trains from a folder and from a bucket, and loads what was saved."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from trainer import fit
    from trainer.rundir.store import Store
    from trainer.tasks import pretrained

    os.environ["STORAGE_EMULATOR_HOST"] = endpoint
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    tiny.make(folder / "model")
    data = tiny.write(folder / "chats.jsonl", [{"messages": chat} for chat in tiny.CHATS])
    remote = Store(bucket)
    for one in (folder / "model").iterdir():
        remote.write(f"model/{one.name}", one.read_bytes())
    remote.write("chats.jsonl", Path(data).read_bytes())
    found: dict[str, Any] = {}
    kinds = {"whole": {}, "merged": {"rank": 4}, "adapters": {"rank": 4, "merge": False}}
    for where, at in (("folder", str(folder)), ("bucket", bucket)):
        for kind, settings in kinds.items():
            if where == "bucket" and kind == "merged":
                continue
            saved = f"{at}/{kind}"
            task = task_of(f"{at}/model", f"{at}/chats.jsonl", save=saved, **settings)
            seen = _Seen(task)
            run = folder / "runs" / where / kind
            _in_run(run, functools.partial(fit, task))
            local = folder / "fetched" / where / kind
            local.mkdir(parents=True)
            store = Store(saved)
            for name in store.names():
                (local / name).write_bytes(store.read(name))
            if kind == "adapters":  # they name the base; this machine has it in a folder
                config = json.loads((local / "adapter_config.json").read_text())
                found[f"{where}, base"] = config["base_model_name_or_path"]
                config["base_model_name_or_path"] = str(folder / "model")
                (local / "adapter_config.json").write_text(json.dumps(config))
            model = AutoModelForCausalLM.from_pretrained(local)
            tokenizer = AutoTokenizer.from_pretrained(local)
            found[f"{where}, {kind}"] = {
                "files": store.names(),
                "trained": seen.said,
                "loaded": _says(model, tokenizer),
            }
            if where == "folder":
                found[f"exported, {kind}"] = _exported(run, folder / "model")
    tiny.make(folder / "other", seed=1)
    other = task_of(str(folder / "other"), data, rank=4)
    try:
        _in_run(folder / "runs/folder/adapters", functools.partial(fit, other))
    except UserError as error:
        found["another base"] = (error.id, str(error))
    try:
        task_of(str(folder / "model"), data, rank=4, targets=["nothing"]).model()
    except UserError as error:
        found["no adapter"] = (error.id, str(error))
    found["page"] = _page(folder)
    found["copies"] = len(list((folder / "cache/swell/models").glob("*/.whole")))
    (folder / "model/config.json").unlink()
    try:
        pretrained.local_folder(str(folder / "model"))
    except UserError as error:
        found["refused"] = (error.id, str(error))
    return found


def _in_run(place: Path, train: Callable[[Any], Any]) -> None:
    """Trains as the only worker of a run whose directory is ``place``."""
    from tests.trainer.test_loop import Script
    from trainer.protocol.session import ENV_SESSION, CheckpointSettings, Session

    place.mkdir(parents=True, exist_ok=True)
    about = {**formats.RUN.stamp(), "id": place.name, "target": "local"}
    (place / "run.json").write_text(json.dumps(about))
    session = Session(run_dir_url=str(place), checkpoint=CheckpointSettings(every=1e9))
    os.environ.update(session.to_env())
    try:
        train(Script(0))
    finally:
        del os.environ[ENV_SESSION]


def _exported(run: Path, base: Path) -> Any:
    """What a run's newest checkpoint says as the folder that ``swell checkpoints`` makes of it."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from launcher.views.checkpoints import export_folder
    from trainer.rundir.directory import RunDirectory

    folder = run / "exported"
    step = export_folder(RunDirectory(str(run)), None, folder)
    config = folder / "adapter_config.json"
    if config.exists():
        assert json.loads(config.read_text())["base_model_name_or_path"] == str(base)
    return step, _says(
        AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    )


def _page(folder: Path) -> list[str]:
    """Runs the example in docs/finetune.md. Returns the names of what it knows then."""
    page = Path(__file__).parents[3] / "docs/finetune.md"
    [example] = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    os.chdir(folder)
    known: dict[str, Any] = {}
    exec(example, known)
    return [type(known[name]).__name__ for name in ("task", "model")]


class _Seen:
    """Keeps what the model says when training is complete."""

    def __init__(self, task: Any) -> None:
        self.said: Any = None
        finish, tokenizer = task.finish, task._tokenizer

        def finished(model: Any) -> None:
            self.said = _says(getattr(model, "adapted", model), tokenizer)
            finish(model)

        task.finish = finished


PROMPT = [{"role": "user", "content": "what is 3"}]


def _asked(tokenizer: Any) -> Any:
    text = tokenizer.apply_chat_template(PROMPT, tokenize=False, add_generation_prompt=True)
    return tokenizer(text, return_tensors="pt", add_special_tokens=False)


@torch.no_grad()
def _says(model: Any, tokenizer: Any) -> tuple[list[float], str]:
    """The logits of an answer's first token, and the answer."""
    model.eval()
    asked = _asked(tokenizer)
    logits = model(**asked, use_cache=False).logits[0, -1].tolist()
    made = model.generate(**asked, max_new_tokens=6, do_sample=False)
    return logits, str(tokenizer.decode(made[0, asked["input_ids"].shape[1] :]))
