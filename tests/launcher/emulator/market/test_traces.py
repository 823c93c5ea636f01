"""Real traces, in both forms."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.emulator.market.traces import TraceError, read_trace

TRACES = Path(__file__).parents[3] / "data" / "traces"


def test_a_trace_of_counts() -> None:
    samples = read_trace(TRACES / "gcp-a100-us-east1-b.txt")
    assert len(samples) == 268
    assert samples[:4] == [(0, 55), (100, 55), (200, 55), (260, 54)]
    assert samples[-1] == (27 * 3600 + 66, 64)  # 2021-12-12, 14:12:36
    drops = [after - before for (_, before), (_, after) in pairwise(samples)]
    assert sum(drop < 0 for drop in drops) == 36
    assert min(drops) == 17 - 53


@pytest.mark.parametrize(
    "name, first, last",
    [
        ("aws-p3-1h-low-availability-high-preemption.txt", 18, 18),
        ("aws-p3-1h-high-availability-low-preemption.txt", 27, 23),
    ],
)
def test_a_trace_of_changes(name: str, first: int, last: int) -> None:
    samples = read_trace(TRACES / name)
    assert [moment for moment, _ in samples] == [60 * minute for minute in range(60)]
    assert (samples[0][1], samples[-1][1]) == (first, last)


@given(st.lists(st.integers(0, 100), min_size=1))
def test_both_forms_of_one_history_are_the_same(
    tmp_path_factory: pytest.TempPathFactory, counts: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("history")
    changes, before = [], 0
    for minute, count in enumerate(counts):
        names = [f"n{number}" for number in range(min(before, count), max(before, count))]
        change = "add" if count >= before else "remove"
        changes.append(json.dumps([minute * 60_000, change, {"nodes": names}]))
        before = count
    (folder / "changes").write_text("\n".join(changes))
    rows = [
        f"2026-01-{1 + minute // 1440:02}, {minute // 60 % 24:02}:{minute % 60:02}:00, {count}\n"
        for minute, count in enumerate(counts)
    ]
    (folder / "counts").write_text("".join(rows))
    assert read_trace(folder / "changes") == read_trace(folder / "counts")


ROW = "2026-01-01, 00:00:00, 5\n"


@pytest.mark.parametrize(
    "text, says",
    [
        ("", ": is empty"),
        ("\n\n", ": is empty"),
        ("five\n", ":1: is not a sample; write date, time, number of VMs"),
        (ROW + "\n2026-01-01, 00:00:01, -1\n", ":3: is not a sample"),
        (ROW + "2026-01-01, 00:61:00, 1\n", ":2: is not a sample"),
        (ROW + "2026-01-01, 00:00:01, 1e9999\n", ":2: is not a sample"),
        (ROW + ROW, ":2: is not later than the line before"),
        ("[0]\n", ":1: is not a change; write [milliseconds"),
        ("[" * 100_000, ":1: is not a change"),
        ('[0, "add", {"nodes": 7}]\n', ":1: is not a change"),
        ('[NaN, "add", {"nodes": []}]\n', ":1: is not a change"),
        ('[true, "add", {"nodes": []}]\n', ":1: is not a change"),
        (b"\xff\xfe\x00", ": is not text in UTF-8"),
        (None, ": No such file or directory"),
    ],
)
def test_a_wrong_trace_is_refused_with_its_line(
    tmp_path: Path, text: str | bytes | None, says: str
) -> None:
    path = tmp_path / "trace.txt"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(TraceError) as refused:
        read_trace(path)
    assert str(refused.value).startswith(f"{path}{says}")
    assert "\n" not in str(refused.value)
