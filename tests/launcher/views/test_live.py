"""What a person sees while a run is going."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from launcher.status.status import Outcome
from launcher.views.live import PlainView, Scene, render, sparkline
from tests.launcher.status.events import RIDE, A, B, C, event, formed, resumed, steps
from trainer.rundir.events import Event


def ridden() -> Scene:
    scene = Scene("digits-1", [A, B, C], started=90.0)
    scene.add(RIDE)
    return scene


def shown(width: int, *more: Event) -> list[str]:
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    scene = ridden()
    scene.add([*more])
    with console.capture() as captured:
        console.print(render(scene, now=150.0, width=width))
    return captured.get().splitlines()


def drawn(scene: Scene, now: float) -> str:
    console = Console(width=80, file=io.StringIO(), force_terminal=False)
    with console.capture() as captured:
        console.print(render(scene, now=now, width=80))
    return captured.get()


@pytest.mark.parametrize("width", [80, 120])
def test_the_live_view_fits(width: int) -> None:
    lines = shown(width)
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert "digits-1" in text and "1:00" in text
    assert "1 worker   generation 3" in text
    assert "loss 1   test_accuracy 0.9" in text
    assert "● workerpool0-0" in text and "✕ workerpool1-1" in text
    assert "workerpool1-1 is lost (silent)" in text


@pytest.mark.parametrize("total", [None, 12_000])
def test_the_live_view_says_how_fast_it_trains(total: int | None) -> None:
    told = steps(4, 161.0, 17, [0.9] * 26, 10.0, samples=800, total_steps=total)
    lines = shown(80, formed(4, 150.0, "grow", [A]), resumed(4, 150.5, "grow", 16), told)
    (line,) = (line for line in lines if line.startswith("step "))
    left = "" if total is None else ", 1:19:43 left"
    assert line.rstrip().endswith(f"2.5 steps/s, 80 samples/s{left}"), "without the first step"
    assert len(line) <= 80 and max(map(len, lines)) <= 80


def test_the_live_view_keeps_its_height() -> None:
    console = Console(width=80, file=io.StringIO())
    scene = Scene("digits-1", [A], started=0.0)
    scene.add(RIDE[:2])
    heights = set()
    for more in ([], RIDE[2:6], RIDE[6:]):
        scene.add(more)
        heights.add(len(console.render_lines(render(scene, 1.0, 80), console.options)))
    assert max(heights) - min(heights) <= 2, "only metrics and goodput come later"


def test_plain_lines_have_no_control_codes() -> None:
    lines: list[str] = []
    view = PlainView(lines.append, Scene("one", [A], 0.0), clock=lambda: 0.0)
    nasty: Event = {"event": "loss", "time": 1.0, "member": "a\x1b[31m", "reason": "b\r\nc"}
    view.update([*RIDE, nasty], [{"attempt": 1, "state": "RUNNING"}], None)
    assert all(line.isprintable() for line in lines)
    assert any(
        line.endswith("training goes on at step 14, re-formed in 3 s, 1 step lost")
        for line in lines
    )


def test_progress_is_told_now_and_then() -> None:
    lines: list[str] = []
    now = [0.0]
    view = PlainView(lines.append, Scene("one", [A], 0.0), clock=lambda: now[0])
    view.update(RIDE[:4], [], None)
    assert not any("step 10" in line for line in lines)
    now[0] = 60.0
    view.update([], [], None)
    assert lines[-1].endswith("step 10, loss 3")


def test_lines_are_in_the_order_of_their_times_whoever_wrote_them() -> None:
    lines: list[str] = []
    view = PlainView(lines.append, Scene("one", [A], 0.0), clock=lambda: 0.0)
    late = event("stockout", 111.2, region="us-east1")  # the launcher's, read after the leader's
    view.update([*RIDE, late], [], None)
    (told,) = (place for place, line in enumerate(lines) if "no capacity" in line)
    assert "has notice" in lines[told - 1] and "generation 2 forms" in lines[told + 1], lines
    times = [line.split()[0] for line in lines]
    assert times == sorted(times)


def test_a_machine_that_comes_while_the_run_goes_on_is_worth_a_line() -> None:
    scene = Scene("one", [A], started=0.0)

    def came(at: float, incarnation: str) -> list[str]:
        told = event("member_joined", at, member=A, incarnation=incarnation, term=1)
        return [line for _, line in scene.add([told])]

    assert came(1.0, "x") == [], "at the start all come"
    scene.add(RIDE)
    assert came(150.0, "x") == [], "it has only gone over to another leader"
    assert came(151.0, "y") == [f"{A} has come"]


def test_only_others_are_told_what_to_do_if_the_launch_is_gone() -> None:
    own, other = (Scene("one", [A], 0.0, launches=it) for it in (True, False))
    for scene in (own, other):
        scene.know([], None)
    assert own.unled(42.0) == "waiting for 42 s: the launch, which has not sent attempt 1 yet"
    assert str(other.unled(42.0)).endswith("attempt 1 yet; swell attach RUN, if it is gone")


def test_of_a_run_that_is_over_no_machine_is_left() -> None:
    scene = ridden()
    assert scene.states == {A: "active", B: "away", C: "lost"}
    scene.know([], Outcome("failed", "", {}))
    assert set(scene.states.values()) == {"away"}


def test_a_speed_that_has_no_room_beside_the_bar_has_a_line_of_its_own() -> None:
    told = {"samples": 800_000, "total_steps": 46_000, "data_wait": 2.5}
    more = [formed(4, 150.0, "grow", [A]), resumed(4, 150.5, "grow", 10_000)]
    told_of = steps(4, 161.0, 10_001, [0.9] * 26, 10.0, **told)
    narrow, wide = (shown(width, *more, told_of) for width in (80, 120))
    (step,) = (line for line in narrow if line.startswith("step "))
    assert step.split()[1:4] == ["10,026", "of", "46,000"] and "steps/s" not in step
    (speed,) = (line for line in narrow if line.startswith("speed "))
    assert speed.rstrip().endswith("left") and not any(it.startswith("speed") for it in wide)


def test_a_run_that_waits_has_no_world() -> None:
    scene = Scene("one", [A], started=0.0)
    scene.add([*RIDE, event("waiting", 150.0, slots=1, min_workers=2)])
    assert "none: waiting for machines, 1 of at least 2 workers" in drawn(scene, 151.0)
    assert "1 worker   generation 3" not in drawn(scene, 151.0)


def test_the_speed_of_a_run_that_is_over_is_said_to_be_its_mean() -> None:
    scene = Scene("one", [A], started=0.0)
    scene.add([*RIDE, event("finished", 142.0, state="succeeded", step=16)])
    scene.know([], None)
    assert "0.06667 steps/s" in drawn(scene, 143.0)
    scene.know([], Outcome("succeeded", "", {}))
    assert "0.3846 steps/s (mean, with pauses)" in drawn(scene, 143.0)


def test_a_sparkline_shows_the_shape() -> None:
    assert sparkline([3.0, 2.0, 1.0], 24) == "█▅▁"
    assert sparkline([1.0, float("nan")], 24) == "▁✕"
    assert sparkline([float("inf"), float("-inf")], 24) == "✕✕"
    assert sparkline([1.0, 2.0, 3.0, float("nan")], 2) == "▁✕"
    assert len(sparkline([float(i) for i in range(500)], 24)) == 24
    assert sparkline([], 24) == ""


@given(st.lists(st.floats(), max_size=40), st.integers(1, 20))
def test_a_sparkline_has_a_bar_for_any_numbers(values: list[float], width: int) -> None:
    """Also for such whose sum, or whose distance, is no number that there is."""
    assert len(sparkline(values, width)) == min(width, len(values))


def test_a_checkpoint_that_several_ranks_could_not_write_is_one_line() -> None:
    scene = Scene("one", [A], started=0.0)
    failed = [event("checkpoint_failed", 1.0, step=step, reason="x") for step in (20, 30, 30)]
    assert [line for _, line in scene.add(failed)] == [
        "the checkpoint of step 20 could not be written (x)",
        "the checkpoint of step 30 could not be written (x)",
    ]


def test_a_step_that_is_told_twice_is_plotted_once() -> None:
    scene = Scene("one", [A], started=0.0)
    scene.add([RIDE[3], RIDE[3], RIDE[8]])
    assert list(scene.losses) == [3.0] * 10 + [2.0] * 5


def test_a_loss_that_is_no_number_any_more_is_told_with_the_step() -> None:
    events = [*RIDE, steps(3, 150.0, 17, [0.9, "nan", "nan"])]
    lines: list[str] = []
    times = iter([0.0, 20.0])
    view = PlainView(lines.append, Scene("one", [A], 0.0), clock=lambda: next(times))
    view.update(events, [{"attempt": 1, "state": "RUNNING"}], None)
    assert lines[-1].endswith("step 19, loss nan (since step 18), test_accuracy 0.9")


def test_a_fleet_is_shown_with_all_jobs_that_live_and_their_replicas() -> None:
    one, two = "1/workerpool0-0", "3/workerpool0-0"
    scene = Scene("one", [A], started=0.0, jobs=3)
    scene.add([formed(1, 1.0, "start", [one]), event("member_joined", 2.0, member=two)])
    states = {1: "RUNNING", 2: "FAILED", 3: "RUNNING", 4: "QUEUED"}
    scene.know([{"attempt": number, "state": state} for number, state in states.items()], None)
    console = Console(width=100, file=io.StringIO(), force_terminal=False)
    with console.capture() as captured:
        console.print(render(scene, now=150.0, width=100))
    text = captured.get()
    assert scene.state == "running" and "2 of 3 running   attempt 4 queued" in text
    assert f"● {one}" in text and f"○ {two}" in text and "· 4/workerpool0-0" in text
    assert "2/workerpool0-0" not in text, "it is over"


@pytest.mark.parametrize(
    ("states", "state"),
    [
        (["RUNNING", "FAILED"], "running"),
        (["FAILED", "RUNNING"], "running"),
        (["FAILED", "QUEUED"], "queued"),
        (["FAILED", "FAILED"], "queued"),
    ],
)
def test_a_fleet_runs_as_long_as_any_of_its_jobs(states: list[str], state: str) -> None:
    scene = Scene("one", [A], started=0.0, jobs=2)
    scene.know([{"attempt": n, "state": it} for n, it in enumerate(states, start=1)], None)
    assert scene.state == state


QUEUED = {
    "attempt": 1,
    "state": "QUEUED",
    "region": "us-east1",
    "job": "jobs/1",
    "created": 100.0,
    "submitted": 100.0,
}


def test_plain_lines_say_what_a_run_waits_for_that_nobody_leads_yet() -> None:
    lines: list[str] = []
    now = [105.0]
    view = PlainView(lines.append, Scene("one", [A], 100.0), clock=lambda: now[0])
    for at in (105.0, 112.0, 125.0, 140.0):
        now[0] = at
        view.update([], [QUEUED], None)
    leader = event("leader_changed", 141.0, term=1, member=A, attempt=1)
    view.update([leader], [QUEUED | {"state": "RUNNING"}], None)
    what = "machines for attempt 1 in us-east1: its CustomJob is queued, no VM of it exists yet"
    assert [line.partition("  ")[2] for line in lines] == [
        f"waiting for 12 s: {what}",
        f"waiting for 40 s: {what}",
    ]


def test_the_live_view_says_so_in_one_line() -> None:
    console = Console(width=80, file=io.StringIO())
    scene = Scene("one", [A], 100.0)
    scene.know([QUEUED], None)
    with console.capture() as captured:
        console.print(render(scene, now=142.0, width=80))
    (line,) = (line for line in captured.get().splitlines() if line.startswith("world"))
    assert "waiting for 42 s: machines for attempt 1 in us-east1" in line and len(line) <= 80
