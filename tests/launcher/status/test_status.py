"""``swell status --json`` is a contract: computed purely from what is on record."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from launcher.status.samples import account
from launcher.status.status import ABANDONED, History, Outcome, build_status
from trainer.rundir.events import Event


def event(name: str, at: float, **fields: Any) -> Event:
    return {"event": name, "time": at, **fields}


def formed(generation: int, at: float, cause: str, members: list[str]) -> Event:
    return event(
        "generation_formed",
        at,
        generation=generation,
        world_size=len(members),
        cause=cause,
        members=members,
    )


def resumed(generation: int, at: float, cause: str, step: int, **more: Any) -> Event:
    return event("resumed", at, generation=generation, cause=cause, step=step, **more)


def steps(generation: int, at: float, first: int, losses: list[float]) -> Event:
    return event("steps", at, generation=generation, first=first, metrics={"loss": losses})


A, B, C = "workerpool0-0", "workerpool1-0", "workerpool1-1"
RIDE = [
    formed(1, 100.0, "start", [A, B, C]),
    resumed(1, 100.0, "start", 0, lost_steps=0),
    steps(1, 110.0, 1, [3.0] * 10),
    event("drain", 111.0, member=B, reason="notice", deadline_seconds=5.0),
    formed(2, 112.0, "drain", [A, C]),
    resumed(2, 112.0, "drain", 10, lost_steps=0, seconds=1.0),
    steps(2, 120.0, 11, [2.0] * 5),
    event("loss", 121.0, member=C, reason="silent"),
    formed(3, 123.0, "loss", [A]),
    resumed(3, 123.0, "loss", 14, lost_steps=1, seconds=3.0),
    steps(3, 140.0, 15, [1.5, 1.0]),
    event("evaluated", 140.0, step=16, metrics={"test_accuracy": 0.9}),
]
NO_CHECKPOINT = {"step": None, "age": None, "failed": 0, "reason": None}
RUNNING = [{"attempt": 1, "state": "RUNNING", "reason": ""}]


def test_a_notice_that_a_second_leader_hears_of_is_counted_once() -> None:
    notice = {"member": "workerpool1-0", "reason": "SIGTERM"}
    told = [event("drain", at, **notice) for at in (10.0, 10.2, 300.0)]
    assert History(told).drains == 2


def test_the_status_of_a_run_that_rode_the_market() -> None:
    status = build_status("one", History(RIDE), RUNNING, None)
    assert status == {
        "run": "one",
        "state": "running",
        "step": 16,
        "attempts": RUNNING,
        "generations": [
            {"generation": 1, "world_size": 3, "cause": "start", "at": 100.0, "step": 0},
            {"generation": 2, "world_size": 2, "cause": "drain", "at": 112.0, "step": 10},
            {"generation": 3, "world_size": 1, "cause": "loss", "at": 123.0, "step": 14},
        ],
        "drains": 1,
        "losses": 1,
        "steps_lost": 1,
        "samples_repeated": None,
        "samples_skipped": None,
        "pauses": [
            {"cause": "drain", "seconds": 1.0, "generation": 2, "step": 10},
            {"cause": "loss", "seconds": 3.0, "generation": 3, "step": 14},
        ],
        "goodput": 0.9,
        "checkpoint": NO_CHECKPOINT,
        "metrics": {"loss": 1.0, "test_accuracy": 0.9},
        "epochs": None,
        "reason": None,
        "spent": {
            "usd": 0.0,
            "seconds": 0.0,
            "attempts": 1,
            "remaining": {"usd": None, "seconds": None, "attempts": None, "until": None},
        },
        "api": None,
    }


@given(st.permutations(RIDE))
def test_counts_do_not_depend_on_the_order_in_which_writers_are_read(events: list[Event]) -> None:
    status = build_status("one", History(events), RUNNING, None)
    expected = build_status("one", History(RIDE), RUNNING, None)
    for name in ("step", "generations", "drains", "losses", "steps_lost", "metrics"):
        assert status[name] == expected[name]


@given(
    st.permutations(
        [
            event("checkpoint_committed", 100.0, step=5, bytes=9, seconds=1.0),
            event("checkpoint_failed", 150.0, step=10, reason="503", failures=1),
            event("checkpoint_committed", 200.0, step=15, bytes=9, seconds=1.0),
            event("checkpoint_failed", 250.0, step=20, reason="503", failures=1),
            event("checkpoint_failed", 251.0, step=20, reason="403", failures=1),
            event("checkpoint_skipped", 260.0, step=23, reason="too short"),
            event("checkpoint_failed", 270.0, step="x", reason="not of the documented form"),
        ]
    )
)
def test_how_old_the_newest_checkpoint_is_and_how_many_failed_since(events: list[Event]) -> None:
    status = build_status("one", History(events), RUNNING, None, now=300.0)
    expected = {"step": 15, "age": 100.0, "failed": 2, "reason": "too short"}
    assert status["checkpoint"] == expected


def test_a_run_without_any_event() -> None:
    status = build_status("one", History(), [], None)
    assert (status["state"], status["step"], status["generations"]) == ("queued", 0, [])
    assert status["goodput"] is None


def test_states() -> None:
    def state(
        events: list[Event], attempt: str | None, outcome: str | None = None, gone: bool = False
    ) -> str:
        attempts = [{"attempt": 1, "state": attempt}] if attempt else []
        found = Outcome(outcome, "", {}) if outcome else None
        return str(build_status("one", History(events), attempts, found, (), gone)["state"])

    waiting = event("waiting", 130.0, slots=1, min_workers=2)
    assert state([], "QUEUED") == "queued"
    assert state([], "PENDING") == "queued"
    assert state([], "RUNNING") == "running"
    assert state([waiting], "RUNNING") == "waiting"
    assert state([waiting, formed(4, 131.0, "grow", [A, B])], "RUNNING") == "running"
    assert state(RIDE, "SUCCEEDED", "succeeded") == "succeeded"
    assert state(RIDE, "RUNNING", "cancelled") == "cancelled"
    assert state(RIDE, "RUNNING", gone=True) == "failed"


def test_a_run_whose_launch_is_gone_says_so() -> None:
    status = build_status("one", History(RIDE), RUNNING, None, (), abandoned=True)
    assert status["reason"] == ABANDONED


def test_the_outcome_has_the_last_word_on_metrics() -> None:
    outcome = Outcome("succeeded", "done", {"test_accuracy": 0.95})
    status = build_status("one", History(RIDE), RUNNING, outcome)
    assert status["metrics"] == {"loss": 1.0, "test_accuracy": 0.95}
    assert status["reason"] == "done"


def test_a_metric_that_json_cannot_carry_is_null() -> None:
    status = build_status("one", History([steps(1, 1.0, 1, [float("nan")])]), RUNNING, None)
    assert status["metrics"] == {"loss": None}
    json.dumps(status, allow_nan=False)


NAMES = ("generation_formed", "resumed", "steps", "evaluated", "drain", "loss", "waiting", "x")
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
FIELDS = ("generation", "step", "first", "metrics", "member", "members", "cause", "seconds")


@given(
    st.lists(
        st.builds(
            lambda name, fields: event(name, 1.0, **fields),
            st.sampled_from(NAMES),
            st.dictionaries(st.sampled_from(FIELDS), JUNK),
        )
    )
)
def test_nothing_in_the_store_breaks_the_status(events: list[Event]) -> None:
    text = json.dumps(build_status("one", History(events), [], None), allow_nan=False)
    assert json.loads(text)["run"] == "one"


class TestAudit:
    """Which samples the steps that count used."""

    @staticmethod
    def line(generation: int, step: int, ids: list[int], epoch: int = 0) -> dict[str, Any]:
        return {
            "generation": generation,
            "step": step,
            "epoch": epoch,
            "rank": 0,
            "ids": ids,
            "dataset_size": 4,
        }

    def test_a_contribution_to_a_step_that_failed_does_not_count(self) -> None:
        history = History([resumed(1, 1.0, "start", 0), resumed(2, 2.0, "loss", 1)])
        history.add(steps(2, 3.0, 2, [1.0]))
        lines = [
            self.line(1, 1, [0, 1]),
            self.line(1, 2, [2, 3]),  # the collective failed: generation 2 did step 2 again
            self.line(2, 2, [2, 3]),
            self.line(2, 3, [0, 1], epoch=1),  # not completed yet
        ]
        found = account(lines, history.stretches(), finished=True)
        assert found is not None
        assert (found.repeated, found.skipped) == (0, 0)
        assert found.epochs == [{"epoch": 0, "samples": 4, "exactly_once": True}]

    def test_an_epoch_under_way_has_skipped_nothing_yet(self) -> None:
        found = account([self.line(1, 1, [0, 1])], [(1, 1, 1)], finished=False)
        assert found is not None
        assert (found.skipped, found.epochs[0]["exactly_once"]) == (0, None)

    def test_no_audit_no_claim(self) -> None:
        assert account([], [(1, 1, 5)], finished=True) is None

    @given(data=st.data())
    def test_counts_equal_those_of_a_brute_force_count(self, data: st.DataObject) -> None:
        size = data.draw(st.integers(1, 6))
        starts = sorted(data.draw(st.lists(st.integers(0, 8), min_size=1, max_size=4)))
        last = starts[-1] + data.draw(st.integers(0, 4))
        history = History(resumed(g, float(g), "loss", s) for g, s in enumerate(starts, 1))
        if last > starts[-1]:
            history.add(steps(len(starts), 99.0, last, [1.0]))
        lines = data.draw(
            st.lists(
                st.builds(
                    lambda generation, step, epoch, ids: {
                        "generation": generation,
                        "step": step,
                        "epoch": epoch,
                        "rank": 0,
                        "ids": ids,
                        "dataset_size": size,
                    },
                    st.integers(0, 5),
                    st.integers(0, 13),
                    st.integers(0, 2),
                    st.lists(st.integers(0, size - 1), max_size=4),
                ),
                max_size=12,
            )
        )
        finished = data.draw(st.booleans())

        uses: dict[int, list[int]] = {}
        for line in lines:
            for generation, start in enumerate(starts, 1):
                end = starts[generation] if generation < len(starts) else last
                if line["generation"] == generation and start < line["step"] <= end:
                    uses.setdefault(line["epoch"], []).extend(line["ids"])
        repeated = skipped = 0
        for epoch in range(max(uses, default=-1) + 1):
            for sample in range(size):
                times = uses.get(epoch, []).count(sample)
                repeated += max(0, times - 1)
                skipped += times == 0 and (finished or epoch < max(uses))

        found = account(lines, history.stretches(), finished)
        if not uses:
            assert found is None
        else:
            assert found is not None
            assert (found.repeated, found.skipped) == (repeated, skipped)
