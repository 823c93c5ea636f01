"""``readMask``: which fields of a CustomJob an answer has.

A mask names fields by their paths, ``name,jobSpec.scheduling``, in either case; ``*`` is all of
them. As everywhere in Google's APIs, a path ends at a list or before it.
"""

from __future__ import annotations

import re
from typing import Any

from launcher.emulator.resources.customjobs import CUSTOM_JOB
from launcher.emulator.resources.errors import invalid_argument
from launcher.emulator.resources.wire import Field, Message, camel_case

Json = dict[str, Any]
Mask = dict[str, Any]  # names, each with a mask of what is below; an empty one takes everything


def parse(text: str | None) -> Mask:
    """Returns what a request's readMask selects; empty for everything. Raises ApiError."""
    mask: Mask = {}
    for path in filter(None, re.split(r"\s*,\s*", (text or "").strip())):
        if path == "*":
            return {}
        inside, known = mask, CUSTOM_JOB
        *way, last = [camel_case(name) for name in path.split(".")]
        for name in way:
            known = _message(known, name, path)
            if inside.get(name) == {}:  # the whole of it was asked for already
                break
            inside = inside.setdefault(name, {})
        else:
            _field(known, last, path)
            inside[last] = {}
    return mask


def masked(job: Json, mask: Mask) -> Json:
    """Returns what ``mask`` selects of an encoded job."""
    if not mask:
        return job
    return {
        name: masked(value, mask[name]) if isinstance(value, dict) else value
        for name, value in job.items()
        if name in mask
    }


def _message(known: Message, name: str, path: str) -> Message:
    field = _field(known, name, path)
    if not isinstance(field, Message):
        raise invalid_argument(
            f"readMask: {path[:80]!r} goes on below {name}, which has no fields."
        )
    return field


def _field(known: Message, name: str, path: str) -> Field:
    field = {**known.fields, **known.output}.get(name)
    if field is None:
        raise invalid_argument(f"readMask: {path[:80]!r} is not a field of a CustomJob.")
    return field
