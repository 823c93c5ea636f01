"""What is known of a run before it is launched: its first request, and what its machines cost."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from launcher import home
from launcher.job import customjob
from launcher.job.customjob import CustomJob
from launcher.job.job import Job
from launcher.job.machines import Price
from launcher.packing.pack import Packed
from launcher.packing.sdist import package_url

if TYPE_CHECKING:
    from launcher.job.prices import PriceList


def request_of(job: Job, run_id: str, packed: Packed | None = None) -> CustomJob:
    """Returns the request of the first attempt, as it is sent but for the run's token.

    Args:
        job: the job.
        run_id: the run's id, or what stands for it.
        packed: the code that it brings along.
    """
    url = home.directory_url(run_id, job.output)
    token = f"{job.token_secret}/versions/NEW" if job.token_secret else ""
    code = package_url(url, packed.sha256) if packed else ""
    region = job.regions[0] if job.regions else ""
    request = customjob.build(
        job.anchors() if job.fleet.anchor else job,  # those are sent first
        run_id=run_id,
        run_dir=url,
        token=token,
        attempt=1,
        code=code,
        checkpoints=home.checkpoint_urls(run_id, url, job.checkpoint.buckets, region),
    )
    return customjob.redacted(request)


@dataclass(frozen=True)
class PoolCost:
    """What one pool costs, or all of them: in USD per hour for all replicas, None if unknown."""

    pool: str
    machine: str
    replicas: int
    gpus: int
    gpu: str
    spot: float | None
    on_demand: float | None

    @property
    def saving(self) -> float | None:
        """The part of the on-demand price that Spot saves."""
        if self.spot is None or not self.on_demand:
            return None
        return 1 - self.spot / self.on_demand


def costs(job: Job, prices: PriceList) -> list[PoolCost]:
    """Returns what each pool of ``job`` costs, and their total if there are several."""
    found = []
    for index, pool in enumerate(job.pools):
        machine = prices.machines[pool.machine]
        found.append(
            PoolCost(
                f"workerpool{index}",
                machine.name,
                pool.replicas,
                pool.replicas * machine.gpus,
                f"{machine.accelerator.name} {machine.accelerator.memory_gb} GB",
                _times(pool.replicas, machine.spot),
                _times(pool.replicas, machine.on_demand),
            )
        )
    if len(found) == 1:
        return found
    total = PoolCost(
        "total",
        "",
        sum(cost.replicas for cost in found),
        sum(cost.gpus for cost in found),
        "",
        _sum([cost.spot for cost in found]),
        _sum([cost.on_demand for cost in found]),
    )
    return [*found, total]


def quotas(job: Job) -> dict[str, int]:
    """Returns how many GPUs all jobs need of each quota, by the name of the quota's metric."""
    need: dict[str, int] = {}
    for one, times in jobs_of(job):
        for pool in one.pools:
            metric = pool.machine_type.accelerator.spot_quota
            if one.scheduling.strategy == "standard":
                metric = metric.replace("_preemptible_", "_")
            gpus = times * pool.replicas * pool.machine_type.gpus
            need[metric] = need.get(metric, 0) + gpus
    return need


def world_sizes(job: Job) -> list[int]:
    """Returns how many workers a world of the run may have: those of any of its replicas."""
    sizes = {0}
    for pool in job.pools:
        if job.starts_agent(pool):
            for _ in range(pool.replicas * job.fleet.jobs):
                sizes |= {min(size + pool.workers, job.max_workers) for size in sizes}
    return sorted(size for size in sizes if size >= job.elastic.min_workers)


def ask_units(job: Job) -> dict[str, Any]:
    """Returns how the batch of the job's task is cut; see trainer.check.units.

    The task is made for it, from the files of this machine.

    Raises CalledProcessError when that fails; why is on standard error by then.
    """
    program = job.settings()["program"]
    # In a process of its own: the launcher is without torch.
    line = [sys.executable, "-m", "trainer.check.units", program["task"]]
    line += ["--args", json.dumps(program["task_args"]), "--sizes", json.dumps(world_sizes(job))]
    folder = job.code.folder if job.code else None
    asked = subprocess.run(line, cwd=folder, stdout=subprocess.PIPE, text=True, check=True)
    units: dict[str, Any] = json.loads(asked.stdout.splitlines()[-1])  # after what the task prints
    return units


def jobs_of(job: Job) -> list[tuple[Job, int]]:
    """Returns the jobs that a run begins with, and how many there are of each: anchors first."""
    fleet = job.fleet
    anchors = [(job.anchors(), fleet.anchor)] if fleet.anchor else []
    others = [(job, fleet.jobs - fleet.anchor)] if fleet.jobs > fleet.anchor else []
    return anchors + others


def _times(count: int, price: Price | None) -> float | None:
    return None if price is None else count * price.usd_per_hour


def _sum(prices: list[float | None]) -> float | None:
    known = [price for price in prices if price is not None]
    return sum(known) if len(known) == len(prices) else None
