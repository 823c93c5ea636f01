"""Whoever looks after a run, put together: a launch, an attach, or the run's controller.

All of them have the same supervisor. What a run with controllers has besides is in ``duty``.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from launcher import home
from launcher.api.delivery import delivered
from launcher.api.vertex import own_endpoint
from launcher.draft import Draft
from launcher.job.controllerjob import build_controller
from launcher.job.customjob import CustomJob
from launcher.job.machines import LOCAL
from launcher.job.prices import load_prices
from launcher.lastwords import last_words
from launcher.status.history import History
from launcher.supervision.asked import Asked
from launcher.supervision.attempt import read_attempts
from launcher.supervision.attendance import Attendance, Attendant
from launcher.supervision.choices import Choice
from launcher.supervision.duty import Duty
from launcher.supervision.replacement import USUAL_TIMEOUT, Inside
from launcher.supervision.staff import Staff, Wish
from launcher.supervision.supervisor import Supervisor
from launcher.target import Target
from launcher.trust import trust_of
from trainer.rundir import clock
from trainer.rundir.attempts import ENDED
from trainer.rundir.directory import RunDirectory
from trainer.rundir.events import Event, EventReader, EventWriter, read_events


@dataclass(frozen=True)
class Oversight:
    """What looks after one run.

    Attributes:
        supervisor: sees it through.
        staff: its controllers; None for a run without.
        duty: what the supervisor asks whether it may act.
    """

    supervisor: Supervisor
    staff: Staff | None
    duty: Duty


def oversight_of(
    draft: Draft,
    target: Target,
    resources: ExitStack,
    *,
    listener: Callable[[Event], object],
    sleep: Callable[[float], object],
    own: int = 0,
) -> Oversight:
    """Puts together what looks after a run.

    Args:
        draft: the run, whose directory is there.
        target: where its CustomJobs go.
        resources: what is to be held until the run has ended.
        listener: called with each event that the supervisor writes.
        sleep: waits for so many seconds, or less.
        own: the number of the controller that this is; 0 for a launch.
    """
    directory = draft.directory
    deliveries = resources.enter_context(ExitStack())  # each until the run has ended

    def request(attempt: int, choice: Choice) -> CustomJob:
        others = [it for it in read_attempts(directory) if it["attempt"] != attempt]
        alone = all(it["state"] in ENDED for it in others)
        secret = home.issue_secret(directory, attempt, alone=alone)
        token = deliveries.enter_context(
            delivered(draft.job, secret, directory, target.secrets, target.token)
        )
        return draft.request(attempt, choice, token)

    world = _World(draft)
    attendance = Attendance(
        directory,
        Attendant(home.whoami(), own, every=target.beat),
        clock.now,
        time.monotonic,
    )
    staff = _staff_of(draft, target, deliveries, attendance, own)
    duty = Duty(
        attendance,
        staff,
        is_controller=own > 0,
        every=target.beat,
        wait=target.poll,
        ticks=time.monotonic,
    )
    terms = draft.terms(target.stop_grace, target.apart)
    supervisor = Supervisor(
        directory,
        Asked(
            directory,
            terms,
            draft.launched,
            lambda wanted: draft.terms(target.stop_grace, target.apart, wanted),
        ),
        target,
        request,
        steps=lambda attempt: (completed_steps(directory), None),
        unreached=world.unreached,
        last_words=partial(last_words, directory, draft.run_id),
        world=world.inside,
        duty=duty,
        listener=listener,
        sleep=sleep,
    )
    return Oversight(supervisor, staff, duty)


def _staff_of(
    draft: Draft, target: Target, deliveries: ExitStack, attendance: Attendance, own: int
) -> Staff | None:
    job, directory = draft.job, draft.directory
    if job.controller is None:
        return None
    trust = trust_of(draft.run_id, draft.webhook_url)

    def request(number: int, endpoint: str) -> CustomJob:
        assert trust is not None
        text = deliveries.enter_context(
            delivered(job, trust.text, directory, target.secrets, target.token)
        )
        return build_controller(
            job,
            run_id=draft.run_id,
            run_dir=directory.url,
            number=number,
            trust=text,
            endpoint="" if _is_vertex(endpoint, job.regions) else endpoint,
        )

    asked = job.controller
    wish = Wish(
        draft.run_id,
        tuple(job.regions or [LOCAL]),
        asked.machine,
        load_prices(home.folder()).controllers[asked.machine],
        (asked.timeout or USUAL_TIMEOUT).total_seconds(),
    )
    return Staff(
        directory,
        wish,
        target,
        request if trust is not None else None,
        attendance,
        EventWriter(directory, f"launcher-{secrets.token_hex(4)}", clock.now),
        clock.now,
        time.monotonic,
        own,
    )


def _is_vertex(endpoint: str, regions: Iterable[str]) -> bool:
    """Whether that is Vertex AI's own API, which a controller finds by itself."""
    return any(endpoint == own_endpoint(region, {}) for region in regions)


def completed_steps(directory: RunDirectory) -> int:
    """How many steps a run has completed. Raises OSError and ValueError as EventReader does."""
    return History(read_events(directory, brief=True)).step


class _World:
    """Which attempts of a fleet are in its world, and which are kept out, as its events say."""

    def __init__(self, draft: Draft) -> None:
        self._alone = not draft.job.is_fleet
        self._reader = EventReader(draft.directory, brief=True)
        self._history = History()

    def unreached(self) -> dict[int, str]:
        """See Supervisor. Raises OSError when the events cannot be read."""
        return self._read().unreached

    def inside(self) -> Inside:
        """See Supervisor. Raises OSError when the events cannot be read."""
        history = self._read()
        return Inside(history.inside, history.trains)

    def _read(self) -> History:
        if not self._alone:  # else there is nobody beside whom it would be
            for event in self._reader.read_new():
                self._history.add(event)
        return self._history
