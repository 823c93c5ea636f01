"""A language model and a tokenizer that are made on the spot, in a folder as Hugging Face's are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

CHATS = tuple(
    [
        {"role": "user", "content": f"what is {number}"},
        {"role": "assistant", "content": " ".join(["it", "is", "the", *str(number)][: 2 + number])},
    ]
    for number in range(10)
)


def make(folder: Path, dtype: torch.dtype = torch.float32, seed: int = 0) -> None:
    """A model of a few thousand parameters, and a tokenizer of single bytes and a few marks."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = Tokenizer(models.BPE({one: at for at, one in enumerate(letters)}, []))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    marks = ["<|im_start|>", "<|im_end|>", "<|end|>"]
    bpe.add_special_tokens([AddedToken(one) for one in marks])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|end|>"
    )
    torch.manual_seed(seed)
    model: Any = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=256,
            initializer_range=0.3,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    model.to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write(file: Path, lines: Sequence[Any]) -> str:
    """A file of JSON lines. Returns its path."""
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(file)
