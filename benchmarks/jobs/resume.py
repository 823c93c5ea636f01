"""Small scripts that say which samples they train on: LIBRARY FOLDER first|second.

``first`` trains STEPS steps and saves; ``second`` resumes, and trains to the end of the epoch. The
batch is 4 for each rank, as a script sets it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

SAMPLES = 96  # an epoch's: 12 steps of two ranks, 24 of one
STEPS = 6
BATCH = 4
LIBRARIES = ("transformers", "accelerate", "lightning", "sampler")


class Numbered(Dataset[dict[str, torch.Tensor]]):
    """Samples that know their number."""

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"index": torch.tensor(index), "x": torch.full((2,), index / SAMPLES)}


class Model(nn.Module):
    """Notes what it is trained on."""

    def __init__(self, seen: Path) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 1)
        self.seen = seen

    def forward(self, index: torch.Tensor, x: torch.Tensor) -> dict[str, torch.Tensor]:
        with self.seen.open("a") as file:
            file.write(" ".join(map(str, index.tolist())) + " ")
        return {"loss": self.linear(x).square().mean()}


def rank_and_size() -> tuple[int, int]:
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def by_transformers(folder: Path, seen: Path, first: bool) -> None:
    from transformers import Trainer, TrainingArguments

    _, size = rank_and_size()
    args = TrainingArguments(
        str(folder / "out"),
        max_steps=STEPS if first else SAMPLES // (BATCH * size),
        per_device_train_batch_size=BATCH,
        save_steps=STEPS,
        report_to="none",
        remove_unused_columns=False,
        use_cpu=True,
        ddp_backend="gloo",
        seed=1,
    )
    trainer = Trainer(Model(seen), args, train_dataset=Numbered())
    trainer.train(resume_from_checkpoint=None if first else str(folder / f"out/checkpoint-{STEPS}"))


def by_accelerate(folder: Path, seen: Path, first: bool) -> None:
    from accelerate import Accelerator
    from accelerate.utils import set_seed

    accelerator = Accelerator(cpu=True)
    set_seed(1)
    model = Model(seen)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    data: Any = DataLoader(Numbered(), BATCH, shuffle=True)
    model, optimizer, data = accelerator.prepare(model, optimizer, data)
    data.set_epoch(0)
    if not first:
        accelerator.load_state(str(folder / "out"))
        data = accelerator.skip_first_batches(data, STEPS)
    for step, batch in enumerate(data, 1):
        accelerator.backward(model(**batch)["loss"])
        optimizer.step()
        optimizer.zero_grad()
        if first and step == STEPS:
            break
    if first:
        accelerator.save_state(str(folder / "out"))
    accelerator.end_training()


def by_lightning(folder: Path, seen: Path, first: bool) -> None:
    import lightning.pytorch as pl

    class Module(pl.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = Model(seen)

        def training_step(self, batch: dict[str, torch.Tensor], number: int) -> torch.Tensor:
            loss: torch.Tensor = self.model(**batch)["loss"]
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.1)

    file = folder / "lightning.ckpt"

    class Save(pl.Callback):  # type: ignore[misc]
        """Saves in the midst of the epoch: one that ``fit`` has left counts as over."""

        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            if first and trainer.global_step == STEPS:
                trainer.save_checkpoint(file)

    _, size = rank_and_size()
    pl.seed_everything(1, verbose=False)
    trainer = pl.Trainer(
        strategy="ddp",
        accelerator="cpu",
        devices=size,
        max_steps=STEPS if first else -1,
        max_epochs=1,
        logger=False,
        callbacks=[Save()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = DataLoader(Numbered(), BATCH, shuffle=True)
    trainer.fit(Module(), data, ckpt_path=None if first else str(file))


def by_sampler(folder: Path, seen: Path, first: bool) -> None:
    """DDP with a DistributedSampler, whose epoch a script skips the first batches of."""
    from torch import distributed
    from torch.nn.parallel import DistributedDataParallel
    from torch.utils.data import DistributedSampler

    distributed.init_process_group("gloo")
    model = DistributedDataParallel(Model(seen))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    sampler: DistributedSampler[Any] = DistributedSampler(Numbered(), seed=1)
    sampler.set_epoch(0)
    for step, batch in enumerate(DataLoader(Numbered(), BATCH, sampler=sampler), 1):
        if not first and step <= STEPS:
            continue
        model(**batch)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        if first and step == STEPS:
            break
    distributed.destroy_process_group()


def main() -> None:
    library, folder, phase = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    scripts = {
        "transformers": by_transformers,
        "accelerate": by_accelerate,
        "lightning": by_lightning,
        "sampler": by_sampler,
    }
    rank, _ = rank_and_size()
    scripts[library](folder, folder / f"{phase}-{rank}.seen", phase == "first")


if __name__ == "__main__":
    main()
