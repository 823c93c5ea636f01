"""One run in the dashboard: its page, those of its replicas, and its logs."""

from __future__ import annotations

import math
import threading
import time
from contextlib import suppress
from typing import Any

from launcher import home
from launcher.dashboard.acts import Acts
from launcher.dashboard.live import Make, Publish
from launcher.dashboard.pages import Link, Pages, blocks, table
from launcher.logs.logline import shown
from launcher.logs.newest import Newest
from launcher.report import page
from launcher.report.charts import require_plots
from launcher.report.report import Known, Reporter, facts, sections, since
from launcher.report.track import Mark
from launcher.run_states import info_of
from launcher.status.status import live_of
from launcher.words import at_clock, count
from trainer.rundir.directory import RunDirectory

READ = ("lost", "configuration")  # sections without pictures
DRAWN = (
    "lost",
    "drawn",
    "world",
    "metrics",
    "rates",
    "ledger",
    "generations",
    "checkpoints",
    "slow",
    "configuration",
)
PARTS = ("trouble", "acts", "facts", "replicas", "events", *DRAWN)
REPLICA_PARTS = ("trouble", "acts", "replica", "events", "log")
LOG_PARTS = ("trouble", "log")
DRAW_EVERY = 5.0  # seconds between two drawings, at least
REDRAW = 30.0  # seconds after which a run that goes on is drawn again without news
FRESH = 0.5  # seconds for which what was read is not read again
EVENTS = 12  # of the newest that are shown
EVENT_HEAD = ("since start", "what happened", "kind", "replica", "local time")
LINES = 300  # of a log


class Watched:
    """A run that is looked at.

    Args:
        directory: the run's.
        pages: what makes addresses.
        acts: what may be done about runs.

    Attributes:
        names: of its replicas, as they were known last; nothing before that.
    """

    def __init__(self, directory: RunDirectory, pages: Pages, acts: Acts) -> None:
        self.directory = directory
        self.names: frozenset[str] = frozenset()
        self._pages = pages
        self._acts = acts
        self._lock = threading.RLock()  # what is known grows while it is read
        self._reporter: Reporter | None = None
        self._known: Known | None = None
        self._drawn: dict[str, str] = {}
        self._drawn_of: tuple[int, str] = (-1, "")  # how many events, and in which state
        self._drawn_at = -math.inf

    @property
    def pause(self) -> float:
        """Seconds between two looks: on an object store each of them is some requests."""
        return 1.0 if self.directory.store.is_local else 5.0

    def known(self) -> Known:
        """Returns what is known of the run. Raises OSError and ValueError."""
        with self._lock:
            now = time.time()
            if self._known is None or not 0 <= now - self._known.made_at < FRESH:
                self._reporter = self._reporter or Reporter(self.directory)
                self._known = self._reporter.read(now)
                self.names = frozenset(replicas(self._known))
            return self._known

    def make(self, publish: Publish) -> None:
        """Makes the run's page but for what is drawn. Raises OSError and ValueError."""
        with self._lock:
            known = self.known()
            run_id = str(known.status["run"])
            publish({"acts": self._actions(known), "facts": facts(known)})
            # What is read, not drawn, is of the same moment as the figures.
            publish({name: "".join(html) for name, html in sections(known) if name in READ})
            states = {
                name: (state, self._pages.to("runs", run_id, "replica", name=name))
                for name, state in replicas(known).items()
            }
            head = page.heading(2, count(len(states), "replica").capitalize()) if states else ""
            publish({"replicas": head + blocks(states)})
            newest = page.heading(2, "Newest events") + self._events(known, known.track.marks)
            publish({"events": newest})

    def replica(self, name: str) -> Make:
        """Returns what makes the page of a replica."""
        newest = Newest(self.directory, name, LINES)

        def make(publish: Publish) -> None:
            with self._lock:
                known = self.known()
                run_id = str(known.status["run"])
                told = [mark for mark in known.track.marks if mark.replica == name]
                publish(
                    {
                        "acts": _over(known) + self._acts.told(run_id),
                        "replica": self._replica(known, name),
                        "events": page.heading(2, "Its events") + self._events(known, told),
                    }
                )
            publish({"log": page.heading(2, "What it printed") + _log(newest, name)})

        return make

    def log(self) -> Make:
        """Returns what makes the page of the log of all replicas."""
        newest = Newest(self.directory, None, LINES)
        return lambda publish: publish({"log": _over(self.known()) + _log(newest, "all replicas")})

    def draw(self, publish: Publish) -> None:
        """Makes the rest of the run's page, if there is news. Raises as ``make`` does, and
        ReportError where nothing can draw."""
        known = self.known()
        state = str(known.status["state"])
        of = self._reporter.events if self._reporter else 0, state
        goes_on, ago = not info_of(state).ending, time.monotonic() - self._drawn_at
        publish(self._drawn)
        if ago < (DRAW_EVERY if of != self._drawn_of else REDRAW if goes_on else math.inf):
            return
        require_plots()
        for name, parts in sections(known):
            if name in READ:
                continue
            with self._lock:  # piece by piece: other pages need not wait for all of them
                self._drawn[name] = "".join(parts)
            publish({name: self._drawn[name]})
        at = f"The pictures, and what is below them, are of {at_clock(known.made_at)}."
        self._drawn["drawn"] = page.paragraph(at)
        publish(self._drawn)
        self._drawn_of, self._drawn_at = of, time.monotonic()

    def _actions(self, known: Known) -> str:
        run_id, state = str(known.status["run"]), str(known.status["state"])
        links = [Link("Logs", self._pages.to("runs", run_id, "logs"))]
        if not info_of(state).ending:
            links.append(Link("Cancel this run…", self._pages.to("runs", run_id, "cancel")))
        shown = " ".join(link.html for link in links)
        return f'<p class="acts">{shown}</p>' + _over(known) + self._acts.told(run_id)

    def _events(self, known: Known, marks: list[Mark]) -> str:
        run_id, clock = str(known.status["run"]), known.clock
        if not marks:
            return page.paragraph("Nothing has happened yet.")
        rows = [
            [
                since(clock, mark.time),
                mark.text,
                mark.kind,
                Link(mark.replica, self._pages.to("runs", run_id, "replica", name=mark.replica))
                if mark.replica
                else "",
                at_clock(mark.time),
            ]
            for mark in reversed(marks[-EVENTS:])
        ]
        return table("Events", EVENT_HEAD, rows)

    def _replica(self, known: Known, name: str) -> str:
        state = replicas(known).get(name)
        if state is None:
            return page.paragraph(f"The run has no replica {name}.")
        lives = [life for life in known.track.history.lives if life.replica == name]
        run_id, clock = str(known.status["run"]), known.clock

        def at(moment: Any) -> str:
            return "" if moment is None else since(clock, known.track.axis.at(moment))

        rows = [
            [
                str(life.attempt),
                at(life.began),
                at(life.ready),
                at(life.lost or life.left or (min(life.over) if life.over else None)),
                "lost" if life.lost else "left" if life.left else "over" if life.over else "",
            ]
            for life in lives
        ]
        head = ["attempt", "began, since start", "ready", "gone", "how"]
        shown = page.facts([("state", state), ("lives", str(len(lives)))])
        may = known.run.get("target") == "local" and not info_of(known.status["state"]).ending
        if may:
            to = self._pages.to("runs", run_id, "preempt", name=name)
            shown += f'<p class="acts">{Link("Take its VM away…", to).html}</p>'
        return shown + (page.table("Its lives", head, rows) if rows else "")


def _over(known: Known) -> str:
    """A mark, by which the page knows that nothing more is to come of its run."""
    return "<span data-over></span>" if info_of(str(known.status["state"])).ending else ""


def _log(newest: Newest, whose: str) -> str:
    """Returns the newest lines of a log. Raises ApiError and OSError."""
    newest.look()
    if newest.why or not newest.lines:
        return page.paragraph(newest.why or "Nothing was printed yet.")
    text = page.verbatim("\n".join(map(shown, newest.lines)), 200_000)
    above = f"The newest {LINES} lines; swell logs has {newest.left:,} before them."
    note = page.paragraph(above) if newest.left else ""
    label = page.text_of(f"The log of {whose}")
    attributes = f'class="log" tabindex="0" role="region" aria-label="{label}"'
    return note + text.replace("<pre>", f"<pre {attributes}>", 1)


def replicas(known: Known) -> dict[str, str]:
    """Returns the states of all replicas that there are to be, or are, by name, in order.

    Of a run that is over no machine is left.
    """
    members = known.track.history.members
    over = info_of(str(known.status["state"])).ending
    names: list[str] = []
    with suppress(home.RunError):  # another version's job: those that there are
        job = home.job_of(known.run)
        names = job.replicas()
        if job.is_fleet:
            jobs = [it["attempt"] for it in live_of(known.status["attempts"])]
            names = [f"{one}/{name}" for one in jobs for name in names]
    others = sorted(members.keys() - {*names})
    return {name: "away" if over else members.get(name, "away") for name in [*names, *others]}
