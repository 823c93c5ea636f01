"""``swell doctor --probe``: what it costs is said first, and whatever happens nothing is left."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from launcher.api.apierror import ApiError
from launcher.cli import app
from launcher.doctor import probe as probes
from launcher.doctor.checkup import Finding
from launcher.doctor.probe import ENDING, LIMIT, PATIENCE, Probing, cheapest, offer, request
from launcher.doctor.probefindings import findings_of
from launcher.job.job import Job
from launcher.job.machines import MACHINES
from launcher.job.prices import PriceList
from launcher.probed import Probed
from launcher.target import Target
from tests.launcher.faked_vertex import Clock, Looks, Region, Vertex
from tests.launcher.supervision.policy_run import job
from trainer.rundir.directory import RunDirectory

PRICES = PriceList(MACHINES, "the catalogue")
OWN: dict[str, Any] = {
    "project": "p",
    "regions": ["us-central1"],
    "output": "gs://bucket/runs",
    "labels": {"team": "x"},
    "service_account": "s@p.iam.gserviceaccount.com",
    "psc_interface": {"attachment": "projects/p/regions/us-central1/networkAttachments/a"},
    "container": {"image": "europe-docker.pkg.dev/p/r/image"},
    "fleet": 2,
}


def test_it_is_the_cheapest_spot_machine_twice_for_a_quarter_of_an_hour_each() -> None:
    offered = offer(job(**OWN), "vertex", PRICES)
    assert (offered.machine, offered.usd) == ("a2-highgpu-1g", 2 * 0.25 * 1.80)
    assert str(offered) == (
        "2 Spot jobs of one a2-highgpu-1g each in us-central1, for 15min each at most: 0.90 USD at "
        "most, by estimate"
    )
    assert cheapest(PRICES, "us-east4", "x") == "a2-ultragpu-1g", "where there is no A100 of 40 GB"
    assert cheapest(PRICES, "asia-east1", "a3-megagpu-8g") == "a3-megagpu-8g", "its own"
    unknown = offer(
        job(**{"regions": ["asia-east1"], "pools": ["a3-megagpu-8g"]}), "vertex", PRICES
    )
    assert unknown.usd is None and "their price is not known" in str(unknown)
    here = offer(job(), "local", PRICES)
    assert here.usd == 0 and str(here).endswith("emulated here: they cost nothing")


def test_its_jobs_are_in_the_jobs_network_with_its_image_and_end_by_themselves() -> None:
    made = request(
        offer(job(**OWN), "vertex", PRICES), "probe-1", 2, "gs://bucket/runs/probe-1", "key"
    )
    spec = made["jobSpec"]
    (pool,) = spec["workerPoolSpecs"]
    assert (pool["replicaCount"], pool["machineSpec"]["acceleratorCount"]) == ("1", 1)
    assert pool["containerSpec"]["imageUri"] == OWN["container"]["image"]
    assert pool["containerSpec"]["command"] == ["python", "-m", "trainer.probe"]
    env = {it["name"]: it["value"] for it in pool["containerSpec"]["env"]}
    assert env == {
        "SWELL_RUN_DIR": "gs://bucket/runs/probe-1",
        "SWELL_RUN_ID": "probe-1",
        "SWELL_ATTEMPT": "2",
        "SWELL_PROBE": "key",
    }
    assert spec["scheduling"]["timeout"] == f"{LIMIT.seconds}s"
    assert spec["scheduling"]["strategy"] == "SPOT" and spec["scheduling"]["disableRetries"]
    assert spec["pscInterfaceConfig"]["networkAttachment"] == OWN["psc_interface"]["attachment"]
    assert spec["serviceAccount"] == OWN["service_account"]
    assert made["labels"] == {"team": "x", "swell-run": "probe-1", "swell-attempt": "2"}


def test_of_a_job_of_packages_it_runs_the_module_in_the_executor() -> None:
    packages = {"executor": "an-executor", "uris": ["gs://bucket/swell.tar.gz"]}
    own = {name: value for name, value in OWN.items() if name != "container"}
    offered = offer(job(**own, package=packages), "vertex", PRICES)
    (pool,) = request(offered, "probe-1", 1, "gs://b", "key")["jobSpec"]["workerPoolSpecs"]
    assert pool["pythonPackageSpec"]["pythonModule"] == "trainer.probe"
    assert {"name": "SWELL_PROBE", "value": "key"} in pool["pythonPackageSpec"]["env"]


# --- seen through ---------------------------------------------------------------------

Lives = Callable[[int], Looks]


class Trial:
    """A probe of a Vertex AI in memory, whose VMs report when a test says so."""

    def __init__(
        self, path: Path, lives: Lives, wrap: Callable[[Region], Any] = lambda it: it
    ) -> None:
        self.folder = RunDirectory(str(path))
        self.clock = Clock()
        self.vertex = Vertex(lives, self.clock)
        self.said: list[str] = []
        target = Target(lambda region: wrap(self.vertex.region(region)), poll=10.0)
        self.probing = Probing(
            target, "us-central1", self.folder, self.said.append, self.clock, self.clock.sleep
        )

    def report(self, number: int, *peers: str, state: str = "RUNNING") -> Callable[[], str]:
        def look() -> str:
            report = {"attempt": number, "peers": [{"peer": peer} for peer in peers]}
            self.folder.write_json(f"reports/{number}-workerpool0-0.json", report)
            return state

        return look

    def run(self) -> None:
        offered = offer(job(**OWN), "vertex", PRICES)
        self.probing.run([request(offered, "probe-1", n, self.folder.url, "key") for n in (1, 2)])


def trial(path: Path, *lives: Looks) -> Trial:
    found = Trial(path, lambda number: lives[number - 1])
    return found


def test_when_both_have_reported_neither_is_cancelled(tmp_path: Path) -> None:
    both: dict[int, Looks] = {}
    run = Trial(tmp_path, lambda number: both[number])
    both[1] = ["PENDING", run.report(1), run.report(1, "2"), "RUNNING", "SUCCEEDED"]
    both[2] = ["PENDING", "PENDING", run.report(2, "1"), "RUNNING", "SUCCEEDED"]
    run.run()
    assert run.probing.failed == "" and run.probing.left == []
    assert [it["attempt"] for it in run.probing.reports] == [1, 2]
    assert [it.state.state for it in run.vertex.jobs.values()] == ["SUCCEEDED"] * 2
    assert run.said[0].endswith("customJobs/1: queued") and len(run.said) == 8


def test_one_that_reports_and_never_ends_is_cancelled(tmp_path: Path) -> None:
    both: dict[int, Looks] = {}
    run = Trial(tmp_path, lambda number: both[number])
    both[1], both[2] = [run.report(1, "2")], [run.report(2, "1")]
    run.run()
    assert [it.state.state for it in run.vertex.jobs.values()] == ["CANCELLED"] * 2
    assert run.probing.left == [] and run.probing.failed == ""
    assert run.clock() - 1000.0 <= 2 * ENDING


@pytest.mark.parametrize("state", ["FAILED: no image", "CANCELLED", "SUCCEEDED"])
def test_when_one_ends_without_a_report_the_other_does_not_go_on(
    tmp_path: Path, state: str
) -> None:
    run = trial(tmp_path, ["RUNNING", state], ["RUNNING"])
    run.run()
    job = "projects/p/locations/us-central1/customJobs/1"
    why = ": no image" if "image" in state else ""
    assert run.probing.failed == (
        f"{job} ended {state.partition(':')[0]} before it had reported{why}"
    )
    assert not run.vertex.alive and run.probing.left == []


def test_machines_that_do_not_come_are_not_waited_for_for_ever(tmp_path: Path) -> None:
    run = trial(tmp_path, ["PENDING"], ["RUNNING"])
    run.run()
    first, second = (f"projects/p/locations/us-central1/customJobs/{n}" for n in (1, 2))
    assert run.probing.failed == f"after 30 min {first} is PENDING and {second} is RUNNING"
    assert PATIENCE <= run.clock() - 1000.0 <= PATIENCE + 60 and not run.vertex.alive


class Breaks(Region):
    """An API that refuses after some calls, or breaks off as Ctrl-C does."""

    def __init__(self, region: Region, after: int, error: BaseException) -> None:
        super().__init__(region._vertex, region.region)
        self._left, self._error = after, error

    def _maybe(self) -> None:
        self._left -= 1
        if self._left == 0:
            raise self._error

    def submit(self, request: Any) -> Any:
        self._maybe()
        return super().submit(request)

    def get(self, name: str) -> Any:
        self._maybe()
        return super().get(name)


@pytest.mark.parametrize("after", range(1, 9))
@pytest.mark.parametrize("kind", [ApiError, KeyboardInterrupt])
def test_whatever_breaks_off_nothing_is_left_running(
    tmp_path: Path, after: int, kind: type[BaseException]
) -> None:
    error = ApiError("SW3001", "no") if kind is ApiError else KeyboardInterrupt()
    run = Trial(tmp_path, lambda number: ["RUNNING"], lambda region: Breaks(region, after, error))
    with pytest.raises(kind):
        run.run()
    assert not run.vertex.alive and run.probing.left == []


def test_those_that_cannot_be_cancelled_are_named(tmp_path: Path) -> None:
    class Deaf(Region):
        def cancel(self, name: str) -> None:
            raise ApiError("SW3001", "no")

    run = Trial(tmp_path, lambda n: ["RUNNING"], lambda it: Deaf(it._vertex, it.region))
    run.run()
    assert len(run.probing.left) == 2 and run.probing.failed


# --- what is found --------------------------------------------------------------------


def found(fleet: bool, why: str = "", **more: Any) -> dict[str, Finding]:
    own = OWN if fleet else {name: value for name, value in OWN.items() if name != "fleet"}
    return dict(findings_of(job(**own), Probed(**more), why))


def test_only_what_would_keep_the_job_from_working_fails() -> None:
    apart: dict[str, Any] = {
        "reached": False,
        "why": "timed out",
        "spec_read": True,
        "metadata": False,
    }
    assert [it.verdict for it in found(True, **apart).values()] == ["fail", "pass", "pass"]
    assert [it.verdict for it in found(False, **apart).values()] == ["pass", "pass", "pass"]
    assert found(True, **apart)["jobs reach each other"].id == "SW6110"
    strange = found(False, spec_read=False, spec_forms=["no task"])["CLUSTER_SPEC"]
    assert (strange.verdict, strange.id) == ("fail", "SW6111")
    assert {it.verdict for it in found(True, "no machines").values()} == {"unknown"}
    assert found(True, "no machines")["metadata server"].said == "no machines"


def test_each_answer_of_the_metadata_server_is_told_apart() -> None:
    said = [
        found(True, metadata=answers, notice=notice)["metadata server"].said
        for answers, notice in [(True, True), (True, False), (False, False)]
    ]
    assert said[0] == "answers, also instance/preempted" and len({*said}) == 3


# --- the command ----------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("SWELL_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(probes.Probing, "run", never)
    path = tmp_path / "job.yaml"
    path.write_text(json.dumps(Job.model_validate(job(**OWN).to_dict()).to_dict()))
    return str(path)


def never(*_: object) -> None:
    raise AssertionError("nobody has agreed to this")


def test_nobody_is_charged_who_has_not_agreed(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["doctor", file, "--probe", "--target", "vertex"]
    answer = CliRunner().invoke(app, command)
    assert answer.exit_code == 2
    assert answer.stderr.splitlines()[-1] == (
        "swell: --probe submits 2 Spot jobs of one a2-highgpu-1g each in us-central1, for 15min "
        "each at most: 0.90 USD at most, by estimate; agree with --yes [SW2040]"
    )
    monkeypatch.setattr("launcher.commands.probing.interactive", lambda: True)
    assert CliRunner().invoke(app, command, input="n\n").exit_code == 1
    alone = CliRunner().invoke(app, ["doctor", file, "--yes"])
    assert alone.exit_code == 2 and "--yes belongs to --probe" in alone.stderr
