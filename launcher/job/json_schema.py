"""The JSON Schema of job files, by which editors complete and check them.

It knows every field, its type and its form. What only shows between fields (a machine that
a region does not have, more workers than slots) is for ``swell plan`` to say.
"""

from __future__ import annotations

from typing import Any

from launcher.job.job import Job

# A number, a word or a duration may also come out of the environment: ${NAME}.
_REFERENCE = {"type": "string", "pattern": r"\$\{[A-Za-z_]"}
_SCALARS = {"integer", "number", "boolean"}
_LISTED = ("anyOf", "oneOf", "allOf")


def job_schema() -> dict[str, Any]:
    """Returns the JSON Schema (draft 2020-12) of a job file."""
    schema: dict[str, Any] = _with_references(Job.model_json_schema())
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "Swell job",
    }


def _with_references(schema: Any) -> Any:
    """Returns ``schema`` in which a reference may stand for every scalar that is not any text."""
    if not isinstance(schema, dict):
        return schema
    new = dict(schema)
    for key in ("items", "additionalProperties"):
        if key in new:
            new[key] = _with_references(new[key])
    for key in ("properties", "$defs"):
        new[key] = {name: _with_references(inner) for name, inner in new.get(key, {}).items()}
        if not new[key]:
            del new[key]
    for key in _LISTED:
        if key in new:
            new[key] = [_with_references(inner) for inner in new[key]]
    narrow = new.get("type") in _SCALARS or "enum" in new or "const" in new
    if not (narrow or (new.get("type") == "string" and len(new.keys() & {"pattern"}))):
        return new
    about = {key: new.pop(key) for key in ("title", "description", "default") if key in new}
    return {**about, "anyOf": [new, _REFERENCE]}
