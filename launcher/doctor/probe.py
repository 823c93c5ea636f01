"""``swell doctor JOB --probe``: two small jobs find out what nobody could verify about a target.

Two CustomJobs of one VM each, of the cheapest machine that Spot has there, with the job's own
image, network and account, run ``python -m trainer.probe``. What they report is judged and kept
with its date (launcher.probed). They cost what those VMs cost until they have reported, and no more
than LIMIT of it: that is the timeout of each, should nobody be there to cancel them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from launcher.api.apierror import ApiError
from launcher.api.vertex import JobState
from launcher.job import customjob
from launcher.job.durations import format_duration
from launcher.job.job import Job, TargetName
from launcher.job.machines import LOCAL
from launcher.job.marketfile import whole_market
from launcher.job.pool import Container
from launcher.job.prices import PriceList
from launcher.probed import JOBS
from launcher.target import Target
from launcher.words import one_line
from trainer.rundir.directory import RunDirectory
from trainer.rundir.names import ENV_PROBE, REPORTS

MODULE = "trainer.probe"
LIMIT = timedelta(minutes=15)  # for which either VM is paid for at the most
PATIENCE = 1800.0  # seconds that the jobs get to find machines and to report
ENDING = 60.0  # seconds that they get to end then
_KEPT = (
    "project",
    "output",
    "labels",
    "service_account",
    "network",
    "reserved_ip_ranges",
    "psc_interface",
    "encryption_key",
)


@dataclass(frozen=True)
class Offer:
    """What a probe would be.

    Attributes:
        job: what either of the two CustomJobs is.
        region: where they go.
        machine: what either VM is.
        usd: what both cost at the most, by estimate; None where that is not known, and 0 for VMs
            of this machine.
    """

    job: Job
    region: str
    machine: str
    usd: float | None

    def __str__(self) -> str:
        jobs = f"{JOBS} Spot jobs of one {self.machine} each"
        if self.usd == 0:
            return f"{jobs}, emulated here: they cost nothing"
        cost = "their price is not known" if self.usd is None else f"{self.usd:.2f} USD at most"
        limit = f"{format_duration(LIMIT)} each at most"
        return f"{jobs} in {self.region}, for {limit}: {cost}, by estimate"


def offer(job: Job, target: TargetName, prices: PriceList) -> Offer:
    """Returns what a probe for a job would be."""
    region = LOCAL if target == "local" else job.regions[0]
    machine = cheapest(prices, region, job.pools[0].machine)
    price, usd = prices.machines[machine].spot, None
    if target == "local":
        usd = 0.0
    elif price is not None and not price.gpus_only:
        usd = JOBS * LIMIT.total_seconds() / 3600 * price.usd_per_hour
    return Offer(_job(job, region, machine, target), region, machine, usd)


def cheapest(prices: PriceList, region: str, otherwise: str) -> str:
    """Returns the machine of one GPU or more whose Spot price there is the lowest."""
    there = [
        (machine.spot.usd_per_hour, name)
        for name, machine in prices.machines.items()
        if machine.spot is not None
        and not machine.spot.gpus_only
        and (region == LOCAL or region in machine.accelerator.regions)
    ]
    return min(there)[1] if there else otherwise


def _job(job: Job, region: str, machine: str, target: TargetName) -> Job:
    runtime = job.runtime(job.pools[0])
    known = job.to_dict()
    fields: dict[str, Any] = {name: known[name] for name in _KEPT if name in known}
    if isinstance(runtime, Container):
        fields["container"] = {"image": runtime.image, "command": ["python", "-m", MODULE]}
    else:
        uris = list(runtime.uris)
        fields["package"] = {"executor": runtime.executor, "uris": uris, "module": MODULE}
    if target == "local":
        isolated = whole_market(job.local.market).isolated
        local = {"vm": job.local.vm, "market": {"isolated": isolated}}
        memory = {"memory": str(job.local.memory)} if job.local.memory else {}
        fields["local"] = {**local, **memory}
    return Job.model_validate(
        {
            **fields,
            "name": "probe",
            "pools": [machine],
            "regions": [] if target == "local" else [region],
            "scheduling": {"strategy": "spot", "disable_retries": True},
            "timeout": format_duration(LIMIT),
        }
    )


def request(offer: Offer, probe_id: str, number: int, url: str, key: str) -> customjob.CustomJob:
    """Returns one of the CustomJobs.

    Args:
        offer: what they are.
        probe_id: which probe's; it is a label of theirs.
        number: 1 or 2.
        url: of the folder of the reports.
        key: the secret that they share.
    """
    made = customjob.build(
        offer.job, run_id=probe_id, run_dir=url, token="", attempt=number, region=offer.region
    )
    for pool in made["jobSpec"]["workerPoolSpecs"]:
        spec = pool.get("containerSpec") or pool["pythonPackageSpec"]
        spec["env"].append({"name": ENV_PROBE, "value": key})
    return made


class Probing:
    """The two jobs, from the first request until neither is left.

    Args:
        target: where they go.
        region: in which of its regions.
        folder: of their reports.
        say: called with each line about how far they are.
        clock: monotonic seconds.
        sleep: waits for so many seconds.

    Attributes:
        reports: what has been reported, by whatever VM.
        failed: why not all of it was; empty if it was.
        left: the names of CustomJobs that may go on, and cost.
    """

    def __init__(
        self,
        target: Target,
        region: str,
        folder: RunDirectory,
        say: Callable[[str], object] = lambda line: None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self.reports: list[dict[str, Any]] = []
        self.failed = ""
        self.left: list[str] = []
        self._api, self._poll = target.api(region), target.poll
        self._folder = folder
        self._say, self._clock, self._sleep = say, clock, sleep
        self._told: dict[str, str] = {}

    def run(self, requests: Sequence[customjob.CustomJob]) -> None:
        """Sees them through. Raises ApiError and OSError; what was sent is cancelled whatever
        happens."""
        try:
            for one in requests:
                job = self._api.submit(one)
                self.left.append(job.name)
                self._tell(job)
            self._watch()
        finally:
            self._end()

    def _watch(self) -> None:
        until = self._clock() + PATIENCE
        while True:
            states = [self._api.get(name) for name in self.left]
            for job in states:
                self._tell(job)
            self.reports = self._read()
            if sum(bool(report.get("peers")) for report in self.reports) >= JOBS:
                return
            over = [job for job in states if job.ended]
            if over and (self._missing(over) or len(over) == len(states)):
                self.failed = f"{over[0].name} ended {over[0].state} before it had reported"
                if over[0].reason:
                    self.failed += f": {one_line(over[0].reason)}"
                return
            if self._clock() >= until:
                waiting = [f"{job.name} is {job.state}" for job in states if not job.ended]
                self.failed = f"after {PATIENCE / 60:.0f} min {' and '.join(waiting)}"
                return
            self._sleep(self._poll)

    def _missing(self, over: Sequence[JobState]) -> bool:
        """Whether one that is over has reported nothing, or has failed: the other waits in vain."""
        return any(job.state != "SUCCEEDED" for job in over) or len(self.reports) < len(over)

    def _read(self) -> list[dict[str, Any]]:
        found = []
        for name in self._folder.store.names(REPORTS):
            with suppress(ValueError):
                if (report := self._folder.find_json(f"{REPORTS}/{name}")) is not None:
                    found.append(report)
        return found

    def _tell(self, job: JobState) -> None:
        if self._told.get(job.name) != job.state:
            self._told[job.name] = job.state
            self._say(f"{job.name}: {job.state.lower()}")

    def _end(self) -> None:
        """Waits for their ends; cancels them unless they have just reported."""
        until = self._clock() + ENDING
        cancelled = False
        while self.left and self._clock() < until + ENDING:
            if not cancelled and (self.failed or len(self.reports) < JOBS or self._clock() > until):
                for name in self.left:
                    with suppress(ApiError):  # it has ended, or is asked again below
                        self._api.cancel(name)
                cancelled = True
            with suppress(ApiError):
                for name in [*self.left]:
                    job = self._api.get(name)
                    self._tell(job)
                    if job.ended:
                        self.left.remove(name)
            if self.left:
                self._sleep(self._poll)
