"""Pictures in folders of classes: a ResNet or a vision transformer learns to tell them apart.

task: trainer.tasks.images:Images
args: {data: gs://bucket/photos, model: resnet50}
"""

from __future__ import annotations

import json
import math
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, AdamW, Optimizer

from trainer.data.images import FOLDER, Augment, Pictures, middle
from trainer.engine.plan import Plan
from trainer.rundir.store import Store
from trainer.rundir.usererror import Unusable
from trainer.task import Task
from trainer.tasks.classifiers import RESNETS, classifier
from trainer.training.groups import decay_groups
from trainer.training.precision import Name as PrecisionName
from trainer.training.schedule import Schedule

WEIGHTS, ABOUT = "model.safetensors", "classifier.json"
MIDDLE = 0.875  # of a picture's shorter side is evaluated


class Images(Task):
    """A classifier of pictures.

    Args:
        data: a folder that has a folder for each class, or gs://BUCKET/FOLDER.
        validation: another such folder; "" for every ``held_out``-th picture of ``data``.
        held_out: see ``validation``; 0 for no evaluation.
        save: a folder, or gs://BUCKET/FOLDER, that the model is written to at the end; "" for none.
        model: resnet18, resnet34, resnet50, vit_tiny, vit_small or vit_base.
        width: channels of the model, if not those that its name stands for.
        size: pixels of a side, of what the model sees.
        area, flip, jitter: see trainer.data.images.Augment.
        mixup: how evenly two pictures are mixed (the parameter of a beta distribution); 0: never.
        smoothing: the part of each label that is spread over all classes.
        epochs: passes over the data; ``steps`` counts more.
        steps: of the whole run.
        batch: pictures of a step, over all workers.
        unit: pictures that are computed together in every world; None for 16, or what there is.
        lr: the highest learning rate; None for 0.1 (SGD, ResNet) or 1e-3 (AdamW, ViT) at a batch of
            256, and in proportion to it.
        warmup: epochs in which it rises; then it falls to 0 along a cosine.
        weight_decay: of matrices and kernels; None for 5e-5 (ResNet) or 0.05 (ViT).
        average: what of a moving average of the model stays in each step, which is what is
            evaluated and saved; None for no average.
        precision: what is computed in: ``fp32``, ``bf16`` or ``fp16``.
        compile: whether the model is compiled.
        workers: loader processes of each rank.
        seed: fixes weights, order, augmentation and mixing.

    Raises Unusable for arguments or a folder that cannot be used.
    """

    def __init__(
        self,
        data: str,
        validation: str = "",
        held_out: int = 10,
        save: str = "",
        model: str = "resnet18",
        width: int | None = None,
        size: int = 224,
        area: float = 0.35,
        flip: float = 0.5,
        jitter: float = 0.0,
        mixup: float = 0.0,
        smoothing: float = 0.1,
        epochs: int = 30,
        steps: int | None = None,
        batch: int = 256,
        unit: int | None = None,
        lr: float | None = None,
        warmup: float = 1.0,
        weight_decay: float | None = None,
        average: float | None = None,
        precision: PrecisionName = "fp32",
        compile: bool = False,
        workers: int = 2,
        seed: int = 0,
    ) -> None:
        if not 0 < area <= 1 or not 0 <= flip <= 1 or not 0 <= jitter < 1 or mixup < 0:
            raise Unusable(
                "SW5208",
                f"area={area}, flip={flip}, jitter={jitter}, mixup={mixup}: an area is above 0 and "
                "at most 1, flip from 0 to 1, jitter from 0 to below 1, and mixup 0 or more",
            )
        pictures = Pictures(data)
        self.classes = pictures.classes
        if len(self.classes) < 2:
            raise Unusable(
                FOLDER,
                f"{data} has one class, {self.classes[0]}: there is nothing to tell apart; give "
                "each class a folder",
            )
        if validation.rstrip("/") == data.rstrip("/"):
            raise Unusable(
                "SW5208",
                "validation: it is what is trained on, and would show what was learned by heart; "
                "name another folder, or leave it out",
            )
        print(f"images: {_told(data, pictures)}", flush=True)
        self._testing: Pictures | None = None
        if validation:
            self._testing = Pictures(validation, self.classes)
        elif held_out:
            numbers = torch.arange(len(pictures), device="cpu")
            held = numbers % held_out == held_out // 2
            self._testing, pictures = pictures.part(numbers[held]), pictures.part(numbers[~held])
        self._training = pictures
        self._name, self._width, self._size, self._save = model, width, size, save
        self._convolves = model in RESNETS
        self._augment = Augment(size, area, flip=flip, jitter=jitter, seed=seed)
        self._mixup, self._smoothing = mixup, smoothing
        usual, decay = (0.1, 5e-5) if self._convolves else (1e-3, 0.05)
        self._lr = usual * batch / 256 if lr is None else lr
        self._decay = decay if weight_decay is None else weight_decay
        self.epochs, self.steps, self.global_batch = epochs, steps, batch
        self.unit = min(16, batch) if unit is None else unit
        self.schedule = Schedule("cosine", warmup * len(pictures), counted_in="samples")
        self.ema, self.precision, self.compile = average, precision, compile
        self.channels_last, self.workers, self.seed = self._convolves, workers, seed

    def dataset(self) -> Pictures:
        return self._training

    def validation(self) -> Pictures | None:
        return self._testing

    def model(self) -> nn.Module:
        return classifier(self._name, len(self.classes), self._size, self._width)

    def optimizer(self, model: nn.Module) -> Optimizer:
        groups = decay_groups(model, self._decay)
        if self._convolves:
            return SGD(groups, lr=self._lr, momentum=0.9, nesterov=True)
        return AdamW(groups, lr=self._lr, betas=(0.9, 0.99))

    def batch(self, dataset: Pictures, indices: Tensor, step: Plan) -> tuple[Tensor, Tensor]:
        augment = self._augment
        return dataset.batch(
            indices, lambda image, sample: augment(image, step.epoch, sample), augment.least
        )

    def evaluation_batch(self, dataset: Pictures, indices: Tensor) -> tuple[Tensor, Tensor]:
        size = self._size
        least = math.ceil(size / MIDDLE)
        return dataset.batch(indices, lambda image, sample: middle(image, size, MIDDLE), least)

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        pictures, labels = batch
        if not self._mixup:
            return functional.cross_entropy(
                model(pictures), labels, label_smoothing=self._smoothing
            )
        # Zhang et al., mixup (2017): each with the one before it, in a unit.
        beta = torch.distributions.Beta(self._mixup, self._mixup)
        part = beta.sample((len(labels),)).to(pictures.device)
        mixed = torch.lerp(pictures.roll(1, 0).float(), pictures.float(), part.view(-1, 1, 1, 1))
        logits = model(mixed)
        losses = [
            functional.cross_entropy(
                logits, wanted, label_smoothing=self._smoothing, reduction="none"
            )
            for wanted in (labels, labels.roll(1))
        ]
        return (part * losses[0] + (1 - part) * losses[1]).mean()

    def evaluate_batch(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Any]:
        pictures, labels = batch
        logits = model(pictures).float()
        return {
            "accuracy": ((logits.argmax(1) == labels).sum(), len(labels)),
            "val_loss": functional.cross_entropy(logits, labels),
        }

    def finish(self, model: nn.Module) -> None:
        """Saves weights and classes: safetensors and JSON."""
        if self._save:
            store = Store(self._save)
            tensors = {name: one.cpu().contiguous() for name, one in model.state_dict().items()}
            about = {
                "model": self._name,
                "width": self._width,
                "size": self._size,
                "classes": self.classes,
            }
            store.write(WEIGHTS, safetensors.torch.save(tensors, {"format": "pt"}))
            store.write(ABOUT, json.dumps(about, indent=2).encode())


def _told(url: str, pictures: Pictures) -> str:
    """What is in a folder, in a line of the log."""
    said = f"{url}: {len(pictures):,} pictures in {len(pictures.classes):,} classes"
    if left_out := pictures.left_out:
        said += f"; {len(left_out):,} other files are left out, such as {left_out[0]}"
    return said


def load(url: str) -> tuple[nn.Module, dict[str, Any]]:
    """A model that ``save`` has written, in evaluation mode on the CPU, and what is known of it.

    It takes pictures as ``trainer.data.images.middle`` makes them, as a batch. Raises
    FileNotFoundError, ValueError, OSError.
    """
    store = Store(url)
    about = json.loads(store.read(ABOUT))
    model = classifier(about["model"], len(about["classes"]), about["size"], about["width"])
    model.load_state_dict(safetensors.torch.load(store.read(WEIGHTS)))
    return model.eval(), about
