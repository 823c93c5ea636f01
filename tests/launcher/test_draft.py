"""A draft: everything that can be wrong with a launch is found before anything is written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launcher import home
from launcher.draft import LaunchError, create, ends_on_error, prepare, reopen
from launcher.job.code import Code
from launcher.job.job import Job
from launcher.packing.pack import Packed
from trainer.rundir.directory import RunDirectory


@pytest.fixture(autouse=True)
def swell_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SWELL_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SWELL_PRICES", raising=False)
    return tmp_path / "home"


def job(**fields: Any) -> Job:
    return Job.model_validate(
        {"name": "digits", "task": "my.tasks:Digits", "pools": ["a2-highgpu-1g"], **fields}
    )


def test_preparing_writes_nothing(swell_home: Path) -> None:
    draft = prepare(job(), "local", "one")
    assert (draft.run_id, draft.target) == ("one", "local")
    assert draft.directory.url == str(swell_home / "runs/one")
    assert draft.record["spec"] == job().to_dict()
    assert not swell_home.exists()


def test_an_id_is_made_from_the_name() -> None:
    assert prepare(job(), "local").run_id.startswith("digits-")


@pytest.mark.parametrize(
    ("fields", "target", "said"),
    [
        ({}, "vertex", "project: is missing; Vertex AI needs your Google Cloud project"),
        ({"notify": {"url_env": "NO_SUCH"}}, "local", "notify.url_env: the variable NO_SUCH is"),
        (
            {"pools": ["a2-ultragpu-4g"], "limits": {"cost": "5 USD"}},
            "local",
            "limits.cost: the price of 1 x a2-ultragpu-4g, spot, local is unknown",
        ),
    ],
)
def test_what_cannot_work_is_refused(
    swell_home: Path, fields: dict[str, Any], target: Any, said: str
) -> None:
    with pytest.raises(LaunchError) as caught:
        prepare(job(**fields), target)
    assert said in str(caught.value)
    assert not swell_home.exists()


def test_code_that_cannot_be_sent_is_refused(swell_home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / ".env").write_text("TOKEN=x")
    with pytest.raises(LaunchError, match=r"\.env has the name of a secret"):
        prepare(job(code=Code(folder=str(folder))), "local")
    assert not swell_home.exists()


def test_a_run_goes_on_as_it_was_launched(tmp_path: Path) -> None:
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "tasks.py").write_text("")
    prices = {"limits": {"cost": "50 USD"}, "code": Code(folder=str(folder))}
    draft = prepare(job(**prices), "local", "one")
    create(draft)
    again = reopen(draft.directory)
    assert again.packed is None, "the code is there already"
    for choice in draft.ways.choices:
        assert again.request(1, choice, "token") == draft.request(1, choice, "token")
    assert again.terms(60.0, 30.0) == draft.terms(60.0, 30.0)
    assert [choice.usd_per_hour for choice in again.ways.choices] == [1.8]


def test_a_fleets_anchors_have_their_price_or_limits_of_cost_would_never_be_reached() -> None:
    draft = prepare(job(fleet={"jobs": 2, "anchor": 1}, limits={"cost": "50 USD"}), "local", "one")
    create(draft)
    for one in (draft, reopen(draft.directory)):
        assert [choice.usd_per_hour for choice in one.terms(60.0, 30.0).fleet.anchors] == [3.67]
    spot_alone = {"pools": ["a2-ultragpu-1g"], "limits": {"cost": "50 USD"}}
    prepare(job(**spot_alone, fleet=2), "local", "two")
    with pytest.raises(LaunchError, match="a2-ultragpu-1g, standard, local is unknown"):
        prepare(job(**spot_alone, fleet={"jobs": 2, "anchor": 1}), "local", "two")


def test_a_run_that_is_there_has_its_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "tasks.py").write_text("")
    draft = prepare(job(code=Code(folder=str(folder))), "local", "one")

    def killed(*_: object) -> None:
        raise OSError("the disk is full")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="is full"):
        patch.setattr(Packed, "send", killed)
        create(draft)
    assert not draft.directory.store.exists("run.json"), "nobody can attach to it"
    create(prepare(job(code=Code(folder=str(folder))), "local", "one"))


def test_an_id_is_used_once() -> None:
    create(prepare(job(), "local", "one"))
    with pytest.raises(home.RunError, match="there is a run of this id already"):
        prepare(job(), "local", "one")


def test_a_local_run_of_another_machine_stays_there(monkeypatch: pytest.MonkeyPatch) -> None:
    draft = prepare(job(), "local", "one")
    create(draft)
    monkeypatch.setattr(home, "whoami", lambda: "me@elsewhere")
    with pytest.raises(home.RunError, match=r"one: is a local run of .*; attach to it there"):
        reopen(draft.directory)


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (OSError("the disk is full"), "failed", "the disk is full"),
        (KeyboardInterrupt(), "cancelled", "cancelled by "),
    ],
)
def test_a_start_that_is_broken_off_ends_the_run(
    tmp_path: Path, error: BaseException, state: str, reason: str
) -> None:
    directory = RunDirectory(str(tmp_path / "run"))
    with pytest.raises(type(error)), ends_on_error(directory):
        raise error
    outcome = directory.outcome()
    assert outcome and outcome["state"] == state and outcome["reason"].startswith(reason)


def test_the_terms_are_those_of_what_is_asked_and_of_nothing_that_cannot_be() -> None:
    draft = prepare(job(fleet=2, limits={"cost": "50 USD"}), "local", "one")
    assert draft.launched is not None
    asked = replace(draft.launched, version=1, jobs=3, region="us-east1", strategy="standard")
    terms = draft.terms(60.0, 30.0, asked)
    assert (terms.fleet.jobs, terms.fleet.since) == (3, draft.record["created"])
    assert {(one.region, one.job.scheduling.strategy) for one in terms.choices} == {
        ("us-east1", "standard")
    }
    for wrong in (
        replace(asked, jobs=65),
        replace(asked, region="us-moon1"),
        replace(asked, machine="a2-highgpu-2g"),  # its price is unknown
    ):
        with pytest.raises(ValueError):
            draft.terms(60.0, 30.0, wrong)


def test_what_is_no_fleet_cannot_be_asked() -> None:
    assert prepare(job(), "local", "one").launched is None
    assert prepare(job(fleet=1), "local", "two").launched is not None


@pytest.mark.parametrize(
    ("text", "can"), [("from trainer import elastic\n", True), ("import horovod.torch\n", False)]
)
def test_a_script_that_takes_another_world_can_be_asked_from_any_machine(
    tmp_path: Path, text: str, can: bool
) -> None:
    script = tmp_path / "train.py"
    script.write_text(text)
    draft = prepare(job(task=None, script=str(script), fleet=2), "local", "one")
    script.unlink()  # as it is on another machine
    again = replace(draft, record={**draft.record})
    assert again.changes_worlds is can
    assert (again.launched is not None) is can
    assert again.terms(60.0, 30.0).renews is can
