"""What does not fit together in a job: fields that are right by themselves, but not beside others.

Each check looks at a ``Written`` job and yields problems; a check that lacks a field because that
is wrong itself yields nothing, so that no problem is reported twice. The limits are Vertex AI's
unless a check says otherwise; docs/limits.md shows each with its message.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from launcher.job.code import Code
from launcher.job.fleet import Fleet
from launcher.job.machines import REGIONS
from launcher.job.model import valid, whole
from launcher.job.pool import MAX_PACKAGES, Container, Package, Pool, swells_own
from launcher.job.problem import (
    CONFLICT,
    COUNT,
    DEPENDS,
    MISSING,
    NO_EFFECT,
    NOT_SENT,
    ORDER,
    RESERVED,
    TWICE,
    Problem,
)
from launcher.job.scheduling import Scheduling
from launcher.job.torchrun import Torchrun

MAX_POOLS = 4
MAX_ENV = 100  # variables of a replica
OWN_ENV = 6  # of which Swell sets: see customjob
WAYS = ("task", "script", "module", "torchrun")
ARGS = "SW1113"  # args in the form of another kind of program
_REGIONAL = re.compile(r"projects/[^/]+/(?:locations|regions)/([^/]+)/.+")


class Written:
    """A job as it was written, wrong in places: its valid parts, and None or nothing for the rest.

    Args:
        fields: the job's fields, as written or as parts.
    """

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self._fields = fields
        pools = fields.get("pools")
        self.pools: list[Pool | None] = (
            [valid(Pool, pool) for pool in pools]
            if isinstance(pools, list | tuple) and len(pools) <= MAX_POOLS
            else []
        )

    def given(self, name: str) -> Any:
        """The field as it is there, or None."""
        return self._fields.get(name)

    def text(self, *names: str) -> str | None:
        """The text of a field, or of a field in a part (or its short form); None without."""
        at: Any = self._fields
        for name in names:
            inner = at.get(name) if isinstance(at, Mapping) else getattr(at, name, None)
            if inner is None and isinstance(at, str):
                inner = at
            at = inner
        return at if isinstance(at, str) else None

    @cached_property
    def strategy(self) -> str:
        """The scheduling strategy; empty when the scheduling is wrong."""
        given = self._fields.get("scheduling")
        if given is None:
            return "spot"
        scheduling = valid(Scheduling, given)
        return scheduling.strategy if scheduling else ""

    @cached_property
    def regions(self) -> list[str]:
        """The regions in order of preference."""
        regions = self._fields.get("regions", [])
        regions = [regions] if isinstance(regions, str) else regions
        return [str(r) for r in regions] if isinstance(regions, list | tuple) else []

    @cached_property
    def default(self) -> Container | Package | None:
        """What pools run that do not say what; None when that is wrong."""
        package, container = self.given("package"), self.given("container")
        if package is not None:
            return _package(package)
        return Container.model_construct() if container is None else _container(container)

    def runtime(self, pool: Pool) -> Container | Package | None:
        """What a pool runs; None when that is wrong."""
        return pool.package or pool.container or self.default

    @cached_property
    def torchrun(self) -> Torchrun | None:
        """How a script of torchrun's is run; None without one, and when it is wrong."""
        found: Torchrun | None = valid(Torchrun, self.given("torchrun"))
        return found

    @property
    def whole_pools(self) -> list[Pool] | None:
        """All pools, or None when one of them is wrong."""
        pools = [pool for pool in self.pools if pool is not None]
        return pools if pools and len(pools) == len(self.pools) else None


def _container(data: Any) -> Container | None:
    found: Container | None = valid(Container, data)
    return found


def _package(data: Any) -> Package | None:
    found: Package | None = valid(Package, data)
    return found


def clashes(written: Written) -> Iterator[Problem]:
    """Yields all that does not fit together in a job."""
    for check in _CHECKS:
        yield from check(written)


def _what_runs(written: Written) -> Iterator[Problem]:
    given = [name for name in WAYS if written.given(name) is not None]
    for name in given[1:]:
        what = f"stands beside {given[0]}; keep one of task, script, module and torchrun"
        yield (name,), CONFLICT, what
    if written.given("container") is not None and written.given("package") is not None:
        yield ("package",), CONFLICT, "stands beside container; keep one of them"
        return
    runtimes = [pool and written.runtime(pool) for pool in written.pools]
    agents = [runtime.starts_agent for runtime in runtimes if runtime]
    first = runtimes[0] if runtimes else None
    default = written.default
    if not given:
        if any(agents) or (not agents and default is not None and default.starts_agent):
            yield (
                ("task",),
                MISSING,
                "is missing; write task: module:Class, torchrun: FILE.py, script: FILE.py or "
                "module: NAME, or a container with a command",
            )
    elif first and not first.starts_agent:
        pool = written.pools[0]
        own = pool is not None and (pool.container is not None or pool.package is not None)
        kind, what = (
            ("package", "module") if isinstance(first, Package) else ("container", "command")
        )
        yield (
            ("pools", 0, kind, what) if own else (kind, what),
            "SW1112",
            f"does not start swell-agent, which runs the {given[0]} in the first pool; "
            f"remove it, or remove {given[0]}",
        )


def _code(written: Written) -> Iterator[Problem]:
    code = written.given("code")
    own = [pool.package if pool else None for pool in written.pools]
    packages: list[tuple[tuple[str | int, ...], Any]] = [
        (("package",), valid(Package, written.given("package"))),
        *((("pools", index, "package"), package) for index, package in enumerate(own)),
    ]
    for at, package in packages:
        if package and not package.uris and code is None:
            what = "has 0 entries; write at least 1, or send your own with code"
            yield (*at, "uris"), COUNT, what
        elif package and not package.starts_agent and len(package.uris) == MAX_PACKAGES and code:
            what = f"has {MAX_PACKAGES} entries beside the code; write fewer"
            yield (*at, "uris"), COUNT, what
    if not isinstance(code, Code):
        return
    task = written.given("task")
    files = {
        "script": written.given("script"),
        "task": task and task.rpartition(":")[0],
        "torchrun": written.text("torchrun", "script"),
    }
    for field, file in files.items():
        if isinstance(file, str) and file.endswith(".py") and code.inside(file) is None:
            inside = Path(code.folder, Path(file).name)
            what = f"{file} is not in the code folder; name one that is, as {inside}"
            yield (field,), NOT_SENT, what
    runtimes = [pool and written.runtime(pool) for pool in written.pools]
    known = [runtime for runtime in runtimes if runtime]
    if known and not any(isinstance(r, Package) or r.starts_agent for r in known):
        what = "reaches no replica: no pool runs swell-agent or a package; remove it"
        yield ("code",), NO_EFFECT, what


def _own_names(written: Written) -> Iterator[Problem]:
    """Python finds Swell's own packages before an image's of the same names."""
    task = written.text("task")
    names = {
        "module": written.text("module"),
        "task": task and task.rpartition(":")[0],
        "torchrun": written.text("torchrun", "module") if written.torchrun else None,
    }
    for field, name in names.items():
        top = swells_own(name or "")
        if name and top and not (field == "task" and name.startswith("trainer.tasks.")):
            yield (
                (field,),
                RESERVED,
                f"is in {top}, which on the VMs is Swell's own package; give yours another name",
            )


def _args_fit(written: Written) -> Iterator[Problem]:
    args = written.given("args")
    given = [name for name in WAYS if written.given(name) is not None]
    if not args or len(given) > 1:
        return
    if not given:
        what = "belongs to a task, script or module; write container.args"
        yield ("args",), DEPENDS, what
    elif given == ["torchrun"]:
        yield ("args",), DEPENDS, "belongs to a task, script or module; write torchrun.args"
    elif given == ["task"] and isinstance(args, list | tuple):
        yield ("args",), ARGS, "is a list; a task takes a mapping, as in args: {epochs: 3}"
    elif given != ["task"] and isinstance(args, Mapping):
        what = f"is a mapping; a {given[0]} takes a list, as in args: [--epochs, '3']"
        yield ("args",), ARGS, what


def _first_pool(written: Written) -> Iterator[Problem]:
    first = written.pools[0] if written.pools else None
    if first and first.replicas != 1:
        yield (
            ("pools", 0, "replicas"),
            "SW1109",
            f"is {first.replicas}; the first pool has exactly 1, put the others in a second",
        )


def _workers(written: Written) -> Iterator[Problem]:
    """Swell's own limit: a world is no larger than its slots."""
    pools = written.whole_pools
    if pools is None:
        return
    runtimes = [(pool, written.runtime(pool)) for pool in pools]
    if any(runtime is None for _, runtime in runtimes):
        return
    slots = sum(pool.workers for pool, runtime in runtimes if runtime and runtime.starts_agent)
    jobs = _jobs(written)
    whose = "the pools have" if jobs == 1 else f"{jobs} jobs of these pools have"
    for name in ("min_workers", "max_workers"):
        count = whole(written.given("elastic"), name, None)
        if slots and count and count > slots * jobs:
            yield (
                ("elastic", name),
                "SW1110",
                f"is {count}; {whose} {slots * jobs} slots, write at most {slots * jobs}",
            )


def _jobs(written: Written) -> int:
    """How many CustomJobs the run has at a time; 1 where that is not written as it should be."""
    fleet = written.given("fleet")
    if isinstance(fleet, Fleet):
        return fleet.jobs
    return (fleet if type(fleet) is int else whole(fleet, "jobs", 1)) or 1


def _fleet(written: Written) -> Iterator[Problem]:
    """Swell's own limits: what only a run of one CustomJob can be."""
    jobs = _jobs(written)
    if jobs == 1:
        return
    most = whole(written.given("limits"), "attempts", None)
    if most and most < jobs:
        what = f"is {most}, and the fleet begins with {jobs}; write at least that"
        yield ("limits", "attempts"), ORDER, what
    fleet = written.given("fleet")
    anchors = fleet.anchor if isinstance(fleet, Fleet) else whole(fleet, "anchor", 0)
    for pool in (written.whole_pools or []) if anchors else []:
        if not pool.machine_type.standard:
            what = f"needs machines on demand, and {pool.machine} is to be had with spot and "
            yield ("fleet", "anchor"), "SW1107", f"{what}flex_start only; remove it"
            return


def _sizes(written: Written) -> Iterator[Problem]:
    """Swell's own limit: a torchrun script's worlds are made of whole replicas."""
    torchrun, pools = written.torchrun, written.whole_pools
    if torchrun is None or pools is None:
        return
    runtimes = [(pool, written.runtime(pool)) for pool in pools]
    if any(runtime is None for _, runtime in runtimes):
        return
    possible = {0}
    for pool, runtime in runtimes:
        if runtime and runtime.starts_agent:
            each = pool.workers // pool.replicas
            most = pool.replicas * _jobs(written)
            possible = {n + each * k for n in possible for k in range(most + 1)}
    full = whole(written.given("elastic"), "max_workers", None) or max(possible)
    least = whole(written.given("elastic"), "min_workers", 1) or 1
    for index, size in enumerate(torchrun.sizes or []):
        if size not in possible:
            what = f"is {size}; {_possible(size, possible)}"
            yield ("torchrun", "sizes", index), "SW1120", what
    if torchrun.sizes is None and full not in possible and full <= max(possible):
        what = f"is {full}; {_possible(full, possible)}, or write torchrun.sizes"
        yield ("elastic", "max_workers"), "SW1120", what
    if torchrun.sizes and not any(least <= size <= full for size in torchrun.sizes):
        what = f"has none from {least} to {full}, the bounds in elastic; write one"
        yield ("torchrun", "sizes"), ORDER, what


def _possible(size: int, possible: set[int]) -> str:
    """What whole replicas give instead of ``size``."""
    below = max((n for n in possible if 0 < n < size), default=None)
    above = min((n for n in possible if n > size), default=None)
    near = " or ".join(str(n) for n in (below, above) if n is not None)
    return f"whole replicas give {near}"


def _no_use_to_torchrun(written: Written) -> Iterator[Problem]:
    if written.torchrun is None:
        return
    elastic = written.given("elastic")
    balance = written.text("elastic", "balance") if not isinstance(elastic, str) else None
    for loc, is_set in (
        (("audit",), written.given("audit") is True),
        (("checkpoint",), bool(written.given("checkpoint"))),
        (("elastic", "balance"), balance == "speed"),
        (("elastic", "replace_stragglers"), bool(_part(elastic, "replace_stragglers"))),
    ):
        if is_set:
            yield loc, NO_EFFECT, "is nothing that a torchrun script knows of; remove it"


def _part(part: Any, name: str) -> Any:
    """A field of a part of the job, in either form of it."""
    return part.get(name) if isinstance(part, Mapping) else getattr(part, name, None)


def _environment(written: Written) -> Iterator[Problem]:
    most, job = MAX_ENV - OWN_ENV, written.given("env")
    common = set(job) if isinstance(job, Mapping) else set()
    why = f"a replica takes {MAX_ENV} and Swell sets {OWN_ENV}; write at most {most}"
    if len(common) > most:
        yield ("env",), COUNT, f"has {len(common)} variables; {why}"
        return
    for index, pool in enumerate(written.pools):
        count = len(common.union(pool.env)) if pool else 0
        if count > most:
            what = f"has {count} variables with the job's; {why}"
            yield ("pools", index, "env"), COUNT, what


def _regions(written: Written) -> Iterator[Problem]:
    machines = {pool.machine: pool.machine_type for pool in written.pools if pool}
    for index, region in enumerate(written.regions):
        if region not in REGIONS:
            continue  # said already
        if region in written.regions[:index]:
            yield ("regions", index), TWICE, f"{region} is written twice; keep one"
            continue
        for name, machine in machines.items():
            offered = machine.accelerator.regions
            if region not in offered:
                yield (
                    ("regions", index),
                    "SW1103",
                    f"{region} has no {name} for training; choose of {', '.join(offered)}",
                )


def _strategy(written: Written) -> Iterator[Problem]:
    strategy, first = written.strategy, None
    for index, pool in enumerate(written.pools):
        if pool is None or not strategy:
            continue
        machine = pool.machine_type
        reserved = pool.reservation is not None and pool.reservation.affinity != "none"
        if reserved and not machine.standard:
            yield (
                ("pools", index, "reservation"),
                "SW1106",
                f"{pool.machine} cannot be reserved; remove this",
            )
        elif reserved and strategy != "standard":
            yield (
                ("pools", index, "reservation"),
                "SW1106",
                f"{strategy} machines are never reserved ones; "
                "remove this, or write scheduling: standard",
            )
        if strategy == "standard" and not machine.standard:
            yield (
                ("pools", index, "machine"),
                "SW1107",
                f"{pool.machine} is to be had with spot and flex_start only; "
                "change the strategy or the machine",
            )
        first = first or pool
        if strategy == "flex_start" and pool.machine != first.machine:
            yield (
                ("pools", index, "machine"),
                "SW1108",
                f"is {pool.machine}; flex_start needs equal pools, write {first.machine} in all",
            )


def _networks(written: Written) -> Iterator[Problem]:
    network = written.given("network") is not None
    if network and written.given("psc_interface") is not None:
        yield ("psc_interface",), CONFLICT, "stands beside network; keep one of them"
    if written.given("reserved_ip_ranges") and not network:
        yield ("reserved_ip_ranges",), DEPENDS, "belongs to network; add that or remove this"


def _tracking(written: Written) -> Iterator[Problem]:
    both = [name for name in ("tensorboard", "experiment") if written.given(name) is not None]
    if len(both) == 2:
        yield (
            ("experiment",),
            CONFLICT,
            "stands beside tensorboard; keep one (an experiment has a TensorBoard of its own)",
        )
    elif both and written.given("service_account") is None:
        yield ("service_account",), MISSING, f"is missing; {both[0]} needs one"


def _locations(written: Written) -> Iterator[Problem]:
    for name, *inner in (["encryption_key"], ["tensorboard"], ["psc_interface", "attachment"]):
        match = _REGIONAL.fullmatch(written.text(name, *inner) or "")
        others = [region for region in written.regions if match and region != match.group(1)]
        if match and others:
            yield (
                (name,),
                "SW1114",
                f"is in {match.group(1)}, and regions has {others[0]}; both must be one region",
            )


_CHECKS: tuple[Callable[[Written], Iterator[Problem]], ...] = (
    _what_runs,
    _code,
    _own_names,
    _args_fit,
    _first_pool,
    _workers,
    _fleet,
    _sizes,
    _no_use_to_torchrun,
    _environment,
    _regions,
    _strategy,
    _networks,
    _tracking,
    _locations,
)
