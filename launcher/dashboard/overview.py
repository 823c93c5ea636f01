"""The runs of a place, as a table; of each only what is new is read."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from launcher import home
from launcher.dashboard.live import UNSHOWN, Publish
from launcher.dashboard.pages import Cell, Link, Pages, table
from launcher.dashboard.place import TWICE, Place
from launcher.report import page
from launcher.run_states import info_of
from launcher.status.attended import name_of
from launcher.status.history import History
from launcher.status.status import read_status
from launcher.words import count, number, part, step_in_words
from trainer.rundir.directory import RunDirectory
from trainer.rundir.events import EventReader
from trainer.rundir.numbers import number_in
from trainer.rundir.usererror import Message

PARTS = ("trouble", "unread", "runs")
READERS = 8  # run directories read at once
FIND_EVERY = 10.0  # seconds between two looks for new runs; of a project each is a request
HEAD = ("run", "state", "step", "steps/s", "goodput", "target", "created", "looked after by")


class Row(NamedTuple):
    """A row of the table: the run, when it was created in Unix seconds, its state, and the rest."""

    run: str
    created: float
    state: str
    cells: list[str]


class Brief:
    """One run of the overview, which is not read any more once it is over.

    Args:
        directory: the run's.

    Raises RunError and OSError when it cannot be read.
    """

    def __init__(self, directory: RunDirectory) -> None:
        self.directory = directory
        self.run = home.read_run(directory)
        self._reader = EventReader(directory, brief=True)
        self._history = History()
        self._status: dict[str, Any] = {}

    def row(self) -> Row:
        """Returns its row. Raises OSError and ValueError."""
        if not info_of(str(self._status.get("state"))).ending:
            for event in self._reader.read_new():
                self._history.add(event)
            self._status = read_status(
                self.directory, audited=False, run=self.run, history=self._history
            )
        created = number_in(self.run.get("created")) or 0.0
        state = str(self._status["state"])
        return Row(str(self._status["run"]), created, state, _cells(self.run, self._status))


class Overview:
    """The runs of a place.

    Args:
        place: where they are.
        pages: what makes addresses.
    """

    def __init__(self, place: Place, pages: Pages) -> None:
        self._place = place
        self._pages = pages
        self._urls: dict[str, str] = {}
        self._unfound: list[str] = []
        self._found_at = -FIND_EVERY
        self._briefs: dict[str, Brief] = {}

    def find(self) -> dict[str, str]:
        """Returns the URLs of the run directories, by id, as of the last few seconds.

        Raises OSError and ValueError.
        """
        if time.monotonic() - self._found_at >= FIND_EVERY:
            unfound: list[str] = []
            self._urls = self._place.runs(unfound.append)
            self._unfound = unfound
            self._found_at = time.monotonic()
        return self._urls

    def directory(self, run_id: str) -> RunDirectory | None:
        """Returns a run's directory; None for a run that is not of this place."""
        if run_id not in self._urls:
            self._found_at = -FIND_EVERY
        url = self.find().get(run_id)
        return None if url is None else home.open_directory(url)

    def make(self, publish: Publish) -> None:
        """Makes the parts of the page; see launcher.dashboard.live. Raises as ``find`` does."""
        urls = self.find()
        for gone in self._briefs.keys() - urls.keys():
            del self._briefs[gone]
        with ThreadPoolExecutor(READERS) as readers:
            looked = [*readers.map(self._look, urls.items())]
        unread = [*self._unfound, *(one for one in looked if isinstance(one, str))]
        rows = [one for one in looked if not isinstance(one, str)]
        rows.sort(key=lambda row: (row.created, row.run), reverse=True)
        publish({"runs": self._table(rows), "unread": _unread(unread)})

    def _look(self, found: tuple[str, str]) -> Row | str:
        run_id, url = found
        try:
            known = self._briefs.get(run_id)
            if known is None or known.directory.url != url:
                known = self._briefs[run_id] = Brief(home.open_directory(url))
            if (own := home.id_of(known.run, known.directory)) != run_id:
                return str(Message(TWICE, f"{url}: is a copy of run {own}; it is not shown"))
            return known.row()
        except (OSError, ValueError, ImportError) as error:
            return str(Message(home.UNREADABLE, f"{run_id}: cannot be read: {error}"))
        except Exception as error:  # one run must not hide the others
            return str(Message(UNSHOWN, f"{run_id}: cannot be shown: {error!r}"))

    def _table(self, rows: list[Row]) -> str:
        if not rows:
            return page.paragraph("There are no runs here yet; start one with: swell launch JOB")
        told: list[list[Cell]] = [
            [Link(row.run, self._pages.to("runs", row.run)), row.state, *row.cells] for row in rows
        ]
        states = Counter(row.state for row in rows)
        tally = ", ".join(f"{many:,} {state}" for state, many in sorted(states.items()))
        return page.paragraph(f"{count(len(rows), 'run')}: {tally}") + table("Runs", HEAD, told)


def _cells(run: dict[str, Any], status: dict[str, Any]) -> list[str]:
    over, attended = info_of(status["state"]).ending, status["attended"]
    speed, ledger = status["speed"]["steps"], status["ledger"]
    goodput = None if status["goodput"] is None else ledger["goodput"]["there"]
    created = time.localtime(number_in(run.get("created")) or 0.0)
    return [
        "-"
        if status["steps_lost"] is None
        else step_in_words(status["step"], status["told_every"]),
        "-" if speed is None or over else number(speed),
        "-" if goodput is None else part(goodput),
        str(run.get("target")),
        time.strftime("%Y-%m-%d %H:%M", created),
        "-" if over or attended is None else ", ".join(map(name_of, attended)) or "nobody",
    ]


def _unread(lines: list[str]) -> str:
    if not lines:
        return ""
    told = "".join(f"<li>{page.text_of(line, 600)}</li>" for line in lines[:20])
    more = f"<li>… and {len(lines) - 20} more</li>" if len(lines) > 20 else ""
    return f'<div role="alert" class="alert"><ul>{told}{more}</ul></div>'
