"""Chats, prompts and texts in JSON lines: tokens for a language model, and which of them it learns.

    {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}
    {"prompt": "…", "completion": "…"}
    {"text": "…"}

Of a chat the answers are learned, of a prompt its completion, of a text everything. Where an answer
lies in a chat is found by rendering: the chat up to it, and with it, by the tokenizer's own
template. So what is learned begins where the model begins to write, and ends with the mark that it
is to end with. A template that renders the past in another way when the chat goes on (some leave
out what was thought) has no such place, and is refused by name.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
import xxhash
from torch import Tensor

from trainer.rundir.store import Store
from trainer.rundir.usererror import Message, Unusable

Answers = Literal["all", "last"]
CHATS = "SW5197"
LISTED = 8  # lines in a message
AT_ONCE = 1000  # documents that are tokenized together
ROLE = "assistant"
IGNORED = -100  # the target of what is not learned; cross_entropy's own number
# What a tokenizer without a template is given, and is saved with: ChatML, but that an answer ends
# with the token that ends what the model writes.
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] }}"
    "{{ (eos_token or '<|im_end|>') + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

Render = Callable[[list[dict[str, Any]], bool], str]


@dataclass(frozen=True)
class Line:
    """A line of a file of chats.

    Attributes:
        where: its file and number, for messages.
        text: all of it, as the model reads it.
        learned: the parts [start, stop) of the text that are learned, in characters.
        plain: whether it is no chat: the marks of beginning and end are not in the text.
    """

    where: str
    text: str
    learned: tuple[tuple[int, int], ...]
    plain: bool = False


@dataclass(frozen=True)
class Documents:
    """Tokenized documents, one behind another.

    Attributes:
        tokens: of all documents, int32, shape [n].
        learned: whether each is learned: bool, shape [n]; never the first of a document, which
            nothing foretells.
        bounds: where each document begins, and where the last ends: int64, shape [documents + 1].
        cut: how many were longer than allowed, and have lost their end.
        left_out: how many have nothing to learn, and are not among them.
    """

    tokens: Tensor
    learned: Tensor
    bounds: Tensor
    cut: int = 0
    left_out: int = 0

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def lengths(self) -> Tensor:
        """The tokens of each document: int64, shape [documents]."""
        return self.bounds.diff()

    def digests(self) -> set[int]:
        """What tells each document from others."""
        tokens, bounds = self.tokens.numpy(), self.bounds.tolist()
        return {
            xxhash.xxh3_64_intdigest(tokens[a:b].tobytes()) for a, b in itertools.pairwise(bounds)
        }

    def document(self, number: int) -> tuple[Tensor, Tensor]:
        """A document's tokens, and what is to be foretold at each: both int64, shape [n].

        The target of a token is the one after it, where that is learned, and else ``IGNORED``.
        """
        start, stop = self.bounds[number : number + 2].tolist()
        tokens = self.tokens[start:stop].long()
        targets = torch.full_like(tokens, IGNORED)
        learned = self.learned[start + 1 : stop]
        targets[:-1][learned] = tokens[1:][learned]
        return tokens, targets


def read_lines(url: str, render: Render, answers: Answers = "all") -> list[Line]:
    """The lines of a file of JSON lines, rendered.

    Args:
        url: of the file: a path, or anything that fsspec opens.
        render: gives the text of some messages, and with True that with which an answer begins.
        answers: which answers of a chat are learned: ``all``, or the ``last`` one.

    Raises Unusable, with all lines that are wrong (the first few in words), and OSError.
    """
    if answers not in get_args(Answers):
        raise Unusable(CHATS, f"answers is {answers!r}; write all or last")
    folder, _, name = url.rpartition("/")
    try:
        data = Store(folder or ("/" if url.startswith("/") else ".")).read(name)
    except FileNotFoundError:
        raise Unusable(CHATS, f"{url} is not there; name a file of JSON lines") from None
    found, wrong = [], []
    for number, raw in enumerate(data.splitlines(), 1):
        if raw.strip():
            where = f"{url}:{number}"
            try:
                found.append(_line(where, raw, render, answers))
            except _Wrong as error:
                wrong.append(f"{where}: {error}")
    if wrong:
        more = [f"{len(wrong) - LISTED} more lines are wrong"] if len(wrong) > LISTED else []
        raise Unusable.of([Message(CHATS, text) for text in wrong[:LISTED] + more])
    if not found:
        raise Unusable(CHATS, f"{url} has no lines; write one JSON object a line")
    return found


def tokenize(lines: Sequence[Line], tokenizer: Any, most: int) -> Documents:
    """The documents of some lines.

    Args:
        lines: what ``read_lines`` returns.
        tokenizer: a fast one of Hugging Face's: it knows where in the text each token is.
        most: tokens of a document; what is longer loses its end.

    Raises Unusable when no document has anything to learn.
    """
    tokens: list[Tensor] = []
    learned: list[Tensor] = []
    cut = left_out = 0
    for first in range(0, len(lines), AT_ONCE):
        some = lines[first : first + AT_ONCE]
        for line, ids, places in zip(some, *_encoded(some, tokenizer), strict=True):
            marks = [any(a < end and b > at for a, b in line.learned) for at, end in places]
            if line.plain:
                ids, marks = _ended(ids, marks, tokenizer)
            marks[:1] = [False] * len(marks[:1])
            cut += len(ids) > most
            if any(marks[:most]):
                tokens.append(torch.tensor(ids[:most], dtype=torch.int32, device="cpu"))
                learned.append(torch.tensor(marks[:most], dtype=torch.bool, device="cpu"))
            else:
                left_out += 1
    if not tokens:
        raise Unusable(
            CHATS,
            f"{lines[0].where}: of {len(lines)} lines none has anything to learn within {most} "
            "tokens; let chats have answers, and raise length",
        )
    bounds = torch.tensor([0, *map(len, tokens)], dtype=torch.int64, device="cpu").cumsum(0)
    return Documents(torch.cat(tokens), torch.cat(learned), bounds, cut, left_out)


def renderer(tokenizer: Any) -> Render:
    """What renders messages by a tokenizer's template."""

    def render(messages: list[dict[str, Any]], asks: bool) -> str:
        return str(
            tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=asks)
        )

    return render


class _Wrong(ValueError):
    """What is wrong with a line."""


def _line(where: str, raw: bytes, render: Render, answers: Answers) -> Line:
    try:
        value = json.loads(raw)
    except ValueError as error:
        raise _Wrong(f"is no JSON: {str(error)[:80]}") from None
    match value:
        case {"tools": list()} | {"documents": list()}:
            raise _Wrong(
                "has tools or documents, which are not rendered here; write them into the messages"
            )
        case {"messages": list(messages)}:
            for number, message in enumerate(messages):
                match message:
                    case {"role": str(), "content": str()}:
                        continue
                raise _Wrong(f"messages.{number} must have role and content, both texts")
            text, learned = _rendered(messages, render, answers)
            return Line(where, text, tuple(learned))
        case {"prompt": str(prompt), "completion": str(completion)}:
            text = prompt + completion
            return Line(where, text, ((len(prompt), len(text) or 1),), plain=True)
        case {"text": str(text)}:
            return Line(where, text, ((0, len(text)),), plain=True)
    raise _Wrong("must have messages (a list), or prompt and completion, or text")


def _rendered(
    messages: list[dict[str, Any]], render: Render, answers: Answers
) -> tuple[str, list[tuple[int, int]]]:
    """The text of a chat, and where its answers are."""
    places = [at for at, message in enumerate(messages) if message["role"] == ROLE]
    if not places:
        raise _Wrong(f"messages has no answer: none of role {ROLE}")
    spans = []
    try:
        whole = render(messages, False)
        for at in places if answers == "all" else places[-1:]:
            before = render(messages[:at], True)
            after = whole if at + 1 == len(messages) else render(messages[: at + 1], False)
            if not (after.startswith(before) and whole.startswith(after)):
                raise _Wrong(
                    f"the template renders the chat before messages.{at} in another way when it "
                    "goes on, so nobody can tell where that answer begins; write a line for each "
                    "answer, or take answers: last"
                )
            spans.append((len(before), len(after)))
    except _Wrong:
        raise
    except Exception as error:  # the template is a program, and says no in its own ways
        raise _Wrong(f"the tokenizer's template refuses it: {str(error)[:200]}") from None
    return whole, spans


def _encoded(lines: Sequence[Line], tokenizer: Any) -> tuple[list[list[int]], list[Any]]:
    """The tokens of each line, and which characters each stands for."""
    ids: list[list[int]] = [[] for _ in lines]
    places: list[Any] = [[] for _ in lines]
    for plain in (False, True):  # a template has the tokenizer's marks in it
        which = [at for at, line in enumerate(lines) if line.plain is plain]
        if not which:
            continue
        found = tokenizer(
            [lines[at].text for at in which],
            add_special_tokens=plain,
            return_offsets_mapping=True,
            return_attention_mask=False,
            verbose=False,
        )
        for at, tokens, offsets in zip(
            which, found["input_ids"], found["offset_mapping"], strict=True
        ):
            ids[at], places[at] = list(tokens), offsets
    return ids, places


def _ended(ids: list[int], marks: list[bool], tokenizer: Any) -> tuple[list[int], list[bool]]:
    """With the mark of the end, which is learned, if the tokenizer has one."""
    end = tokenizer.eos_token_id
    if end is None:
        return ids, marks
    if ids and ids[-1] == end:
        return ids, [*marks[:-1], True]
    return [*ids, end], [*marks, True]
