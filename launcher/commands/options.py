"""Arguments and options that several commands have, and what they may be."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer


class Target(str, Enum):
    """Where a run runs."""

    local = "local"
    vertex = "vertex"


class Vm(str, Enum):
    """What a VM of the local target is."""

    process = "process"
    netns = "netns"
    container = "container"


class Strategy(str, Enum):
    """How Vertex AI finds machines for a CustomJob."""

    spot = "spot"
    standard = "standard"
    flex_start = "flex_start"


class Format(str, Enum):
    """How a plan is printed."""

    table = "table"
    json = "json"
    yaml = "yaml"
    curl = "curl"
    files = "files"


def run_ids(incomplete: str) -> list[str]:
    """The ids of this machine's runs that begin so, for a shell that completes one."""
    from launcher import home

    return [it for it in home.urls() if it.startswith(incomplete)]


def other_run_ids(ctx: typer.Context, incomplete: str) -> list[str]:
    """The same for a command that takes several, without those that stand there already."""
    named = {it for given in ctx.params.values() if isinstance(given, list | tuple) for it in given}
    return [it for it in run_ids(incomplete) if it not in named]


JobPath = Annotated[str, typer.Argument(metavar="JOB", help="The job file, in YAML.")]
RunName = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="A run's id, a unique beginning of it, or its run directory.",
        autocompletion=run_ids,
    ),
]
TargetOption = Annotated[
    Target, typer.Option(help="local: VMs emulated on this machine; vertex: Vertex AI.")
]
RunId = Annotated[str | None, typer.Option("--run-id", help="The run's id; else one is made.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=VALUE", help="Replace a field: --set pools.1.replicas=7."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for other programs.")]
