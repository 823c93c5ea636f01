from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.job.sizes import Size, parse_size


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("200GiB", 200 * 2**30),
        (" 2 TiB ", 2 * 2**40),
        ("1.5GiB", 3 * 2**29),
        ("1KiB", 1024),
        ("0MiB", 0),
    ],
)
def test_a_size_is_a_number_with_a_unit(text: str, count: int) -> None:
    assert parse_size(text) == Size(count)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (200, "needs a unit; write 200GiB"),
        ("200", "needs a unit; write 200GiB"),
        ("1.5", "needs a unit; write 1.5GiB"),
        ("200GB", "'200GB' is not a size; write one like 200GiB or 2TiB"),
        ("-1GiB", "'-1GiB' is not a size; write one like 200GiB or 2TiB"),
        ("", "'' is not a size; write one like 200GiB or 2TiB"),
        ("9" * 99 + "GiB", f"{'9' * 60!r} is not a size; write one like 200GiB or 2TiB"),
        (True, "is not a size; write one like 200GiB or 2TiB"),
        (None, "is not a size; write one like 200GiB or 2TiB"),
        (float("nan"), "'nan' is not a size; write one like 200GiB or 2TiB"),
    ],
)
def test_anything_else_is_refused_with_the_remedy(value: object, message: str) -> None:
    with pytest.raises(ValueError) as error:
        parse_size(value)
    assert str(error.value) == message


@given(st.integers(0, 2**50).map(Size))
def test_a_size_survives_being_written(size: Size) -> None:
    assert parse_size(str(size)) == size
