"""Data without a length has samples by their places, however it is read."""

from __future__ import annotations

import functools
import logging
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, IterableDataset

from tests.trainer.data.sources import Counting, Iterators, Log, Seeking
from trainer.data import Stream
from trainer.data.stream import LOOK, Unsteady, by_place, require_own
from trainer.engine.data import Order
from trainer.loaders.mark import Mark, fingerprint
from trainer.rundir.usererror import Unusable

Source = Callable[..., Any]
LENGTH = 23
SOURCES: list[Source] = [Counting, Seeking, Iterators, functools.partial(Iterators, odd=True)]


def sample(source: Source, place: int) -> tuple[int, int]:
    passes, number = divmod(place, LENGTH)
    return (passes if source in (Counting, Seeking) else 0), number


@given(
    st.sampled_from(SOURCES),
    st.integers(1, 9),
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 12), st.booleans()), max_size=20),
)
def test_any_reader_has_the_same_samples_whatever_it_was_asked_for_before(
    source: Source, every: int, asked: list[tuple[int, int, bool]]
) -> None:
    """A step begins, a place of it or of a later one is asked for; then perhaps of a new reader."""
    stream, known, oldest = Stream(source(LENGTH)), dict[int, Mark](), 0
    stream.every = every
    for onward, ahead, dies in asked:
        oldest = max(oldest, onward)
        before = max((one for one in known if one <= oldest), default=None)
        if dies:
            stream = pickle.loads(pickle.dumps(stream))
        stream.seek(None if before is None else known[before], oldest)
        assert stream[oldest + ahead] == sample(source, oldest + ahead)
        assert stream[oldest] == sample(source, oldest)
        known |= {one.place: one for one in stream.marks()}
    for mark in known.values():
        assert Mark.of(mark.plain) == mark
        seen = [sample(source, mark.place + one) for one in range(min(LOOK, every))]
        assert mark.digest == fingerprint([fingerprint(one) for one in seen])


@pytest.mark.parametrize(
    "source, read", [(Counting, 3 + LOOK), (Seeking, LOOK), (Iterators, 26 + LOOK)], ids=str
)
def test_a_source_with_a_state_is_read_on_where_it_was_and_another_from_where_its_pass_began(
    source: Source, read: int
) -> None:
    stream = Stream(source(LENGTH))
    stream.every = 13
    stream.seek(None, 0)
    stream[26]
    mark: Mark | None = stream.marks()[-1]
    assert mark is not None and (mark.place, mark.passes, mark.inside) == (26, 1, 3)
    log = Log()
    again = Stream(source(LENGTH, log))
    again.every = 13
    if source is Iterators:  # one without the mark
        mark = None
    again.seek(mark, 26)
    assert again[26] == sample(source, 26)
    assert len(log) == read


class Buffered(Seeking):
    """Its state leads to later samples, but for the first, as when a shuffle buffer is refilled."""

    def reading(self, start: int) -> Iterator[tuple[int, int]]:
        yield 0, start
        yield from super().reading(start + 1 if start == 0 else start + 5)


def test_a_state_that_does_not_lead_back_is_said_and_not_used(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stream, again = Stream(Buffered(LENGTH)), Stream(Buffered(LENGTH))
    stream.every = again.every = 10
    stream.seek(None, 0)
    meant = [stream[place] for place in range(22)]
    mark = stream.marks()[1]
    assert mark.place == 10 and mark.state == {"at": 10}
    again.seek(mark, 10)
    with caplog.at_level(logging.WARNING):
        assert [again[place] for place in range(10, 22)] == meant[10:]
    assert caplog.text.count("does not lead to the same samples again") == 1


def test_a_state_that_cannot_be_kept_is_said_and_not_used(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stream = Stream(Iterators(LENGTH, odd=True))
    with caplog.at_level(logging.WARNING):
        stream[9]
    assert caplog.text.count("has what is no plain value") == 1
    assert [mark.state for mark in stream.marks()] == [None] * 10


@given(st.integers(1, 40), st.integers(0, 5), st.integers(0, 200))
def test_shuffled_each_sample_of_a_block_comes_once_in_its_place(
    block: int, seed: int, start: int
) -> None:
    stream = Stream(Counting(1000), shuffle=block, seed=seed)
    stream.seek(None, start)
    first = start - start % block
    again = Stream(Counting(1000), shuffle=block, seed=seed)
    found = [again[place][1] for place in range(first, first + block)]
    assert sorted(found) == list(range(first, first + block))
    assert [stream[place][1] for place in range(start, first + block)] == found[start - first :]


def test_what_is_not_wanted_any_more_is_not_kept() -> None:
    stream = Stream(Counting(10**6))
    for place in range(0, 5000, 50):
        stream.seek(None, place)
        for one in range(place, place + 50, 7):
            stream[one]
    assert len(stream._kept) <= 50 and len(stream._marks) <= 51


def drawn() -> Iterator[float]:
    yield from torch.rand(50).tolist()


def test_a_source_that_gives_other_samples_when_it_is_read_again_is_found() -> None:
    stream, other = Stream(drawn), Stream(drawn)
    stream.every = 10
    stream.seek(None, 0)
    stream[20]
    with pytest.raises(Unsteady) as raised:
        other.every = 10
        other.seek(stream.marks()[-1], 20)
        other[20]
    assert raised.value.id == "SW5185"
    assert str(raised.value).startswith("at sample 20, the data set gives other samples when it")


def empty() -> Iterator[int]:
    yield from ()


class Once:
    """Gives its iterator to the first who asks, as an object with an open file may."""

    def __init__(self) -> None:
        self.numbers = iter(range(3))

    def __iter__(self) -> Iterator[int]:
        return self.numbers


def test_what_can_be_read_only_once_or_not_at_all_is_refused() -> None:
    numbers: Any = 5
    for source in ((one for one in range(3)), iter([1, 2, 3]), map(str, [1]), numbers):
        with pytest.raises(Unusable, match="can be read only once, or not at all"):
            Stream(source)
    with pytest.raises(Unusable, match="has given 3 samples, and none when it was read again"):
        Stream(Once())[3]
    with pytest.raises(Unusable, match="has given 0 samples"):
        Stream(empty)[0]
    with pytest.raises(Unusable, match="shuffle=-1"):
        Stream(empty, shuffle=-1)


class Torchs(IterableDataset[int]):
    """torch's kind: it has __getitem__, which only raises."""

    def __iter__(self) -> Iterator[int]:
        yield from range(7)


def test_what_is_iterable_becomes_a_stream_and_what_has_places_does_not() -> None:
    assert isinstance(by_place(Torchs()), Stream) and by_place(Torchs())[8] == 1
    assert isinstance(by_place(Counting(3)), Stream)
    data = list(range(5))
    assert by_place(data) is data
    loader: Any = DataLoader(data)
    with pytest.raises(Unusable, match="a DataLoader is no data set"):
        by_place(loader)
    assert Order.of(by_place(Torchs()), 4, 0).endless and not Order.of(data, 4, 0).endless


def test_the_order_of_a_stream_is_that_of_its_places() -> None:
    order = Order.of(Stream(empty), 4, seed=9, unit=2)
    assert order.take(0, 8, 12).tolist() == [8, 9, 10, 11]
    assert order.bounds(10**9) == (4 * 10**9, 4 * 10**9 + 4)
    assert order.epoch_of(10**12) == 0


@pytest.mark.parametrize(
    "one, other",
    [
        (1, True),
        (1, 1.0),
        ("1", b"1"),
        ([1, 2], [2, 1]),
        ((1,), [1]),
        ({"a": 1}, {"a": 2}),
        (torch.tensor([1, 2]), torch.tensor([1, 3])),
        (torch.tensor([1, 2]), torch.tensor([[1, 2]])),
        (torch.ones(2), torch.ones(2).double()),
        (np.ones(2), np.ones(3)),
        (torch.tensor(1.0), torch.tensor(2.0)),
        (None, 0),
    ],
)
def test_unlike_samples_have_unlike_fingerprints(one: Any, other: Any) -> None:
    assert fingerprint(one) != fingerprint(other)
    assert fingerprint(one) == fingerprint(pickle.loads(pickle.dumps(one)))


def test_a_fingerprint_is_of_what_a_tensor_shows_and_not_of_what_it_is_part_of() -> None:
    whole = torch.arange(6).reshape(2, 3)
    assert fingerprint(whole[:, 1]) == fingerprint(torch.tensor([1, 4]))
    assert fingerprint({1, 2}) == fingerprint({2, 1, 3}), "only its kind counts"


def test_batches_are_of_the_data_that_they_take() -> None:
    numbers, more = list(range(12)), list(range(13))
    stream = Stream(Counting(12))
    for data in (numbers, stream):
        require_own(Order.of(data, 4, 0), data)
    for of, data in ((numbers, more), (more, numbers), (numbers, stream), (stream, numbers)):
        with pytest.raises(Unusable, match=r"batches\(\) is of .*, and the samples of data= are "):
            require_own(Order.of(of, 4, 0), data)
