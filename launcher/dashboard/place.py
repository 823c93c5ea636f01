"""Where the runs are that a dashboard shows: what this machine knows, a directory or bucket, or a
project."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from launcher import home
from launcher.api.apierror import ApiError
from launcher.api.vertex import Jobs, JobState, runs_among
from trainer.rundir.directory import RunDirectory
from trainer.rundir.names import RUN
from trainer.rundir.store import Store
from trainer.rundir.usererror import Message, shown

TWICE = "SW6294"  # the message about two run directories of one id
MOST = 2000  # folders of a place that are looked into

Report = Callable[[str], None]


class PlaceError(home.RunError):
    """A place in which there can be no runs."""


class Place:
    """What a dashboard was asked to show.

    Args:
        url: a directory or a folder of a bucket; None for the runs that this machine knows.
        apis: of a project, one for each region: whose runs are shown, too.

    Raises PlaceError when there is no such directory.
    """

    def __init__(self, url: str | None, apis: Sequence[Jobs] = ()) -> None:
        self._apis = apis
        self._jobs: dict[str, Sequence[JobState]] = {}  # of each API, as they were known last
        self._url = None
        self._known: dict[str, str] = {}  # run directories that were found, with their runs' ids
        if url is not None:
            self._url = url.rstrip("/") if "://" in url else str(Path(url).absolute())
            if "://" not in self._url and not Path(self._url).is_dir():
                raise PlaceError(
                    "SW6291", f"{url}: is no directory; name one in which run directories are"
                )

    @property
    def name(self) -> str:
        """What the place is called."""
        found = [self._url or ""] if self._url else []
        found += [api.parent for api in self._apis]
        return ", ".join(found) or "this machine"

    def runs(self, report: Report) -> dict[str, str]:
        """Returns the URLs of the run directories in it, by the runs' ids.

        Args:
            report: called with a line for each run that is not shown, and for each region that
                does not answer: its runs are those that were known.

        Raises OSError, and ValueError where its store cannot be had.
        """
        found = {}
        if self._url is not None:
            found = self._in_folder(self._url, report)
        elif not self._apis:
            found = home.urls()
        for api in self._apis:
            try:
                self._jobs[api.parent] = api.find()
            except ApiError as error:  # the others may answer
                report(shown(error))
        for run_id, job in runs_among(job for jobs in self._jobs.values() for job in jobs).items():
            if job.output and run_id not in found:
                found[run_id] = job.output
        return found

    def _in_folder(self, place: str, report: Report) -> dict[str, str]:
        known = {run_id: url for run_id, url in home.urls().items() if _is_in(url, place)}
        store = self._store(place, known)
        if store.exists(RUN):
            folders = [""]
        else:
            folders = store.names()
            folders += [
                f"runs/{name}" for name in (store.names("runs") if "runs" in folders else ())
            ]
        if len(folders) > MOST:
            says = (
                f"{place}: has {len(folders):,} folders, of which {MOST:,} are looked into; name "
            )
            report(str(Message("SW6298", f"{says}one with fewer")))
        urls = [f"{store.url}/{name}".rstrip("/") for name in folders[:MOST]]
        new = [url for url in urls if url not in {*self._known, *known.values()}]

        def look(url: str) -> tuple[str, str] | None:
            inside = RunDirectory(url, store.fs)
            try:
                if not inside.store.exists(RUN):
                    return None
                return url, str(home.read_run(inside)["id"])
            except (OSError, ValueError) as error:
                report(str(Message(home.UNREADABLE, f"{url}: cannot be read: {error}")))
                return None

        self._known.update(filter(None, store.each(look, new)))
        for url in (url for url in urls if url in self._known):
            run_id = self._known[url]
            if known.setdefault(run_id, url) != url:
                says = f"{url}: is of run {run_id}, as {known[run_id]} is; it is not shown"
                report(str(Message(TWICE, says)))
        return known

    def _store(self, place: str, known: dict[str, str]) -> Store:
        """The place's files; buckets that are emulated here are opened as their runs are."""
        for url in known.values():
            if "://" in place:
                return Store(place, home.open_directory(url).store.fs)
        return Store(place)


def _is_in(url: str, place: str) -> bool:
    return url == place or url.startswith(f"{place}/")
