"""`swell metrics`: bad input is one line."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from launcher.cli import app
from trainer.rundir.directory import RunDirectory


@pytest.fixture
def run(tmp_path: Path) -> str:
    """A run directory."""
    record = {"id": "r-1", "spec": {}, "settings": {}, "target": "local", "created": 1.0}
    RunDirectory(str(tmp_path)).write_json("run.json", {**record, "format": 2})
    return str(tmp_path)


def test_an_address_that_is_nobodys(run: str) -> None:
    found = CliRunner().invoke(app, ["metrics", run, "--address", "192.0.2.1"])
    assert found.exit_code == 1
    assert found.stderr.startswith("swell: 192.0.2.1:9464 cannot be listened at: ")
    assert found.stderr.endswith("; choose another --port [SW6245]\n")


@pytest.mark.parametrize("port", ["-1", "65536", "http"])
def test_what_is_no_port(run: str, port: str) -> None:
    found = CliRunner().invoke(app, ["metrics", run, "--port", port])
    assert found.exit_code == 2 and "--port" in found.stderr


def test_a_run_that_there_is_not(tmp_path: Path) -> None:
    found = CliRunner().invoke(app, ["metrics", str(tmp_path / "nowhere")])
    assert found.exit_code == 2 and found.stderr.startswith("swell: ")


def test_without_the_library(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    importing = builtins.__import__

    def without(name: str, *more: Any) -> Any:
        if name == "prometheus_client":
            raise ImportError(name)
        return importing(name, *more)

    monkeypatch.setattr(builtins, "__import__", without)
    found = CliRunner().invoke(app, ["metrics", run, "--port", "0"])
    assert found.exit_code == 1
    assert found.stderr == (
        "swell: prometheus_client is not installed: pip install 'swell[metrics]' [SW6244]\n"
    )
