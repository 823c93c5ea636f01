"""What ``swell plan`` prints: a run's first request, and what its machines cost. Of a fleet it
shows one job, and says how many there are.

As JSON the request's text comes from ``customjob.serialise``, as that of the one that is sent does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from launcher.job import customjob
from launcher.job.customjob import CustomJob
from launcher.job.durations import format_duration
from launcher.job.job import Job
from launcher.job.machines import LOCAL, Machine
from launcher.packing.pack import Packed, summary
from launcher.plan import costs, jobs_of, quotas, world_sizes
from launcher.probed import Probed
from launcher.sightings import Sightings
from launcher.supervision.choices import choices_of
from launcher.supervision.limits import usd_per_hour
from launcher.supervision.preference import cheaper

if TYPE_CHECKING:
    from launcher.job.prices import PriceList

UNKNOWN = "unknown"
MOST_SEEN = 3
TRAFFIC = (
    "the run keeps its directory wherever it runs: in another region than the bucket's, its "
    "checkpoints are traffic between regions, which is slower and costs extra; checkpoint.buckets "
    "keeps them where they are written"
)

ACROSS = (
    "jobs of several regions form one world: the gradients of every step are traffic between "
    "regions, which costs extra, and each step is as slow as the slowest connection"
)


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


def notes(job: Job, prices: PriceList) -> Iterator[str]:
    """Yields what must be said beside the table: quotas, and what the prices are worth."""
    where = f" in {', '.join(job.regions)}" if job.regions else ""
    yield from _fleet(job, prices)
    if job.scheduling.strategy == "spot":
        for quota, count in quotas(job).items():
            yield f"needs the quota {quota} of at least {count}{where}"
    else:
        yield f"the strategy is {job.scheduling.strategy}: Spot prices do not apply"
    for machine in {pool.machine: prices.machines[pool.machine] for pool in job.pools}.values():
        yield from _remarks(machine)
    yield from _choices(job, prices)
    if job.controller:
        name = job.controller.machine
        usd = prices.controllers[name]
        yield f"looked after by a controller: {name}, on demand, {usd:.2f} $/h besides"
    yield f"prices: USD per hour, {prices.source}"


MOST_SIZES = 16  # of worlds, that are shown one by one


def units(job: Job, found: Mapping[str, Any]) -> str:
    """Returns how long workers wait in which worlds because units do not divide.

    Args:
        job: the job.
        found: what ``launcher.plan.ask_units`` says.
    """
    batch, unit, count = found["batch"], found["unit"], found["count"]
    if not unit:
        return "units: none, the task wants none\n"
    when = "" if found["decided"] else ", if its model needs units"
    head = f"units: {count} of {unit} samples in a step of {batch:,}{when}; "
    waits = {int(size): part for size, part in found["waits"].items()}
    sizes = world_sizes(job)
    if not waits:
        return f"{head}they divide in every world of {_range(sizes)}\n"
    worst = sorted(waits, key=lambda size: -waits[size])[:MOST_SIZES]
    shown = ", ".join(f"{size:,} ({waits[size]:.0%})" for size in sorted(worst))
    others = len(waits) - len(worst)
    more = f", and for less in {others} others" if others else ""
    return f"{head}of {_range(sizes)}, workers wait for units in worlds of {shown}{more}\n"


def _range(sizes: Sequence[int]) -> str:
    few, most = (f"{size:,}" for size in (sizes[0], sizes[-1]))
    return f"{most} workers" if few == most else f"{few} to {most} workers"


def _fleet(job: Job, prices: PriceList) -> Iterator[str]:
    """How many of the jobs there are at a time, and what they cost together."""
    fleet = job.fleet
    if fleet.jobs == 1:
        return
    total: float | None = 0.0
    for one, times in jobs_of(job):
        usd = usd_per_hour(one, prices)
        total = None if usd is None or total is None else total + times * usd
    price = "of unknown price" if total is None else f"{total:,.2f} $/h"
    anchors = f", {fleet.anchor} of them on demand and sent first" if fleet.anchor else ""
    yield f"up to {fleet.jobs} such jobs at a time, whose workers form one world{anchors}: {price}"
    if fleet.across_regions:
        yield ACROSS


def _choices(job: Job, prices: PriceList) -> Iterator[str]:
    """Where the run may run, in order, when there are several ways."""
    choices = choices_of(job, LOCAL)
    if len(choices) == 1:
        return
    yield "tries, in this order:"
    for number, choice in enumerate(choices, start=1):
        usd = usd_per_hour(choice.job, prices)
        price = "of unknown price" if usd is None else f"{usd:,.2f} $/h"
        after = timedelta(seconds=choice.after)
        when = f", when nothing has run for {format_duration(after)}" if after else ""
        yield f"  {number}. {choice.name}: {price}{when}"
    dear = any(cheaper(choices, choice.name) for choice in choices)
    if dear and job.is_fleet and job.resubmit.back is not None:
        often = format_duration(job.resubmit.back)
        yield f"  on demand it tries every {often} or so to get back to Spot, while it trains"
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


def table(
    job: Job,
    prices: PriceList,
    packed: Packed | None = None,
    probes: Mapping[str, Probed | None] = MappingProxyType({}),
    seen: Sequence[Sightings] = (),
) -> str:
    """Returns the pools, their GPUs and prices, the code, and what is known of where they run, as
    text for a terminal.

    Args:
        job: the job.
        prices: what machines cost.
        packed: the code that is sent.
        probes: the newest probe of each region, and None where there is none.
        seen: what runs have seen there, the newest first.
    """
    heading = (
        "pool", "machine", "replicas", "GPUs", "GPU", "Spot $/h", "on demand $/h", "saving",
    )  # fmt: skip
    rows = [heading] + [
        (
            cost.pool,
            cost.machine,
            str(cost.replicas),
            str(cost.gpus),
            cost.gpu,
            UNKNOWN if cost.spot is None else f"{cost.spot:,.2f}",
            UNKNOWN if cost.on_demand is None else f"{cost.on_demand:,.2f}",
            UNKNOWN if cost.saving is None else f"{cost.saving:.0%}",
        )
        for cost in costs(job, prices)
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
    known = [*_probes(job, probes), *(it.in_words() for it in seen[:MOST_SEEN])]
    return "\n".join([text, "", *notes(job, prices), *code, *known]) + "\n"


def _probes(job: Job, probes: Mapping[str, Probed | None]) -> Iterator[str]:
    yield from (probed.in_words() for probed in probes.values() if probed)
    unknown = [region for region, probed in probes.items() if probed is None]
    if unknown and job.is_fleet:
        yield (
            f"whether jobs reach each other in {', '.join(unknown)} is not known on this machine: "
            "swell doctor JOB --probe --target vertex finds out"
        )
