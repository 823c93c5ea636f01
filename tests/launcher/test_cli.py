from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from launcher import home
from launcher.cli import app
from tests.launcher.recorded_run import record_attempt, record_run

ROOT = Path(__file__).parents[2]
EXAMPLE = str(ROOT / "examples/digits.yaml")


@pytest.fixture(autouse=True)
def swell_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SWELL_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_plan_prints_the_request_and_keeps_the_secret() -> None:
    asked = ["plan", EXAMPLE, "--run-id", "one", "--set", "pools.1.replicas=7"]
    answer = CliRunner().invoke(app, asked)
    assert answer.exit_code == 0
    request = json.loads(answer.stdout)
    assert request["displayName"] == "one"
    assert [p["replicaCount"] for p in request["jobSpec"]["workerPoolSpecs"]] == ["1", "7"]
    assert '"value": "(secret)"' in answer.stdout
    in_yaml = CliRunner().invoke(app, [*asked, "--format", "yaml"])
    assert yaml.safe_load(in_yaml.stdout) == request


@pytest.mark.parametrize(
    ("arguments", "message", "id"),
    [
        (["launch", "none.yaml"], "swell: none.yaml: there is no such file", "SW1001"),
        (
            ["plan", EXAMPLE, "--set", "x"],
            "swell: --set x: has no value; write --set x=VALUE",
            "SW1004",
        ),
        (["plan", EXAMPLE, "--run-id", "A"], "swell: --run-id A: is not a run id", "SW2001"),
        (["status", "none"], "swell: none: there is no such run", "SW2003"),
        (["cancel", "none"], "swell: none: there is no such run", "SW2003"),
        (["logs", "none"], "swell: none: there is no such run", "SW2003"),
        (["preempt", "none", "workerpool1-0"], "swell: none: there is no such run", "SW2003"),
        (
            ["preempt", "x", "y", "--notice", "5"],
            "swell: --notice: needs a unit; write 5s",
            "SW1013",
        ),
        (
            ["preempt", "x", "y", "--silent", "--restore"],
            "swell: --notice, --silent and --restore exclude each other",
            "SW1201",
        ),
        (["launch", EXAMPLE, "--target", "vertex"], "swell: ", "SW1008"),
        (["launch", EXAMPLE, "--target", "moon"], "", ""),
        (["launch"], "", ""),
    ],
)
def test_bad_input_is_one_clear_message_and_exit_code_2(
    swell_home: Path, arguments: list[str], message: str, id: str
) -> None:
    answer = CliRunner().invoke(app, arguments)
    assert answer.exit_code == 2
    assert answer.stderr.startswith(message)
    if id:  # typer's own messages, which name the option, have none
        assert answer.stderr.splitlines()[0].endswith(f" [{id}]")
    assert answer.stdout == ""
    assert not swell_home.exists(), "nothing was started"


def test_there_are_no_runs_yet() -> None:
    assert "swell launch JOB" in CliRunner().invoke(app, ["runs"]).stdout
    assert json.loads(CliRunner().invoke(app, ["runs", "--json"]).stdout) == []


CLIENTS = ["google.cloud.aiplatform_v1", "google.auth", "requests", "torch", "uvicorn"]


@pytest.mark.parametrize(
    ("arguments", "unwanted"),
    [
        (["--help"], ["pydantic", "yaml", "fsspec", "google.auth", "torch", "rich"]),
        (["runs"], CLIENTS),
        (["status", "one"], CLIENTS),
        (["logs", "one"], CLIENTS),
        (["plan", EXAMPLE], [*CLIENTS, "torch", "uvicorn", "fsspec", "rich"]),
        (["plan", EXAMPLE, "--format", "table"], [*CLIENTS, "fsspec", "rich"]),
        (["schema"], [*CLIENTS, "fsspec", "rich", "launcher.emulator"]),
    ],
)
def test_what_is_heavy_is_imported_late(arguments: list[str], unwanted: list[str]) -> None:
    local = record_run("one", target="local", by=home.whoami())
    record_attempt(local, "http://127.0.0.1:1", state="RUNNING")
    program = (
        "import sys\n"
        "from launcher.cli import app\n"
        f"app({arguments!r}, standalone_mode=False)\n"
        f"print([name for name in {unwanted!r} if name in sys.modules], file=sys.stderr)\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert answer.stderr.strip() == "[]"
