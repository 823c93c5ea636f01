"""Writes the page about the `swell` command from the command itself.

    python docs/commands.py > docs/commands.md

tests/test_docs.py checks that the page is current.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from enum import Enum
from textwrap import fill
from typing import Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints

import typer
from typer.models import ArgumentInfo, OptionInfo

from launcher.cli import app
from launcher.commands.examples import EXAMPLES

WIDTH = 100

INTRODUCTION = """\
# Commands

<!-- Written by docs/commands.py: change it, or the commands' own help, and run it again. -->

`RUN` is a run's id, a unique beginning of it, or the URL of its run directory. With the URL, every
command that looks at a run or ends it works on any machine that can read the directory. `JOB` is a
[job file](job.md).
"""

ERRORS = "What is wrong goes to standard error, a line for each problem, with what to do about it."

# What the help has no room for.
NOTES = {
    "launch": "Ctrl-C cancels the run; a second one stops the local VMs at once, or leaves a run "
    "on Vertex AI while it is being cancelled. To leave a run going, start it with `--detach`. A "
    "reader that goes away (`| head`) or a terminal that hangs up ends no run and changes no exit "
    "code: after the latter the output goes on in `SWELL_HOME/runs/ID/local/launch.log`, and "
    "`swell status`, `logs` and `cancel` do as ever; `swell attach` goes on with the run if the "
    "launch itself has ended.",
    "attach": "Works after a crash of the launch, or SIGKILL, and on any machine that can read the "
    "run directory; a local run's VMs start on the machine that launched it, and nowhere else. "
    "[job.md](job.md#going-on) says what happens meanwhile.",
    "plan": "[job.md](job.md#the-plan) describes the formats.",
    "doctor": "For Vertex AI it looks at credentials, API, bucket, image, permissions and quota; "
    "for the local target at what this machine needs.",
    "status": "Step, generations, losses and pauses; on Vertex AI also what the API says.",
    "checkpoints": "[checkpoints.md](checkpoints.md) says what is in one.",
    "output": "[from-torchrun.md](from-torchrun.md#files-that-outlive-a-machine) has the folder.",
    "logs": "On Vertex AI they come from Cloud Logging. A line that begins with a level of its own "
    "(`WARNING:root: …`) is as bad as it says; any other is INFO if it went to stdout, and ERROR "
    "if it went to stderr. What is not wanted is left out on this machine, after it has come.",
    "profile": "[goodput.md](goodput.md#a-profile-of-some-steps) says what is seen.",
    "resize": "[failover.md](failover.md#machines-that-change-while-a-run-trains) says what "
    "happens, and which runs can be asked.",
    "move": "[failover.md](failover.md#machines-that-change-while-a-run-trains) says what "
    "happens, and which runs can be asked. What is left out stays as it is.",
    "preempt": "[local.md](local.md) has the market, which does the same by itself.",
    "explain": "It needs no network; [messages.md](messages.md) is what it reads. On a terminal, "
    "an error is followed by the line to type.",
    "completion": 'In zsh: `eval "$(swell completion zsh)"` after `compinit`. Where Swell is '
    "installed for a whole machine, under `/usr` or `/usr/local`, nothing has to be done; in a "
    "virtual environment bash-completion finds it from its version 2.12 on.",
    "new task": "[tasks.md](tasks.md) says what else a task can do.",
    "new script": "[scripts.md](scripts.md#a-loop-of-your-own) says what else a loop can do.",
    "new job": "[job.md](job.md) has all fields.",
    "image check": "[containers/README.md](../containers/README.md) says what an image needs.",
    "emulator": "`swell emulator stop RUN`, or `stop --state DIR`, ends one with its VMs. For curl "
    "and for Google's own client; [local.md](local.md#the-emulator-by-itself) "
    "has the options.",
}


class Parameter(NamedTuple):
    """An argument or an option of a command, as its signature declares it."""

    info: ArgumentInfo | OptionInfo
    name: str
    type: Any
    default: Any

    def usage(self) -> str:
        """How it is written: ``--target local|vertex``, ``JOB``."""
        if isinstance(self.info, ArgumentInfo):
            return self.info.metavar or self.name.upper()
        # In Annotated, typer takes an option's first name for its default.
        named = (self.info.default, *(self.info.param_decls or ()))
        names = [it for it in named if isinstance(it, str)] or [f"--{self.name.replace('_', '-')}"]
        metavar = self.info.metavar or self._values()
        return ", ".join(names) + (f" {metavar}" if metavar else "")

    def meaning(self) -> str:
        """What it is for, and what it is without being given."""
        default = self.default.value if isinstance(self.default, Enum) else None
        text = str(self.info.help or "")
        return f"{text} [default: {default}]" if default else text

    def _values(self) -> str:
        inner = next((t for t in get_args(self.type) if t is not type(None)), self.type)
        if inner is bool:
            return ""
        if isinstance(inner, type) and issubclass(inner, Enum):
            return "|".join(member.value for member in inner)
        return "N" if inner is int else "TEXT"


def parameters(command: Callable[..., Any]) -> Iterator[Parameter]:
    """Yields what a command takes, in the order of its signature."""
    hints = get_type_hints(command, include_extras=True)
    for name, parameter in inspect.signature(command).parameters.items():
        hint = hints[name]
        if get_origin(hint) is Annotated:
            kind, info = get_args(hint)[:2]
            yield Parameter(info, name, kind, parameter.default)


def commands(of: typer.Typer, prefix: str = "") -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yields all commands with their names, those of groups after the others."""
    for command in of.registered_commands:
        assert command.callback
        yield prefix + (command.name or command.callback.__name__), command.callback
    for group in of.registered_groups:
        assert group.typer_instance
        yield from commands(group.typer_instance, f"{prefix}{group.name} ")


def _paragraph(text: str) -> str:
    return fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


def page() -> str:
    """Returns the text of docs/commands.md."""
    rows, sections = [], []
    for name, command in commands(app):
        taken = list(parameters(command))
        words = [it.usage() for it in taken if isinstance(it.info, ArgumentInfo)]
        options = [it for it in taken if isinstance(it.info, OptionInfo)]
        usage = " ".join(["swell", name, *words])
        about = inspect.getdoc(command) or ""
        rows.append(f"| [`{usage}`](#swell-{name.replace(' ', '-')}) | {_cell(about)} |")
        section = [
            f"## swell {name}",
            "",
            f"    {usage}{' [OPTIONS]' if options else ''}",
            "",
            about,
        ]
        if shown := EXAMPLES.get(name):
            width = max(len(line) for line, _ in shown) + 4
            section += ["", *(f"    {line:<{width}}# {about}" for line, about in shown)]
        if note := NOTES.get(name):
            section += ["", _paragraph(note)]
        if options:
            section += ["", "| option | meaning |", "|---|---|"]
            section += [f"| `{_cell(it.usage())}` | {_cell(it.meaning())} |" for it in options]
        sections.append("\n".join(section) + "\n")
    table = "\n".join(["| command | what it does |", "|---|---|", *rows]) + "\n"
    ends = _paragraph(f"{app.info.epilog} {ERRORS}") + "\n"
    return "\n".join([INTRODUCTION, table, ends, *sections])


if __name__ == "__main__":
    print(page(), end="")
