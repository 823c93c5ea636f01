"""A run as others see it: TensorBoard's reader, and a real Prometheus with the dashboard's queries.

Prometheus is Debian's (apt-get install prometheus).
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integration.command import ROOT, SLOW, Swell, until
from tests.trainer.telemetry.test_board import read
from trainer.agent.processes import free_port
from trainer.rundir.directory import RunDirectory
from trainer.rundir.events import read_events
from trainer.telemetry.board import EVENTS, LOGS

DASHBOARD = ROOT / "docs/grafana.json"
STEPS = 23 * 18
JOB = f"""
name: seen
task: {SLOW}
args: {{epochs: 18, batch: 64, width: 8}}
pools: [a2-highgpu-1g, a2-highgpu-1g]
elastic: {{min_workers: 1}}
checkpoint: {{every: 50 steps}}
telemetry: {{port: PORT}}
local: {{market: [{{at: 120 steps, vanish: workerpool0-0, back: 20s}}]}}
"""
# What this machine does not have, and what does not happen in this run.
ABSENT = re.compile(r"swell_gpu_|swell_run_speed")


@pytest.mark.soak
@pytest.mark.skipif(not shutil.which("prometheus"), reason="needs: apt-get install prometheus")
def test_a_run_that_loses_its_leader_as_others_see_it(swell: Swell, tmp_path: Path) -> None:
    port, own, server = free_port(), free_port(), free_port()
    (tmp_path / "seen.yaml").write_text(JOB.replace("PORT", str(port)))
    launch = swell.start("launch", str(tmp_path / "seen.yaml"), "--run-id", "seen")
    until((swell.run_dir("seen") / "run.json").exists)
    shown = swell.start("metrics", "seen", "--port", str(own))
    run_dir = RunDirectory(str(swell.run_dir("seen")))
    until(lambda: len(addresses(run_dir)) == 2)
    targets = [f"127.0.0.1:{own}", *(f"{one}:{port}" for one in addresses(run_dir))]
    with prometheus(tmp_path, server, targets):
        expected = [query for query in queries("seen") if not ABSENT.search(query)]
        unanswered = set(expected)

        def all_answered() -> bool:
            for query in sorted(unanswered):
                if asked(server, query):
                    unanswered.discard(query)
            return not unanswered or launch.poll() is not None

        until(all_answered, every=1.0)
        assert not unanswered
        assert launch.wait() == 0, launch.stdout and launch.stdout.read()
        for query in queries("seen"):
            asked(server, query)  # each is a query: who has no GPU has no answer to some
    shown.kill()
    folder = swell.run_dir("seen")
    losses = dict(read(folder / LOGS)["train/loss"])
    assert sorted(losses) == list(range(1, STEPS + 1)), "each step is there, and once"
    told = {step: loss for step, loss in final_losses(run_dir).items()}
    assert losses == pytest.approx(told)
    terms = {name[20:26] for name in map(str, (p.name for p in (folder / LOGS).glob("*.swell")))}
    assert len(terms) > 1, "another leader has gone on with the files"
    assert {"loss", "resumed", "finished"} <= read(folder / EVENTS).keys()


def final_losses(run_dir: RunDirectory) -> dict[int, float]:
    """The loss of each step, as the world that completed it last has told it."""
    found: dict[int, float] = {}
    events = [event for event in read_events(run_dir) if event["event"] == "steps"]
    for event in sorted(events, key=lambda one: int(one["generation"])):
        for step, loss in enumerate(event["metrics"]["loss"], event["first"]):
            found[step] = loss
    return found


def addresses(run_dir: RunDirectory) -> set[str]:
    """Where the agents are: a local VM's address follows from its replica."""
    members = {
        event["member"] for event in read_events(run_dir) if event["event"] == "member_ready"
    }
    return {f"127.0.0.{2 + int(member[10])}" for member in members}


def queries(run: str) -> list[str]:
    """All queries of the dashboard, of one run."""
    dashboard = json.loads(DASHBOARD.read_text())
    return [
        target["expr"].replace("$run", run)
        for panel in dashboard["panels"]
        for target in panel["targets"]
    ]


def asked(port: int, query: str) -> list[Any]:
    """What Prometheus answers to a query. Raises HTTPError for one that is none."""
    address = f"http://127.0.0.1:{port}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    with urllib.request.urlopen(address) as answer:
        found: list[Any] = json.load(answer)["data"]["result"]
    return found


@contextmanager
def prometheus(folder: Path, port: int, targets: list[str]) -> Iterator[None]:
    """A server that scrapes some targets."""
    config = folder / "prometheus.yml"
    jobs = [{"job_name": "swell", "static_configs": [{"targets": targets}]}]
    config.write_text(
        json.dumps(
            {"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, "scrape_configs": jobs}
        )
    )
    process = subprocess.Popen(
        [
            "prometheus",
            f"--config.file={config}",
            f"--storage.tsdb.path={folder / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=sys.stderr,
    )
    try:
        until(lambda: ready(port))
        yield
    finally:
        process.terminate()
        process.wait()


def ready(port: int) -> bool:
    """Whether the server answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/-/ready") as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
