"""Chats become tokens of which the answers are learned; what is wrong in a file is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from trainer.data.chats import IGNORED, Documents, Line, read_lines, tokenize
from trainer.rundir.usererror import Unusable

Q, A = {"role": "user", "content": "why"}, {"role": "assistant", "content": "so"}


def render(messages: list[dict[str, Any]], asks: bool) -> str:
    """A template: <role>content; and what an answer begins with."""
    return "".join(f"<{m['role'][0]}>{m['content']};" for m in messages) + "<a>" * asks


def forgetful(messages: list[dict[str, Any]], asks: bool) -> str:
    """A template that leaves answers of the past out."""
    kept = [m for at, m in enumerate(messages) if m["role"] == "user" or at == len(messages) - 1]
    return render(kept, asks)


class Letters:
    """A tokenizer: one token for each letter, by its number."""

    eos_token_id = 1

    def __call__(self, texts: list[str], add_special_tokens: bool, **rest: Any) -> dict[str, Any]:
        begin = [0] * add_special_tokens
        return {
            "input_ids": [begin + [ord(one) for one in text] for text in texts],
            "offset_mapping": [
                [(0, 0)] * len(begin) + [(at, at + 1) for at in range(len(text))] for text in texts
            ],
        }


def file_of(folder: Path, *lines: Any) -> str:
    path = folder / "chats.jsonl"
    path.write_text("\n".join(one if isinstance(one, str) else json.dumps(one) for one in lines))
    return str(path)


def learned(line: Line) -> list[str]:
    return [line.text[start:stop] for start, stop in line.learned]


def test_answers_are_found_in_chats(tmp_path: Path) -> None:
    system = {"role": "system", "content": "be brief"}
    url = file_of(tmp_path, {"messages": [system, Q, A, Q, {**A, "content": "or so"}]}, "", "")
    [line] = read_lines(url, render)
    assert line.text == "<s>be brief;<u>why;<a>so;<u>why;<a>or so;"
    assert learned(line) == ["so;", "or so;"]
    [line] = read_lines(url, render, "last")
    assert learned(line) == ["or so;"]


def test_a_template_that_forgets_is_refused_unless_the_last_answer_is_meant(tmp_path: Path) -> None:
    url = file_of(tmp_path, {"messages": [Q, A]}, {"messages": [Q, A, Q, A]})
    with pytest.raises(
        Unusable, match=r"chats\.jsonl:2: the template renders .* before messages.1"
    ):
        read_lines(url, forgetful)
    assert [learned(one) for one in read_lines(url, forgetful, "last")] == [["so;"], ["so;"]]


def test_prompts_and_texts_are_learned_to_their_end(tmp_path: Path) -> None:
    url = file_of(tmp_path, {"prompt": "2+2=", "completion": "4"}, {"text": "ab"})
    lines = read_lines(url, render)
    found = tokenize(lines, Letters(), 100)
    assert found.tokens.tolist() == [0, *map(ord, "2+2=4"), 1, 0, *map(ord, "ab"), 1]
    assert found.learned.tolist() == [*[False] * 5, True, True, False, True, True, True]
    tokens, targets = found.document(0)
    assert tokens.tolist() == [0, *map(ord, "2+2=4"), 1]
    assert targets.tolist() == [IGNORED] * 4 + [ord("4"), 1, IGNORED]


def test_what_is_too_long_is_cut_and_counted(tmp_path: Path) -> None:
    lines = read_lines(file_of(tmp_path, {"messages": [Q, A]}, {"text": "abcdef"}), render)
    found = tokenize(lines, Letters(), 5)  # the first answer begins later
    assert (len(found), found.cut, found.left_out) == (1, 2, 1)
    assert found.tokens.tolist() == [0, *map(ord, "abcd")]
    with pytest.raises(Unusable, match="none has anything to learn within 3 tokens"):
        tokenize(lines[:1], Letters(), 3)


def test_everything_that_is_wrong_is_named_by_its_line(tmp_path: Path) -> None:
    wrong = {
        "{": "is no JSON",
        '"text"': "must have messages",
        json.dumps({"messages": [{"role": "user"}]}): "messages.0 must have role and content",
        json.dumps({"messages": [Q]}): "messages has no answer: none of role assistant",
        json.dumps({"messages": []}): "messages has no answer",
        json.dumps({"messages": [Q, A], "tools": []}): "has tools or documents, which are not",
        json.dumps({"prompt": "x"}): "must have messages (a list), or prompt and completion",
        json.dumps({"text": 3}): "must have messages",
    }
    url = file_of(tmp_path, *wrong)
    with pytest.raises(Unusable) as caught:
        read_lines(url, render)
    assert [one.id for one in caught.value.messages] == ["SW5197"] * len(wrong)
    for number, (problem, text) in enumerate(
        zip(caught.value.problems, wrong.values(), strict=True), 1
    ):
        assert problem.startswith(f"{url}:{number}: {text}"), problem


def test_the_first_few_of_many_wrong_lines_are_named(tmp_path: Path) -> None:
    with pytest.raises(Unusable) as caught:
        read_lines(file_of(tmp_path, *["{"] * 20), render)
    assert (
        len(caught.value.problems) == 9 and caught.value.problems[-1] == "12 more lines are wrong"
    )


def test_a_template_that_raises_is_named(tmp_path: Path) -> None:
    def picky(messages: list[dict[str, Any]], asks: bool) -> str:
        raise RuntimeError("roles must alternate")

    with pytest.raises(Unusable, match="template refuses it: roles must alternate"):
        read_lines(file_of(tmp_path, {"messages": [A, A]}), picky)


@pytest.mark.parametrize("data", ["", "\n\n"])
def test_a_file_of_nothing_is_refused(tmp_path: Path, data: str) -> None:
    with pytest.raises(Unusable, match="has no lines"):
        read_lines(file_of(tmp_path, data), render)
    with pytest.raises(Unusable, match="is not there"):
        read_lines(str(tmp_path / "none.jsonl"), render)
    with pytest.raises(Unusable, match="answers is 'first'"):
        read_lines("x", render, "first")  # type: ignore[arg-type]


def documents(*lengths: int) -> Documents:
    """Documents of tokens 100, 101, …, all of which but the first are learned."""
    tokens = torch.cat([torch.arange(100, 100 + one) for one in lengths]).int()
    marks = torch.cat([torch.arange(one) > 0 for one in lengths])
    return Documents(tokens, marks, torch.tensor([0, *lengths]).cumsum(0))
