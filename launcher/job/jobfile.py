"""Reads a job file: YAML in, a valid ``Job`` out, or every problem with its file and line."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from launcher.job.barescript import is_bare_script
from launcher.job.job import Job
from launcher.job.marketfile import Market, MarketField, whole_market
from launcher.job.model import problems_in
from launcher.job.problem import NO_MAPPING, YAML, Problem
from launcher.job.yamlfile import FileError, Path_, Places, located, read_file, read_yaml
from trainer.rundir.usererror import Message

JobFileError = FileError

OVERRIDE = "SW1004"  # a --set that does not fit the file


@dataclass(frozen=True)
class JobFile:
    """A job as it was read from its file.

    Attributes:
        job: the job.
        path: the file.
        places: where in it each field stands.
    """

    job: Job
    path: str
    places: Places

    def located(self, problems: Sequence[Problem]) -> list[Message]:
        """Returns the problems, which may be of a target, as ``FILE:LINE: FIELD: what``."""
        return located(problems, self.places, self.path)


def read_job(
    path: str | os.PathLike[str],
    overrides: Sequence[str] = (),
    variables: Mapping[str, str] = os.environ,
) -> JobFile:
    """Reads a job file. ``launcher.load_job`` also checks what a target needs.

    Args:
        path: the YAML file.
        overrides: ``a.b=value`` texts that replace single fields; values are YAML.
        variables: what ``${NAME}`` in the file refers to.

    Raises JobFileError.
    """
    file = os.fspath(path)
    if is_bare_script(file):
        what = f"is a script, and no job file; swell new job {file} writes one"
        raise JobFileError(YAML, f"{file}: {what}")
    tree, places = read_yaml(read_file(file), file, variables)
    if not isinstance(tree, dict):
        what = "is empty" if tree is None else "is not a mapping"
        form = "lines of field: value, beginning with name:"
        raise JobFileError(NO_MAPPING, f"{file}:1: {what}; write {form}")
    return made_job(tree, places, file, overrides, variables)


def made_job(
    tree: dict[str, Any],
    places: Places,
    file: str,
    overrides: Sequence[str] = (),
    variables: Mapping[str, str] = os.environ,
) -> JobFile:
    """Makes a job of what a file says, or would say.

    Args:
        tree: its fields.
        places: where each was written.
        file: its name; paths in it are beside it.
        overrides, variables: see ``read_job``.

    Raises JobFileError.
    """
    tree = Job.written_out(tree)
    for override in overrides:
        _override(tree, places, override, variables)
    try:
        job = Job.model_validate(tree, context={"folder": str(Path(file).parent)})
    except ValidationError as error:
        raise JobFileError.of(located(problems_in(error), places, file)) from None
    return JobFile(job, file, places)


def load_market(file: str) -> Market:
    """Reads and checks a market file of the emulator; JSON will do as well as YAML.

    Raises JobFileError with every problem found, each with its line and field.
    """
    tree, places = read_yaml(read_file(file), file)
    try:
        context = {"folder": str(Path(file).parent)}
        return whole_market(TypeAdapter(MarketField).validate_python(tree, context=context))
    except ValidationError as error:
        raise JobFileError.of(located(problems_in(error), places, file)) from None


def _override(
    tree: dict[str, Any], places: Places, override: str, variables: Mapping[str, str]
) -> None:
    """Applies one ``a.b=value`` to ``tree``."""
    here = f"--set {override}"
    dotted, equals, text = override.partition("=")
    names = dotted.strip().split(".")
    if not equals and all(names):
        raise JobFileError(OVERRIDE, f"{here}: has no value; write --set {dotted.strip()}=VALUE")
    if not all(names):
        raise JobFileError(OVERRIDE, f"{here}: is not an override; write --set pools.1.replicas=7")
    try:
        value, inside = read_yaml(text, here, variables)
    except JobFileError as error:
        _, bad, what = error.problems[0].rpartition(": is not YAML: ")
        what = f"the value is not YAML: {what}" if bad else what.removeprefix(f"{here}:1: ")
        raise JobFileError(error.id, f"{here}: {what}") from None
    path: Path_ = ()
    at: Any = tree
    for depth, name in enumerate(names):
        last = depth == len(names) - 1
        key: str | int = name
        if isinstance(at, list):
            if not name.isdecimal() or int(name) >= len(at):
                field = ".".join(names[:depth])
                entries = f"0 to {len(at) - 1}" if at else "none"
                raise JobFileError(
                    OVERRIDE,
                    f"{here}: {field}: has no entry {name}; there are {len(at)} ({entries})",
                )
            key = int(name)
        elif not isinstance(at, dict):
            field = ".".join(names[:depth])
            raise JobFileError(
                OVERRIDE, f"{here}: {field}: is a single value; {name} cannot be set in it"
            )
        path = (*path, key)
        if last:
            at[key] = value
        elif isinstance(at, dict) and at.get(name) is None:
            at[key] = {}
            places[path] = here
        at = at[key]
    for old in [place for place in places if place[: len(path)] == path]:
        del places[old]
    places.update(((*path, *inner), here) for inner in [(), *inside])
