"""``swell report``: one page that holds what the run did, and does nothing by itself."""

from __future__ import annotations

import builtins
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from launcher.cli import app
from launcher.report import charts
from launcher.report.page import text_of
from launcher.report.paragraph import what_was_lost
from launcher.report.report import read, sections
from launcher.report.track import Track, spaced, thinned
from launcher.status.history import History
from launcher.status.status import Outcome, build_status
from tests.launcher.recorded_run import record_run
from tests.launcher.status.events import RIDE, A, B, event, formed, resumed, steps
from tests.launcher.status.test_ledger import BEGINS, ENDS, trained
from trainer.rundir.batches import Batch, encode
from trainer.rundir.events import Event
from trainer.rundir.numbers import dumped

NASTY = "<script>alert(1)</script>\"'&<img src=x onerror=y>"


@pytest.fixture(autouse=True)
def swell_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SWELL_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def report(events: Sequence[Event], *options: str, over: bool = True) -> Result:
    directory = record_run("one")
    directory.store.write(Batch("leader-1", 0).name, encode(map(dumped, events)))
    if over:
        directory.end("succeeded", "training is complete")
    return CliRunner().invoke(app, ["report", "one", *options])


def page(events: Sequence[Event], over: bool = True) -> str:
    answer = report(events, over=over)
    assert answer.exit_code == 0, answer.output
    assert answer.stdout == "the report is in one.html\n"
    return Path("one.html").read_text(encoding="utf-8")


class Reading(HTMLParser):
    """What a browser makes of a page: its elements, their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def track(events: Sequence[Event]) -> Track:
    return Track(events)


def test_a_page_tells_what_the_run_was_and_lost() -> None:
    text = Reading(page([*BEGINS, trained(), ENDS])).text
    assert "The run is complete at step 10." in text
    assert "Of 4:20 of VM time that was wanted, 15.4 % was training." in text
    assert "In 50.0 % of it the VM was not there." in text
    assert "It has cost about 0.04 USD, 8.3 % more than the same training on demand" in text
    assert "No machine was taken away." in text and "No completed step had to be" in text


def test_a_page_tells_who_went_and_what_that_cost() -> None:
    text = Reading(page(RIDE)).text
    assert "1 replica left with notice and 1 replica went, or lost a worker, without" in text
    assert (
        "2 times (a machine left with notice: 1 time, a worker was lost: 1 time)" in text
        and "1 completed step had to be done" in text
    )
    assert "workerpool1-1 is lost (silent)" in text, "each event is in a table"
    assert "Not known: a machine has no price" in text
    assert "None was written." in text


def test_a_page_is_made_while_the_run_goes_on() -> None:
    assert "The run goes on at step 16: it is" in Reading(page(RIDE, over=False)).text


def test_a_run_of_which_nothing_is_known_has_a_page() -> None:
    text = Reading(page([])).text
    assert "Nothing has happened yet." in text and "There is no ledger" in text
    assert "No world has formed." in text


def test_every_picture_has_words_and_a_table() -> None:
    text = page([*BEGINS, trained(), ENDS])
    read = Reading(text)
    pictures = [it for tag, it in read.elements if it.get("role") == "img"]
    drawn = [tag for tag, _ in read.elements if tag == "svg"]
    assert len(pictures) == len(drawn) == 5, "timeline, loss, rates, ledger, cost"
    assert all(len(it["aria-label"] or "") > 20 for it in pictures)
    figures = re.findall(r"<figure>.*?</figure>", text, re.DOTALL)
    assert figures and all(one.count("<details>") == 1 for one in figures)
    assert all("<table>" in one.split("<details>")[1] for one in figures)


def test_ids_are_there_once_and_nothing_is_loaded() -> None:
    text = page([*BEGINS, trained(), ENDS])
    read = Reading(text)
    ids = [it["id"] for _, it in read.elements if "id" in it]
    assert len(ids) == len(set(ids)) > 0
    links = [it.get("href") or it.get("xlink:href") or it.get("src") for _, it in read.elements]
    asked = {link for link in links if link is not None}
    assert asked and all(link.removeprefix("#") in ids for link in asked)
    assert {tag for tag, _ in read.elements}.isdisjoint({"script", "link", "iframe", "object"})
    assert "default-src 'none'" in text
    assert not re.search(r"url\((?!#)|@import", text)


def test_colours_are_the_pages_in_light_and_dark() -> None:
    text = page(RIDE)
    drawn = "".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL))
    assert "var(--ink)" in drawn and "#000000" not in drawn
    assert "prefers-color-scheme: dark" in text and "@media print" in text


def test_what_a_run_says_is_text() -> None:
    """Names, messages and metrics come from machines that nobody has to trust."""
    nasty = [
        formed(1, 98.0, "start", [NASTY]),
        resumed(1, 99.0, "start", 0),
        steps(1, 110.0, 1, [1.0, 2.0], 2.0),
        event("steps", 111.0, generation=1, first=3, count=1, metrics={NASTY: [1.0]}, seconds=1.0),
        event("loss", 112.0, member=NASTY, reason=NASTY + "\x1b[31m\u202e"),
        event("straggler", 113.0, generation=1, member=NASTY, rank=1, ratio=2.0, reason=NASTY),
        formed(2, 114.0, NASTY, [NASTY]),
        event("evaluated", 114.0, step=3, metrics={f"$\\frac{NASTY}": 1.0}),
    ]
    directory = record_run("one")
    run = directory.run()
    run["spec"]["env"] = {"TOKEN": "very-secret"}
    run["spec"]["labels"] = {NASTY: NASTY}
    directory.write_json("run.json", run)
    directory.store.write(Batch("leader-1", 0).name, encode(map(dumped, nasty)))
    directory.end("failed", f"{NASTY}\n{NASTY}\x00")
    answer = CliRunner().invoke(app, ["report", "one"])
    assert answer.exit_code == 0, answer.output
    text = Path("one.html").read_text(encoding="utf-8")
    tags = {tag for tag, _ in Reading(text).elements}
    assert "script" not in tags and "img" not in tags
    assert not [key for _, it in Reading(text).elements for key in it if key.startswith("on")]
    assert "alert(1)" in Reading(text).text, "it is shown"
    assert not {"\x1b", "\u202e", "\x00"} & {*text}
    assert "very-secret" not in text and "set, not shown" in text


def test_steps_that_are_done_again_are_drawn_as_they_were_done_last() -> None:
    redone = [
        formed(1, 1.0, "start", [A]),
        steps(1, 2.0, 1, [5.0, 4.0, 3.0], 1.0),
        formed(2, 3.0, "loss", [A]),
        steps(2, 4.0, 3, [2.0], 1.0),
        steps(1, 5.0, 3, [9.0, 9.0], 1.0),  # late, of a world that is gone
    ]
    assert track(redone).curves == {"loss": {1: 5.0, 2: 4.0, 3: 2.0, 4: 9.0}}


def test_values_that_cannot_be_drawn_are_counted() -> None:
    strange = [steps(1, 2.0, 1, [1.0, "nan", "inf", 1e200, 2, True, None], 1.0)]
    found = track(strange)
    assert found.curves == {"loss": {1: 1.0, 5: 2.0}}
    assert found.undrawn == {"loss": 3}
    assert "3 values not drawn: no finite number, or beyond 1e100" in Reading(page(strange)).text


def test_nobody_trains_between_two_worlds() -> None:
    sizes = track(RIDE).sizes
    assert [size.workers for size in sizes] == [3, 2, 1]
    gaps = [later.since - one.until for one, later in pairwise(sizes)]
    assert gaps == pytest.approx([1.0, 3.0])


def test_a_script_without_steps_has_its_worlds_until_the_next() -> None:
    def begun(generation: int, at: float) -> Event:
        return event("resumed", at, generation=generation, cause="start")

    script = [
        formed(1, 10.0, "start", [A, B]),
        begun(1, 11.0),
        formed(2, 20.0, "loss", [A]),
        begun(2, 21.0),
        event("finished", 30.0, state="succeeded"),
    ]
    assert track(script).sizes == [(11.0, 20.0, 2), (21.0, 30.0, 1)]


@given(st.lists(st.floats(-1e100, 1e100), min_size=1, max_size=200), st.integers(1, 20))
def test_thinned_curves_lose_no_extreme(values: list[float], most: int) -> None:
    bands = thinned([*range(len(values))], values, most)
    assert len(bands) <= most
    assert min(band.least for band in bands) == min(values)
    assert max(band.most for band in bands) == max(values)
    assert all(band.least <= band.mean <= band.most for band in bands)


@given(st.lists(st.floats(0, 1e12), max_size=200), st.integers(1, 20))
def test_marks_that_are_left_out_have_another_beside_them(times: list[float], most: int) -> None:
    end = max(times, default=0.0)
    kept = spaced(times, 0.0, end, most)
    assert len(kept) <= most + 1
    width = max(end, 1e-9) / most
    assert all(any(abs(at - one) <= width * 1.001 for one in kept) for at in times)


def test_a_large_run_makes_no_large_page() -> None:
    many: list[Any] = [formed(1, 1.0, "start", [A]), resumed(1, 2.0, "start", 0)]
    many += [event("drain", 3.0 + n / 7, member=f"w-{n}", reason="notice") for n in range(3000)]
    many += [steps(1, 3.0 + n, 1 + n, [float(n)], 1.0) for n in range(3000)]
    text = page(many)
    assert len(text) < 1_000_000
    assert "2,502 rows left out" in text, "of 3,002 lines"
    assert text.count("<use ") < 2_000


def test_a_report_replaces_a_report_and_nothing_else() -> None:
    Path("mine.html").write_text("<p>mine</p>")
    answer = report(RIDE, "-o", "mine.html")
    assert answer.exit_code == 2
    assert answer.stderr == (
        "swell: mine.html: is there already, and no report of Swell's; name another by -o "
        "[SW6224]\n"
    )
    assert Path("mine.html").read_text() == "<p>mine</p>"
    for _ in range(2):
        again = CliRunner().invoke(app, ["report", "one", "-o", "r.html"])
        assert again.exit_code == 0, again.output
    assert sorted(path.name for path in Path().glob("*.html")) == ["mine.html", "r.html"]
    assert not [*Path().glob(".r.html*")]


def test_a_folder_that_is_not_there_is_named_as_it_was_asked_for() -> None:
    answer = report(RIDE, "-o", "nowhere/r.html")
    assert answer.exit_code == 1
    assert (
        answer.stderr == "swell: [Errno 2] No such file or directory: 'nowhere/r.html' [SW2022]\n"
    )


def test_of_a_traceback_the_paragraph_has_what_was_raised() -> None:
    reason = (
        "the program failed in rank 1\nTraceback (most recent call last):\n  File x\nKeyError: 3"
    )
    status = build_status("one", History(RIDE), [], Outcome("failed", reason, {}))
    assert "The reason: the program failed in rank 1: KeyError: 3. Of" in what_was_lost(status)
    status = build_status("one", History(RIDE), [], Outcome("failed", "one\ntwo", {}))
    assert "The reason: one two." in what_was_lost(status)


def test_a_percent_sign_does_not_stand_alone_in_a_line() -> None:
    assert "5&nbsp;%" in text_of("data wait 5 %")


def test_without_matplotlib_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ModuleNotFoundError(f"No module named '{name}'")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    answer = report(RIDE)
    assert answer.exit_code == 1
    assert "pip install 'swell[plots]' installs it [SW6223]" in answer.stderr
    assert not Path("one.html").exists()


def test_a_traceback_keeps_its_indentation() -> None:
    directory = record_run("one")
    directory.end("failed", "it raised\nTraceback:\n  File x\n\tvalue = 1\x1b[2J")
    answer = CliRunner().invoke(app, ["report", "one"])
    assert answer.exit_code == 0, answer.output
    text = Path("one.html").read_text(encoding="utf-8")
    assert "Traceback:\n  File x\n    value = 1\\u001b[2J</pre>" in text


def test_nothing_is_drawn_of_a_section_that_is_not_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    directory = record_run("one")
    events = [*BEGINS, trained(), ENDS]
    directory.store.write(Batch("leader-1", 0).name, encode(map(dumped, events)))
    drawn: list[str] = []

    def draw(*_: object) -> str:
        drawn.append("timeline")
        return "<svg></svg>"

    monkeypatch.setattr(charts, "timeline", draw)
    found = dict(sections(read(directory, ENDS["time"])))
    assert drawn == []
    assert "<h2>Configuration</h2>" in "".join(found["configuration"]) and drawn == []
    assert "The world over time" in "".join(found["world"]) and drawn == ["timeline"]
