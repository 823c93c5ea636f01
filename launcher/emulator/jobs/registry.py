"""All CustomJobs that the emulator knows, kept in its state directory.

``<state>/jobs/<id>.json`` holds a job as the API answers it, ``<state>/running`` what is known of
those that run, ``<state>/vms`` what runs, ``<state>/logs`` what replicas printed,
``<state>/exchange.json`` how far the Spot market is. An emulator that is killed leaves its VMs
running; the next one on the same state goes on with them, and so with their jobs. One that is told
to stop takes them along: such jobs have failed (with the code UNAVAILABLE: another attempt may
succeed), as those have whose VMs cannot be had back. Jobs that were QUEUED go on waiting.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from launcher.emulator.jobs.injector import IncidentInjector
from launcher.emulator.jobs.job import Job
from launcher.emulator.jobs.lifecycle import UNAVAILABLE, Refused
from launcher.emulator.jobs.machines import Folders, Machines, VmOptions
from launcher.emulator.logs import timestamp, utc_now
from launcher.emulator.market import incidents
from launcher.emulator.market.exchange import Exchange
from launcher.emulator.resources import customjobs
from launcher.emulator.resources.customjobs import JobState, Json, state_of
from launcher.emulator.resources.errors import failed_precondition, invalid_argument, not_found
from launcher.emulator.vms.life import kill_all
from launcher.job.marketfile import Market
from trainer.rundir import clock
from trainer.rundir.private import make_private, write_private
from trainer.rundir.spare import spare_of

NAME = re.compile(r"projects/[^/]+/locations/[^/]+/customJobs/(\d+)")
GONE = "The emulator that ran this job was stopped, and its VMs with it."
LOST = "The emulator's record of this job is damaged."

log = logging.getLogger(__name__)


class Registry:
    """The jobs, by name.

    Args:
        state: the state directory, which is this process's; made if it is not there.
        market: the Spot market that all jobs share.
        new_id: returns the id of the next job, a number.
        clock: the time of day in seconds, for the market; see trainer.rundir.clock.
        vms: what the VMs are.

    Raises TraceError when a trace of the market cannot be read, and OSError when
    the directory cannot be used.
    """

    def __init__(
        self,
        state: Path,
        market: Market | None = None,
        new_id: Callable[[], int] = time.time_ns,
        clock: Callable[[], float] = clock.now,
        vms: VmOptions | None = None,
    ) -> None:
        self.logs = state / "logs"
        self._folders = Folders(self.logs, state / "installed", state / "vms")
        self._jobs_folder = state / "jobs"
        self._running_folder = state / "running"
        self._new_id = new_id
        self._vms = vms or VmOptions()
        self._last_id = 0
        self._records: dict[str, Json] = {}
        self._damaged: set[str] = set()  # ids of jobs whose records are
        self._running: dict[str, Job] = {}
        self._deleted: set[str] = set()
        # Jobs carry the secrets of their environment.
        for folder in (self._jobs_folder, self._running_folder, self.logs):
            make_private(folder)
        market = market or Market()
        self._incidents = incidents.from_file(market.incidents)
        self._exchange = Exchange(market, state / "exchange.json", clock)
        numbered = [path for path in self._jobs_folder.glob("*.json") if path.stem.isdecimal()]
        for path in sorted(numbered, key=lambda path: int(path.stem)):
            self._last_id = int(path.stem)
            if record := _read_record(path):
                self._records[record["name"]] = record
            else:
                log.error("%s is damaged: the job has failed, and its VMs are killed", path)
                self._damaged.add(path.stem)
                kill_all(self._folders.vms / path.stem)

    async def resume(self) -> None:
        """Goes on with the jobs of the last emulator that had not ended."""
        for record in self._records.values():
            if state_of(record).terminal:
                self._forget(record["name"])
            elif not await self._resumed(record):
                if state_of(record) is JobState.QUEUED:
                    self._start(record)
                else:
                    self._fail(record)

    async def _resumed(self, record: Json) -> bool:
        name = record["name"]
        if (kept := self._kept(name)) is None:
            await self._machines(record).close(0.0, asyncio.Event())
            return False
        job = self._job(record, kept["number"])
        try:
            job.resume(kept)
        except Exception as problem:  # whatever another version of Swell has kept
            log.error("%s cannot be resumed: %r", name, problem)
            await job.abandon()
            del self._running[name]
            return False
        return True

    def create(self, project: str, location: str, body: object) -> Json:
        """Starts the job that ``body`` describes. Returns it; ApiError if it is wrong."""
        job = customjobs.parse(body)
        self._last_id = max(self._new_id(), self._last_id + 1)
        record: Json = {
            "name": f"projects/{project}/locations/{location}/customJobs/{self._last_id}",
            **job,
            "state": JobState.QUEUED.wire_name,
        }
        record["createTime"] = record["updateTime"] = timestamp(utc_now())
        self._save(record)
        self._records[record["name"]] = record
        self._start(record)
        return record

    def _start(self, record: Json) -> None:
        self._job(record, self._exchange.next_number()).start()

    def _job(self, record: Json, number: int) -> Job:
        job = Job(
            record,
            number,
            self._machines(record),
            self._exchange,
            IncidentInjector(self._incidents, self._exchange, record),
            self._save_running,
        )
        self._running[record["name"]] = job
        return job

    def _machines(self, record: Json) -> Machines:
        return Machines(record, self._vms, self._folders)

    def get(self, name: str) -> Json:
        """Returns the job; ApiError when there is none of that name."""
        if record := self._records.get(name):
            return record
        found = NAME.fullmatch(name)
        if found and found[1] in self._damaged:
            failed = {"name": name, "jobSpec": {}, "state": JobState.FAILED.wire_name}
            return {**failed, "error": {"code": UNAVAILABLE, "message": LOST}}
        raise not_found(f"The CustomJob {name} does not exist.")

    def jobs(self, project: str, location: str) -> list[Json]:
        """Returns the jobs of a project in a location, newest first."""
        parent = f"projects/{project}/locations/{location}/customJobs/"
        return [job for name, job in reversed(self._records.items()) if name.startswith(parent)]

    def cancel(self, name: str) -> None:
        """Begins to cancel a job; ApiError when it has ended."""
        self._ask(name, Job.cancel)

    async def delete(self, name: str) -> None:
        """Kills what runs of a job and forgets it; its logs stay."""
        self.get(name)
        if running := self._running.get(name):
            await running.close(UNAVAILABLE, "The job was deleted.")
        self._running.pop(name, None)
        if self._records.pop(name, None):
            self._path(name).unlink(missing_ok=True)
            self._deleted.add(name)

    def require_deleted(self, name: str) -> None:
        """Raises ApiError when this emulator has not deleted a job of that name."""
        if name not in self._deleted:
            raise not_found(f"The deletion of {name} is not known.")

    def replicas(self, name: str) -> list[Json]:
        """Returns what is known of a job's replicas; nothing after the emulator was restarted."""
        self.get(name)
        running = self._running.get(name)
        return running.replicas() if running else []

    def preempt(self, name: str, replica: str, notice: timedelta | None) -> None:
        """Takes a replica's VM away; silently without ``notice``."""
        self._ask(name, lambda job: job.preempt(replica, notice), replica)

    def restore(self, name: str, replica: str) -> None:
        """Gives a replica's VM back."""
        self._ask(name, lambda job: job.restore(replica), replica)

    @property
    def busy(self) -> bool:
        """Whether any job has not ended."""
        return any(not job.state.terminal for job in self._running.values())

    def look_at_the_market(self) -> None:
        """Has the market look at its clock, which somebody may have set forward."""
        self._exchange.wake()

    async def close(self) -> None:
        """Kills everything that runs; jobs that had VMs and had not ended have failed."""
        await self._exchange.close()
        had_vms = [job for job in self._running.values() if not job.queued]
        await asyncio.gather(*(job.close(UNAVAILABLE, GONE) for job in had_vms))

    def _ask(self, name: str, request: Callable[[Job], None], replica: str | None = None) -> None:
        record = self.get(name)
        running = self._running.get(name)
        if running is None:
            raise failed_precondition(f"The job is in the final state {record['state']}.")
        if replica is not None and not running.replica(replica):
            raise not_found(f"The job has no replica {replica}.")
        try:
            request(running)
        except Refused as refusal:
            raise failed_precondition(str(refusal)) from None

    def _path(self, name: str) -> Path:
        return self._jobs_folder / f"{name.rpartition('/')[2]}.json"

    def _save_running(self, record: Json, kept: Json) -> None:
        name = record["name"]
        if not state_of(record).terminal:  # else its end counts, once it is on record
            # On a full disk, too: the next emulator starts none of its VMs again.
            write_private(self._kept_in(name), json.dumps(kept, indent=1), spare=True)
        self._save(record)
        if state_of(record).terminal:
            self._forget(name)

    def _kept(self, name: str) -> Json | None:
        try:
            kept = json.loads(self._kept_in(name).read_text())
        except (OSError, ValueError):
            return None
        return kept if isinstance(kept, dict) else None

    def _forget(self, name: str) -> None:
        kept = self._kept_in(name)
        for path in (kept, spare_of(kept)):
            path.unlink(missing_ok=True)

    def _kept_in(self, name: str) -> Path:
        return self._running_folder / f"{name.rpartition('/')[2]}.json"

    def _fail(self, record: Json) -> None:
        """Ends a job whose VMs are gone."""
        cancelled = state_of(record) is JobState.CANCELLING
        ended = JobState.CANCELLED if cancelled else JobState.FAILED
        record["state"] = ended.wire_name
        record["error"] = {"code": UNAVAILABLE, "message": GONE}
        record["endTime"] = record["updateTime"] = timestamp(utc_now())
        self._save(record)
        self._forget(record["name"])

    def _save(self, record: Json) -> None:
        write_private(self._path(record["name"]), json.dumps(record, indent=1))


def _read_record(path: Path) -> Json | None:
    """A job as it was kept; None when it is damaged, as after the machine has lost its power."""
    with suppress(ValueError, KeyError, TypeError):
        record: Json = json.loads(path.read_text())
        found = NAME.fullmatch(record["name"])
        state_of(record)
        return record if found and found[1] == path.stem else None
    return None


def job_name(project: str, location: str, job_id: str) -> str:
    """The resource name of a job; ApiError when it cannot be one."""
    name = f"projects/{project}/locations/{location}/customJobs/{job_id}"
    if not NAME.fullmatch(name):
        raise invalid_argument(f"{name} is not the name of a CustomJob.")
    return name
