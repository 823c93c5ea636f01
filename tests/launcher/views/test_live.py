from __future__ import annotations

import io

import pytest
from rich.console import Console

from launcher.status.status import History, Outcome, build_status
from launcher.views.live import PlainView, Story, render, sparkline
from launcher.views.summary import print_summary
from launcher.words import span, tell
from tests.launcher.status.test_status import RIDE, A, B, C
from trainer.rundir.events import CAUSES, Cause, Event


def story() -> Story:
    told = Story("digits-1", [A, B, C], started=90.0)
    told.add(RIDE)
    return told


def shown(width: int) -> list[str]:
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    with console.capture() as captured:
        console.print(render(story(), now=150.0, width=width))
    return captured.get().splitlines()


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


def test_the_live_view_keeps_its_height() -> None:
    console = Console(width=80, file=io.StringIO())
    told = Story("digits-1", [A], started=0.0)
    told.add(RIDE[:2])
    heights = set()
    for more in ([], RIDE[2:6], RIDE[6:]):
        told.add(more)
        heights.add(len(console.render_lines(render(told, 1.0, 80), console.options)))
    assert max(heights) - min(heights) <= 1, "only the metrics line comes later"


def test_plain_lines_have_no_control_codes() -> None:
    lines: list[str] = []
    view = PlainView(lines.append, Story("one", [A], 0.0), clock=lambda: 0.0)
    nasty: Event = {"event": "loss", "time": 1.0, "member": "a\x1b[31m", "reason": "b\r\nc"}
    view.update([*RIDE, nasty], {"state": "RUNNING"}, None)
    assert all(line.isprintable() for line in lines)
    assert any(
        line.endswith("training goes on at step 14 after a pause of 3 s, 1 step lost")
        for line in lines
    )


def test_progress_is_told_now_and_then() -> None:
    lines: list[str] = []
    now = [0.0]
    view = PlainView(lines.append, Story("one", [A], 0.0), clock=lambda: now[0])
    view.update(RIDE[:3], {}, None)
    assert not any("step 10" in line for line in lines)
    now[0] = 60.0
    view.update([], {}, None)
    assert lines[-1].endswith("step 10, loss 3")


def test_events_that_are_not_as_documented_are_not_told() -> None:
    assert tell({"event": "resumed", "time": 1.0}) is None
    assert tell({"event": "generation_formed", "time": 1.0, "cause": "x"}) is None
    assert tell({"event": "unheard_of", "time": 1.0}) is None


def summary(outcome: Outcome) -> str:
    file = io.StringIO()
    status = build_status("digits-1", History(RIDE), [], outcome)
    print_summary(Console(width=80, file=file), status, "/runs/" + "x" * 100, 61.0)
    return file.getvalue()


def test_the_summary_of_a_success() -> None:
    text = summary(Outcome("succeeded", "training is complete", {"test_accuracy": 0.95}))
    assert "digits-1 succeeded after 1:01" in text
    assert "16 completed, 1 lost" in text
    assert "1 replica with notice, 1 replica without" in text
    assert "test accuracy   0.95" in text
    assert "/runs/" + "x" * 100 in text, "a path is not broken"
    assert "training is complete" not in text
    assert not any(line.endswith(" ") for line in text.splitlines())


def test_the_summary_of_a_failure_ends_with_its_traceback() -> None:
    reason = "the task raised\nTraceback:\n  File x\nZeroDivisionError: 1/0"
    assert summary(Outcome("failed", reason, {})).rstrip().endswith(reason)


def test_spans_are_read_by_people() -> None:
    assert [span(s) for s in (0.41, 5.0, 42.9, 187.0, 3729.0)] == [
        "0.4 s",
        "5 s",
        "42 s",
        "3:07",
        "1:02:09",
    ]


def test_a_sparkline_shows_the_shape() -> None:
    assert sparkline([3.0, 2.0, 1.0], 24) == "█▅▁"
    assert sparkline([1.0, float("nan")], 24) == "▁"
    assert len(sparkline([float(i) for i in range(500)], 24)) == 24
    assert sparkline([], 24) == ""


def test_a_step_that_is_told_twice_is_plotted_once() -> None:
    told = Story("one", [A], started=0.0)
    told.add([RIDE[2], RIDE[2], RIDE[6]])
    assert list(told.losses) == [3.0] * 10 + [2.0] * 5


@pytest.mark.parametrize("cause", CAUSES)
def test_every_cause_of_a_new_generation_has_words(cause: Cause) -> None:
    formed = {"event": "generation_formed", "time": 1.0, "generation": 2, "world_size": 3}
    line = tell({**formed, "cause": cause})
    assert line is not None and line.startswith("generation 2 forms: 3 workers (")
