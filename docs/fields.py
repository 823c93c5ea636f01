"""Writes the page of a job file's fields from the JSON Schema that `swell schema` prints.

    python docs/fields.py > docs/fields.md

tests/test_docs.py checks that the page is current.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from textwrap import fill
from typing import Any

from launcher.job.json_schema import job_schema

INTRODUCTION = """\
# The fields of a job file

<!-- Written by docs/fields.py: change the descriptions of the fields, and run it again. -->

All that `swell schema` knows, part by part: the form and the default of each field. What fields
are for, and what goes together, is in [job.md](job.md); which messages they get in
[limits.md](limits.md). Wherever a number, a word or a duration stands, `${NAME}` may stand, too.
Where a field takes one of many words, machines or regions, the schema itself lists them.
"""

_BOUNDS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
    "minItems": "at least",
    "maxItems": "at most",
}
_MANY = 10  # words: more are machines or regions
_KINDS = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "`true` or `false`",
    "null": "`null`",
    "object": "mapping",
}
_REFERENCE = r"\$\{[A-Za-z_]"  # in place of any scalar: the introduction says so


def form(schema: Mapping[str, Any]) -> str:
    """Returns in words what a field may be."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            inner = [form(it) for it in schema[key] if it.get("pattern") != _REFERENCE]
            return ", or ".join(dict.fromkeys(it for it in inner if it != "`null`"))
    if len(schema.get("enum", ())) > _MANY:
        return f"one of {len(schema['enum'])} words"
    if "enum" in schema:
        return ", ".join(f"`{it}`" for it in schema["enum"])
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    kind = schema.get("type", "anything")
    if kind == "array":
        said = f"list of {form(schema.get('items', {}))}"
    elif kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        said = f"mapping to {form(schema['additionalProperties'])}"
    else:
        said = _KINDS.get(kind, kind)
    bounds = [f"{word} {schema[key]}" for key, word in _BOUNDS.items() if key in schema]
    return ", ".join([said, *bounds])


def _default(value: Any) -> str:
    if value in (None, {}, [], ""):
        return ""
    if isinstance(value, dict) and list(value) == ["bytes"]:
        return f"`{value['bytes'] >> 20}MiB`"
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _attributes(about: str) -> dict[str, str]:
    """What a part's docstring says of its fields."""
    _, _, said = about.partition("Attributes:\n")
    found = re.findall(r"^    (\w+): ((?:.|\n {8})*)", said, re.MULTILINE)
    return {name: text[:1].upper() + text[1:].rstrip(".") for name, text in found}


def _rows(schema: Mapping[str, Any]) -> list[str]:
    rows = []
    needed = schema.get("required", ())
    attributes = _attributes(schema.get("description", ""))
    for name, field in schema.get("properties", {}).items():
        meaning = str(field.get("description") or attributes.get(name, "")).replace("``", "`")
        default = "needed" if name in needed else _default(field.get("default"))
        cells = [f"`{name}`", form(field), default, " ".join(meaning.split())]
        rows.append("| " + " | ".join(it.replace("|", r"\|") for it in cells) + " |")
    return rows


def _about(schema: Mapping[str, Any]) -> str:
    """The first paragraph of what a part's docstring says; the rest is for its programmers."""
    first = str(schema.get("description", "")).split("\n\n")[0].replace("``", "`")
    return fill(first, 100, break_long_words=False, break_on_hyphens=False)


def _part(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The mapping among the forms of a part that has a short form, too."""
    forms = schema.get("anyOf", [schema])
    return next((it for it in forms if "properties" in it), {})


def page() -> str:
    """Returns the text of docs/fields.md."""
    schema = job_schema()
    out = [INTRODUCTION]
    for name, part in [("Job", schema), *sorted(schema["$defs"].items())]:
        fields = _part(part)
        out.append(f"## {name}\n\n{_about(part)}\n")
        others = [form(it) for it in part.get("anyOf", ()) if it is not fields]
        if others := [it for it in dict.fromkeys(others) if it]:
            out.append(f"Its short form: {', or '.join(others)}.\n")
        if rows := _rows(fields):
            head = ["| field | form | default | meaning |", "|---|---|---|---|"]
            out.append("\n".join([*head, *rows]) + "\n")
    return "\n".join(out)


if __name__ == "__main__":
    print(page(), end="")
