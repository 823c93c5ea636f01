"""How far a torchrun script says that it is."""

from __future__ import annotations

import os

import pytest

from trainer.reporting import ENV_REPORT, LINE_LIMIT, report
from trainer.worker.reports import Lines, Pattern, Report, parse_report

STEP = r"step (?P<step>[\d,]+).*loss[= ](?P<loss>\S+)"


def test_a_group_that_takes_no_part_in_a_line_is_no_metric() -> None:
    pattern = Pattern(r"step (?P<step>\d+)(?: loss (?P<loss>\S+))?(?: acc (?P<acc>\S+))?")
    assert pattern.find(b"step 3") == Report(3)
    assert pattern.find(b"step 4 acc -inf") == Report(4, {"acc": float("-inf")})
    assert Pattern(r"(?P<loss>\d)|(?P<step>\d)x").find(b"5") is None, "a line without a step"


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b"step 12 of 90, loss 0.25", Report(12, {"loss": 0.25})),
        (b"[rank0] step 1,200 lr 3e-4 loss=nan", Report(1200, {})),
        (b"step 12 loss high", Report(12)),
        (b"\xff\xfe step 3 loss 1", Report(3, {"loss": 1.0})),
        (b"nothing of it", None),
        (b"step , loss 1", None),
        (b"step " + b"9" * 400 + b" loss 1", None),
    ],
)
def test_a_line_that_fits_the_pattern_tells_of_a_step(line: bytes, found: Report | None) -> None:
    told = Pattern(STEP).find(line)
    if told is not None:
        told = Report(told.step, {k: v for k, v in told.metrics.items() if v == v})
    assert told == found


def test_without_a_pattern_nothing_is_told() -> None:
    assert Pattern("").find(b"step 1 loss 1") is None


def test_a_pattern_has_a_group_for_the_step() -> None:
    with pytest.raises(ValueError, match="no group"):
        Pattern(r"step (\d+)")


def test_lines_end_as_terminals_have_them() -> None:
    lines = Lines()
    assert lines.cut(b"a\nb") == [b"a"]
    assert lines.cut(b"c\r 10%\r 20%\r\n") == [b"bc", b" 10%", b" 20%"]
    assert lines.cut(b"") == []


def test_a_report_comes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = os.pipe()
    monkeypatch.setenv(ENV_REPORT, str(there))
    report(7, loss=0.5, lr=1)
    os.close(there)
    line = os.read(here, LINE_LIMIT)
    os.close(here)
    assert parse_report(line) == Report(7, {"loss": 0.5, "lr": 1.0})


def test_where_nobody_listens_nothing_happens(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    report(7, loss=0.5)
    here, there = os.pipe()
    os.close(here)
    monkeypatch.setenv(ENV_REPORT, str(there))
    report(7, loss=0.5)
    os.close(there)
    report(7, loss=0.5)
    assert capfd.readouterr() == ("", "")


def test_what_is_no_report_is_refused_where_it_is_made() -> None:
    with pytest.raises(ValueError):
        report(1, loss="high")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at most"):
        report(1, **{f"metric{n}": 1.0 for n in range(1000)})


@pytest.mark.parametrize(
    "line",
    [b"", b"[]", b"{}", b'{"step": -1, "metrics": {}}', b'{"step": true, "metrics": {}}', b"\xff",
     b'{"step": 1, "metrics": {"a": "x"}}', b'{"step": 1, "metrics": 3}'],
)  # fmt: skip
def test_what_is_no_report_is_passed_over(line: bytes) -> None:
    assert parse_report(line) is None


def test_numbers_that_json_lacks_come_over(monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = os.pipe()
    monkeypatch.setenv(ENV_REPORT, str(there))
    report(7, up=float("inf"), down=float("-inf"), odd=float("nan"))
    os.close(there)
    told = parse_report(os.read(here, LINE_LIMIT))
    os.close(here)
    assert told is not None
    assert {name: str(value) for name, value in told.metrics.items()} == {
        "up": "inf",
        "down": "-inf",
        "odd": "nan",
    }
