"""Whatever is told of a run, however short: its ledger adds up, and no account is below nothing.

Histories are drawn, most of which no run has: worlds without a step, or of one; two within a
moment; a run that never trained; VMs that are lost before they come, and come twice; attempts that
end without any; events out of order, and leaders whose clocks differ by an hour.
"""

from __future__ import annotations

import math

from hypothesis import example, given
from hypothesis import strategies as st

from launcher.status.history import History
from launcher.status.ledger import Timeline, ledger_of
from tests.launcher.status.events import A, B, event, first, formed, resumed, steps
from trainer.rundir.events import Event

WANTED = 2
moments = st.one_of(st.floats(0.0, 3.0), st.floats(0.0, 500.0))
members = st.sampled_from([A, B])
generations = st.integers(1, 3)
numbers = st.integers(0, 4)
durations = st.one_of(st.just(0.0), st.floats(0.0, 2.0), st.floats(0.0, 700.0))
terms = st.integers(1, 2)
CAUSE = "loss"


def told(at: float, term: int, kind: str, member: str, world: int, step: int, took: float) -> Event:
    """One event, of those that a ledger is made from."""
    more = {"term": term, "incarnation": str(step)}
    match kind:
        case "joined":
            return event("member_joined", at, member=member, age=took, slots=1, **more)
        case "ready":
            return event("member_ready", at, member=member, term=term)
        case "lost" | "drained":
            name = {"lost": "loss", "drained": "drain"}[kind]
            return event(name, at, member=member, gone=True, reason="x", **more)
        case "formed":
            both = [A, B] if step % 2 else [member]
            return {**formed(world, at, CAUSE, both), "term": term}
        case "resumed":
            return {**resumed(world, at, CAUSE, step, seconds=took), "term": term}
        case "first":
            return {**first(world, at, step + 1, took), "term": term}
        case "steps":
            spent = {"all": took * 2, "evaluation": took, "waiting": took / 3}
            return steps(world, at, step + 1, [1.0] * (step + 1), took, accounts=spent)
        case "left":
            return event("paused", at, generation=world, step=step, cause=CAUSE)
        case "waits":
            return event("waiting", at, slots=1, min_workers=2, term=term)
        case "evaluated":
            return event("evaluated", at, step=step, metrics={}, seconds=took)
        case "out":
            action, back = ("skip", None) if step % 2 else ("rollback", 0)
            return event("nonfinite", at, step=step, action=action, checkpoint=back, metrics={})
        case "saved":
            return event("checkpoint_committed", at, step=step, seconds=took)
        case "over":
            return event("attempt_ended", at, attempt=1, state="FAILED")
        case "again":
            return started(at, attempt=2)
        case _:
            state = "succeeded" if step % 2 else "cancelled"
            return event("finished", at, state=state, step=step, term=term)


def started(at: float, attempt: int = 1) -> Event:
    more = {"replicas": WANTED, "wanted": WANTED, "usd_per_hour": 2.0, "on_demand": 6.0}
    return event("attempt_started", at, attempt=attempt, job="j", region="r", **more)


KINDS = (
    *("joined", "ready", "lost", "drained", "formed", "resumed", "first", "steps", "left"),
    *("waits", "evaluated", "out", "saved", "over", "again", "finished"),
)
histories = st.lists(
    st.builds(
        told, moments, terms, st.sampled_from(KINDS), members, generations, numbers, durations
    ),
    max_size=14,
)
ends = st.one_of(st.none(), st.floats(0.0, 1000.0))
SHORT = [
    told(1.0, 1, "joined", A, 1, 1, 0.5),
    told(1.2, 1, "formed", A, 1, 0, 0.0),
    told(1.3, 1, "formed", A, 2, 0, 0.0),
    told(1.4, 1, "resumed", A, 2, 0, 0.0),
    told(1.5, 1, "first", A, 2, 0, 0.1),
    told(1.6, 1, "finished", A, 2, 1, 0.0),
]


@given(histories, ends, st.integers(1, 7))
@example(SHORT, None, 3)
@example([told(5.0, 1, "over", A, 1, 0, 0.0)], None, 2)
def test_any_history_adds_up(events: list[Event], now: float | None, parts: int) -> None:
    events = [started(0.0), *events]
    history = History(events)
    found = ledger_of(history, now)
    timeline = Timeline.of(History(events), now)
    if found is None or timeline is None:
        assert found is None and timeline is None
        return
    length = found.until - found.since
    assert all(seconds >= 0.0 for seconds in found.seconds.values())
    # Of each of the two replicas there is one VM at a time.
    assert math.isclose(found.wanted, WANTED * length, rel_tol=1e-9, abs_tol=1e-6)
    assert found.goodput is None or 0.0 <= found.goodput <= 1.0 + 1e-9
    assert found.usd is not None and all(usd >= 0.0 for usd in found.usd.values())
    cut = timeline.parts(parts)
    for name, seconds in found.seconds.items():
        assert math.isclose(sum(it.seconds[name] for it in cut), seconds, abs_tol=1e-6)


@given(histories, ends)
def test_the_order_in_which_a_history_is_read_changes_no_sum(
    events: list[Event], now: float | None
) -> None:
    events = [started(0.0), *events]
    found = ledger_of(History(reversed(events)), now)
    if found is not None:
        length = found.until - found.since
        assert all(seconds >= 0.0 for seconds in found.seconds.values())
        assert math.isclose(found.wanted, WANTED * length, rel_tol=1e-9, abs_tol=1e-6)
