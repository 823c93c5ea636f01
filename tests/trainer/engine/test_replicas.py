"""Ranks that differ are found: what differs, who stands alone, and when the state is compared."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.trainer.engine.loops import _follow
from tests.trainer.ranks import formed, workers
from trainer.engine.digest import MASK, Prefixes, digest, digest_of_numbers
from trainer.engine.extras import Extras, Head
from trainer.engine.replicas import LEAST, Difference, Replicas, Told, compare
from trainer.engine.state import State
from trainer.engine.verdict import sides
from trainer.protocol.messages import Done, Event, Stopped

WORDS = st.integers(0, MASK)
TENSORS = st.builds(
    lambda numel, dtype, seed: (
        torch.randn(numel, generator=torch.Generator().manual_seed(seed)) * 100
    ).to(dtype),
    st.integers(0, 300),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8]),
    st.integers(0, 9),
)

# --- digests ---------------------------------------------------------------------------------


@given(TENSORS, st.data())
def test_a_digest_tells_every_bit(tensor: torch.Tensor, data: st.DataObject) -> None:
    assert int(digest(tensor)) == int(digest(tensor.clone()))
    if not tensor.numel():
        return
    size = tensor.numel() * tensor.element_size()
    bit = data.draw(st.integers(0, size * 8 - 1), "the bit that flips")
    other = tensor.clone()
    as_bytes = other.view(torch.uint8)
    as_bytes[bit // 8] ^= 1 << bit % 8
    assert int(digest(tensor)) != int(digest(other))


@given(TENSORS, st.data())
def test_a_digest_tells_where_a_word_stands(tensor: torch.Tensor, data: st.DataObject) -> None:
    words = torch.cat([tensor.double(), torch.zeros(2, dtype=torch.float64)])
    one, other = (data.draw(st.integers(0, len(words) - 1)) for _ in range(2))
    swapped = words.clone()
    swapped[one], swapped[other] = words[other], words[one]
    same = words[one] == words[other] and bool(words[one].signbit() == words[other].signbit())
    assert (int(digest(words)) == int(digest(swapped))) is bool(same)


@given(st.integers(0, 63), st.lists(st.integers(0, 999), min_size=2, max_size=9, unique=True))
def test_flips_of_the_same_bit_in_several_words_do_not_cancel_out(
    bit: int, places: list[int]
) -> None:
    words = torch.randn(1000, generator=torch.Generator().manual_seed(bit)).double()
    other = words.clone()
    for place in places:
        other.view(torch.int64)[place] ^= -(2**63) if bit == 63 else 1 << bit
    assert int(digest(words)) != int(digest(other))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_a_digest_tells_all_signs_and_each_place_of_a_value(dtype: torch.dtype) -> None:
    tensor = torch.randn(100_000, generator=torch.Generator().manual_seed(1)).to(dtype)
    assert int(digest(tensor)) != int(digest(-tensor))
    found = set()
    for place in range(1000):
        one = torch.zeros(1000, dtype=dtype)
        one[place] = 64.0
        found.add(int(digest(one)))
    assert len(found) == 1000


def test_a_large_tensor_has_a_digest_too_wherever_it_begins() -> None:
    whole = torch.arange(300_001, dtype=torch.int16)
    assert int(digest(whole[1:])) == int(digest(whole[1:].clone()))
    other = whole.clone()
    other[200_000] += 1
    assert int(digest(whole)) != int(digest(other))
    assert int(digest(whole.view(-1, 1).expand(-1, 2))) == int(digest(whole.repeat_interleave(2)))


@given(st.lists(st.integers(0, 2**40), unique=True), st.integers(0, 50))
def test_digests_of_parts_of_a_set_add_up(numbers: list[int], cut: int) -> None:
    whole = torch.tensor(numbers, dtype=torch.int64)
    parts = digest_of_numbers(whole[:cut]) + digest_of_numbers(whole[cut:])
    assert parts & MASK == digest_of_numbers(whole) == digest_of_numbers(whole.flip(0))
    prefixes, stop = Prefixes(whole), len(numbers)
    assert prefixes.digest(min(cut, stop), stop) == digest_of_numbers(whole[cut:])


def test_what_is_taken_twice_is_no_set() -> None:
    one, other = torch.tensor([1, 2]), torch.tensor([3, 4])
    assert (2 * digest_of_numbers(one)) & MASK != digest_of_numbers(torch.cat([one, other]))


# --- what travels ----------------------------------------------------------------------------


@given(
    st.lists(st.tuples(WORDS, WORDS, WORDS, WORDS), min_size=1, max_size=5),
    st.integers(0, 3),
    st.integers(0, 3),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_what_each_rank_tells_is_exact_in_a_sum(
    rows: list[tuple[int, int, int, int]], metrics: int, statistics: int, dtype: torch.dtype
) -> None:
    extras = Extras(metrics, statistics, len(rows))
    head = Head(pause=1.0, samples=3.0, counted=0.5, witness=0.25, magnitude=2.0)
    written = [
        extras.written(head, [1.0] * metrics, [1.0] * statistics, rank, Told(*row))
        for rank, row in enumerate(rows)
    ]
    summed = torch.tensor(written, dtype=dtype).sum(0)
    read = extras.read(summed.tolist())
    assert read.told == [Told(*row) for row in rows]
    assert read.head.samples == 3.0 * len(rows)
    assert read.metrics == [len(rows)] * metrics
    assert read.statistics == [len(rows)] * statistics


ROWS = st.lists(st.tuples(*[st.sampled_from([0, 1, 2**48, MASK])] * 4), min_size=1, max_size=4)


@given(ROWS | WORDS.map(lambda one: [(one, 1, 2, one), (one, 1, 2, 5)]), st.booleans(), WORDS)
def test_what_travels_is_alike_where_no_difference_is_found(
    rows: list[tuple[int, int, int, int]], whole: bool, other: int
) -> None:
    told = [Told(*row) for row in rows]
    extras = Extras(0, 0, len(told))
    written = [extras.written(Head(), [], [], rank, one) for rank, one in enumerate(told)]
    samples = sum(one.samples for one in told) & MASK if whole else other
    read = extras.read(torch.tensor(written, dtype=torch.float32).sum(0).tolist())
    assert read.alike(samples) == (compare(told, samples) is None)


# --- verdicts --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values, alone, words",
    [
        ([1, 1, 1], None, None),
        ([1, 2], None, "rank 0 and rank 1"),
        ([1, 1, 2], 2, "ranks 0, 1 and rank 2"),
        ([3, 1, 1, 1], 0, "rank 0 and ranks 1, 2, 3"),
        ([1, 1, 2, 2], None, "ranks 0, 1 and ranks 2, 3"),
        ([1, 2, 3], None, "rank 0 and rank 1 and rank 2"),
    ],
)
def test_who_stands_alone(values: list[int], alone: int | None, words: str | None) -> None:
    difference = Difference.among("state", values)
    if words is None:
        assert difference is None
    else:
        assert difference is not None
        assert (difference.alone, sides(difference)) == (alone, words)


@given(st.lists(WORDS, min_size=1, max_size=4), st.integers(0, 3), st.integers(1, 9))
def test_samples_must_be_those_of_the_step(shares: list[int], rank: int, more: int) -> None:
    told = [Told(samples=share) for share in shares]
    assert compare(told, sum(shares) & MASK) is None
    difference = compare(told, (sum(shares) + more) & MASK)
    assert difference is not None
    assert difference.field == "samples"


@given(st.floats(1e-4, 0.05), st.floats(1e-3, 2.0))
def test_digests_take_a_thousandth_of_the_time(cost: float, step: float) -> None:
    now = 0.0
    state = State(model=nn.Linear(1, 1))
    replicas = Replicas(state, lambda: now)

    def digests() -> list[tuple[str, int]]:
        nonlocal now
        now += cost
        return []

    state.__dict__["digests"] = digests
    replicas.enter()
    taken = 0
    for _ in range(2000):
        due = replicas.due()
        now += step
        taken += due
        replicas.completed(due)
    assert taken >= 1
    assert taken * cost <= 0.0011 * now + 3 * cost or taken <= 2000 / LEAST + 2


# --- replaced --------------------------------------------------------------------------------


def stray(log: list[Any], strays_at: int, always: bool) -> None:
    """A loop in which one rank leaves the others: once, or in every life of its process."""
    from trainer import elastic

    torch.manual_seed(0)
    x = torch.linspace(-1, 1, 24).view(24, 1)
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    state = elastic.State(model=model, optimizer=optimizer)
    for step in elastic.steps(state, elastic.batches(24, 6), epochs=4):
        with step:
            model(x[step.indices]).square().sum().div(step.batch_size).backward()
            if not (step.rank == step.size - 1 and step.number >= strays_at and always):
                optimizer.step()
            optimizer.zero_grad()
        if step.applied:
            log.append((step.number, float(model.weight.detach())))


def run(channel: Any, strays_at: int) -> Any:
    return _follow(channel, lambda log: stray(log, strays_at, strays_at > 0))


def test_who_stands_alone_is_replaced_and_the_others_lose_nothing() -> None:
    with workers(run, [0], [0], [3], [0]) as members:
        two, odd, fresh = members[:2], members[2], members[3]
        with formed(1, [*two, odd]):
            assert "StandsAlone: step 4" in odd.process.result().error
            while (event := two[0].until(Event)).name != "worker_replaced":
                pass
            assert "optimizer steps" in event.fields["reason"]
            stopped = [one.until(Stopped) for one in two]
            assert [(one.step, one.clean) for one in stopped] == [(3, True)] * 2
        with formed(2, [*two, fresh]) as started:
            assert [one.step for one in started] == [3] * 3
            two[0].until(Done)
        logs = [one.exit().log for one in [*two, fresh]]
    assert logs[0] == logs[1]
    assert [number for number, _ in logs[0]] == list(range(1, 17))
    assert logs[2] == logs[0][3:]
