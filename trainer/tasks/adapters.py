"""A language model whose weights stay, with LoRA's adapters that are trained (through peft).

The state of such a model is its adapters: a worker that comes has the base from its folder, so
checkpoints, and what is sent to newcomers, are a hundredth of the model. The names in it are those
of peft's own files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from trainer.rundir.usererror import Unusable
from trainer.tasks import pretrained


class Adapted(nn.Module):
    """Computes as the model with its adapters does; its state is that of the adapters.

    Args:
        model: peft's, with one adapter.
        dtype: of the base's parameters, by name.
    """

    def __init__(self, model: Any, dtype: str) -> None:
        super().__init__()
        self.adapted = model
        self._dtype = dtype

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.adapted(*args, **kwargs)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """The adapters, by the names that they have in a file of peft's."""
        from peft import get_peft_model_state_dict

        found = get_peft_model_state_dict(self.adapted, save_embedding_layers=False)
        return {name: one.detach() for name, one in found.items()}

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Takes over adapters. Raises ValueError when their names are not those that are here."""
        from peft import set_peft_model_state_dict

        if unlike := sorted(state_dict.keys() ^ self.state_dict().keys()):
            raise ValueError(f"these adapters and the model's differ in {unlike[:4]}")
        return set_peft_model_state_dict(self.adapted, dict(state_dict))

    def files(self, tokenizer: Any) -> dict[str, bytes]:
        """The files that make a folder of the adapters."""
        (config,) = self.adapted.peft_config.values()
        return {
            pretrained.ADAPTER_CONFIG: json.dumps(_plain(config.to_dict()), indent=2).encode(),
            **pretrained.files_of(tokenizer),
        }

    def merged(self, folder: Path) -> Any:
        """A new model on the CPU: that of ``folder``, with the adapters added to its weights."""
        other = pretrained.load_model(folder, self._dtype)
        (config,) = self.adapted.peft_config.values()
        whole = Adapted(_peft_model(other, config), self._dtype)
        whole.load_state_dict({name: one.cpu() for name, one in self.state_dict().items()})
        return whole.adapted.merge_and_unload()

    def save_pretrained(self, folder: str, **settings: Any) -> None:
        """Writes the adapters as peft does."""
        self.adapted.save_pretrained(folder, save_embedding_layers=False)


def adapted(
    model: Any, rank: int, alpha: float | None, targets: list[str] | str, base: str, dtype: str
) -> Adapted:
    """A model with new adapters, which change nothing yet.

    Args:
        model: as it was loaded; it is changed in its place.
        rank, alpha, targets: see trainer.tasks.finetune.
        base: where the model is, for who loads the adapters later.
        dtype: of its parameters.

    Raises Unusable when no layer is called as ``targets`` says.
    """
    from peft import LoraConfig

    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=2 * rank if alpha is None else alpha,
        target_modules=targets,
        base_model_name_or_path=base,
    )
    model.name_or_path = base  # of a bucket's folder, that of its copy is nobody's business
    try:
        made = _peft_model(model, config)
    except ValueError as error:
        said = str(error).partition("\n")[0][:200]
        raise Unusable("SW5203", f"targets: no adapter fits {targets!r}: {said}") from None
    return Adapted(made, dtype)


def _peft_model(model: Any, config: Any) -> Any:
    from peft import get_peft_model

    return get_peft_model(model, config)  # adapters are float32 where the base is in less


def _plain(value: Any) -> Any:
    """What JSON can hold of a configuration: sets become lists."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, set | frozenset | list | tuple):
        return sorted(value) if isinstance(value, set | frozenset) else [_plain(v) for v in value]
    return value
