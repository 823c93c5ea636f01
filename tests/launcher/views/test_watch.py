"""What ``swell watch`` shows of a run, at every size of a terminal."""

from __future__ import annotations

import io

import pytest

from launcher.status.status import Outcome
from launcher.views.live import Scene
from launcher.views.output import Screen
from launcher.views.watch import Panorama, graph
from tests.launcher.status.events import RIDE, event
from tests.launcher.status.test_ledger import BEGINS, ENDS, trained


def lines(scene: Scene, now: float, width: int = 80, height: int = 50) -> list[str]:
    console = Screen(io.StringIO(), width=width, force_terminal=False)
    with console.capture() as captured:
        console.print(Panorama().draw(scene, now, width, height))
    return captured.get().splitlines()


def scene_of(*events: dict[str, object], replicas: int = 2) -> Scene:
    scene = Scene("digits-1", [f"workerpool1-{n}" for n in range(replicas)], started=0.0)
    scene.add([*events])
    return scene


@pytest.mark.parametrize("width", [80, 120])
def test_a_run_at_a_glance(width: int) -> None:
    saved = event("checkpoint_committed", 125.0, step=9)
    shown = lines(scene_of(*BEGINS, trained(), saved), 140.0, width)
    assert max(map(len, shown)) <= width
    text = "\n".join(shown)
    assert "cost       about 0.0" in text and "than the same training on" in text
    assert "saved      checkpoint of step 9, 15 s ago" in text
    (workers,) = (line for line in shown if line.startswith("workers"))
    assert workers.rstrip().endswith("0 to 2 workers in 2:20") and "█" in workers
    assert workers.count("█") < width * 0.3, "nobody trained for most of the time"


def test_a_run_that_is_over_is_as_it_was_at_its_end() -> None:
    scene = scene_of(*BEGINS, trained(), ENDS, event("checkpoint_committed", 125.0, step=9))
    before = lines(scene, 1000.0)
    scene.know([], Outcome("succeeded", "", {}))
    after = "\n".join(lines(scene, 1e6))
    assert "14:35 ago" in "\n".join(before) and "step 9, 5 s ago" in after
    assert "0 to 2 workers in 2:10" in after


def test_checkpoints_that_fail_are_told() -> None:
    failed = event("checkpoint_failed", 126.0, step=10, reason="the bucket is full")
    text = "\n".join(lines(scene_of(*BEGINS, trained(), failed), 140.0, 120))
    assert "no checkpoint yet; 1 checkpoint failed since (the bucket is full)" in text


def test_a_thousand_replicas_are_a_sign_each() -> None:
    drained = event("drain", 120.0, member="workerpool1-7", reason="notice")
    lost = event("loss", 120.0, member="workerpool1-8", reason="silent")
    members = [event("member_ready", 1.0, member=f"workerpool1-{n}") for n in range(990)]
    scene = scene_of(*members, drained, lost, replicas=1000)
    shown = lines(scene, 140.0, height=60)
    blocks = [line[11:].rstrip() for line in shown if set(line.strip()) <= set("●◐○◌✕·") != set()]
    signs = "".join(blocks)
    assert len(signs) == 1000
    assert signs[7:9] == "◌✕" and signs.count("◐") == 988 and signs.count("·") == 10
    assert max(map(len, shown)) <= 80
    assert "· away   ◌ draining   ✕ lost   ◐ ready" in "\n".join(shown)
    assert len(shown) < 50


def test_blocks_that_would_push_the_rest_away_are_left_out() -> None:
    shown = lines(scene_of(*RIDE, replicas=1000), 140.0, height=24)
    assert len(shown) <= 24
    (counted,) = (line for line in shown if line.startswith("replicas"))
    assert counted.split()[1:] == ["999", "away", "1", "lost"]


def test_before_anything_has_happened() -> None:
    text = "\n".join(lines(scene_of(), 5.0))
    assert "no checkpoint yet" in text and "workers  " not in text


def test_only_nothing_is_blank() -> None:
    assert graph([0.0, 0.001, 2.0, 4.0], 4.0) == " ▁▄█"
    assert graph([], 0.0) == ""


def test_texts_of_a_run_stay_in_their_line() -> None:
    nasty = event("checkpoint_failed", 126.0, step=10, reason="a\r\n\x1b[31m\u202eb")
    text = "\n".join(lines(scene_of(*BEGINS, trained(), nasty), 140.0))
    assert "(a [31m b)" in text and "\x1b" not in text and "\u202e" not in text
