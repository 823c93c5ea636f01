"""The dashboard's routes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from importlib import resources
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import (
    HTMLResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Route

from launcher.dashboard import overview, pages, watched
from launcher.dashboard.acts import Acts
from launcher.dashboard.guard import Guard, new_token
from launcher.dashboard.live import Live, Make, in_thread, trouble
from launcher.dashboard.overview import Overview
from launcher.dashboard.pages import Link, Pages
from launcher.dashboard.place import Place
from launcher.dashboard.planning import START, Planner
from launcher.dashboard.watched import Watched
from launcher.report import page
from trainer.rundir.usererror import Message

MISSING = "SW6297"  # the message about what the dashboard does not have
BAD_FORM = "SW6299"  # the message about a form that is not as it was sent out
BODY_LIMIT = 256 * 1024  # bytes
FIRST = 0.1  # seconds for which a page waits for its parts
OVERVIEW_PAUSE = 2.0
KEEP = 16  # pages that are kept with what was read for them
STATIC = {
    "dashboard.js": "text/javascript",
    "dashboard.css": "text/css",
    "icon.svg": "image/svg+xml",
}
NOTICES = {"5s": "with 5 seconds' notice", "30s": "with 30 seconds' notice", "": "without notice"}


class BadForm(HTTPException):
    """A form that no page of the dashboard would have sent."""


class Dashboard:
    """The application.

    Args:
        place: where its runs are.
        acts: what may be done about them.
        planner: plans jobs.

    Attributes:
        path: of its address: ``/TOKEN/``.
    """

    def __init__(self, place: Place, acts: Acts, planner: Planner) -> None:
        token = new_token()
        self.path = f"/{token}/"
        self._pages = Pages(f"/{token}", place.name)
        self._acts = acts
        self._planner = planner
        self._overview = Overview(place, self._pages)
        self._watched: dict[str, Watched] = {}
        self._lives: dict[tuple[str, ...], Live] = {}
        folder = resources.files("launcher.dashboard") / "static"
        self._static = {name: (folder / name).read_text("utf-8") for name in STATIC}
        self._static["dashboard.css"] = page.STYLE + self._static["dashboard.css"]
        routes = [
            Route("/", self.runs),
            Route("/live", self.live_runs),
            Route("/runs/{run}", self.run),
            Route("/runs/{run}/live", self.live_run),
            Route("/runs/{run}/replica", self.replica),
            Route("/runs/{run}/replica/live", self.live_replica),
            Route("/runs/{run}/logs", self.logs),
            Route("/runs/{run}/logs/live", self.live_logs),
            Route("/runs/{run}/cancel", self.cancel, methods=["GET", "POST"]),
            Route("/runs/{run}/preempt", self.preempt, methods=["GET", "POST"]),
            Route("/new", self.new, methods=["GET", "POST"]),
            Route("/static/{name}", self.static),
        ]
        handlers = {HTTPException: self._refused, Exception: self._failed}
        self.app = Guard(Starlette(routes=routes, exception_handlers=handlers), token)

    def close(self) -> None:
        """Ends all connections that wait for news."""
        for live in self._lives.values():
            live.close()

    # --- pages ------------------------------------------------------------------

    async def runs(self, request: Request) -> Response:
        """All runs."""
        live = self._live_of_runs()
        return await self._page("Runs", live, overview.PARTS, "runs", self._pages.to("live"))

    async def live_runs(self, request: Request) -> Response:
        """Their news."""
        return _stream(request, self._live_of_runs())

    async def run(self, request: Request) -> Response:
        """One run."""
        run_id, known = await self._run(request)
        to = self._pages.to("runs", run_id, "live")
        return await self._page(run_id, self._live_of(known, run_id), watched.PARTS, "facts", to)

    async def live_run(self, request: Request) -> Response:
        """Its news."""
        run_id, known = await self._run(request)
        return _stream(request, self._live_of(known, run_id))

    async def replica(self, request: Request) -> Response:
        """A replica of a run, with its log."""
        run_id, known, name = await self._replica(request)
        to = self._pages.to("runs", run_id, "replica", "live", name=name)
        live = self._live_of(known, run_id, "replica", name)
        trail = [self._trail(run_id)]
        return await self._page(name, live, watched.REPLICA_PARTS, "replica", to, trail)

    async def live_replica(self, request: Request) -> Response:
        """Its news."""
        run_id, known, name = await self._replica(request)
        return _stream(request, self._live_of(known, run_id, "replica", name))

    async def logs(self, request: Request) -> Response:
        """The log of a run."""
        run_id, known = await self._run(request)
        to = self._pages.to("runs", run_id, "logs", "live")
        live = self._live_of(known, run_id, "logs")
        title, trail = f"Logs of {run_id}", [self._trail(run_id)]
        return await self._page(title, live, watched.LOG_PARTS, "log", to, trail)

    async def live_logs(self, request: Request) -> Response:
        """Its news."""
        run_id, known = await self._run(request)
        return _stream(request, self._live_of(known, run_id, "logs"))

    # --- acts -------------------------------------------------------------------

    async def cancel(self, request: Request) -> Response:
        """Asks whether a run is to be cancelled; and cancels it, once that was said."""
        run_id, known = await self._run(request)
        if request.method == "POST":
            await _form(request)
            self._acts.cancel(run_id, known.directory)
            return self._back(run_id)
        body = page.paragraph(
            "The run ends, its VMs with it, from whatever machine it was launched. What it has "
            "saved stays: a new run can begin from its newest checkpoint."
        )
        return self._confirm(f"Cancel {run_id}?", run_id, body, "Cancel the run")

    async def preempt(self, request: Request) -> Response:
        """Asks how a VM is to be taken away; and does so."""
        run_id, known, name = await self._replica(request)
        if request.method == "POST":
            notice = (await _form(request)).get("notice", "5s")
            if notice not in NOTICES:
                raise BadForm(400, f"notice: is {notice[:20]!r}; choose one that the form has")
            self._acts.preempt(run_id, known.directory, name, notice or None)
            return self._back(run_id)
        choices = "".join(
            f'<p><label><input type="radio" name="notice" value="{value}"'
            f"{' checked' if value == '5s' else ''}> {page.text_of(text)}</label></p>"
            for value, text in NOTICES.items()
        )
        body = page.paragraph("Its VM is taken away, as the Spot market does, and comes back if "
                              "the job's market says so.")  # fmt: skip
        body += f"<fieldset><legend>How</legend>{choices}</fieldset>"
        return self._confirm(f"Take {name} away?", run_id, body, f"Take {name} away")

    def _confirm(self, title: str, run_id: str, body: str, act: str) -> Response:
        back = Link("No, go back", self._pages.to("runs", run_id)).html
        form = (
            f'<form method="post">{body}<p><button class="act">{page.text_of(act)}</button> {back}'
            "</p></form>"
        )
        return HTMLResponse(self._pages.document(title, form, [self._trail(run_id)]))

    def _back(self, run_id: str) -> Response:
        return RedirectResponse(self._pages.to("runs", run_id), 303)

    # --- a job ------------------------------------------------------------------

    async def new(self, request: Request) -> Response:
        """The form of a job, and its plan."""
        values: Mapping[str, str] = START if request.method == "GET" else await _form(request)
        plan = await in_thread(lambda: self._planner.plan(values))
        if request.query_params.get("part") == "plan":
            return HTMLResponse(plan)
        note = page.paragraph(
            "Nothing is launched or sent here. Save the job file, and start it with: "
            "swell launch job.yaml"
        )
        body = (
            f'{note}<form class="plan" method="post"><div>{self._planner.fields(values)}'
            "<p><button>Show the plan</button></p></div>"
            f'<section aria-label="Plan" aria-live="polite"><h2>Plan</h2>'
            f'<div id="plan">{plan}</div></section></form>'
        )
        return HTMLResponse(self._pages.document("Plan a job", body))

    async def static(self, request: Request) -> Response:
        """A file of the dashboard's own."""
        name = request.path_params["name"]
        if name not in STATIC:
            raise HTTPException(404, "there is no such file")
        return Response(self._static[name], media_type=STATIC[name])

    # --- what they share ----------------------------------------------------------

    async def _page(
        self,
        title: str,
        live: Live,
        names: tuple[str, ...],
        first: str,
        to: str,
        trail: list[Link] | None = None,
    ) -> Response:
        known = await live.parts(FIRST)
        address = f"{to}{'&' if '?' in to else '?'}since={live.version}"
        body = pages.parts(names, known, first)
        return HTMLResponse(self._pages.document(title, body, trail or (), address))

    def _trail(self, run_id: str) -> Link:
        return Link(run_id, self._pages.to("runs", run_id))

    async def _run(self, request: Request) -> tuple[str, Watched]:
        run_id = str(request.path_params["run"])
        if run_id not in self._watched:
            directory = await in_thread(lambda: self._overview.directory(run_id))
            if directory is None:
                raise HTTPException(404, f"there is no run {run_id[:80]} here")
            self._watched[run_id] = Watched(directory, self._pages, self._acts)
        return run_id, self._watched[run_id]

    async def _replica(self, request: Request) -> tuple[str, Watched, str]:
        run_id, known = await self._run(request)
        name = request.query_params.get("name", "")
        if not name:
            raise HTTPException(404, "no replica is named")
        if known.names and name not in known.names:  # a new one is known when the run is read
            await in_thread(known.known)
            if name not in known.names:
                raise HTTPException(404, f"{run_id} has no replica {name[:80]}")
        return run_id, known, name

    def _live_of_runs(self) -> Live:
        if () not in self._lives:
            self._lives[()] = Live(OVERVIEW_PAUSE, self._overview.make)
        return self._lives[()]

    def _live_of(self, known: Watched, run_id: str, kind: str = "run", name: str = "") -> Live:
        key = (run_id, kind, name)
        if key not in self._lives:
            makes: tuple[Make, ...] = (known.make, known.draw)
            if kind != "run":
                makes = (known.replica(name) if kind == "replica" else known.log(),)
            self._lives[key] = Live(known.pause, *makes)
            self._forget()
        return self._lives[key]

    def _forget(self) -> None:
        """Lets go of what nobody has looked at for longest, with what was read for it."""
        idle = sorted((one.used, key) for key, one in self._lives.items() if key and one.idle)
        for _, key in idle[: max(0, len(self._lives) - KEEP)]:
            del self._lives[key]
        used = {key[0] for key in self._lives if key}
        for run_id in self._watched.keys() - used:
            del self._watched[run_id]

    async def _refused(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        bad = isinstance(error, BadForm)
        title, says = ("Not taken", BAD_FORM) if bad else ("Not here", MISSING)
        body = self._pages.problem(title, str(Message(says, error.detail)))
        return HTMLResponse(body, error.status_code)

    async def _failed(self, request: Request, error: Exception) -> Response:
        body = self._pages.document("This cannot be shown", trouble(error))
        return HTMLResponse(body, 500)


def _stream(request: Request, live: Live) -> Response:
    """News of a live page as server-sent events, from the version on that the page has."""
    since = request.headers.get("last-event-id") or request.query_params.get("since", "")
    version = int(since) if since.isdecimal() and len(since) < 20 else 0

    async def events() -> AsyncIterator[str]:
        async for at, news in live.changes(version):
            yield f"id: {at}\nevent: parts\ndata: {json.dumps(news)}\n\n" if news else ": alive\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


async def _form(request: Request) -> dict[str, str]:
    """The fields of a form. Raises HTTPException for one that is too large."""
    data = b""
    async for chunk in request.stream():
        data += chunk
        if len(data) > BODY_LIMIT:
            raise BadForm(413, f"the form is too large; {BODY_LIMIT // 1024} KiB are taken")
    return dict(
        parse_qsl(data.decode(errors="replace"), keep_blank_values=True, max_num_fields=5000)
    )
