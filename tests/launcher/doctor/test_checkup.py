"""Checks in general, those of the local target, and how findings are shown."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from launcher.api.apierror import ApiError
from launcher.cli import app
from launcher.doctor import localchecks
from launcher.doctor.checkup import Check, Finding, examine, failed, passed, unknown
from launcher.doctor.report import print_findings
from launcher.doctor.rounds import checks_of
from launcher.job.job import Job


def raising(error: Exception) -> Check:
    def look() -> Finding:
        raise error

    return Check("x", look)


def test_all_are_looked_at_at_once_and_told_in_order() -> None:
    together = threading.Barrier(3)

    def look() -> Finding:
        together.wait(600)
        return passed("yes")

    assert examine([Check(name, look) for name in "abc"]) == [(n, passed("yes")) for n in "abc"]


def test_whatever_breaks_is_unknown_and_takes_nothing_with_it() -> None:
    checks = [raising(ValueError("odd")), Check("y", lambda: passed("yes"))]
    assert examine(checks) == [("x", unknown("ValueError: odd")), ("y", passed("yes"))]


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (ApiError("SW0001", "no; run: this", kind="permission"), "fail"),
        (ApiError("SW0001", "later", transient=True), "unknown"),
        (ApiError("SW0001", "no answer", kind="silent"), "unknown"),
    ],
)
def test_what_an_api_says(error: ApiError, verdict: str) -> None:
    [(_, finding)] = examine([raising(error)])
    assert (finding.verdict, finding.said, finding.id) == (verdict, str(error), error.id)


def test_silence_is_unknown() -> None:
    never = threading.Event()
    checks = [Check("x", lambda: passed(str(never.wait()))), Check("y", lambda: passed("yes"))]
    assert examine(checks, 0.2) == [("x", unknown("no answer within 0.2 s")), ("y", passed("yes"))]
    never.set()


def shown(findings: list[tuple[str, Finding]]) -> str:
    file = io.StringIO()
    print_findings(Console(file=file, width=60, highlight=False), findings)
    return file.getvalue()


def test_findings_are_shown_with_their_fixes() -> None:
    found = [
        ("disk", passed("fine")),
        ("image", failed("SW0001", "none", "push it")),
        ("q", unknown("?")),
    ]
    assert shown(found).splitlines() == [
        "pass  disk   fine",
        "FAIL  image  none [SW0001]",
        "             → push it",
        "  ?   q      could not check: ? [SW6001]",
        "",
        "1 of 3 checks pass, 1 fails, 1 could not be made.",
    ]
    long = [("x", failed("SW0001", "y", "run: gcloud " + "word " * 30 + "end"))]
    assert "word end" in shown(long), "a command is not cut into lines"
    assert shown(found[:1]) == "pass  disk  fine\n\nAll 1 checks pass.\n"


def job_of(**fields: Any) -> Job:
    return Job.model_validate(
        {"name": "x", "task": "m:C", "pools": [{"machine": "a2-highgpu-1g"}], **fields}
    )


def local(**fields: Any) -> dict[str, Finding]:
    return dict(examine(checks_of(job_of(**fields), "local")))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SWELL_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_this_machine_is_ready() -> None:
    found = local(container={"command": ["true"]}, task=None)
    assert {name: finding.verdict for name, finding in found.items()} == {
        "Python packages": "pass",
        "VMs": "pass",
        "ports": "pass",
        "disk": "pass",
    }


def test_a_machine_without_the_parts_is_told_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    found = local(output="gs://bucket-b/x")
    assert found["Python packages"].verdict == "fail"
    assert found["Python packages"].fix == "run: pip install 'swell[emulator,gcs,trainer,vertex]'"
    assert found["Horovod"] == failed(
        "SW6003", "it is not installed", "run: make setup (containers/build_horovod.py builds it)"
    )


def test_a_disk_that_is_full_or_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 5 * 2**20

    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage)
    assert local()["disk"].said.startswith(f"5.0 MiB are free in {tmp_path}/home, ")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SWELL_HOME", str(tmp_path / "file"))
    found = local()["disk"]
    assert (found.verdict, found.said) == (
        "fail",
        f"{tmp_path}/file cannot be written: File exists",
    )


def test_namespaces_need_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    finding = local(local={"vm": "netns"})["VMs"]
    assert finding.said == "network namespaces need root"
    assert finding.fix == "run this as root, or write local: {vm: process}"


def test_code_and_webhook_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code/train.py").write_text("x")
    (tmp_path / "code/.env").write_text("A=1")
    monkeypatch.delenv("NO_HOOK", raising=False)
    fields = {"code": {"folder": str(tmp_path / "code")}, "notify": {"url_env": "NO_HOOK"}}
    found = local(**fields)
    assert found["code"].said == ".env has the name of a secret, and is not sent"
    assert "write code.allow: [.env]" in found["code"].fix
    assert found["webhook"].verdict == "fail" and "NO_HOOK" in found["webhook"].said
    assert (found["code"].id, found["webhook"].id) == ("SW2103", "SW2020")
    monkeypatch.setenv("NO_HOOK", "https://example.com/secret")
    (tmp_path / "code/.env").unlink()
    found = local(**fields)
    assert found["webhook"] == passed("its URL is there")
    assert found["code"].said.startswith("1 file, 1 bytes, sha256 ")


def test_the_exit_code_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = tmp_path / "job.yaml"
    job.write_text("name: x\ncontainer: {command: ['true']}\npools: [a2-highgpu-1g]\n")
    answer = CliRunner().invoke(app, ["doctor", str(job), "--json"])
    assert answer.exit_code == 0, answer.stdout
    assert {one["verdict"] for one in json.loads(answer.stdout)} == {"pass"}
    monkeypatch.setattr(localchecks, "FREE", 2**62)
    assert CliRunner().invoke(app, ["doctor", str(job)]).exit_code == 1
    job.write_text("name: x\n")
    assert CliRunner().invoke(app, ["doctor", str(job)]).exit_code == 2
