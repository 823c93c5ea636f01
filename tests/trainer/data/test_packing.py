"""Rows hold every document once, whole, and nothing in them is learned of another."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.trainer.data.test_chats import documents
from trainer.data.chats import IGNORED
from trainer.data.packing import Rows, pack

ROOM = 16
LENGTHS = st.lists(st.integers(1, ROOM), min_size=1, max_size=40)


@given(LENGTHS)
def test_each_document_is_in_one_row_and_rows_are_few(lengths: list[int]) -> None:
    rows = pack(lengths, ROOM)
    assert sorted(one for row in rows for one in row) == list(range(len(lengths)))
    filled = [sum(lengths[one] for one in row) for row in rows]
    assert all(0 < one <= ROOM for one in filled)
    fewest = -(-sum(lengths) // ROOM)
    assert len(rows) <= 11 / 9 * max(fewest, sum(one > ROOM / 2 for one in lengths)) + fewest
    assert sum(2 * one <= ROOM for one in filled) <= 1, "two rows that are half empty make one"


@given(LENGTHS)
def test_a_rows_targets_are_those_of_its_documents(lengths: list[int]) -> None:
    rows = Rows(documents(*lengths), ROOM, packed=True, padding=7)
    seen = []
    for index in range(len(rows)):
        row = rows[index]
        tokens, places, targets = (
            row[name].tolist() for name in ("tokens", "positions", "targets")
        )
        starts = [at for at, place in enumerate(places) if place == 0]
        for start, stop in zip(starts, [*starts[1:], ROOM], strict=True):
            assert places[start:stop] == list(range(stop - start))
            own = [one for one in tokens[start:stop] if one != 7]
            seen.append(len(own))
            assert own == list(range(100, 100 + len(own)))
            expected = own[1:] + [IGNORED] * (stop - start - len(own) + 1)
            assert targets[start:stop] == expected
        assert row["used"] == sum(one != 7 for one in tokens)
    assert sorted(seen) == sorted(lengths)
    assert rows.used == sum(lengths) / (len(rows) * ROOM)


def test_without_packing_a_row_is_a_document() -> None:
    rows = Rows(documents(3, 5, 2), ROOM, packed=False, padding=7)
    assert len(rows) == 3
    assert rows[2]["tokens"].tolist() == [100, 101] + [7] * (ROOM - 2)
    assert rows[2]["positions"].tolist() == list(range(ROOM))


def test_rows_of_other_tokens_have_another_identity() -> None:
    same, again, other = (Rows(documents(3, 5, n), ROOM, packed=True) for n in (4, 4, 5))
    assert same.samples_identity == again.samples_identity != other.samples_identity
    apart = Rows(documents(3, 5, 4), ROOM, packed=False)
    assert apart.samples_identity != same.samples_identity
