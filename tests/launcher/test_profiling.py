"""``swell profile``: what may be asked of a run, and what is told of what was seen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from launcher import home, profiling
from launcher.cli import app
from launcher.profiling import results
from launcher.words import line_of
from tests.launcher.recorded_run import SPEC
from trainer.rundir import formats
from trainer.rundir.directory import RunDirectory
from trainer.rundir.events import EventWriter
from trainer.rundir.profiles import Wish, create_wish, find_wish

FILES = ["profiles/000001-g000001-rank-00000.trace.json.gz"]


@pytest.fixture(autouse=True)
def swell_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWELL_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(profiling, "LOOK_EVERY", 0.0)


def a_run(**fields: Any) -> RunDirectory:
    """A run of two workers at step 50 of 1,000."""
    directory = home.directory_for("one", None)
    record = {"id": "one", "target": "local", "created": 5.0, "by": "x", **formats.RUN.stamp()}
    home.create(directory, {**record, "spec": {**SPEC, **fields}})
    members = ["workerpool0-0", "workerpool1-0"]
    emit(directory, "generation_formed", generation=1, world_size=2, members=members)
    emit(directory, "steps", generation=1, first=50, count=1, metrics={}, total_steps=1000)
    return directory


def emit(directory: RunDirectory, event: str, **fields: Any) -> None:
    writer = EventWriter(directory, f"w-{event}-{fields.get('rank', 0)}-{fields.get('step', 0)}")
    writer.emit(event, **fields)
    writer.flush()


def seen(directory: RunDirectory, last: int, rank: int = 0, **fields: Any) -> None:
    steps = {"first": 100, "step": last, "count": last - 99, "generation": 1}
    emit(directory, "profiled", profile=1, rank=rank, **steps, **fields)


def asked(*options: str) -> tuple[int, str]:
    answer = CliRunner().invoke(app, ["profile", "one", *options])
    return answer.exit_code, answer.output


def test_what_is_asked_is_written_and_what_was_seen_is_told() -> None:
    directory = a_run()
    seen(directory, 110, names=FILES)
    seen(directory, 110, rank=1, reason="it failed: another profiler is running")
    code, said = asked("--steps", "100:110", "--rank", "1", "--rank", "0", "--memory")
    assert code == 1, "one rank has seen nothing"
    assert said.splitlines() == [
        "profile 1 of steps 100 to 110 is asked for, of rank 0, 1; it comes whether you wait or "
        "not",
        "rank 0, steps 100 to 110:",
        f"  {directory.url}/{FILES[0]}  (opens in https://ui.perfetto.dev or chrome://tracing)",
        "rank 1, steps 100 to 110: it failed: another profiler is running",
    ]
    wish = find_wish(directory, 1)
    assert wish is not None and (wish.ranks, wish.memory) == ((0, 1), True)


def test_for_other_programs() -> None:
    directory = a_run()
    seen(directory, 100, names=FILES)
    answer = CliRunner().invoke(app, ["profile", "one", "--steps", "100", "--json"])
    url = f"{directory.url}/{FILES[0]}"
    assert json.loads(answer.stdout) == [
        {"rank": 0, "first": 100, "last": 100, "files": [url], "reason": None}
    ]
    assert answer.stderr.startswith("profile 1 of steps 100 to 100 is asked for")


@pytest.mark.parametrize(
    ("options", "fields", "problem"),
    [
        (["--steps", "x"], {}, "swell: --steps x: are no steps; write the first and the last"),
        (["--steps", "110:100"], {}, "swell: --steps 110:100: are no steps"),
        (["--steps", "0:1"], {}, "swell: --steps 0:1: are no steps"),
        (["--steps", "-1:1"], {}, "swell: --steps -1:1: are no steps"),
        (["--steps", "100:200"], {}, "swell: --steps 100:200: are 101 steps, and a profile has"),
        (["--steps", "50:60"], {}, "swell: one: is at step 50 already: --steps must be later"),
        (["--steps", "995:1001"], {}, "swell: one: has 1,000 steps in all, and not 1,001"),
        (["--steps", "60:61", "--rank", "2"], {}, "swell: one: has no rank 2: its world has 2"),
        (["--steps", "60:61", "--rank", "-1"], {}, "swell: --rank: give at most 16 ranks"),
        (["--steps", "60:61"], {"torchrun": {"script": "t.py"}}, "swell: one: runs a torchrun"),
    ],
)
def test_where_nothing_can_be_seen_nothing_is_asked(
    options: list[str], fields: dict[str, Any], problem: str
) -> None:
    directory = a_run(**fields)
    code, said = asked(*options)
    assert (code, said.count("\n")) == (2, 1)
    assert said.startswith(problem)
    assert find_wish(directory, 1) is None


def test_a_run_that_has_ended_is_not_asked() -> None:
    directory = a_run()
    directory.end("succeeded", "done")
    assert asked("--steps", "100:110") == (2, "swell: one: has ended: succeeded [SW2011]\n")


class Time:
    now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += 1.0


def test_steps_that_pass_unseen_are_told_of_in_the_end() -> None:
    directory, time = a_run(), Time()
    wish = create_wish(directory, Wish(1, 51, 60))
    emit(directory, "steps", generation=1, first=61, count=1, metrics={})
    with pytest.raises(home.RunError, match="steps 51 to 60 have passed, and nobody has seen them"):
        list(results(directory, wish, time, time.sleep))
    assert time.now >= profiling.GRACE, "files may come later than steps"


def over(monkeypatch: pytest.MonkeyPatch, directory: RunDirectory) -> None:
    """All steps that can be asked for here have passed."""
    emit(directory, "steps", generation=1, first=111, count=1, metrics={})
    monkeypatch.setattr(profiling, "GRACE", 0.0)
    monkeypatch.setattr(profiling, "_require_future", lambda *_: None)


@pytest.mark.parametrize("as_json", [False, True])
def test_ranks_that_have_seen_nothing_are_named_beside_what_others_have(
    monkeypatch: pytest.MonkeyPatch, as_json: bool
) -> None:
    directory = a_run()
    seen(directory, 104, names=FILES)  # a part of them is something
    over(monkeypatch, directory)
    options = ["profile", "one", "--steps", "100:110", "--rank", "0", "--rank", "1"]
    answer = CliRunner().invoke(app, [*options, *["--json"] * as_json])
    assert answer.exit_code == 2
    assert answer.stderr.splitlines()[-1] == (
        "swell: steps 100 to 110 have passed, and of the ranks these have seen none of them: 1; "
        "the world had no such rank then, or its worker was lost before it had written what it had "
        "seen [SW6270]"
    )
    if as_json:
        assert [(one["rank"], one["last"]) for one in json.loads(answer.stdout)] == [(0, 104)]
    else:
        assert answer.stdout.splitlines()[1] == "rank 0, steps 100 to 104:"


def test_a_file_of_a_kind_that_is_not_known_here_is_named() -> None:
    directory = a_run()
    newer = "profiles/000001-g000001-rank-00000.flame.svg"
    seen(directory, 110, names=[newer, *FILES])
    code, said = asked("--steps", "100:110")
    assert code == 0
    assert said.splitlines()[2:] == [
        f"  {directory.url}/{newer}",
        f"  {directory.url}/{FILES[0]}  (opens in https://ui.perfetto.dev or chrome://tracing)",
    ]


def test_a_part_that_is_left_of_a_lost_world_is_told_and_the_rest_waited_for() -> None:
    directory, time = a_run(), Time()
    wish = create_wish(directory, Wish(1, 100, 110))
    seen(directory, 104, names=FILES)
    told = results(directory, wish, time, time.sleep)
    assert next(told).step == 104
    seen(directory, 110, names=FILES)
    assert [one.step for one in told] == [110]


def test_in_words() -> None:
    told = {"event": "profiled", "time": 1.0, "profile": 2, "rank": 3, "first": 100, "step": 110}
    assert line_of({**told, "names": FILES}) == (
        f"profile 2: rank 3 has seen steps 100 to 110: {FILES[0]}"
    )
    assert line_of({**told, "reason": "it failed"}) == (
        "profile 2: rank 3 has seen nothing: it failed"
    )
