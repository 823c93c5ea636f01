"""A tiny model and a few chats to try it on, until there are yours.

python sample.py    makes the folder sample/model and the file sample/chats.jsonl
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast


def make(folder: Path = Path("sample")) -> None:
    """Makes both, unless they are there: a model of some thousand parameters that knows nothing."""
    if (folder / "chats.jsonl").exists():
        return
    make_model(folder / "model")
    chats = [
        [
            {"role": "user", "content": f"what is {number} and {number}"},
            {"role": "assistant", "content": f"it is {2 * number}"},
        ]
        for number in range(40)
    ]
    lines = [json.dumps({"messages": chat}) + "\n" for chat in chats]
    (folder / "chats.jsonl").write_text("".join(lines), "utf-8")


def make_model(folder: Path, dtype: torch.dtype = torch.float32, seed: int = 0) -> None:
    """Makes a folder as Hugging Face's are: a model, and a tokenizer of bytes and a few marks.

    Args:
        folder: the folder.
        dtype: of the model's parameters, which are drawn in float32.
        seed: what they are drawn by.
    """
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytewise = Tokenizer(models.BPE({one: at for at, one in enumerate(letters)}, []))
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytewise.decoder = decoders.ByteLevel()
    marks = ["<|im_start|>", "<|im_end|>", "<|end|>"]
    bytewise.add_special_tokens([AddedToken(one) for one in marks])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bytewise, eos_token="<|im_end|>", pad_token="<|end|>"
    )
    torch.manual_seed(seed)
    config = LlamaConfig(
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
    model: Any = LlamaForCausalLM(config)
    model.to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    make()
