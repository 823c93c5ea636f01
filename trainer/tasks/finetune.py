"""Fine-tuning: any causal language model of Hugging Face's, whole or by adapters (LoRA).

    task: trainer.tasks.finetune:Finetune
    args: {model: gs://bucket/qwen3-0.6b, data: gs://bucket/chats.jsonl, save: gs://bucket/tuned}

The loss is that of the answers alone, and a mean over tokens: the sum over all workers by the count
over all workers, however the answers are spread over rows, micro-batches and machines.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import AdamW, Optimizer

from trainer.data.chats import IGNORED, Answers, Documents, read_lines, renderer, tokenize
from trainer.data.extras import require
from trainer.data.packing import Rows
from trainer.rundir.usererror import Unusable
from trainer.task import Task
from trainer.tasks import pretrained
from trainer.training.groups import decay_groups
from trainer.training.precision import Name as PrecisionName
from trainer.training.schedule import Schedule

FULL_LR, LORA_LR = 1e-5, 2e-4


class Finetune(Task):
    """A causal language model, on chats, prompts or texts.

    Args:
        model: a folder with a Hugging Face model, or gs://BUCKET/FOLDER.
        data: a file of JSON lines (see trainer.data.chats); anything that fsspec opens.
        validation: another such file, that is evaluated; "" for none.
        save: a folder, or gs://BUCKET/FOLDER, that the model is written to at the end, as
            ``from_pretrained`` loads it; "" for none.
        rank: of LoRA's adapters; 0 trains the whole model.
        alpha: LoRA's scale is alpha / rank; None for twice the rank.
        targets: which layers get adapters: names of modules, or ``all-linear``.
        merge: whether adapters are added to the weights when the model is saved; if not, the folder
            has the adapters alone.
        length: tokens of a row. A longer document loses its end.
        packed: whether several documents share a row; they see nothing of each other.
        answers: of a chat, whether ``all`` answers are learned, or the ``last`` one.
        epochs: passes over the data; ``steps`` counts more.
        steps: of the whole run.
        batch: rows of a step, over all workers.
        micro_batch: most rows of one forward pass; None for as many as fit.
        lr: the highest learning rate; None for 1e-5, or 2e-4 with adapters.
        warmup: steps in which it rises; then it falls to 0 along a cosine.
        weight_decay: of matrices.
        clip_norm: largest norm of the gradients.
        dtype: of the parameters: float32 or float64; with adapters, which are float32 then, also
            bfloat16 or float16.
        precision: what is computed in: ``fp32`` (the parameters' own), ``bf16`` or ``fp16``.
        recompute: modules whose activations are computed again in backward, as *.layers.*
        eval_every: steps between evaluations; None for one after each epoch.
        seed: fixes the order of rows, the first adapters and dropout.

    Raises Unusable for arguments, a folder or a file that cannot be used.
    """

    def __init__(
        self,
        model: str,
        data: str,
        validation: str = "",
        save: str = "",
        rank: int = 0,
        alpha: float | None = None,
        targets: list[str] | str = "all-linear",
        merge: bool = True,
        length: int = 2048,
        packed: bool = True,
        answers: Answers = "all",
        epochs: int = 1,
        steps: int | None = None,
        batch: int = 16,
        micro_batch: int | None = None,
        lr: float | None = None,
        warmup: int = 0,
        weight_decay: float = 0.0,
        clip_norm: float | None = 1.0,
        dtype: str = "float32",
        precision: PrecisionName = "fp32",
        recompute: list[str] | None = None,
        eval_every: int | None = None,
        seed: int = 0,
    ) -> None:
        if length < 2 or rank < 0:
            raise Unusable(
                pretrained.ARGUMENT,
                f"length={length}, rank={rank}: a row has 2 tokens at least, and a rank is 0 (the "
                "whole model is trained) or more",
            )
        if dtype in ("bfloat16", "float16") and not rank:
            raise Unusable(
                pretrained.ARGUMENT,
                f"dtype={dtype}: updates of the whole model would be lost in rounding; write "
                "dtype: float32 and precision: bf16, or train adapters (rank: 16)",
            )
        self.epochs, self.steps = epochs, steps
        self.global_batch, self.micro_batch = batch, micro_batch
        self.precision, self.clip_norm = precision, clip_norm
        self.recompute = recompute or ()
        self.eval_every, self.seed = eval_every, seed
        self.schedule = Schedule("cosine", warmup=warmup)
        self._lr = lr if lr is not None else (LORA_LR if rank else FULL_LR)
        self._weight_decay = weight_decay
        self._model, self._dtype, self._save = model, dtype, save
        self._rank, self._alpha, self._targets = rank, alpha, targets
        self._merge = merge
        self._length, self._packed = length, packed
        require("finetune")
        self._folder = pretrained.local_folder(model)
        self._tokenizer = pretrained.load_tokenizer(self._folder)
        self._answers = answers
        documents = self._documents(data)
        self._train = self._rows(data, documents)
        self._validation = None
        if validation:
            held_out = self._documents(validation)
            self._validation = self._rows(validation, held_out)
            if shared := len(held_out.digests() & documents.digests()):
                print(
                    f"finetune: {validation}: {shared:,} of its {len(held_out):,} documents are "
                    "trained on, too, so val_loss is lower than it would be of new ones",
                    flush=True,
                )
        self._files = pretrained.Files({})

    def dataset(self) -> Rows:
        return self._train

    def validation(self) -> Rows | None:
        return self._validation

    def model(self) -> nn.Module:
        model = pretrained.load_model(self._folder, self._dtype)
        pretrained.require_room(model, self._tokenizer, self._length)
        if self._packed and not pretrained.keeps_apart(model):
            raise Unusable(
                "SW5202",
                f"{self._model}: documents that share a row would see each other in a model of "
                f"this kind ({model.config.model_type}); write packed: false",
            )
        if not self._rank:
            self._files = pretrained.Files(pretrained.described(model, self._tokenizer))
            return model  # type: ignore[no-any-return]
        from trainer.tasks.adapters import adapted

        base = pretrained.digest_of_model(model)
        made = adapted(model, self._rank, self._alpha, self._targets, self._model, self._dtype)
        self._files = pretrained.Files(made.files(self._tokenizer), base)
        return made

    def state(self) -> dict[str, Any]:
        return {"files": self._files}

    def optimizer(self, model: nn.Module) -> Optimizer:
        trained = [p for p in model.parameters() if p.requires_grad]
        groups: Any = trained if self._rank else decay_groups(model, self._weight_decay)
        return AdamW(groups, lr=self._lr, weight_decay=self._weight_decay)

    def loss(self, model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        logits = model(
            input_ids=batch["tokens"], position_ids=batch["positions"], use_cache=False
        ).logits
        wanted = batch["targets"].flatten()
        # In no lower precision than float32: of a large vocabulary, bfloat16 has three digits.
        logits = logits.flatten(0, 1)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        total = functional.cross_entropy(logits, wanted, ignore_index=IGNORED, reduction="sum")
        return total, (wanted != IGNORED).sum()

    def evaluate_batch(self, model: Any, batch: dict[str, Tensor]) -> dict[str, Any]:
        return {"val_loss": self.loss(model, batch)}

    def tokens(self, batch: dict[str, Tensor]) -> int:
        """The tokens of a batch that are no padding."""
        return int(batch["used"].sum())

    def finish(self, model: Any) -> None:
        if self._save:
            if self._rank and self._merge:
                model = model.merged(self._folder)
            pretrained.save(self._save, model, self._tokenizer)

    def _documents(self, url: str) -> Documents:
        lines = read_lines(url, renderer(self._tokenizer), self._answers)
        return tokenize(lines, self._tokenizer, self._length)

    def _rows(self, url: str, documents: Documents) -> Rows:
        padding = self._tokenizer.pad_token_id
        rows = Rows(documents, self._length, self._packed, padding or 0)
        print(f"finetune: {_told(url, documents, rows)}", flush=True)
        return rows


def _told(url: str, documents: Documents, rows: Rows) -> str:
    """What has become of a file, in a line of the log."""
    learned = int(documents.learned.sum())
    said = f"{url}: {len(documents):,} documents in {len(rows):,} rows, {rows.used:.0%} of them "
    said += f"tokens, {learned:,} to be learned"
    if documents.cut:
        said += f"; {documents.cut:,} documents were longer than a row, and have lost their end"
    if documents.left_out:
        said += f"; {documents.left_out:,} have nothing to learn, and are left out"
    return said
