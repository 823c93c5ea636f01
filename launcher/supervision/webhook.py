"""Tells a webhook of a run's end, of stockouts, failovers, stalls and what else it wants to hear.

A POST of JSON, which Slack takes as it is::

    text         what happened, in a line for people
    news         end | stockout | failover | stall | straggler | unattended | checkpoint |
                 goodput | cost
    run, url     the run's id, and its directory
    time         Unix seconds
    state, reason, metrics    of an end: as in outcome.json; the reason's first line
    attempt, region, reason   of a stockout and of a failover (the attempt that begins)
    over, since, until        of a stall: whether it is over; when it began; when it is over,
                              whatever comes, or was (null if it may last). Unix seconds
    waits_for, then           of one that is not over: what is waited for, and what comes after that
    over, since, …            of the others: see launcher.status.alerts

Nothing of this ever holds the run up or fails it: a thread sends, tries again what may pass, and at
the end of the run is waited for a few seconds at most. What could not be told becomes an event,
``notification_failed``. The URL is a secret: it is in no record, no log and no error.
"""

from __future__ import annotations

import json
import os
import queue
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from launcher.job.notify import Notify
from launcher.run_states import info_of
from launcher.words import one_line
from trainer.rundir import clock
from trainer.rundir.directory import RunDirectory
from trainer.rundir.events import Event, EventWriter
from trainer.rundir.numbers import named, numbers_in
from trainer.rundir.retry import Backoff
from trainer.rundir.usererror import UserError

PAUSES = Backoff(first=3.0, longest=12.0, limit=21.0, jitter=0.0)  # four tries in all
WAITING = 100  # messages; more than that are not kept for a webhook that does not take them
URL_LIMIT = 4096
# No events of the launcher's say these.
WATCHED = frozenset({"stall", "straggler", "unattended", "checkpoint", "goodput", "cost"})

Message = dict[str, Any]


class WebhookError(UserError, ValueError):
    """A webhook that is not where the job says; its text is without the URL."""


def find_url(notify: Notify, environment: Mapping[str, str] = os.environ) -> str:
    """Returns the webhook's URL. Raises WebhookError."""
    if notify.url_env:
        field, url = "notify.url_env", environment.get(notify.url_env, "")
        where = f"the variable {notify.url_env}"
    else:
        field, file = "notify.url_file", str(notify.url_file)
        where = f"the file {file}"
        try:
            with Path(file).open(errors="replace") as opened:
                url = opened.read(URL_LIMIT)
        except OSError as error:
            raise WebhookError(
                "SW2020", f"{field}: {where} cannot be read: {error.strerror}; name another"
            ) from None
    url = url.strip()
    if not url:
        raise WebhookError(
            "SW2020", f"{field}: {where} is missing or empty; put the webhook's URL there"
        )
    try:
        parts = urlsplit(url)
        right = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        right = False
    if not right or not url.isascii() or not url.isprintable() or " " in url:
        raise WebhookError(
            "SW2021", f"{field}: {where} does not hold an http:// or https:// URL; put one there"
        )
    return url


def message_of(event: Event) -> Message | None:
    """Returns what is worth telling of an event of the launcher's; None for other events.

    What is tried beside a job that trains on is none: the run does not wait for it.
    """
    if event.get("beside"):
        return None
    attempt, region, reason = (event.get(name) for name in ("attempt", "region", "reason"))
    why = f" ({one_line(str(reason))})" if reason else ""
    message: Message = {"attempt": attempt, "region": region}
    if event["event"] == "stockout":
        text = f"no capacity in {region}{why}"
        return {"text": text, "news": "stockout", **message, "reason": reason}
    if event["event"] == "attempt_started" and isinstance(attempt, int) and attempt > 1:
        return {"text": f"goes on in {region}, attempt {attempt}", "news": "failover", **message}
    return None


def end_message(outcome: Mapping[str, Any]) -> Message:
    """Returns what is told of a run's end, from outcome.json."""
    state, reason = str(outcome.get("state")), str(outcome.get("reason") or "")
    first = one_line(reason.strip().partition("\n")[0])
    why = f": {first}" if first and state != "succeeded" else ""
    return {
        "text": f"{info_of(state).ending or state}{why}",
        "news": "end",
        "state": state,
        "reason": first,
        "metrics": named(numbers_in(outcome.get("metrics"))),
    }


@dataclass(frozen=True)
class Patience:
    """How long a webhook is waited for.

    Attributes:
        timeout: seconds without an answer after which a try has failed.
        backoff: the waits before each further try.
        closing: seconds that the end of a run waits, at most, for what is still to be sent.
        looking: seconds between two looks at whether the run stands still.
    """

    timeout: float = 10.0
    backoff: Backoff = PAUSES
    closing: float = 15.0
    looking: float = 30.0


class Webhook:
    """A webhook that hears of one run for as long as the block lasts.

    Args:
        notify: what it wants to hear.
        url: where it is.
        run_id: the run.
        run_dir: its directory.
        patience: how long it is waited for.
        stalled: asked every now and then what else is to be told: that the run stands still.
        clock: returns Unix seconds.
        late: whether it may not have heard of the run's end, though that is on record.
    """

    def __init__(
        self,
        notify: Notify,
        url: str,
        run_id: str,
        run_dir: RunDirectory,
        patience: Patience = Patience(),
        stalled: Callable[[], list[Message]] = list,
        clock: Callable[[], float] = clock.now,
        late: bool = False,
    ) -> None:
        self._late = late
        self._on = notify.on
        self._url = url
        self._run_id = run_id
        self._run_dir = run_dir
        self._patience = patience
        self._clock = clock
        self._stalled = stalled
        self._events = EventWriter(run_dir, f"webhook-{os.urandom(4).hex()}", clock)
        self._queue: queue.Queue[Message | None] = queue.Queue(WAITING)
        self._hurry = threading.Event()
        self._telling = threading.Lock()  # of a failure: once
        self._over = False
        self._thread = threading.Thread(target=self._send_all, name="swell webhook", daemon=True)

    def __enter__(self) -> Webhook:
        self._over = self._outcome() is not None and not self._late
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        outcome = self._outcome()
        if outcome is not None and not self._over:
            self._put(end_message(outcome))
        with suppress(queue.Full):
            self._queue.put_nowait(None)
        self._thread.join(self._patience.closing)
        self._hurry.set()
        with self._telling:  # if it hangs in an answer, it ends with the process
            if self._thread.is_alive():
                self._failed("it did not take everything in time")

    def hear(self, event: Event) -> None:
        """Takes in an event of the run; never blocks and never fails."""
        message = message_of(event)
        if message is not None:
            self._put(message)

    def _put(self, message: Message) -> None:
        if message["news"] not in self._on:
            return
        who = {"run": self._run_id, "url": self._run_dir.url, "time": self._clock()}
        text = f"swell: run {self._run_id} {message['text']}"
        if message["news"] == "stockout":
            text = f"swell: run {self._run_id}: {message['text']}"
        with suppress(queue.Full):
            self._queue.put_nowait({**message, "text": text, **who})

    def _outcome(self) -> dict[str, Any] | None:
        with suppress(OSError, ValueError):
            return self._run_dir.outcome()
        return None

    def _send_all(self) -> None:
        looking = self._patience.looking if WATCHED.intersection(self._on) else None
        while True:
            try:
                message = self._queue.get(timeout=looking)
            except queue.Empty:
                with suppress(OSError, ValueError):  # the next look may tell
                    for message in self._stalled():
                        self._put(message)
                continue
            if message is None:
                return
            self._send(message)

    def _send(self, message: Message) -> None:
        why: str | None = None
        for wait in chain([0.0], self._patience.backoff.waits()):
            if self._hurry.wait(wait):
                return
            why, final = self._post(message)
            if why is None:
                return
            if final:
                break
        with self._telling:
            if not self._hurry.is_set():  # else that is what is told
                self._failed(str(why))

    def _post(self, message: Message) -> tuple[str | None, bool]:
        """Returns why it was not taken, or None, and whether that will not pass."""
        request = Request(
            self._url,
            json.dumps(message).encode(),
            {"Content-Type": "application/json", "User-Agent": "swell"},
        )
        try:
            with build_opener(_NoRedirects).open(request, timeout=self._patience.timeout):
                return None, True
        except HTTPError as error:
            error.close()
            return f"it answers HTTP {error.code}", error.code < 500 and error.code not in (
                408,
                429,
            )
        except (TimeoutError, URLError) as error:
            reason = error.reason if isinstance(error, URLError) else error
            if isinstance(reason, TimeoutError):
                return f"it does not answer within {self._patience.timeout:g} s", False
            said = getattr(reason, "strerror", None) or type(reason).__name__
            return f"it cannot be reached: {said}", False
        except (OSError, HTTPException, ValueError) as error:  # their words may have the URL
            return f"its answer is not HTTP ({type(error).__name__})", False

    def _failed(self, why: str) -> None:
        self._events.emit("notification_failed", reason=f"the webhook was not told: {why}")
        with suppress(OSError):
            self._events.flush()


class _NoRedirects(HTTPRedirectHandler):
    """A POST is not sent elsewhere: the URL is what the user trusts."""

    def redirect_request(self, *arguments: Any, **named: Any) -> None:
        return None
