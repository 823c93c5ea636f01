"""The benchmarks' command line and rows."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rows import Options, Row, benchmark


def measured(options: Options) -> Iterator[Row]:
    yield Row.of("swell", "drain", "pause", "s", [0.25 * (i + 1) for i in range(options.runs)])


def nothing(options: Options) -> Iterator[Row]:
    yield Row.of("peer", "drain", "pause", "s", [None] * options.runs)


def broken(options: Options) -> Iterator[Row]:
    yield from measured(options)
    raise RuntimeError("the peer is missing")


def terminated(options: Options) -> Iterator[Row]:
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        yield from measured(options)
    finally:
        print("ended what it had started")


CASES = {"measured": measured, "nothing": nothing, "broken": broken, "terminated": terminated}


def run(monkeypatch: pytest.MonkeyPatch, *args: str) -> int:
    monkeypatch.setattr(sys, "argv", ["drain.py", *args])
    return benchmark("Drains.", CASES, runs=3)


def test_rows_go_to_a_table_and_to_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "rows.json"
    assert run(monkeypatch, "--only", "measured", "--only", "nothing", "--json", str(file)) == 0
    pause = {"case": "drain", "metric": "pause", "unit": "s"}
    assert json.loads(file.read_text()) == [
        {"system": "swell", **pause, "median": 0.5, "min": 0.25, "max": 0.75, "runs": 3},
        {"system": "peer", **pause, "median": None, "min": None, "max": None, "runs": 0},
    ]
    assert list(tmp_path.iterdir()) == [file]
    printed = capsys.readouterr().out
    assert "0.500" in printed and "0.750" in printed


def test_quick_is_one_run_and_runs_can_be_chosen(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "rows.json"
    for args, runs in (("--quick",), 1), (("--runs", "7"), 7), (("--quick", "--runs", "2"), 2):
        assert run(monkeypatch, "--only", "measured", "--json", str(file), *args) == 0
        assert json.loads(file.read_text())[0]["runs"] == runs


def test_a_case_that_fails_is_told_of_and_keeps_its_rows(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "rows.json"
    assert run(monkeypatch, "--only", "broken", "--json", str(file)) == 1
    assert [row["system"] for row in json.loads(file.read_text())] == ["swell"]
    errors = capsys.readouterr().err
    assert "the case broken failed" in errors and "the peer is missing" in errors


@pytest.mark.parametrize("args", [["--only", "restart"], ["--runs", "0"], ["--runs", "many"]])
def test_a_wrong_argument_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], args: list[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, *args)
    assert ended.value.code == 2
    assert args[0] in capsys.readouterr().err


def test_sigterm_lets_a_case_end_what_it_has_started(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, "--only", "terminated", "--only", "measured")
    assert ended.value.code == 143
    assert capsys.readouterr().out == "ended what it had started\n"
    assert signal.getsignal(signal.SIGTERM) == before
