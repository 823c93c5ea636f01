"""The command `swell-agent`: the agent, with a program to run in the manner of torchrun.

    swell-agent script.py --epochs 3            a script
    swell-agent -m package.train --epochs 3     a module
    swell-agent package.tasks:Digits epochs=3   a task

In a run of ``swell launch`` the run directory says what is run, and arguments are not needed.
Started by somebody else, with a program, it makes a run of its own; without CLUSTER_SPEC that
is a world of one replica.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from trainer.protocol.credentials import AUTHORITY, fingerprint
from trainer.protocol.session import Program
from trainer.rundir import formats
from trainer.rundir.directory import RunDirectory
from trainer.rundir.names import ENV_RUN_DIR, ENV_TOKEN, ENV_TOKEN_SECRET, EXIT_FAILED, RUN
from trainer.rundir.retry import UNREACHABLE
from trainer.rundir.usererror import Message, Unusable, shown

if TYPE_CHECKING:
    from trainer.agent.replica import Replica

ARGUMENTS = "SW4017"  # the message about a command line that is wrong
CHECKPOINTS_SUFFIX = "checkpoints/"

HELP = """\
The entry point of Swell's image: looks after this machine's workers, one for each GPU, and
keeps them training while other machines come and go.

the program, as torchrun takes it:
  script.py ARGUMENT ...       a script, also one written for Elastic Horovod
  -m MODULE ARGUMENT ...       a module, as with python -m
  MODULE:CLASS NAME=VALUE ...  a task (trainer.Task); values are JSON, or else text
Without a program it runs what the run directory says; swell launch sees to that.

environment (swell launch or Vertex AI set it):
  SWELL_RUN_DIR       the run directory, gs://BUCKET/FOLDER or a path; else Vertex AI's base
                      output directory, else a folder in the temporary directory
  SWELL_TOKEN         the run's secret; a world of one makes its own
  SWELL_SLOTS         workers on this machine; else one for each GPU, at least one
  SWELL_LOG_LEVEL     DEBUG, INFO (the default), WARNING
  CLUSTER_SPEC        set by Vertex AI; without it this is a world of one

exit codes: 0 the run succeeded, 1 it failed, 2 wrong arguments, 134 only a new attempt can help
"""


@dataclass(frozen=True)
class Arguments:
    """The command line: what is run, if it says so, and between which world sizes."""

    program: Program | None
    min_workers: int
    max_workers: int | None


def parse(argv: Sequence[str]) -> Arguments:
    """Reads the command line. Ends the process, with 2, when it is wrong."""
    parser = argparse.ArgumentParser(
        prog="swell-agent",
        usage="swell-agent [--min-workers N] [--max-workers N] [script.py | -m MODULE | "
        "MODULE:CLASS] [ARGUMENT ...]",
        description=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--min-workers", type=_count, default=1, metavar="N", help="wait below this (default 1)"
    )
    parser.add_argument(
        "--max-workers", type=_count, metavar="N", help="at most so many (default all there are)"
    )
    parser.add_argument("-m", "--module", action="store_true", help="the program is a module")
    parser.add_argument("program", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    found = parser.parse_args(argv)
    if found.max_workers is not None and found.max_workers < found.min_workers:
        what = f"--max-workers {found.max_workers} is less than --min-workers {found.min_workers}"
        parser.error(str(Message(ARGUMENTS, what)))
    words = found.program[1:] if found.program[:1] == ["--"] else found.program
    if not words:
        if found.module:
            parser.error(str(Message(ARGUMENTS, "-m needs the name of a module")))
        return Arguments(None, found.min_workers, found.max_workers)
    try:
        program = _program(words[0], list(words[1:]), found.module)
    except Unusable as error:
        parser.error(shown(error))
    return Arguments(program, found.min_workers, found.max_workers)


def _program(name: str, args: list[str], is_module: bool) -> Program:
    if is_module:
        if not all(part.isidentifier() for part in name.split(".")):
            raise Unusable(ARGUMENTS, f"-m {name}: is not the name of a module")
        return Program(module=name, args=args)
    where, colon, cls = name.rpartition(":")
    if colon and where and cls.isidentifier():
        return Program(task=name, task_args=dict(_keyword(word) for word in args))
    if not name.endswith(".py"):
        raise Unusable(
            ARGUMENTS, f"{name}: is neither script.py nor MODULE:CLASS; a module needs -m"
        )
    return Program(script=name, args=args)


def _keyword(word: str) -> tuple[str, Any]:
    name, equals, value = word.partition("=")
    if not equals or not name.isidentifier():
        raise Unusable(ARGUMENTS, f"{word}: a task takes NAME=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of workers, at least 1")
    return int(text)


def own_run_dir(env: Mapping[str, str], make_folder: Callable[[], str]) -> str:
    """The run directory of a run that no launcher made.

    Args:
        env: the environment; Vertex AI's AIP_CHECKPOINT_DIR is in the base output directory.
        make_folder: makes a folder that nobody else uses, and returns its path.
    """
    if chosen := env.get(ENV_RUN_DIR):
        return chosen
    base = env.get("AIP_CHECKPOINT_DIR", "").removesuffix(CHECKPOINTS_SUFFIX).rstrip("/")
    return base or make_folder()


def begin_run(
    arguments: Arguments,
    replica: Replica,
    env: Mapping[str, str],
    run_dir: RunDirectory,
    secret: str,
) -> dict[str, str]:
    """Makes the run of a command line, unless it is there, and returns its variables.

    Args:
        arguments: the command line, with a program.
        replica: where this is.
        env: the environment, which may have the secret.
        run_dir: the run directory.
        secret: a new one, for a world of one.

    Raises Unusable when the replicas of a larger world do not share a secret.
    """
    assert arguments.program
    token = env.get(ENV_TOKEN) or (secret if replica.replicas == 1 else None)
    if token is None:
        raise Unusable(
            "SW4018",
            f"{replica.replicas} replicas without a secret in {ENV_TOKEN} cannot know each other: "
            "start them with swell launch, or give all what "
            "python -m trainer.protocol.authority prints",
        )
    slots = replica.replicas * replica.slots
    run_dir.create_json(
        RUN,
        {
            "id": env.get("CLOUD_ML_JOB_ID", "run"),
            "target": "vertex" if "CLOUD_ML_JOB_ID" in env else "agent",
            "settings": {
                "program": asdict(arguments.program),
                "min_workers": arguments.min_workers,
                "max_workers": arguments.max_workers or max(slots, arguments.min_workers),
            },
            AUTHORITY: fingerprint(token),
            "created": time.time(),
            "by": "swell-agent",
            **formats.RUN.stamp(),
        },
    )
    return {ENV_RUN_DIR: run_dir.url, ENV_TOKEN: token}


def _begin(arguments: Arguments) -> None:
    """Puts a run of this command line's own into the environment."""
    from trainer.agent.replica import find_replica
    from trainer.protocol.authority import new_secret

    run_dir = RunDirectory(own_run_dir(os.environ, lambda: tempfile.mkdtemp(prefix="swell-")))
    if {ENV_TOKEN, ENV_TOKEN_SECRET} & os.environ.keys() and run_dir.find_json(RUN) is not None:
        print(f"swell-agent: {run_dir.url} says what is run, not the arguments", flush=True)
        return
    print(f"swell-agent: {arguments.program} in the run directory {run_dir.url}", flush=True)
    replica = find_replica(os.environ)
    os.environ.update(begin_run(arguments, replica, os.environ, run_dir, new_secret()))


def main() -> int:
    """The command `swell-agent`."""
    arguments = parse(sys.argv[1:])
    if arguments.program is None and ENV_RUN_DIR not in os.environ:
        said = (
            "there is nothing to run: give a program (swell-agent --help), "
            f"or set {ENV_RUN_DIR} as swell launch does"
        )
        print(f"swell-agent: {Message(ARGUMENTS, said)}", file=sys.stderr)
        return 2
    try:
        if arguments.program is not None:
            _begin(arguments)
    except (ValueError, OSError) as error:
        print(f"swell-agent: {shown(error, UNREACHABLE)}", file=sys.stderr)
        return EXIT_FAILED
    from trainer.agent import startup  # takes a while to import: not for --help

    return startup.main()
