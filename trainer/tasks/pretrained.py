"""A causal language model of Hugging Face's, in a folder: fetched, loaded, saved.

Weights are read from safetensors alone, and no code that a folder brings is run: a model must be of
a kind that transformers knows. A folder in a bucket is copied to this machine once, whatever number
of workers ask for it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainer.data.chats import CHATML
from trainer.engine.contents import digests_of
from trainer.engine.digest import combined
from trainer.rundir.private import make_private
from trainer.rundir.store import Store
from trainer.rundir.usererror import Unusable

FOLDER, ARGUMENT = "SW5198", "SW5201"
CONFIG = "config.json"
ADAPTER_CONFIG = "adapter_config.json"
WHOLE = ".whole"  # in a copy of a folder, when all of it is there
DTYPES = ("float32", "bfloat16", "float16", "float64")
# What is copied from a bucket: weights, and what describes model and tokenizer; never a pickle.
_WANTED = (".safetensors", ".json", ".model", ".jinja", ".txt", ".tiktoken")
# Of a description: where it comes from, and who has written it.
_OF_NO_EFFECT = {
    "_name_or_path",
    "base_model_name_or_path",
    "dtype",
    "inference_mode",
    "peft_version",
    "revision",
    "torch_dtype",
    "transformers_version",
}
_SHARD = "2GB"  # of what is saved: a file goes to a bucket in one piece
_NEAR = {torch.bfloat16: 5e-2, torch.float16: 1e-2}  # of the largest logit; else 1e-4


def local_folder(url: str) -> Path:
    """The folder of a model on this machine; one in a bucket is copied first.

    The copy is in ``$XDG_CACHE_HOME/swell/models`` (``~/.cache/swell/models``), by the URL and what
    the bucket says of its files: what has changed there is copied anew.

    Raises Unusable for what is no model's folder, and OSError.
    """
    store = Store(url)
    if store.is_local:
        _require(url, os.listdir(store.root) if os.path.isdir(store.root) else None)
        return Path(store.root)
    names = [one for one in store.names() if one.endswith(_WANTED)]
    _require(url, names)
    about = [(name, _version(store, name)) for name in names]
    key = hashlib.sha256(repr((url, about)).encode()).hexdigest()[:32]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "swell/models"
    make_private(cache)
    folder = cache / key
    with _locked(cache / f"{key}.lock"):
        if not (folder / WHOLE).exists():
            folder.mkdir(exist_ok=True)
            for name in names:
                (folder / name).write_bytes(store.read(name))
            (folder / WHOLE).touch()
    return folder


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a folder; without a chat template, it is given ChatML's.

    Raises Unusable when there is none, or none that knows where in a text its tokens are.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, ImportError) as error:
        raise Unusable(FOLDER, f"{folder} has no tokenizer that loads: {_line(error)}") from None
    if not tokenizer.is_fast:
        raise Unusable(
            FOLDER,
            f"{folder}: its tokenizer has no tokenizer.json, and cannot tell where in a text its "
            "tokens are; convert it (AutoTokenizer.from_pretrained(…).save_pretrained(…))",
        )
    if not tokenizer.chat_template:
        tokenizer.chat_template = CHATML
    return tokenizer


def load_model(folder: Path, dtype: str) -> Any:
    """The model of a folder, on the CPU.

    Raises Unusable when it does not load: a kind that transformers does not know, code of its own,
    or weights that are no safetensors.
    """
    from transformers import AutoModelForCausalLM, logging

    if dtype not in DTYPES:
        raise Unusable(FOLDER, f"dtype is {dtype!r}; write {', '.join(DTYPES)}")
    logging.disable_progress_bar()  # of each worker, in one log
    try:
        return AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise Unusable(
            FOLDER,
            f"{folder} has no model that loads; it must be of a kind that transformers knows, with "
            f"its weights in safetensors: {_line(error)}",
        ) from None


def require_room(model: Any, tokenizer: Any, length: int) -> None:
    """Makes sure that a model takes rows of so many tokens, and each of the tokenizer's.

    Raises Unusable. Some kinds would compute beyond what they have learned, and say nothing.
    """
    most = getattr(model.config, "max_position_embeddings", None)
    if most is not None and length > most:
        raise Unusable(ARGUMENT, f"length={length}: this model takes {most} tokens at most")
    known = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > known:
        raise Unusable(
            FOLDER,
            f"the tokenizer has {len(tokenizer)} tokens, and the model knows {known}: they do not "
            "belong together, or the model was to be resized (resize_token_embeddings)",
        )


def digest_of_model(model: nn.Module) -> int:
    """A digest of all parameters, by name: of a base that adapters are trained on."""
    named = sorted(model.named_parameters())
    return combined([digest for _, digest in digests_of((n, p.detach()) for n, p in named)])


@torch.no_grad()
def keeps_apart(model: Any) -> bool:
    """Whether a model tells the documents of a row apart by their positions, as it should.

    Not every kind does: one with a state that runs on, as Mamba's, mixes them.
    """
    tokens = torch.arange(3, 11, device="cpu")[None] % model.config.vocab_size
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3]], device="cpu")
    was = model.training
    model.eval()
    try:
        packed = model(input_ids=tokens, position_ids=positions, use_cache=False).logits[:, 4:]
        alone = model(
            input_ids=tokens[:, 4:], position_ids=positions[:, 4:], use_cache=False
        ).logits
    except TypeError:  # it takes no positions
        return False
    finally:
        model.train(was)
    near = _NEAR.get(alone.dtype, 1e-4) * float(alone.abs().max())
    return float((packed - alone).abs().max()) <= near


def described(model: Any, tokenizer: Any) -> dict[str, bytes]:
    """The files that make a model's folder of its weights, by name."""
    return {
        CONFIG: model.config.to_json_string(use_diff=True).encode(),
        "generation_config.json": model.generation_config.to_json_string().encode(),
        **files_of(tokenizer),
    }


def files_of(tokenizer: Any) -> dict[str, bytes]:
    """A tokenizer's files, as ``save_pretrained`` writes them."""
    with tempfile.TemporaryDirectory(prefix="swell-") as folder:
        tokenizer.save_pretrained(folder)
        there = sorted(Path(folder).iterdir())
        return {one.name: one.read_bytes() for one in there if one.is_file()}


def save(url: str, model: Any, tokenizer: Any) -> None:
    """Writes a folder that ``from_pretrained`` loads, anywhere that fsspec writes.

    ``config.json`` is written last, and taken away first: a folder that has it is whole.

    Raises OSError.
    """
    store = Store(url)
    with tempfile.TemporaryDirectory(prefix="swell-") as folder:
        model.save_pretrained(folder, max_shard_size=_SHARD)
        tokenizer.save_pretrained(folder)
        if not store.is_local or os.path.isdir(store.root):
            store.delete_file(CONFIG)
        names = [one.name for one in Path(folder).iterdir() if one.is_file()]
        for name in sorted(names, key=lambda one: (one == CONFIG, one)):
            store.write(name, (Path(folder) / name).read_bytes())


class Files:
    """The files beside a model's weights, as a part of the state: a checkpoint is a whole model.

    Args:
        files: by name.
        base: the digest of the model that adapters are for; 0 without any.
    """

    def __init__(self, files: dict[str, bytes], base: int = 0) -> None:
        self._files = files
        self._base = base

    def state_dict(self) -> dict[str, Any]:
        """The files as uint8 tensors, and the base."""
        return {
            "files": {name: _as_tensor(data) for name, data in self._files.items()},
            "base": self._base,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over the files. Raises Unusable when they are of another model."""
        if state["base"] != self._base:
            raise Unusable(
                "SW5199",
                "the adapters of this checkpoint were trained on another model than the one that "
                "was loaded: its weights, or their dtype, have changed; give the run the model "
                "that it began with",
            )
        files = {name: one.cpu().numpy().tobytes() for name, one in state["files"].items()}
        if unlike := _otherwise(files, self._files):
            raise Unusable(
                "SW5210",
                "the model of this checkpoint was described otherwise than the one that is trained "
                f"now: {'; '.join(unlike)}; set it back, or begin a new run",
            )
        self._files = files


def _otherwise(then: dict[str, bytes], now: dict[str, bytes]) -> list[str]:
    """What descriptions of both say otherwise; what one does not say is no difference."""
    found = []
    for name in (CONFIG, ADAPTER_CONFIG):
        if name in then and name in now:
            was, became = json.loads(then[name]), json.loads(now[name])
            found += [
                f"{key} was {was[key]} and is {became[key]}"
                for key in sorted(was.keys() & became.keys() - _OF_NO_EFFECT)
                if was[key] != became[key]
            ]
    return found


def _as_tensor(data: bytes) -> Tensor:
    if not data:
        return torch.empty(0, dtype=torch.uint8, device="cpu")
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def _require(url: str, names: list[str] | None) -> None:
    if names is None or CONFIG not in names:
        raise Unusable(
            FOLDER,
            f"{url} is no folder of a Hugging Face model: there is no {CONFIG}; give a folder or "
            "gs://BUCKET/FOLDER that save_pretrained has written, or that was downloaded",
        )
    if not any(name.endswith(".safetensors") for name in names):
        raise Unusable(
            FOLDER,
            f"{url} has no safetensors; weights in pickles are not read here, since those can hold "
            "any code: convert them where you trust them (save_pretrained writes safetensors)",
        )


def _version(store: Store, name: str) -> Any:
    about = store.fs.info(store.path(name))
    keys = ("size", "generation", "etag", "ETag", "LastModified", "created")
    return [str(about.get(key)) for key in keys]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process of this machine at a time; the lock goes with its process."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).partition("\n")[0][:200]
