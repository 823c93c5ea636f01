"""The screens of ``swell watch``: each fits the terminal, and keys lead from one to another."""

from __future__ import annotations

import io
from functools import cache

import pytest

from launcher.logs.logline import Line
from launcher.views.live import Scene
from launcher.views.output import Screen
from launcher.views.screens import Screens
from tests.launcher.status.events import RIDE, event


@cache
def scene_of(replicas: int = 1000) -> Scene:
    scene = Scene("digits-1", [f"workerpool1-{n}" for n in range(replicas)], started=0.0)
    scene.add([event("member_ready", 1.0, member=f"workerpool1-{n}") for n in range(replicas - 2)])
    scene.add(RIDE)
    return scene


def drawn(screens: Screens, scene: Scene, width: int = 80, height: int = 24) -> list[str]:
    console = Screen(io.StringIO(), width=width, force_terminal=False)
    with console.capture() as captured:
        console.print(screens.draw(scene, 150.0, width, height))
    return [line.rstrip() for line in captured.get().splitlines()]


def pressed(*keys: str) -> Screens:
    """The screens after some keys, with what was drawn before each of them."""
    screens = Screens(keys=True)
    for key in keys:
        drawn(screens, scene_of())
        assert screens.press(key)
    return screens


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("1", "overview"),
        ("o", "overview"),
        ("2", "replicas"),
        ("r", "replicas"),
        ("3", "events"),
        ("e", "events"),
        ("4", "logs"),
        ("l", "logs"),
    ],
)
def test_every_screen_fits_and_says_where_one_is(key: str, name: str) -> None:
    for width, height in ((80, 24), (120, 50), (40, 12)):
        lines = drawn(pressed(key), scene_of(), width, height)
        assert max(map(len, lines)) <= width
        assert len(lines) < height, "the cursor's line is free"
        assert name == "overview" or len(lines) == height - 1, "all the others are used"
        assert f" {name}]"[: 1 if width == 40 else None] in lines[-1]


def test_all_replicas_can_be_scrolled_to() -> None:
    first = drawn(pressed("2"), scene_of())
    assert first[2] == "1,000 replicas: 3 away, 1 lost, 996 ready"
    assert first[3].startswith("· workerpool1-0 away") and "✕ workerpool1-1 lost" in first[3]
    assert drawn(pressed("2", "down"), scene_of())[2] == first[3]
    assert (
        drawn(pressed("2", "page down"), scene_of())[2]
        == drawn(pressed("2", *["down"] * 20), scene_of())[2]
    )
    assert "workerpool1-999" in drawn(pressed("2", "end"), scene_of())[-2]
    assert drawn(pressed("2", "end", "home"), scene_of()) == first
    assert drawn(pressed("2", "up"), scene_of()) == first, "there is nothing above"


def test_events_begin_with_the_newest_and_go_back() -> None:
    newest = drawn(pressed("3"), scene_of())
    told = [line for _, line in scene_of().told]
    assert newest[-2].endswith(told[-1]) and newest[-3].endswith(told[-2])
    assert drawn(pressed("3", "up"), scene_of())[3:-1] == newest[2:-2]
    assert drawn(pressed("3", "home"), scene_of())[2].endswith(told[0])
    assert drawn(pressed("3", "home", "end"), scene_of()) == newest


def test_a_log_is_shown_line_by_line_and_obeyed_by_no_terminal() -> None:
    screens = pressed("4")
    screens.log = [Line(0, "workerpool1-0", "INFO", "one\ntwo\x1b[2J\a"), Line(1, "w", "INFO", "3")]
    lines = drawn(screens, scene_of())
    assert [line.split(" ", 1)[1] for line in lines[2:5]] == [
        "workerpool1-0 one",
        "workerpool1-0 two\\u0007",
        "w 3",
    ]
    screens.log = "its logs are there [SW2008]"
    assert drawn(screens, scene_of())[2] == "its logs are there [SW2008]"


def test_another_screen_begins_where_it_should() -> None:
    screens = pressed("2", "end", "3", "2")
    assert drawn(screens, scene_of())[2].startswith("1,000 replicas")


def test_q_leaves_and_other_keys_do_nothing() -> None:
    screens = Screens(keys=True)
    for name in ("1", "2", "3", "4"):
        assert screens.press(name)
        before = drawn(screens, scene_of())
        assert all(screens.press(key) for key in ("x", "\x1b", "", "é", "tab"))
        assert drawn(screens, scene_of()) == before
        assert not screens.press("q")


def test_without_keys_there_is_the_overview_alone() -> None:
    with_keys, without = Screens(keys=True), Screens(keys=False)
    assert "q quit" in drawn(with_keys, scene_of())[-1]
    shown = drawn(without, scene_of())
    assert shown[0].startswith("swell digits-1") and not any("quit" in line for line in shown)
    assert without.press("2") and drawn(without, scene_of()) == shown
