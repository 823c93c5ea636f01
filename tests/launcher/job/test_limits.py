"""docs/limits.md is true: every row's input gets that row's message, and no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.job.jobfile import JobFileError
from launcher.target import load_job
from tests.launcher.job.limits_table import Row, base_job, rows, written_out
from trainer.rundir.usererror import shown

ROWS = rows()


@pytest.fixture
def job_file(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(base_job())
    return path


def test_the_job_that_the_rows_change_is_right(job_file: Path) -> None:
    warnings: list[str] = []
    load_job(job_file, target="vertex", warn=warnings.append)
    assert warnings == []
    assert len(ROWS) > 80


@pytest.mark.parametrize("row", ROWS, ids=[" ".join(row.overrides)[:80] for row in ROWS])
def test_a_row_is_true(job_file: Path, row: Row) -> None:
    said: list[str] = []
    try:
        load_job(job_file, row.overrides, "vertex", lambda line: said.append(f"warning: {line}"))
    except JobFileError as error:
        said = shown(error).splitlines()
    expected = f"{row.message} [{row.id}]"
    assert [_without_place(line, job_file, row) for line in said] == [expected]


def _without_place(line: str, job_file: Path, row: Row) -> str:
    for override in row.overrides:
        line = line.replace(f"--set {override}: ", "")
    for number in range(1, 20):
        line = line.replace(f"{job_file}:{number}: ", "")
    return line.replace(str(job_file.parent), "FOLDER")


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("name=a * 3", "name=aaa"),
        ("env={V#: x * 2}", "env={V0: x, V1: x}"),
        ("uris: [p#.gz * 2]", "uris: [p0.gz, p1.gz]"),
        ("pools=[m * 2]", "pools=[m, m]"),
        ("labels={a: b * 2}", "labels={a: bb}"),
        ("x=8 x GPU", "x=8 x GPU"),
    ],
)
def test_the_tables_notation(text: str, meaning: str) -> None:
    assert written_out(text) == meaning
