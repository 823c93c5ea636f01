"""What ``swell plan`` prints, in all its formats."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from typer.testing import CliRunner

from launcher.cli import app
from launcher.job.job import Job
from launcher.job.machines import MACHINES, PRICES_AS_OF
from launcher.job.prices import PriceList
from launcher.plan import request_of, world_sizes
from launcher.views import plan
from tests.launcher.job.job_fields import Fields, jobs
from tests.launcher.job.limits_table import base_job

CATALOGUE = PriceList(MACHINES, PRICES_AS_OF)


@pytest.fixture(autouse=True)
def swell_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SWELL_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SWELL_PRICES", raising=False)
    return tmp_path / "home"


@pytest.fixture
def job_file(tmp_path: Path) -> str:
    path = tmp_path / "job.yaml"
    path.write_text(base_job())
    return str(path)


def printed(*arguments: str) -> str:
    answer = CliRunner().invoke(app, ["plan", *arguments])
    assert answer.exit_code == 0, answer.stderr
    return answer.stdout


def test_yaml_says_the_same(job_file: str) -> None:
    assert yaml.safe_load(printed(job_file, "--format", "yaml")) == json.loads(printed(job_file))


@given(jobs())
def test_yaml_says_the_same_of_every_job(fields: Fields) -> None:
    request = request_of(Job.model_validate(fields), "run-1")
    assert yaml.safe_load(plan.as_yaml(request)) == request


CURL = """#!/bin/sh
# Keeps what it was called with: one argument a line, then the body.
printf '%s\\n' "$@" > "$CALLED"
cat > "$CALLED.body"
"""


def test_the_curl_command_is_complete_and_sends_the_json(job_file: str, tmp_path: Path) -> None:
    for name, script in (("curl", CURL), ("gcloud", '#!/bin/sh\necho "token-of-$2"\n')):
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    tricky = 'env={A: "it\'s $(id) `id` \\\\ é"}'
    command = printed(job_file, "--format", "curl", "--set", tricky)
    called = tmp_path / "called"
    subprocess.run(
        ["sh", "-e", "-c", command],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "CALLED": str(called)},
        check=True,
    )
    assert called.read_text().splitlines() == [
        "--fail-with-body",
        "--request",
        "POST",
        "--header",
        "Authorization: Bearer token-of-print-access-token",
        "--header",
        "Content-Type: application/json; charset=utf-8",
        "--data-binary",
        "@-",
        "https://us-central1-aiplatform.googleapis.com/v1/projects/my-project"
        "/locations/us-central1/customJobs",
    ]
    body = Path(f"{called}.body").read_text()
    assert body == printed(job_file, "--format", "json", "--set", tricky)


def test_a_curl_command_needs_what_vertex_needs(job_file: str) -> None:
    answer = CliRunner().invoke(app, ["plan", job_file, "--format", "curl", "--set", "project="])
    assert answer.exit_code == 2
    assert "project: is missing" in answer.stderr


def table_of(**fields: Any) -> str:
    return plan.table(Job(name="j", task="m:C", **fields), CATALOGUE)


def test_the_table_says_what_it_costs_and_what_it_saves() -> None:
    text = table_of(
        pools=["a2-highgpu-8g", "3 x a2-highgpu-8g"], regions=["us-central1", "europe-west4"]
    )
    assert text.splitlines() == [
        "pool          machine         replicas   GPUs   GPU                       "
        "Spot $/h   on demand $/h   saving",
        "workerpool0   a2-highgpu-8g          1      8   NVIDIA_TESLA_A100 40 GB      "
        "14.43           29.39      51%",
        "workerpool1   a2-highgpu-8g          3     24   NVIDIA_TESLA_A100 40 GB      "
        "43.29           88.17      51%",
        "total                                4     32                                "
        "57.72          117.56      51%",
        "",
        "needs the quota custom_model_training_preemptible_nvidia_a100_gpus of at least 32 "
        "in us-central1, europe-west4",
        "tries, in this order:",
        "  1. 4 x a2-highgpu-8g, spot, us-central1: 57.72 $/h",
        "  2. 4 x a2-highgpu-8g, spot, europe-west4: 57.72 $/h",
        plan.TRAFFIC,
        f"prices: USD per hour, {PRICES_AS_OF}",
    ]


@pytest.mark.parametrize(
    ("fields", "tries"),
    [
        ({"fleet": 1}, True),
        ({"fleet": 1, "resubmit": {"back": None}}, False),
        ({"fleet": 1, "fallback": [{"machine": "a2-highgpu-8g"}]}, False),
        ({}, False),
    ],
)
def test_that_a_fleet_goes_back_to_spot_is_said(fields: Fields, tries: bool) -> None:
    fallback = {"fallback": [{"strategy": "standard"}], "pools": ["a2-highgpu-1g"]}
    said = "  on demand it tries every 30min or so to get back to Spot, while it trains"
    assert (said in table_of(**{**fallback, **fields}).splitlines()) is tries


def test_of_a_fleet_it_is_said_how_many_jobs_there_are_and_what_they_cost() -> None:
    pools = ["a2-highgpu-8g", "a2-highgpu-8g"]
    lines = table_of(pools=pools, fleet=4).splitlines()
    assert lines[3].split()[:3] == ["total", "2", "16"], "of one job"
    assert "up to 4 such jobs at a time, whose workers form one world: 115.44 $/h" in lines, (
        "4 x 2 x 14.43"
    )
    anchored = table_of(
        pools=pools, fleet={"jobs": 4, "anchor": 1, "across_regions": True}
    ).splitlines()
    assert (
        "up to 4 such jobs at a time, whose workers form one world, 1 of them on demand and sent "
        "first: 145.36 $/h" in anchored
    ), "3 x 2 x 14.43 + 2 x 29.39"
    assert plan.ACROSS in anchored and plan.ACROSS not in lines


def test_a_controller_is_said_to_cost_something_besides() -> None:
    said = "looked after by a controller: e2-standard-8, on demand, 0.27 $/h besides"
    controller = {"machine": "e2-standard-8"}
    assert said in table_of(pools=["a2-highgpu-1g"], controller=controller).splitlines()
    assert "controller" not in table_of(pools=["a2-highgpu-1g"])


def test_unknown_prices_are_said_to_be_unknown() -> None:
    text = table_of(pools=["a2-highgpu-1g", "2 x a3-ultragpu-8g", "a2-highgpu-2g"])
    lines = text.splitlines()
    assert lines[2].split()[-3:] == ["74.50", "unknown", "unknown"]
    assert lines[3].split()[-3:] == ["unknown", "unknown", "unknown"]
    assert lines[4].split() == ["total", "4", "19", "unknown", "unknown", "unknown"]
    assert "the Spot price of a3-ultragpu-8g is that of its GPUs alone" in lines
    assert "the on-demand price of a3-ultragpu-8g is unknown" in lines
    assert "the Spot price of a2-highgpu-2g is unknown" in lines
    assert (
        "needs the quota custom_model_training_preemptible_nvidia_h200_gpus of at least 16" in lines
    )


def test_a_price_of_another_region_is_said_to_be_one() -> None:
    assert "the on-demand price of a3-highgpu-8g is that of us-east4" in table_of(
        pools=["a3-highgpu-8g"]
    )


def test_other_strategies_do_not_pay_spot_prices() -> None:
    text = table_of(pools=["a2-highgpu-8g"], scheduling="standard")
    assert "the strategy is standard: Spot prices do not apply" in text
    assert "preemptible" not in text


def test_own_prices_are_used_and_named(job_file: str, tmp_path: Path, swell_home: Path) -> None:
    swell_home.mkdir()
    (swell_home / "prices.yaml").write_text("a2-highgpu-8g: {spot: 10, on_demand: 40}\n")
    text = printed(job_file, "--format", "table")
    assert text.splitlines()[3].split() == ["total", "4", "32", "40.00", "160.00", "75%"]
    assert f"prices: USD per hour, {swell_home}/prices.yaml for a2-highgpu-8g; else" in text


@given(jobs())
def test_every_job_has_a_table(fields: Fields) -> None:
    job = Job.model_validate(fields)
    text = plan.table(job, CATALOGUE)
    assert all(pool.machine in text for pool in job.pools)


@pytest.fixture
def code_job(tmp_path: Path) -> str:
    """A job that sends its folder to an agent, and as a package to a program of its own."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code/train.py").write_text("x")
    (tmp_path / "code/.gitignore").write_text("secret.bin\n")
    (tmp_path / "code/secret.bin").write_text("x")
    job = {
        "name": "x",
        "module": "train",
        "code": "code",
        "output": "gs://bucket-b/runs",
        "pools": [
            "a2-highgpu-1g",
            {"machine": "a2-highgpu-1g", "package": {"executor": "i", "module": "train"}},
        ],
    }
    (tmp_path / "job.yaml").write_text(json.dumps(job))
    return str(tmp_path / "job.yaml")


def test_the_code_is_planned_as_it_would_be_sent(code_job: str) -> None:
    listed = printed(code_job, "--format", "files")
    files, _, summary = listed.strip().partition("\n\n")
    assert files.split() == ["1", "train.py"]
    assert summary.startswith("code: 1 file, 1 bytes, sha256 ")
    assert summary in printed(code_job, "--format", "table")
    first, second = json.loads(printed(code_job, "--run-id", "one"))["jobSpec"]["workerPoolSpecs"]
    assert "packageUris" not in str(first)
    [uri] = second["pythonPackageSpec"]["packageUris"]
    sha256 = summary.split()[6].rstrip(",")
    assert uri.startswith(f"gs://bucket-b/runs/one/code/swell-code-{sha256}")


def test_code_that_cannot_be_sent_has_no_plan(code_job: str) -> None:
    (Path(code_job).parent / "code/.env").write_text("A=1")
    answer = CliRunner().invoke(app, ["plan", code_job])
    assert (answer.exit_code, answer.stdout) == (2, "")
    assert answer.stderr.startswith("swell: code: .env has the name of a secret")


def test_a_job_without_code_has_no_files(job_file: str) -> None:
    answer = CliRunner().invoke(app, ["plan", job_file, "--format", "files"])
    assert answer.exit_code == 2
    assert answer.stderr == f"swell: {job_file}: sends no code; write code: FOLDER [SW1201]\n"


def test_warnings_go_beside_the_request_and_do_not_stop_it(job_file: str) -> None:
    asked = ["plan", job_file, "--set", "pools.1.machine=a3-highgpu-8g"]
    answer = CliRunner().invoke(app, asked)
    assert answer.exit_code == 0
    json.loads(answer.stdout)
    assert answer.stderr.startswith(f"swell: warning: {job_file}:7: pools: mix NVIDIA_TESLA_A100")


def fleet(**fields: Any) -> Job:
    return Job.model_validate(yaml.safe_load(base_job()) | fields)


def test_the_worlds_that_a_run_may_have_are_those_of_any_of_its_replicas() -> None:
    pools = ["a2-highgpu-2g", "2 x a2-highgpu-2g"]
    assert world_sizes(fleet(pools=pools)) == [2, 4, 6]
    assert world_sizes(fleet(pools=pools, elastic={"min_workers": 4})) == [4, 6]
    assert world_sizes(fleet(pools=["a2-highgpu-1g", "a2-highgpu-2g"])) == [1, 2, 3]
    assert world_sizes(fleet(pools=pools, elastic={"max_workers": 3})) == [2, 3]
    assert world_sizes(fleet(pools=["a2-highgpu-2g"], fleet=3)) == [2, 4, 6]


def test_how_long_workers_wait_for_units_is_said_of_each_world() -> None:
    job = fleet(pools=["a2-highgpu-1g", "7 x a2-highgpu-1g"])
    found = {"batch": 64, "unit": 8, "count": 8, "decided": True, "waits": {"3": 0.111, "5": 0.2}}
    assert plan.units(job, found) == (
        "units: 8 of 8 samples in a step of 64; of 1 to 8 workers, workers wait for units in "
        "worlds of 3 (11%), 5 (20%)\n"
    )
    assert plan.units(job, found | {"waits": {}, "decided": False}) == (
        "units: 8 of 8 samples in a step of 64, if its model needs units; they divide in every "
        "world of 1 to 8 workers\n"
    )
    assert plan.units(job, found | {"unit": 0}) == "units: none, the task wants none\n"
    many = {str(size): size / 100 for size in range(1, 21)}
    worst = ", ".join(f"{size} ({size}%)" for size in range(5, 21))
    assert plan.units(job, found | {"waits": many}).endswith(
        f"worlds of {worst}, and for less in 4 others\n"
    )


def test_the_task_itself_says_how_its_batch_is_cut(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code/train.py").write_text(
        "from trainer import Task\n"
        "class Small(Task):\n"
        "    def __init__(self, unit):\n"
        "        self.global_batch, self.unit = 8, unit\n"
        "print('what a program prints at its start')\n"
    )
    path = tmp_path / "job.yaml"
    path.write_text(
        "name: small\ntask: code/train.py:Small\nargs: {unit: 2}\ncode: code\n"
        "pools: [a2-highgpu-1g, 2 x a2-highgpu-1g]\n"
    )
    assert printed(str(path), "--units") == (
        "units: 4 of 2 samples in a step of 8; of 1 to 3 workers, workers wait for units in "
        "worlds of 3 (33%)\n"
    )


def test_a_program_of_ones_own_is_not_asked_for_units(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("name: small\nmodule: mine\npools: [a2-highgpu-1g]\n")
    answer = CliRunner().invoke(app, ["plan", str(path), "--units"])
    assert answer.exit_code == 2
    assert answer.stderr == (
        f"swell: --units: {path} has no task; a program of your own says how its batch is cut "
        "[SW1201]\n"
    )
