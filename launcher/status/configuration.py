"""What a run was configured as, as flat fields, to be shown and compared. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

# Variables may hold anything; a report is passed on, so that they are there is all it says.
HIDDEN = "set, not shown"
_VARIABLES = "env"
SHOWN = 12  # digits of a checksum


def configured(run: Mapping[str, Any]) -> object:
    """Returns the job of run.json, and in its ``code`` which version of it was sent.

    Args:
        run: run.json.
    """
    spec, settings = run.get("spec"), run.get("settings")
    sent = settings.get("code") if isinstance(settings, dict) else None
    if not (isinstance(spec, dict) and isinstance(sent, dict) and sent.get("sha256")):
        return spec
    code = spec.get("code")
    whole = code if isinstance(code, dict) else {"folder": code}
    return {**spec, "code": {**whole, "sha256": str(sent["sha256"])[:SHOWN]}}


def flat(spec: object) -> dict[str, str]:
    """Returns the fields of a job by their paths, ``pools.1.replicas``, each as JSON.

    Args:
        spec: the job, as run.json has it; what is null, or empty, is left out.
    """
    return dict(_fields("", spec, False))


def differences(specs: Sequence[object]) -> dict[str, list[str | None]]:
    """Returns the fields that are not the same in all jobs, and what each job has there, or None.

    Of variables it says which differ, and no value.
    """
    every = [dict(_fields("", spec, True)) for spec in specs]
    names = sorted({name for one in every for name in one}, key=in_order)
    differing = [name for name in names if len({one.get(name) for one in every}) > 1]
    return {name: _told(name, [one.get(name) for one in every]) for name in differing}


def in_order(name: str) -> list[tuple[bool, int, str]]:
    """The order of fields: by name, and those of a list by number, 2 before 10."""
    parts = name.split(".")
    return [(one.isdecimal(), int(one) if one.isdecimal() else 0, one) for one in parts]


def _told(name: str, values: list[str | None]) -> list[str | None]:
    if _VARIABLES not in name.split(".")[:-1]:
        return values
    known = {value: f"value {number}" for number, value in enumerate(dict.fromkeys(values), 1)}
    return [None if value is None else f"{known[value]}, not shown" for value in values]


def _fields(path: str, value: object, whole: bool) -> Iterator[tuple[str, str]]:
    items: Mapping[Any, Any] = {}
    if isinstance(value, dict):
        items = value
    elif isinstance(value, list) and any(isinstance(one, dict | list) for one in value):
        items = dict(enumerate(value))
    elif value is None or value == []:
        return
    elif not whole and _VARIABLES in path.split(".")[:-1]:
        yield path, HIDDEN
    else:
        yield path, value if isinstance(value, str) else json.dumps(value)
    for key, inner in items.items():
        yield from _fields(f"{path}.{key}" if path else str(key), inner, whole)
