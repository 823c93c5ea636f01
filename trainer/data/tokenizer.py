"""What makes tokens of text: its bytes, or a file of the ``tokenizers`` library."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, Protocol

import fsspec
import numpy
import xxhash
from numpy.typing import NDArray

from trainer.rundir.usererror import Unusable

BYTES = "bytes"
UNREADABLE = "SW5194"  # text, or a tokenizer, that cannot be read
# What tokenizers call the end of a document, the first that is known counts: GPT-2 and its
# followers, Llama 2, Llama 3, BERT.
ENDS = ("<|endoftext|>", "</s>", "<|end_of_text|>", "[SEP]")


class Tokenizer(Protocol):
    """Makes tokens.

    Attributes:
        vocabulary: how many tokens there are.
        end: the token after each document.
        identity: the same for what makes the same tokens of the same text.
    """

    vocabulary: int
    end: int
    identity: str

    def encode(self, texts: Sequence[bytes]) -> list[NDArray[Any]]:
        """The tokens of each text in UTF-8, without an end."""

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens; what is no text in them is replaced."""


class Bytes:
    """Each byte of UTF-8 is a token, and one more ends a document: nothing is to be installed."""

    vocabulary = 257
    end = 256
    identity = BYTES

    def encode(self, texts: Sequence[bytes]) -> list[NDArray[Any]]:
        return [numpy.frombuffer(text, numpy.uint8) for text in texts]

    def decode(self, tokens: Sequence[int]) -> str:
        return bytes(one for one in tokens if one < self.end).decode(errors="replace")


class FromFile:
    """A tokenizer from ``tokenizer.json``, as the ``tokenizers`` library writes it.

    Args:
        url: the file; anything that fsspec opens.

    Raises Unusable when it cannot be read, has no token that ends a document, or the library is
    not installed.
    """

    def __init__(self, url: str) -> None:
        try:
            library = importlib.import_module("tokenizers")
        except ImportError:
            raise Unusable(UNREADABLE, f"{url}: needs a package: pip install tokenizers") from None
        try:
            with fsspec.open(url, "rb") as file:
                data = file.read()
        except OSError as error:
            raise Unusable(
                UNREADABLE, f"{url}: the tokenizer cannot be read: {_why(error)}"
            ) from None
        try:
            self._made = library.Tokenizer.from_buffer(data)
        except Exception as error:  # the library raises nothing narrower
            raise Unusable(
                UNREADABLE, f"{url}: is no tokenizer of the tokenizers library: {error}"
            ) from None
        ends = [self._made.token_to_id(name) for name in ENDS]
        known = [end for end in ends if end is not None]
        if not known:
            raise Unusable(
                UNREADABLE,
                f"{url}: has no token that ends a document; add one of {', '.join(ENDS)}",
            )
        self.end = int(known[0])
        self.vocabulary = int(self._made.get_vocab_size(with_added_tokens=True))
        self.identity = f"{xxhash.xxh3_128_hexdigest(data)} {library.__version__}"

    def encode(self, texts: Sequence[bytes]) -> list[NDArray[Any]]:
        found = self._made.encode_batch([text.decode() for text in texts], add_special_tokens=False)
        return [numpy.asarray(one.ids, numpy.int64) for one in found]

    def decode(self, tokens: Sequence[int]) -> str:
        return str(self._made.decode(list(tokens)))


def tokenizer_of(name: str) -> Tokenizer:
    """``bytes``, or that of a file. Raises Unusable."""
    return Bytes() if name == BYTES else FromFile(name)


def _why(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__
