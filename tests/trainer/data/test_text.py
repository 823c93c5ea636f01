from __future__ import annotations

import errno
import gzip
import json
import multiprocessing
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch.utils.data import default_collate

from trainer.data import Text, tokens
from trainer.data.text import PIECE
from trainer.data.tokens import Tokens, write
from trainer.rundir.usererror import Unusable

END = 256  # of bytes


@pytest.fixture
def book(tmp_path: Path) -> Path:
    path = tmp_path / "book.txt"
    path.write_text("In the beginning was the Word,\nund das Wort war größer.\n")
    return path


def all_of(text: Text) -> list[int]:
    return [int(one) for one in text.tokens.take(0, len(text.tokens))]


def windows(text: Text) -> list[list[int]]:
    return [text[index].tolist() for index in range(len(text))]


# --- windows ------------------------------------------------------------------------------


def test_bytes_and_an_end_become_windows_in_which_each_is_predicted_once(
    book: Path, tmp_path: Path
) -> None:
    text = Text(str(book), 8, cache=tmp_path / "cache")
    expected = [*book.read_bytes(), END]
    assert all_of(text) == expected
    assert len(text) == (len(expected) - 1) // 8
    predicted = [token for window in windows(text) for token in window[1:]]
    assert predicted == expected[1 : 1 + 8 * len(text)]
    assert text[0].dtype == torch.int64 and text[0].shape == (9,)
    assert text[-1].tolist() == text[len(text) - 1].tolist()
    assert text.vocabulary == 257
    assert text.tokenizer is not None
    assert text.tokenizer.decode(all_of(text)) == book.read_text()


def test_windows_are_taken_at_once_as_one_after_another(book: Path, tmp_path: Path) -> None:
    text = Text(book, 5, cache=tmp_path / "cache")
    indices = torch.tensor([3, 0, 2])
    assert torch.equal(text.take(indices), default_collate([text[int(i)] for i in indices]))


def test_a_part_at_the_end_is_held_out_and_no_token_is_predicted_in_both(
    book: Path, tmp_path: Path
) -> None:
    text = Text(book, 5, cache=tmp_path / "cache")
    train, held_out = text.split(0.25)
    assert len(held_out) == round(0.25 * len(text))
    assert windows(train) + windows(held_out) == windows(text)
    assert held_out.take(torch.tensor([1])).tolist() == [held_out[1].tolist()]
    with pytest.raises(IndexError):
        train[len(train)]
    for part in (0.0, 1.0):
        with pytest.raises(Unusable, match="cannot be held out"):
            text.split(part)


def test_lines_of_json_are_documents_and_files_follow_one_another(tmp_path: Path) -> None:
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl.gz"
    one.write_text('{"body": "ab"}\n\n{"body": "c", "n": 1}\n')
    two.write_bytes(gzip.compress(json.dumps({"body": "dé"}).encode()))
    text = Text([str(two), one], 2, field="body", cache=tmp_path / "cache")
    assert all_of(text) == [*"dé".encode(), END, *b"ab", END, *b"c", END]


def test_where_files_begin_makes_another_text(tmp_path: Path) -> None:
    found = []
    for name, parts in (("x", ("ab", "c")), ("y", ("a", "bc"))):
        files = [tmp_path / f"{name}{number}.txt" for number in range(2)]
        for file, part in zip(files, parts, strict=True):
            file.write_text(part)
        found.append(all_of(Text(files, 1, cache=tmp_path / "cache")))
    assert found == [[97, 98, END, 99, END], [97, END, 98, 99, END]]


def test_a_long_document_is_one_document(tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    line = b"0123456789\n"
    path.write_bytes(line * (PIECE // len(line) + 7))
    text = Text(path, 100, cache=tmp_path / "cache")
    assert (
        text.tokens.take(0, len(text.tokens)).tobytes()
        == numpy.array([*path.read_bytes(), END], "<u2").tobytes()
    )


def test_a_text_in_a_store_is_read_through_fsspec(tmp_path: Path) -> None:
    import fsspec

    with fsspec.open("memory://texts/book.txt", "wb") as file:
        file.write(b"far away")
    assert all_of(Text("memory://texts/book.txt", 2, cache=tmp_path)) == [*b"far away", END]


# --- tokenizers ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small tokenizer, made here."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(["the word, the words, the beginning of words"] * 3, trainer)
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    made.save(str(path))
    return path


def test_a_tokenizer_of_a_file_makes_the_tokens_that_its_library_makes(
    trained: Path, tmp_path: Path
) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text('{"text": "the words"}\n{"text": "of the beginning"}\n')
    text = Text(path, 2, str(trained), cache=tmp_path / "cache")
    library = Tokenizer.from_file(str(trained))
    end = library.token_to_id("<|endoftext|>")
    one, two = (library.encode(it).ids for it in ("the words", "of the beginning"))
    assert all_of(text) == [*one, end, *two, end]
    assert len(one) < len("the words"), "it has learned something"
    assert text.vocabulary == library.get_vocab_size()


def test_another_tokenizer_makes_another_text(trained: Path, book: Path, tmp_path: Path) -> None:
    texts = [Text(book, 2, it, cache=tmp_path / "cache") for it in ("bytes", str(trained))]
    assert texts[0].tokens.folder != texts[1].tokens.folder
    changed = tmp_path / "changed.json"
    content = json.loads(trained.read_text())
    content["model"]["merges"] = content["model"]["merges"][:1]
    changed.write_text(json.dumps(content))
    other = Text(book, 2, str(changed), cache=tmp_path / "cache")
    assert other.tokens.folder != texts[1].tokens.folder


# --- bad input ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"text": \n', "a.jsonl:2: is no line of JSON: Expecting"),
        ("a.jsonl", b'{"text": "x"}\n[1]\n', "a.jsonl:2: has no field 'text'; it has no fields"),
        ("a.jsonl", b'{"body": "x"}\n', "a.jsonl:1: has no field 'text'; it has body"),
        ("a.jsonl", b'\n{"text": 7}\n', "a.jsonl:2: text is 7; write a text"),
        ("a.jsonl", b'{"text": "\\ud800"}\n', "a.jsonl:1: text has half a character"),
        ("a.jsonl", b'{"text": "\xff"}\n', "a.jsonl:1: is no line of JSON: 'utf-8'"),
        ("a.jsonl", b"", "a text of 0 tokens has no window of 4"),
        ("a.txt", b"one\n\xff\n", "a.txt:2: is no text in UTF-8: 'utf-8' codec can't decode"),
        ("a.txt", b"abc", "a text of 4 tokens has no window of 4 and the one that follows"),
        ("a.txt.gz", b"no gzip", "a.txt.gz: cannot be read: Not a gzipped file"),
        (
            "a.txt.gz",
            gzip.compress(b"x" * 99, mtime=0)[:-12],
            "a.txt.gz: cannot be read: Compressed file",
        ),
    ],
)
def test_what_is_no_text_is_told_with_its_line(
    name: str, content: bytes, told: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(Unusable) as raised:
        Text(path, 4, cache=tmp_path / "cache")
    assert str(raised.value).removeprefix(f"{tmp_path}/").startswith(told)
    assert raised.value.id == "SW5194"
    assert not [one for one in (tmp_path / "cache").glob("*.part")]


def test_no_file_and_no_tokenizer(book: Path, tmp_path: Path) -> None:
    cases: list[tuple[Any, str, str]] = [
        (tmp_path / "none", "bytes", "none: cannot be read: No such file or directory"),
        (
            "nowhere://x.txt",
            "bytes",
            "nowhere://x.txt: cannot be read: Protocol not known: nowhere",
        ),
        (book, str(tmp_path / "none.json"), "none.json: the tokenizer cannot be read: No such"),
        (book, str(book), "book.txt: is no tokenizer of the tokenizers library: "),
    ]
    for file, tokenizer, told in cases:
        with pytest.raises(Unusable) as raised:
            Text(file, 4, tokenizer, cache=tmp_path / "cache")
        assert told in str(raised.value)


def test_a_tokenizer_without_an_end(book: Path, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    Tokenizer(models.WordLevel({"a": 0, "?": 1}, unk_token="?")).save(str(path))
    with pytest.raises(Unusable, match="has no token that ends a document"):
        Text(book, 4, str(path), cache=tmp_path / "cache")


def test_a_text_that_changes_while_it_is_read(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainer.data import text as module

    summed = module._sum

    def changed(file: str) -> str:
        found = summed(file)
        book.write_text("something else")
        return found

    monkeypatch.setattr(module, "_sum", changed)
    with pytest.raises(Unusable, match="has changed while it was read"):
        Text(book, 4, cache=tmp_path / "cache")
    assert not [one for one in (tmp_path / "cache").iterdir() if one.is_dir()]


# --- the cache ----------------------------------------------------------------------------


def test_a_text_that_is_known_is_not_made_again(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Text(book, 4, cache=tmp_path / "cache")
    monkeypatch.setattr(tokens, "write", None)  # to be called is an error
    assert all_of(Text(book, 4, cache=tmp_path / "cache")) == all_of(first)
    moved = shutil.copy(book, tmp_path / "elsewhere.md")
    again = Text(moved, 4, cache=tmp_path / "cache")
    assert again.tokens.folder == first.tokens.folder, "what counts is what is in it"


def test_a_text_that_changes_is_another(book: Path, tmp_path: Path) -> None:
    first = Text(book, 4, cache=tmp_path / "cache")
    book.write_text(book.read_text().replace("Word", "word"))
    assert all_of(Text(book, 4, cache=tmp_path / "cache")) == [*book.read_bytes(), END]
    assert first.tokens.folder.is_dir()


@pytest.mark.parametrize("harm", ["flip", "cut", "no index", "no shard", "index of another format"])
def test_what_is_damaged_is_found_and_made_again(book: Path, tmp_path: Path, harm: str) -> None:
    good = all_of(first := Text(book, 4, cache=tmp_path / "cache"))
    folder = first.tokens.folder
    shard, index = folder / "tokens-00000.bin", folder / "index.json"
    data = shard.read_bytes()
    if harm == "flip":
        shard.write_bytes(data[:10] + bytes([data[10] ^ 1]) + data[11:])
    elif harm == "cut":
        shard.write_bytes(data[:-2])
    elif harm == "no index":
        index.unlink()
    elif harm == "no shard":
        shard.unlink()
    else:
        index.write_text(index.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(Unusable, match="is no whole folder of tokens") as raised:
        Text.opened(folder, 4)
    assert raised.value.id == "SW5195"
    assert all_of(Text(book, 4, cache=tmp_path / "cache")) == good
    assert all_of(Text.opened(folder, 4)) == good


def test_a_cache_that_cannot_be_written_is_told(book: Path) -> None:
    with pytest.raises(Unusable) as raised:
        Text(book, 4, cache=book / "below")
    assert str(raised.value) == f"{book}/below: cannot be used: Not a directory; give a cache"
    assert raised.value.id == "SW5195"


class Fails:
    """The n-th of these calls fails, as on a disk that is full."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, n: int) -> None:
        self.left = n
        self.failed = False
        for owner, name in ((Path, "mkdir"), (Path, "open"), (os, "fsync"), (os, "rename")):
            monkeypatch.setattr(owner, name, self._wrapped(getattr(owner, name)))

    def _wrapped(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            self.left -= 1
            if self.left < 0 and not self.failed:
                self.failed = True
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return call(*args, **kwargs)

        return wrapped


def test_a_disk_that_is_full_at_any_step_leaves_nothing_half_done(
    book: Path, tmp_path: Path
) -> None:
    expected = [*book.read_bytes(), END]
    failures = 0
    for n in range(50):
        cache = tmp_path / f"cache{n}"
        with pytest.MonkeyPatch.context() as patched:
            fails = Fails(patched, n)
            try:
                assert all_of(Text(book, 4, cache=cache)) == expected
            except Unusable as error:
                failures += 1
                assert "No space left on device" in str(error)
        if not fails.failed:
            break
        left = [one.name for one in cache.glob("*") if one.is_dir()] if cache.exists() else []
        assert len(left) <= 1 and not any(name.endswith(".part") for name in left)
        assert all_of(Text(book, 4, cache=cache)) == expected
    assert failures >= 5 and n < 49


def _killed(path: str, cache: str, calls: int) -> None:
    left = calls

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                os._exit(9)
            return call(*args, **kwargs)

        return wrapped

    for owner, name in ((Path, "mkdir"), (Path, "open"), (os, "fsync"), (os, "rename")):
        setattr(owner, name, counted(getattr(owner, name)))
    Text(path, 4, cache=cache)
    os._exit(0)


def test_a_process_that_is_killed_at_any_step_leaves_nothing_that_counts(
    book: Path, tmp_path: Path
) -> None:
    fork = multiprocessing.get_context("fork")
    codes = []
    for n in range(50):
        cache = tmp_path / f"cache{n}"
        process = fork.Process(target=_killed, args=(str(book), str(cache), n))
        process.start()
        process.join()
        codes.append(process.exitcode)
        assert all_of(Text(book, 4, cache=cache)) == [*book.read_bytes(), END]
        assert not list(cache.glob("*.part"))
        if process.exitcode == 0:
            break
    assert codes[-1] == 0 and codes.count(9) == len(codes) - 1 >= 5


def _made(path: str, cache: str, start: Any, results: Any) -> None:
    start.wait()
    written = []
    original = tokens.write

    def counted(*args: Any) -> None:
        written.append(1)
        original(*args)

    tokens.write = counted  # type: ignore[assignment]
    text = Text(path, 4, cache=cache)
    results.put((len(written), all_of(text)))


def test_of_processes_that_want_the_same_one_makes_it(book: Path, tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    start, results = fork.Event(), fork.Queue()
    args = (str(book), str(tmp_path / "cache"), start, results)
    several = [fork.Process(target=_made, args=args) for _ in range(3)]
    for process in several:
        process.start()
    start.set()
    found = [results.get() for _ in several]
    for process in several:
        process.join()
    assert sorted(count for count, _ in found) == [0, 0, 1]
    assert all(one == [*book.read_bytes(), END] for _, one in found)


def test_a_text_goes_to_other_processes_without_its_tokens(tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_bytes(b"0123456789" * 10_000)
    train, _ = Text(path, 100, cache=tmp_path / "cache").split(0.1)
    sent = pickle.dumps(train)
    assert len(sent) < 2000
    assert torch.equal(pickle.loads(sent)[7], train[7])


# --- shards -------------------------------------------------------------------------------


@given(
    parts=st.lists(st.lists(st.integers(0, 70_000), max_size=9), max_size=9),
    shard=st.integers(1, 7),
    data=st.data(),
)
def test_tokens_lie_in_shards_as_they_came(
    parts: list[list[int]], shard: int, data: st.DataObject, tmp_path_factory: Any
) -> None:
    folder = tmp_path_factory.mktemp("tokens") / "made"
    expected = [token for part in parts for token in part]
    write(folder, 70_001, (numpy.array(part, numpy.int64) for part in parts), shard)
    found = Tokens(folder)
    assert len(found) == len(expected)
    assert len(list(folder.glob("*.bin"))) == -(-len(expected) // shard)
    if expected:
        start = data.draw(st.integers(0, len(expected) - 1))
        stop = data.draw(st.integers(start + 1, len(expected)))
        assert found.take(start, stop).tolist() == expected[start:stop]
        again: Tokens = pickle.loads(pickle.dumps(found))
        assert again.take(start, stop).tolist() == expected[start:stop]


@pytest.fixture(autouse=True)
def no_other_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    monkeypatch.delenv("SWELL_SCRATCH", raising=False)
    yield
    assert not (tmp_path / "user").exists()


def test_without_a_cache_it_is_that_of_the_vm_or_of_the_user(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWELL_SCRATCH", str(tmp_path / "vm"))
    assert Text(book, 4).tokens.folder.parent == tmp_path / "vm/text"
    monkeypatch.delenv("SWELL_SCRATCH")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "mine"))
    folder = Text(book, 4).tokens.folder
    assert folder.parent == tmp_path / "mine/swell/text"
    assert (tmp_path / "mine/swell/text").stat().st_mode & 0o077 == 0
