"""What ``swell plan`` prints: the request of a run's first attempt, and what it would cost.

The request's text comes from ``customjob.serialise``, as the one that is sent does; only the
run's token, which a plan does not have, is replaced.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from launcher import home
from launcher.job import customjob
from launcher.job.customjob import CustomJob
from launcher.job.durations import format_duration
from launcher.job.machines import Machine, Price
from launcher.job.spec import Job
from launcher.packing.pack import Packed, summary
from launcher.packing.sdist import package_url
from launcher.supervision.choices import choices_of
from launcher.supervision.limits import usd_per_hour

if TYPE_CHECKING:
    from launcher.job.prices import PriceList

UNKNOWN = "unknown"
TRAFFIC = (
    "the run keeps its directory wherever it runs: in another region than the bucket's, its "
    "checkpoints are traffic between regions, which is slower and costs extra; checkpoint.buckets "
    "keeps them where they are written"
)


def request_of(job: Job, run_id: str, packed: Packed | None = None) -> CustomJob:
    """Returns the request of the first attempt, without its token.

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
        job,
        run_id=run_id,
        run_dir=url,
        token=token,
        attempt=1,
        code=code,
        checkpoints=home.checkpoint_urls(run_id, url, job.checkpoint.buckets, region),
    )
    return customjob.redacted(request)


def files(packed: Packed) -> str:
    """Returns the files that are sent, each with its size, and what they are together."""
    lines = [f"{len(file.data):>12,}  {file.name}" for file in packed.files]
    return "\n".join([*lines, "", summary(packed)]) + "\n"


def as_yaml(request: CustomJob) -> str:
    """Returns the request as YAML."""
    import yaml

    text: str = yaml.safe_dump(request, sort_keys=False, allow_unicode=True)
    return text


def as_curl(request: CustomJob, project: str, region: str) -> str:
    """Returns the shell command that sends the request to Vertex AI."""
    url = (
        f"https://{region}-aiplatform.googleapis.com/v1"
        f"/projects/{project}/locations/{region}/customJobs"
    )
    # No line of JSON can be the delimiter, and in quotes it keeps the shell out of the text.
    return (
        "curl --fail-with-body --request POST \\\n"
        '  --header "Authorization: Bearer $(gcloud auth print-access-token)" \\\n'
        '  --header "Content-Type: application/json; charset=utf-8" \\\n'
        "  --data-binary @- \\\n"
        f"  '{url}' <<'END_OF_REQUEST'\n"
        f"{customjob.serialise(request)}END_OF_REQUEST\n"
    )


@dataclass(frozen=True)
class Line:
    """One pool in the table. Prices are those of all its replicas in USD per hour."""

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


def lines(job: Job, prices: PriceList) -> list[Line]:
    """Returns the pools of ``job`` with what they cost, and their total if there are several."""
    found = []
    for index, pool in enumerate(job.pools):
        machine = prices.machines[pool.machine]
        found.append(
            Line(
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
    total = Line(
        "total",
        "",
        sum(line.replicas for line in found),
        sum(line.gpus for line in found),
        "",
        _sum([line.spot for line in found]),
        _sum([line.on_demand for line in found]),
    )
    return [*found, total]


def notes(job: Job, prices: PriceList) -> Iterator[str]:
    """Yields what must be said beside the table: quotas, and what the prices are worth."""
    where = f" in {', '.join(job.regions)}" if job.regions else ""
    if job.scheduling.strategy == "spot":
        quotas: dict[str, int] = {}
        for pool in job.pools:
            gpu = pool.machine_type.accelerator
            quotas[gpu.spot_quota] = (
                quotas.get(gpu.spot_quota, 0) + pool.replicas * pool.machine_type.gpus
            )
        for quota, count in quotas.items():
            yield f"needs the quota {quota} of at least {count}{where}"
    else:
        yield f"the strategy is {job.scheduling.strategy}: Spot prices do not apply"
    for machine in {pool.machine: prices.machines[pool.machine] for pool in job.pools}.values():
        yield from _remarks(machine)
    yield from _choices(job, prices)
    yield f"prices: USD per hour, {prices.source}"


def _choices(job: Job, prices: PriceList) -> Iterator[str]:
    """Where the run may run, in order, when there are several ways."""
    choices = choices_of(job, customjob.LOCAL)
    if len(choices) == 1:
        return
    yield "tries, in this order:"
    for number, choice in enumerate(choices, start=1):
        usd = usd_per_hour(choice.job, prices)
        price = "of unknown price" if usd is None else f"{usd:,.2f} $/h"
        after = timedelta(seconds=choice.after)
        when = f", when nothing has run for {format_duration(after)}" if after else ""
        yield f"  {number}. {choice.name}: {price}{when}"
    if len({choice.region for choice in choices} - {*job.checkpoint.buckets}) > 1:
        yield TRAFFIC


def _remarks(machine: Machine) -> Iterator[str]:
    for kind, price in (("Spot", machine.spot), ("on-demand", machine.on_demand)):
        if price is None:
            yield f"the {kind} price of {machine.name} is unknown"
        elif price.gpus_only:
            yield f"the {kind} price of {machine.name} is that of its GPUs alone"
        elif price.region not in ("", "us-central1"):
            yield f"the {kind} price of {machine.name} is that of {price.region}"


def _times(count: int, price: Price | None) -> float | None:
    return None if price is None else count * price.usd_per_hour


def _sum(prices: list[float | None]) -> float | None:
    known = [price for price in prices if price is not None]
    return sum(known) if len(known) == len(prices) else None


def table(job: Job, prices: PriceList, packed: Packed | None = None) -> str:
    """Returns the pools, their GPUs and prices, and the code, as text for a terminal."""
    heading = (
        "pool", "machine", "replicas", "GPUs", "GPU", "Spot $/h", "on demand $/h", "saving",
    )  # fmt: skip
    rows = [heading] + [
        (
            line.pool,
            line.machine,
            str(line.replicas),
            str(line.gpus),
            line.gpu,
            UNKNOWN if line.spot is None else f"{line.spot:,.2f}",
            UNKNOWN if line.on_demand is None else f"{line.on_demand:,.2f}",
            UNKNOWN if line.saving is None else f"{line.saving:.0%}",
        )
        for line in lines(job, prices)
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    left = (0, 1, 4)
    text = "\n".join(
        "   ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
    code = [summary(packed)] if packed else []
    return "\n".join([text, "", *notes(job, prices), *code]) + "\n"
