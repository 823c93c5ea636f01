"""What a controller is started with, and how it says that it cannot begin."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher import controller, home
from launcher.api.apierror import ApiError
from launcher.controller import DAMAGED, MISSING, Order, main, order_of, target_of
from launcher.draft import create, prepare, reopen
from launcher.job.controllerjob import (
    ENV_EMULATOR,
    ENV_EMULATOR_TOKEN,
    ENV_NUMBER,
    ENV_TRUST,
    ENV_TRUST_SECRET,
    build_controller,
)
from launcher.job.customjob import CONTROLLER_LABEL, RUN_LABEL
from launcher.job.job import Job
from launcher.supervision.attendance import Relieved
from launcher.trust import LIMIT, Trust, trust_of
from trainer.protocol.authority import Authority
from trainer.protocol.credentials import AUTHORITY, fingerprint
from trainer.rundir.names import ENV_RUN_DIR, ENV_RUN_ID
from trainer.rundir.usererror import Unusable

TRUST = Trust("k" * 64, "https://hooks/secret", {"a2-highgpu-1g": {"spot": 1.0}})
ENV = {
    ENV_RUN_DIR: "gs://bucket/runs/one",
    ENV_RUN_ID: "one",
    ENV_NUMBER: "3",
    ENV_TRUST: TRUST.text,
}
FIELDS: dict[str, Any] = {
    "name": "j",
    "module": "package.program",
    "project": "p",
    "regions": ["us-central1"],
    "output": "gs://bucket/runs",
    "container": "us-docker.pkg.dev/p/r/i",
    "pools": ["a2-highgpu-1g"],
    "controller": {"image": "us-docker.pkg.dev/p/r/c", "timeout": "2d"},
    "labels": {"team": "a"},
}


@pytest.fixture(autouse=True)
def swell_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("SWELL_HOME", str(tmp_path / "home"))
    yield tmp_path / "home"


def job(**fields: Any) -> Job:
    return Job.model_validate({**FIELDS, **fields})


def test_its_custom_job_is_small_on_demand_and_found_by_its_labels() -> None:
    request = build_controller(
        job(), run_id="one", run_dir="gs://bucket/runs/one", number=3, trust=TRUST.text
    )
    assert request["labels"] == {"team": "a", RUN_LABEL: "one", CONTROLLER_LABEL: "3"}
    spec = request["jobSpec"]
    assert spec["scheduling"] == {
        "strategy": "STANDARD",
        "restartJobOnWorkerRestart": False,
        "timeout": "172800s",
    }
    [pool] = spec["workerPoolSpecs"]
    assert pool["machineSpec"] == {"machineType": "e2-standard-4"}
    container = pool["containerSpec"]
    assert container["imageUri"] == "us-docker.pkg.dev/p/r/c"
    assert not [it for it in container["command"] if TRUST.run_key in it or "hooks" in it]
    assert order_of({it["name"]: it["value"] for it in container["env"]}) == Order(
        "gs://bucket/runs/one", "one", 3, TRUST
    )


def test_with_a_secret_its_custom_job_has_the_name_of_the_version_alone() -> None:
    version = "projects/p/secrets/s/versions/7"
    request = build_controller(
        job(token_secret="projects/p/secrets/s"),
        run_id="one",
        run_dir="gs://b/one",
        number=1,
        trust=version,
    )
    [pool] = request["jobSpec"]["workerPoolSpecs"]
    variables = {it["name"]: it["value"] for it in pool["containerSpec"]["env"]}
    assert variables[ENV_TRUST_SECRET] == version and ENV_TRUST not in variables


def test_a_dollar_in_the_urls_of_users_survives_what_vertex_expands() -> None:
    trust = Trust("k", "https://h/$(SWELL_RUN_ID)$")
    request = build_controller(job(), run_id="one", run_dir="d", number=1, trust=trust.text)
    [pool] = request["jobSpec"]["workerPoolSpecs"]
    [given_] = [it for it in pool["containerSpec"]["env"] if it["name"] == ENV_TRUST]
    assert "$(" not in given_["value"].replace("$$", "")
    assert Trust.parse(given_["value"].replace("$$", "$")) == trust


@pytest.mark.parametrize("name", [*ENV])
def test_without_one_of_its_variables_it_says_which(name: str) -> None:
    with pytest.raises(Unusable) as refused:
        order_of({**ENV, name: ""})
    assert str(refused.value.messages[0]) == (
        f"{name} must be set: swell launch JOB --controller starts a controller [{MISSING}]"
    )


@pytest.mark.parametrize("number", ["0", "x", "-1", "1" * 12, "٣"])
def test_its_number_is_one(number: str) -> None:
    with pytest.raises(Unusable, match="it is a controller's number"):
        order_of({**ENV, ENV_NUMBER: number})


@pytest.mark.parametrize(
    "text",
    ["secret no JSON", '["secret"]', '{"run_key": ""}', '{"run_key": "secret"}', "1" * (LIMIT + 1)],
)
def test_what_it_is_entrusted_with_is_never_shown(
    text: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["controller"])
    assert main({**ENV, ENV_TRUST: text}) == 1
    out, err = capfd.readouterr()
    assert f"{ENV_TRUST} is not what a launch entrusts a controller with: " in err
    assert f"[{DAMAGED}]" in err
    assert "secret" not in out + err and "Traceback" not in err
    assert "secret" not in repr(TRUST) and "kkk" not in repr(TRUST)


@given(st.builds(Trust, st.text(min_size=1), st.text(), st.just({})))
def test_trust_survives_the_way(trust: Trust) -> None:
    assert trust.text.isascii()
    assert Trust.parse(trust.text) == trust


def run_main(monkeypatch: pytest.MonkeyPatch, raised: list[BaseException]) -> tuple[int, float]:
    """Runs a controller whose tries end so. Returns its exit code, and how long it has waited."""
    waited: list[float] = []

    def look_after(*arguments: Any) -> None:
        if raised:
            raise raised.pop(0)

    monkeypatch.setattr("sys.argv", ["controller"])
    monkeypatch.setattr(controller, "look_after", look_after)
    monkeypatch.setattr("signal.signal", lambda *arguments: None)
    scratch = {"SWELL_SCRATCH": os.environ["SWELL_HOME"]}
    return main({**ENV, **scratch}, sleep=waited.append), sum(waited)


@pytest.mark.parametrize(
    ("raised", "code"),
    [(Relieved(), 0), (OSError("no"), 134), (KeyboardInterrupt(), 143), (home.RunError("", ""), 1)],
)
def test_its_exit_code_says_whether_it_is_to_be_started_again(
    raised: BaseException, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_main(monkeypatch, [raised] * 1000)[0] == code


def test_it_does_not_end_by_what_passes_as_it_is_started_again_a_few_times_only(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    denied = ApiError("SW3003", "it lacks a role", code=403)
    assert run_main(monkeypatch, [denied] * 3)[0] == 0
    assert "it lacks a role [SW3003]; trying again in " in capfd.readouterr().err
    code, waited = run_main(monkeypatch, [OSError("no")] * 1000)
    assert code == 134 and waited == pytest.approx(3600.0), "an hour"
    assert run_main(monkeypatch, [Relieved()] * 2) == (0, 0.0), "nothing waits for that"


def test_launch_and_controller_issue_secrets_beside_each_others(
    swell_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever began the newest authority, and however often: only the run's key is needed."""
    draft = prepare(job(output=str(tmp_path / "runs")), "local", "one")
    create(draft)
    trust = trust_of("one", "https://hooks/secret")
    assert trust is not None and len(trust.run_key) == 64
    home.issue_secret(draft.directory, 1, alone=True)
    first = home.read_run(draft.directory)[AUTHORITY]

    monkeypatch.setenv("SWELL_HOME", str(tmp_path / "controllers"))
    trust.keep("one")
    beside = home.issue_secret(draft.directory, 2, alone=False)
    assert fingerprint(beside) == first
    anew = home.issue_secret(draft.directory, 3, alone=True)
    assert fingerprint(anew) != first, "what was given up before is not let in any more"

    monkeypatch.setenv("SWELL_HOME", str(swell_home))
    assert fingerprint(home.issue_secret(draft.directory, 4, alone=False)) == fingerprint(anew)
    for path in (tmp_path / "runs").rglob("*"):
        if path.is_file():
            assert trust.run_key.encode() not in path.read_bytes(), path


def test_a_run_without_a_controller_has_no_key_that_could_be_given_away(tmp_path: Path) -> None:
    draft = prepare(job(output=str(tmp_path), controller=None), "local", "one")
    create(draft)
    assert trust_of("one", "") is None
    home.issue_secret(draft.directory, 1, alone=True)


def test_an_authority_of_a_key_is_always_the_same_and_another_for_another_attempt() -> None:
    assert Authority.of("key", 1) == Authority.of("key", 1)
    others = {Authority.of(key, n).text for key in ("key", "other") for n in (1, 2)}
    assert len(others) == 4


def test_it_goes_by_the_prices_of_the_launch(
    swell_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swell_home.mkdir()
    (swell_home / "prices.yaml").write_text(
        "a2-highgpu-1g: {spot: 9.5}\ne2-standard-4: {on_demand: 0.5}\n"
    )
    draft = prepare(job(output=str(tmp_path / "runs")), "local", "one")
    create(draft)
    trust = trust_of("one", "")
    assert trust is not None
    monkeypatch.setenv("SWELL_HOME", str(tmp_path / "controllers"))
    Trust.parse(trust.text).keep("one")
    again = reopen(draft.directory, trust)
    assert [choice.usd_per_hour for choice in again.ways.choices] == [9.5]
    from launcher.job.prices import load_prices

    assert load_prices(home.folder()).controllers["e2-standard-4"] == 0.5


def test_in_an_emulator_it_uses_the_api_that_its_own_vm_is_shown(tmp_path: Path) -> None:
    """Records say which API it is, and not by which way a VM reaches it."""
    draft = prepare(job(output=str(tmp_path)), "local", "one")
    env = {
        ENV_EMULATOR: "http://10.0.0.1:7",
        ENV_EMULATOR_TOKEN: "token",
        "SWELL_VERTEX_ENDPOINT": "http://127.0.0.1:9",
    }
    target = target_of(draft, env)
    assert target.api("us-central1").endpoint == "http://127.0.0.1:9"
    assert (target.secrets, target.token) == ("http://10.0.0.1:7", "token")
    assert json.dumps(target_of(draft, {}).secrets) == '"https://secretmanager.googleapis.com"'
