"""The secret of a run gets to its agents, by either way, and nowhere else."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from launcher.job.job import Job
from launcher.run import launch
from tests.integration.command import ROOT, Swell, until
from trainer.protocol.authority import Authority

# What the user's program sees, for everybody to read; and it runs until it is told to end.
SCRIPT = """
import os, pathlib, time
import horovod.torch as hvd
hvd.init()
here = pathlib.Path(__file__).parent
for name, value in os.environ.items():
    print(f"{name}={value}", flush=True)
(here / "up").touch()
while not (here / "end").exists():
    time.sleep(0.05)
"""


@pytest.mark.parametrize("through", ["environment", "secret-manager"])
def test_the_secret_is_seen_nowhere(
    through: str, swell: Swell, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    authority = Authority.new()
    secret = authority.issue(1)
    _, token, key, *_ = secret.split(".")
    vouches, *_ = authority.text.split(".")
    monkeypatch.setenv("SWELL_HOME", str(swell.home))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(Authority, "new", lambda: authority)
    monkeypatch.setattr(Authority, "issue", lambda self, attempt: secret)
    script = swell.folder / "script.py"
    script.write_text(SCRIPT)
    fields: dict[str, Any] = {
        "name": "secretive",
        "script": str(script),
        "pools": [{"machine": "a2-highgpu-1g"}],
    }
    if through == "secret-manager":
        fields["token_secret"] = "projects/local/secrets/swell"
    seen: dict[str, str] = {}
    with launch(Job.model_validate(fields), run_id="secretive") as run:
        until(lambda: (swell.folder / "up").exists() or run.ended)
        for pid in swell.processes():
            seen[f"argv of {pid}"] = _read(Path(f"/proc/{pid}/cmdline"))
            if "trainer.worker" in seen[f"argv of {pid}"]:
                seen[f"environment of worker {pid}"] = _read(Path(f"/proc/{pid}/environ"))
        attempt = run.status()["attempts"][-1]
        job = attempt["job"]
        emulators = (swell.run_dir("secretive") / "local/token").read_text()
        bearer = {"Authorization": f"Bearer {emulators}"}
        for path in (f"v1/{job}", f"v1/{job.rpartition('/')[0]}", f"emulator/v1/{job}/replicas"):
            with urlopen(Request(f"{attempt['endpoint']}/{path}", headers=bearer)) as answer:
                seen[f"the API's {path}"] = answer.read().decode()
        seen["status"] = json.dumps(run.status())
        kept = _files(swell.home, seen)
        (swell.folder / "end").touch()
        outcome = run.wait()
    assert outcome.state == "succeeded", outcome
    for command in ("status", "logs", "plan"):
        arguments = [_job_file(swell, fields)] if command == "plan" else ["secretive"]
        answer = swell(command, *arguments)
        assert answer.returncode == 0, answer.stderr
        seen[f"swell {command}"] = answer.stdout + answer.stderr
    kept += _files(swell.home, seen)
    seen["printed"] = "".join(capfd.readouterr())

    assert any("environment of worker" in what for what in seen)
    assert "SWELL_RUN_DIR=" in seen["swell logs"], "the script has printed its environment"
    for what, text in seen.items():
        for part in (secret, token, key, vouches, emulators):
            assert part not in text, f"{what} shows it"
    for folder in (swell.home, swell.run_dir("secretive")):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700, "nor may others look in"
    # What delivers the secret keeps it where nobody else can read.
    assert kept, "the emulator keeps what it was sent"
    for file, mode in kept:
        assert stat.S_IMODE(mode) == 0o600, file
    # Once the run has ended, Secret Manager has forgotten it.
    left = swell.home / "runs/secretive/local/secrets.json"
    if through == "secret-manager":
        assert json.loads(left.read_text()) == {"projects/local/secrets/swell": [None]}


def _job_file(swell: Swell, fields: dict[str, Any]) -> str:
    path = swell.folder / "job.yaml"
    path.write_text(json.dumps(fields))
    return str(path)


def _files(folder: Path, seen: dict[str, str]) -> list[tuple[Path, int]]:
    """Reads all files, those apart that deliver the secret; returns these, with their modes."""
    own = []
    for path in folder.rglob("*"):
        if path.is_file():
            local = folder / "runs/secretive/local"
            names = ("authority", "secrets.json", "token", "emulator.json")
            keepers = {local / name for name in names}
            if path in keepers or path.parent == local / "jobs":
                own.append((path, path.stat().st_mode))
            else:
                seen[str(path)] = _read(path)
    return own


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("latin-1")
    except OSError:  # it has gone
        return ""
