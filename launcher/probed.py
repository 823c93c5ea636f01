"""What a probe has found out about where jobs run, and when: ``SWELL_HOME/probes/ID.json``.

``swell doctor JOB --probe`` writes it; ``swell plan`` and ``swell launch`` read the newest of the
same API, project, region and network. What is not known is None. Beside what is judged here, the
file has the VMs' reports as they were (see trainer.probe).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, field, replace
from pathlib import Path
from typing import Any

from pydantic.dataclasses import dataclass

from launcher.job.job import Job
from launcher.job.machines import LOCAL
from launcher.job.marketfile import whole_market
from launcher.records import STRICT, read_record
from launcher.words import one_line
from trainer.rundir.private import make_private, write_private
from trainer.rundir.untrusted import parse_json
from trainer.rundir.usererror import Message

FOLDER = "probes"
JOBS = 2
APART = "SW1034"  # the warning that jobs did not reach each other
UNREAD = "SW1035"  # the warning that replicas did not understand where they are
LIMIT = 2**20  # bytes of a file

_KEYS = frozenset({"cluster", "environment", "task", "job", "open_ports"})


@dataclass(frozen=True, config=STRICT)
class Probed:
    """One probe.

    Attributes:
        id: of the probe.
        at: when, in Unix seconds.
        by: who asked for it.
        endpoint: base URL of the API; "local" for the local target.
        project, region, network: where.
        machine, image: on what.
        reached: whether VMs of the two jobs reached each other.
        latency: there and back, in seconds; of both directions the longer.
        bandwidth: of one connection, in bytes per second; of both directions the lower.
        why: why they did not.
        names: whether each could look up the other's host name.
        spec_read: whether Swell's agent understands CLUSTER_SPEC.
        spec_forms: how that differs from the documented form, in words.
        metadata: whether the metadata server answers in a container.
        notice: whether it says there if the VM is to be preempted.
    """

    id: str = ""
    at: float = 0.0
    by: str = ""
    endpoint: str = ""
    project: str = ""
    region: str = ""
    network: str = ""
    machine: str = ""
    image: str = ""
    reached: bool | None = None
    latency: float | None = None
    bandwidth: float | None = None
    why: str = ""
    names: bool | None = None
    spec_read: bool | None = None
    spec_forms: list[str] = field(default_factory=list)
    metadata: bool | None = None
    notice: bool | None = None

    @property
    def day(self) -> str:
        """The local date of it."""
        return time.strftime("%Y-%m-%d", time.localtime(self.at))

    def keep(self, home: Path, reports: Sequence[Mapping[str, Any]]) -> Path:
        """Writes it, with the reports that it comes from. Returns the file; raises OSError."""
        path = home / FOLDER / f"{self.id}.json"
        make_private(path.parent)
        write_private(path, json.dumps({**asdict(self), "reports": [*reports]}, indent=2))
        return path

    def in_words(self) -> str:
        """What it has found, in a line."""
        found = []
        if self.reached is not None:
            found.append("VMs of two jobs do not reach each other")
        if self.reached and self.latency is not None and self.bandwidth is not None:
            ways = f"{self.latency * 1000:.2f} ms, {self.bandwidth / 1e9:.2f} GB/s"
            found[0] = f"VMs of two jobs reach each other ({ways})"
        if self.spec_read is not None:
            forms = ", ".join(self.spec_forms)
            found.append(f"CLUSTER_SPEC is {'' if self.spec_read else 'not '}read")
            found[-1] += f" ({forms})" if forms else ""
        if self.metadata is not None:
            tells = "tells of a preemption" if self.notice else "tells of no preemption"
            found.append(f"the metadata server {tells if self.metadata else 'does not answer'}")
        return f"probed on {self.day} in {self.region}: {'; '.join(found) or 'nothing was found'}"


def network_of(job: Job, endpoint: str) -> str:
    """Returns the network that a job's VMs are in there; empty for none of the user's."""
    if endpoint == LOCAL:
        isolated = whole_market(job.local.market).isolated
        return f"{job.local.vm}, isolated" if isolated else job.local.vm
    return job.network or (job.psc_interface.attachment if job.psc_interface else "")


def newest(home: Path, job: Job, endpoint: str, region: str) -> Probed | None:
    """Returns the newest probe of where a job would run there; None if there is none."""
    where = (endpoint, job.project or "", region, network_of(job, endpoint))
    found = (it for it in _all(home) if (it.endpoint, it.project, it.region, it.network) == where)
    return max(found, key=lambda it: it.at, default=None)


def _all(home: Path) -> Iterator[Probed]:
    for path in sorted((home / FOLDER).glob("*.json")):
        with suppress(OSError, ValueError):
            if path.stat().st_size <= LIMIT:
                record = parse_json(path.read_bytes())
                yield read_record(Probed, record if isinstance(record, dict) else {})


def cautions(job: Job, probed: Probed | None) -> list[Message]:
    """Returns what a probe has found that will keep a run of this job from going well."""
    found = []
    if probed and probed.reached is False and job.is_fleet:
        what = f"fleet: VMs of two jobs did not reach each other in {probed.region}"
        remedy = "mend the network's firewall or the attachment, then swell doctor JOB --probe"
        found.append(Message(APART, f"{what}, probed on {probed.day} ({probed.why}); {remedy}"))
    if probed and probed.spec_read is False:
        what = f"CLUSTER_SPEC in {probed.region} is not of a form that this version reads"
        remedy = f"update Swell, or report it with {FOLDER}/{probed.id}.json"
        found.append(Message(UNREAD, f"{what}, probed on {probed.day}; {remedy}"))
    return found


def judged(blank: Probed, reports: Sequence[Mapping[str, Any]]) -> Probed:
    """Returns what the reports of a probe come to.

    Args:
        blank: where it was, and when.
        reports: as trainer.probe writes them; of each VM one. What is not of that form says
            nothing.
    """
    return replace(blank, **_reach(reports), **_spec(reports), **_metadata(reports))


def _reach(reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    tried = [peer for report in reports for peer in _dicts(report.get("peers"))]
    if not tried:
        return {}
    failed = [str(peer["failed"]) for peer in tried if peer.get("failed")]
    if failed:
        found: dict[str, Any] = {"reached": False, "why": one_line(failed[0])}
    else:
        latencies = [it["latency"] for it in tried if type(it.get("latency")) is float]
        bandwidths = [it["bandwidth"] for it in tried if type(it.get("bandwidth")) is float]
        both = len(tried) >= JOBS and len(latencies) == len(bandwidths) == len(tried)
        if not both:  # one of them has not told
            return {}
        found = {"reached": True, "latency": max(latencies), "bandwidth": min(bandwidths)}
    return {**found, "names": all(bool(peer.get("leads_to")) for peer in tried)}


def _spec(reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    shapes = _dicts([report.get("cluster_spec") for report in reports])
    if not shapes:
        return {}
    forms = list(dict.fromkeys(form for shape in shapes for form in _forms(shape)))
    return {"spec_read": not any(shape.get("error") for shape in shapes), "spec_forms": forms}


def _forms(shape: Mapping[str, Any]) -> Iterator[str]:
    if not shape.get("given"):
        yield "there is none"
        return
    if shape.get("error"):
        yield one_line(str(shape["error"]))
    if shape.get("job") in ("object", "absent"):
        yield "job is an object" if shape["job"] == "object" else "job is missing"
    if shape.get("open_ports") is None:
        yield "open_ports is missing"
    task, pools = shape.get("task"), shape.get("pools")
    if isinstance(task, list) and "trial" in task:
        yield "task has a trial"
    if isinstance(pools, dict):
        strange = [name for name in pools if not str(name).startswith("workerpool")]
        if strange:
            yield f"the primary is called {one_line(str(strange[0]), 40)}"
    keys = shape.get("keys")
    more = sorted({*map(str, keys)} - _KEYS) if isinstance(keys, list) else []
    if more:
        yield f"it also has {one_line(', '.join(more), 80)}"


def _metadata(reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    said = _dicts([report.get("metadata") for report in reports])
    if not said:
        return {}
    values = _dicts([one.get("values") for one in said])
    notice = all(isinstance(one.get("instance/preempted"), str) for one in values)
    answers = all(one.get("answers") is True for one in said)
    return {"metadata": answers, "notice": answers and bool(values) and notice}


def _dicts(value: object) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
