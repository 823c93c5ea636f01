"""The loop against a Vertex AI in memory and a real run directory."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from launcher.api.apierror import ApiError
from launcher.api.vertex import JobState
from launcher.job.customjob import ATTEMPT_LABEL, CustomJob
from launcher.supervision.attempt import UNSENT, Attempt
from launcher.supervision.choices import choices_of
from launcher.supervision.fleet import Fleet
from launcher.supervision.policy import Submit
from launcher.supervision.supervisor import ERROR_WAIT
from launcher.supervision.verdict import verdict_of
from launcher.target import SETTLE
from tests.launcher.faked_vertex import Looks, Region
from tests.launcher.supervision.policy_run import STOCKOUT, job
from tests.launcher.supervision.supervised import Fixture
from trainer.rundir.attempts import LOST, REFUSED, record_name
from trainer.rundir.events import read_events
from trainer.rundir.retry import ONCE, StoreUnavailable


def test_a_run_that_the_trainer_ends(tmp_path: Path) -> None:
    done: list[Callable[[], str]] = []
    fixture = Fixture(tmp_path, lambda n: ["PENDING", "RUNNING", done[0], "SUCCEEDED"])
    done.append(fixture.ending("succeeded", "training is complete"))
    assert fixture.run()["reason"] == "training is complete"
    [record] = fixture.attempts
    assert (record.state, record.attempt, record.region) == ("SUCCEEDED", 1, "us-central1")
    assert record.submitted and record.started and record.ended
    assert record.submitted < record.started < record.ended
    assert fixture.events() == ["attempt_started", "attempt_ended"]


def test_what_another_has_written_of_an_end_is_not_said_twice(tmp_path: Path) -> None:
    """A launch and a controller that look after one run both see its job end."""
    done: list[Callable[[], str]] = []
    fixture = Fixture(tmp_path, lambda n: ["RUNNING", "RUNNING", done[0], "SUCCEEDED"])
    done.append(fixture.ending("succeeded", "training is complete"))
    first, other = fixture.supervisor(), fixture.supervisor()
    while not fixture.attempts or fixture.attempts[0].state != "RUNNING":
        first._turn()
    other._read_attempts()
    first.run()
    [record] = fixture.attempts
    other._look(1)
    assert other.run() == fixture.run_dir.outcome()
    assert fixture.events().count("attempt_ended") == 1
    assert fixture.attempts == [record]


def test_a_stockout_is_followed_by_the_next_region(tmp_path: Path) -> None:
    fixture = Fixture(
        tmp_path, lambda n: [f"FAILED: {STOCKOUT}"] if n == 1 else ["RUNNING", "SUCCEEDED"]
    )
    assert fixture.run()["state"] == "succeeded"
    assert fixture.sent == [(1, "us-central1"), (2, "us-east4")]
    assert "stockout" in fixture.events()


def test_a_job_that_the_others_do_not_reach_is_cancelled_and_none_is_sent_for_it(
    tmp_path: Path,
) -> None:
    done: list[Callable[[], str]] = []
    lives: dict[int, Looks] = {1: [*["RUNNING"] * 60, lambda: done[0](), "SUCCEEDED"]}
    fixture = Fixture(tmp_path, lambda n: lives.get(n, ["RUNNING"] * 99), Fleet(2))
    fixture.job = job(regions=["us-central1"])
    done.append(fixture.ending("succeeded", "training is complete"))
    fixture.run(unreached=lambda: {2: "2/workerpool0-0 does not reach 1/workerpool0-0"})
    trained, apart = fixture.attempts
    assert (trained.state, apart.state) == ("SUCCEEDED", "CANCELLED")
    assert verdict_of(apart) == "unreachable" and apart.left.endswith("1/workerpool0-0 [SW5011]")
    assert apart.ended and 300.0 <= apart.ended - 1000.0 <= 400.0


def test_what_replicas_have_said_last_stands_in_why_the_run_failed(tmp_path: Path) -> None:
    exited = "Replica workerpool0-0 exited with status 1; its log says more."
    fixture = Fixture(tmp_path, lambda n: ["RUNNING", f"FAILED: {exited}"])
    asked = []

    def last_words(*attempt: object) -> str:
        asked.append(attempt)
        return "workerpool0-0: no secret [SW4006]"

    outcome = fixture.run(last_words=last_words)
    assert outcome["reason"] == f"{exited}\nworkerpool0-0: no secret [SW4006]"
    (attempt,) = fixture.attempts
    assert asked == [(1, attempt.job, exited)]
    assert attempt.reason == exited, "by what the API says it was decided"


def test_what_a_run_waits_for_is_told_once(tmp_path: Path) -> None:
    fixture = Fixture(tmp_path, lambda n: ["FAILED: Internal error"] if n == 1 else ["SUCCEEDED"])
    assert fixture.run()["state"] == "succeeded"
    assert fixture.events().count("attempt_due") == 1
    first, second = fixture.attempts
    assert first.ended is not None and 30 <= second.created - first.ended <= 60


def test_an_outcome_of_another_terminal_cancels_the_custom_job(tmp_path: Path) -> None:
    looks: Looks = []
    fixture = Fixture(tmp_path, lambda n: looks)
    looks += ["RUNNING", fixture.ending("cancelled", "by somebody"), "RUNNING"]
    assert fixture.run()["state"] == "cancelled"
    assert fixture.attempts[0].state == "CANCELLED"


def test_a_vm_that_hangs_after_the_end_does_not_go_on_costing(tmp_path: Path) -> None:
    looks: Looks = []
    fixture = Fixture(tmp_path, lambda n: looks)
    looks += [fixture.ending("failed", "the task raised"), "RUNNING"]
    assert fixture.run()["reason"] == "the task raised"
    (attempt,) = fixture.attempts
    assert attempt.state == "CANCELLED"
    assert attempt.reason == "cancelled by its launch: the run has ended", "not by its user"


def test_a_limit_lets_the_run_save_a_checkpoint(tmp_path: Path) -> None:
    fixture = Fixture(tmp_path, lambda n: [*["RUNNING"] * 8, saved, "SUCCEEDED"], time="60s")

    def saved() -> str:
        stop = fixture.run_dir.stop_asked()
        assert stop and stop["state"] == "limited"
        fixture.run_dir.end("limited", stop["reason"])
        return "RUNNING"

    assert fixture.run()["reason"] == "limits.time: the attempts have run for 1min"
    assert fixture.attempts[0].state == "SUCCEEDED", "it was not killed"


def test_a_limit_is_kept_even_if_nothing_is_saved(tmp_path: Path) -> None:
    fixture = Fixture(tmp_path, lambda n: ["RUNNING"], time="60s")
    assert "no checkpoint was saved within 600 s" in fixture.run()["reason"]
    assert fixture.attempts[0].state == "CANCELLED"


def test_a_cost_is_counted_by_the_price_when_it_was_submitted(tmp_path: Path) -> None:
    fixture = Fixture(tmp_path, lambda n: ["RUNNING"], cost="1 USD")
    fixture.run(usd_per_hour=60.0)
    [record] = fixture.attempts
    assert record.usd_per_hour == 60.0 and record.started and record.ended
    assert record.ended - record.started >= 60.0


def test_a_refused_request_ends_the_run(tmp_path: Path) -> None:
    class Refusing(Region):
        def submit(self, request: CustomJob) -> JobState:
            raise ApiError("SW0001", "403 permission denied", kind="permission", code=403)

    fixture = Fixture(tmp_path, lambda n: [])
    outcome = fixture.run(wrap=lambda region: Refusing(fixture.vertex, region.region))
    assert (outcome["state"], outcome["reason"]) == (
        "failed",
        "403 permission denied [SW0001]",
    )
    assert [attempt.state for attempt in fixture.attempts] == [REFUSED]


class Deaf(Region):
    """Takes the request, and does not answer; shows the job only some seconds later."""

    shown_after = 25.0

    def submit(self, request: CustomJob) -> JobState:
        state = super().submit(request)
        if state.labels[ATTEMPT_LABEL] == "1":
            raise ApiError("SW0001", "no answer", transient=True, kind="silent")
        return state

    def find(self, run_id: str | None = None, attempt: int | None = None) -> Sequence[JobState]:
        now = self._vertex._clock()
        return [it for it in super().find(run_id, attempt) if now - it.created > self.shown_after]


def test_a_request_that_was_taken_without_an_answer_is_found(tmp_path: Path) -> None:
    fixture = Fixture(tmp_path, lambda n: ["RUNNING", "SUCCEEDED"])
    outcome = fixture.run(wrap=lambda region: Deaf(fixture.vertex, region.region))
    assert outcome["state"] == "succeeded"
    assert len(fixture.vertex.jobs) == 1


def test_a_request_that_never_arrived_is_sent_again_later(tmp_path: Path) -> None:
    class Silent(Region):
        def submit(self, request: CustomJob) -> JobState:
            if request["labels"][ATTEMPT_LABEL] == "1":
                raise ApiError("SW0001", "503 try later", transient=True, code=503)
            return super().submit(request)

    fixture = Fixture(tmp_path, lambda n: ["SUCCEEDED"])
    fixture.run(wrap=lambda region: Silent(fixture.vertex, region.region))
    first, second = fixture.attempts
    assert (first.state, first.reason) == (REFUSED, "503 try later")
    assert first.ended is not None and first.ended - first.created >= SETTLE
    assert second.state == "SUCCEEDED"


def test_a_failure_that_explains_itself_a_minute_later(tmp_path: Path) -> None:
    late: Looks = ["RUNNING", *["FAILED"]]
    fixture = Fixture(tmp_path, lambda n: late if n == 1 else ["SUCCEEDED"])

    class Late(Region):
        def get(self, name: str) -> JobState:
            state = super().get(name)
            explained = state.finished and self._vertex._clock() - state.finished >= 60
            if state.state == "FAILED" and explained:
                return JobState(name, "FAILED", STOCKOUT, code=8, finished=state.finished)
            return state

    fixture.run(wrap=lambda region: Late(fixture.vertex, region.region))
    assert [attempt.reason for attempt in fixture.attempts] == [STOCKOUT, ""]


def test_a_failure_that_never_explains_itself(tmp_path: Path) -> None:
    fixture = Fixture(tmp_path, lambda n: ["FAILED"] if n == 1 else ["SUCCEEDED"])
    assert fixture.run()["state"] == "succeeded"
    assert fixture.clock.now - 1000.0 >= ERROR_WAIT


@pytest.mark.parametrize("patience", [None, 60.0])
def test_an_api_that_is_silent_for_a_while_is_waited_for(
    tmp_path: Path, patience: float | None
) -> None:
    fixture = Fixture(tmp_path, lambda n: ["RUNNING", silence, silence, "SUCCEEDED"])

    def silence() -> str:
        raise ApiError("SW0001", "no answer", transient=True)

    assert fixture.run(patience=patience)["state"] == "succeeded"


def test_an_api_that_stays_silent_is_given_up_where_that_means_something(tmp_path: Path) -> None:
    fixture = Fixture(tmp_path, lambda n: ["RUNNING", *[silence] * 9])

    def silence() -> str:
        raise ApiError("SW0001", "no answer", transient=True)

    assert fixture.supervisor(patience=60.0).run()["reason"] == "no answer [SW0001]"
    assert fixture.attempts[0].state == LOST


def test_what_does_not_answer_is_told_meanwhile(tmp_path: Path) -> None:
    told: list[list[str]] = []
    fixture = Fixture(tmp_path, lambda n: ["RUNNING", silence, silence, "SUCCEEDED"])
    supervisor = fixture.supervisor(patience=600.0)

    def silence() -> str:
        fixture.clock.now += 30.0
        told.append(supervisor.told())
        raise ApiError("SW0001", "no answer", transient=True)

    assert supervisor.run()["state"] == "succeeded"
    (first,) = told[0]
    assert first.endswith(" has not told how attempt 1 goes for 5 s; trying for 595 s more")
    assert told[1] == [first, "no answer [SW0001]"]
    assert supervisor.told() == []


def test_a_job_that_was_deleted_is_no_more(tmp_path: Path) -> None:
    fixture = Fixture(tmp_path, lambda n: ["RUNNING", gone])

    def gone() -> str:
        raise ApiError("SW0001", "404 it may have been deleted", code=404, kind="not_found")

    assert fixture.supervisor().run()["state"] == "failed"


def test_a_login_that_expires_does_not_end_the_run(tmp_path: Path) -> None:
    fixture = Fixture(tmp_path, lambda n: ["RUNNING", expired, "RUNNING", "SUCCEEDED"])

    def expired() -> str:
        raise ApiError("SW0001", "401 log in", code=401, kind="credentials")

    with pytest.raises(ApiError, match="401"):
        fixture.supervisor().run()
    assert fixture.run_dir.outcome() is None
    assert fixture.run()["state"] == "succeeded", "attached to after the login"
    assert len(fixture.vertex.jobs) == 1


def test_a_run_that_has_ended_before_is_not_submitted(tmp_path: Path) -> None:
    fixture = Fixture(tmp_path, lambda n: [])
    fixture.run_dir.end("cancelled", "at once")
    assert fixture.run()["reason"] == "at once"
    assert not fixture.vertex.jobs


# --- two of them -----------------------------------------------------------------------


def test_an_attempt_on_record_is_left_to_its_sender_for_a_while(tmp_path: Path) -> None:
    fixture = Fixture(tmp_path, lambda n: ["SUCCEEDED"])
    fixture.run_dir.create_json(record_name(1), Attempt(1, "us-central1").to_json())
    fixture.run()
    first, second = fixture.attempts
    assert (first.state, first.kind) == (REFUSED, UNSENT)
    assert second.created - 1000.0 >= SETTLE


def test_two_that_decide_at_the_same_moment_send_one_request(tmp_path: Path) -> None:
    fixture = Fixture(tmp_path, lambda n: ["RUNNING", "SUCCEEDED"])
    first, second = fixture.supervisor(), fixture.supervisor()
    submit = Submit(1, choices_of(fixture.job, "local")[0])
    first._submit(submit)
    second._submit(submit)
    assert fixture.sent == [(1, "us-central1")]
    assert second.run()["state"] == "succeeded"
    assert len(fixture.vertex.jobs) == 1


def test_who_was_given_up_cancels_what_it_sends_too_late(tmp_path: Path) -> None:
    fixture = Fixture(tmp_path, lambda n: ["RUNNING", "SUCCEEDED"])
    slow = fixture.supervisor(wrap=lambda region: Slow(fixture.vertex, region.region))

    class Slow(Region):
        """Stands still between the record and the request, until another one has taken over."""

        def submit(self, request: CustomJob) -> JobState:
            if request["labels"][ATTEMPT_LABEL] == "1":
                assert fixture.supervisor().run()["state"] == "succeeded"
            return super().submit(request)

    assert slow.run()["state"] == "succeeded"
    states = {name: job.state.state for name, job in fixture.vertex.jobs.items()}
    assert sorted(states.values()) == ["CANCELLED", "SUCCEEDED"]
    assert fixture.vertex.most_alive == 1


HOUR = 3600.0
REFUSALS = {
    "full": OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    "over quota": OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
    "read-only": OSError(errno.EROFS, os.strerror(errno.EROFS)),
    "away": StoreUnavailable("gs://bucket-b/run-1: 503"),
}


class Refusing:
    """Lets a store refuse for an hour, from a look at the CustomJob on.

    Args:
        fixture: whose.
        operations: what it refuses.
        error: how.
    """

    def __init__(self, fixture: Fixture, operations: Sequence[str], error: OSError) -> None:
        self._clock, self._until, self._error = fixture.clock, 0.0, error
        store: Any = fixture.run_dir.store
        store.retry = ONCE
        for name in operations:
            setattr(store, name, self._wrapped(getattr(store, name)))

    def begin(self) -> str:
        self._until = self._clock.now + HOUR
        return "RUNNING"

    def _wrapped(self, operation: Callable[..., Any]) -> Callable[..., Any]:
        def refusing(*args: Any) -> Any:
            if self._clock.now < self._until:
                raise self._error
            return operation(*args)

        return refusing


@pytest.mark.parametrize("kind", REFUSALS)
@pytest.mark.parametrize("operations", [("write", "create"), ("read", "write", "create")])
def test_a_run_directory_that_takes_nothing_for_an_hour_ends_no_run(
    tmp_path: Path, kind: str, operations: Sequence[str]
) -> None:
    looks: Looks = []
    fixture = Fixture(tmp_path, lambda n: looks if n == 1 else ["RUNNING", "SUCCEEDED"])
    refusing = Refusing(fixture, operations, REFUSALS[kind])
    looks += ["PENDING", refusing.begin, "RUNNING", f"FAILED: {STOCKOUT}"]
    assert fixture.run()["state"] == "succeeded"
    assert [one.state for one in fixture.attempts] == ["FAILED", "SUCCEEDED"], "both are on record"
    assert fixture.sent == [(1, "us-central1"), (2, "us-east4")], "and each was sent once"
    assert fixture.events().count("attempt_ended") == 2
    assert 1 <= fixture.events().count("store_unavailable") <= 2, "not each time"
    assert fixture.clock.now > HOUR


def test_an_end_that_is_on_record_is_the_end_though_the_disk_takes_nothing_more(
    tmp_path: Path,
) -> None:
    looks: Looks = []
    fixture = Fixture(tmp_path, lambda n: looks)
    refusing = Refusing(fixture, ("write",), REFUSALS["full"])
    looks += ["RUNNING", fixture.ending("failed", "the end is not saved"), refusing.begin]
    assert fixture.run()["reason"] == "the end is not saved"
    assert fixture.clock.now < HOUR


def test_a_run_directory_that_lets_nobody_in_is_no_reason_to_wait(tmp_path: Path) -> None:
    looks: Looks = []
    fixture = Fixture(tmp_path, lambda n: looks)
    refusing = Refusing(fixture, ("read",), PermissionError("403"))
    looks += ["RUNNING", refusing.begin, "RUNNING"]
    with pytest.raises(PermissionError):
        fixture.supervisor().run()


def test_what_is_tried_beside_a_dear_one_is_on_record_as_that(tmp_path: Path) -> None:
    lives: list[Looks] = [
        [f"FAILED: {STOCKOUT}"],
        ["RUNNING"],
        [f"FAILED: {STOCKOUT}"],
        ["RUNNING", "RUNNING"],
    ]
    ways = {"regions": ["us-central1"], "fallback": [{"strategy": "standard"}]}
    fixture = Fixture(
        tmp_path, lambda number: lives[number - 1], ways={**ways, "resubmit": {"back": "1min"}}
    )
    lives[3].append(fixture.ending("succeeded", "training is complete"))
    lives[3].append("SUCCEEDED")
    assert fixture.supervisor().run()["state"] == "succeeded"
    assert [it.beside for it in fixture.attempts] == [False, False, True, True]
    assert [it.kind for it in fixture.attempts] == ["", "replaced", "", ""]
    told = [
        it for it in read_events(fixture.run_dir) if it["event"] in ("attempt_started", "stockout")
    ]
    kinds = [(it["event"], it["attempt"], it.get("beside")) for it in told]
    assert ("stockout", 3, True) in kinds and ("stockout", 1, None) in kinds
    assert ("attempt_started", 4, True) in kinds and ("attempt_started", 2, None) in kinds
