"""What a fleet is asked to be, and what is being replaced: said by ``swell status``."""

from __future__ import annotations

import io
import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from rich.console import Console

from launcher.job.fallback import Limits
from launcher.job.job import Job
from launcher.job.machines import LOCAL
from launcher.status.changes import Changes, Replaced, changes_of
from launcher.status.history import History
from launcher.status.status import build_status, read_status
from launcher.supervision.attempt import Attempt
from launcher.supervision.wanted import launched, ways_of
from launcher.views.summary import print_summary
from tests.launcher.supervision.policy_run import job
from trainer.rundir.directory import RunDirectory
from trainer.rundir.wanted import Wanted, create_wanted

FLEET = job(fleet=2, regions=["us-central1"], fallback=[{"strategy": "standard"}], timeout="2h")
WANTED = Wanted(3, 2, "us-east4", by="me@here", at=100.0, max_workers=99)


def attempts(*choices: str, state: str = "RUNNING") -> list[Attempt]:
    return [
        Attempt(number, "r", "http://x", choice, state=state, started=float(number))
        for number, choice in enumerate(choices, start=1)
    ]


def choices(wanted: Wanted | None = None, job: Job = FLEET) -> list[str]:
    return [choice.name for choice in ways_of(job, LOCAL, None, wanted).choices]


def replaced(wanted: Wanted, them: list[Attempt]) -> list[Replaced]:
    return [*changes_of(FLEET, ways_of(FLEET, LOCAL, None, wanted), wanted, them).replaced]


def test_what_is_not_wanted_any_more_stays_until_others_train_and_then_leaves() -> None:
    here, there = choices()[0], choices(WANTED)[0]
    them = attempts(here, here, there)
    first, second = replaced(WANTED, them)
    assert first == Replaced(
        1, f"it is {here}, which is not what is wanted any more", leaves=False, by=(3,)
    )
    assert (second.attempt, second.by) == (2, (3,))
    told = Wanted(**{**asdict(WANTED), "leave": (1,)})
    assert [one.leaves for one in replaced(told, them)] == [True, False]


def test_why_each_is_replaced_is_said() -> None:
    spot, dear = choices()
    wanted = Wanted(2, 2, renew=(1,), dear=(2,), leave=(3,), max_workers=99)
    assert [(one.attempt, one.why) for one in replaced(wanted, attempts(spot, dear, spot))] == [
        (1, "its timeout of 2h is near"),
        (2, "it is on demand, and Spot costs less"),
        (3, "fewer jobs are wanted, or others train in its place"),
    ]


def test_that_nothing_is_sent_because_of_a_limit_is_said() -> None:
    limited = FLEET.model_copy(update={"limits": Limits(attempts=7)})
    here = choices()[0]
    found = "no other is sent beside it: what limits.attempts leaves ({}) is kept for a loss"

    def said(them: list[Attempt], wanted: Wanted = WANTED) -> list[str]:
        ways = ways_of(limited, LOCAL, None, wanted)
        replaced = changes_of(limited, ways, wanted, them).replaced
        return [one.why.partition("; ")[2] for one in replaced]

    assert said(attempts(here, here)) == ["", ""], "three more than two may be sent"
    gone = [replace(it, attempt=9) for it in attempts("x", "y", state="FAILED")]
    assert said([*attempts(here, here), *gone]) == [found.format(3)] * 2
    dear = choices()[1]
    back = Wanted(2, 2, dear=(1, 2), max_workers=99)
    assert said(attempts(dear, dear), back) == ["", ""]
    assert said([*attempts(dear, dear), *gone, *gone[:1]], back) == [found.format(2)] * 2
    told = replace(WANTED, leave=(1, 2))
    assert said([*attempts(here, here), *gone], told) == ["", ""]


def test_what_is_over_or_given_up_is_not_said_to_be_replaced() -> None:
    gone = [
        *attempts("elsewhere", state="FAILED"),
        Attempt(2, "r", "http://x", "elsewhere", state="RUNNING", left="it took too long"),
    ]
    assert replaced(WANTED, gone) == []


def test_a_fleet_of_which_nobody_has_asked_anything_is_as_its_job_file_says() -> None:
    ways = ways_of(FLEET, LOCAL)
    found = changes_of(FLEET, ways, launched(FLEET, ways, 9.0), attempts("whatever")).to_json()
    nothing = dict.fromkeys(("region", "machine", "strategy", "by", "at"))
    assert found == {"wanted": {"version": 0, "jobs": 2, **nothing}, "replaced": []}


def test_a_person_reads_what_is_wanted_by_whom_and_what_replaces_what() -> None:
    changes = Changes(
        WANTED,
        (Replaced(1, "its timeout of 2h is near", False, (2, 3)), Replaced(4, "x", True, ())),
    )
    status = build_status("one", History(), [], None, changes=changes)
    page = io.StringIO()
    print_summary(Console(width=200, file=page), status, "/run", None)
    shown = " ".join(page.getvalue().split())
    assert "wanted 2 jobs, us-east4 (asked for by me@here, 1970-01-01" in shown
    assert (
        "replaced attempt 1 stays until another trains; attempt 2 and attempt 3 are beside it: "
        "its timeout of 2h is near" in shown
    )
    assert "replaced attempt 4 leaves now: x" in shown


@pytest.mark.parametrize("fleet", [True, False])
def test_the_status_of_a_run_directory_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fleet: bool
) -> None:
    monkeypatch.setenv("SWELL_HOME", str(tmp_path / "home"))
    directory = RunDirectory(str(tmp_path / "run"))
    spec = FLEET.to_dict() if fleet else {k: v for k, v in FLEET.to_dict().items() if k != "fleet"}
    run = {"id": "run", "target": "vertex", "spec": spec, "created": 1.0}
    create_wanted(directory, Wanted(1, 2, "us-east4", by="me", at=2.0, max_workers=99))
    (old,) = attempts(choices()[0])
    directory.write_json("attempts/0001.json", old.to_json())
    status = json.loads(json.dumps(read_status(directory, run=run)))
    if fleet:
        assert status["wanted"]["region"] == "us-east4"
        assert [one["attempt"] for one in status["replaced"]] == [1]
    else:
        assert (status["wanted"], status["replaced"]) == (None, [])
