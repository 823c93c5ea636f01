"""A form of the job file's JSON Schema: fields for what a person may write, and YAML from them.

What is a word, a number or a choice has a field of its own, also within a part of the job; lists of
parts have as many as are filled in, and one more. What is nested deeper is written as YAML.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

import yaml

from launcher.report.page import text_of
from trainer.rundir.usererror import Unusable

NO_YAML = "SW6295"  # the message about a field that is not YAML
MOST = 20  # entries of a list
FIRST = ("name", "task", "script", "torchrun", "args", "pools")  # what a job begins with

_ABOUT = ("description", "default", "examples")

Json = dict[str, Any]


class Form:
    """The form of a schema.

    Args:
        schema: JSON Schema of an object.
    """

    def __init__(self, schema: Json) -> None:
        self._definitions: Json = schema.get("$defs", {})
        self._schema = schema

    def html(self, values: Mapping[str, str]) -> str:
        """Returns the fields.

        Args:
            values: what is in them, by name.
        """
        return "".join(self._fields(self._schema, (), values))

    def tree(self, values: Mapping[str, str]) -> Json:
        """Returns what the fields say, without those that are empty.

        Args:
            values: what is in them, by name: ``pools.1.replicas``.

        Raises Unusable for a field that is not YAML.
        """
        return self._read(self._schema, (), values) or {}

    def _fields(
        self, schema: Json, path: tuple[str, ...], values: Mapping[str, str]
    ) -> Iterator[str]:
        required = schema.get("required", [])
        names = [*schema["properties"]]
        if not path:
            names.sort(key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))
        more, filled = "", False
        for name in names:
            here = (*path, name)
            node = self._plain(schema["properties"][name])
            inner = self._plain(node["items"]) if "items" in node else {}
            if "properties" in node and len(path) < 2:
                about = f"<p>{text_of(node.get('description', ''))}</p>"
                parts = "".join(self._fields(node, here, values))
                yield _folded(_title(name), about + parts, self._is_filled(here, values))
            elif "properties" in inner and not path:
                yield self._list(node, inner, here, values)
            else:
                text = values.get(".".join(here), "")
                needed = name in required and here[0] in self._schema.get("required", [])
                field = _field(node, here, text, needed)
                if name in required or name in FIRST or (path and _is_plain(node)):
                    yield field
                else:
                    more, filled = more + field, filled or bool(text.strip())
        if more:
            yield _folded(f"More of {_title(' '.join(path))}" if path else "More", more, filled)

    def _list(
        self, node: Json, inner: Json, path: tuple[str, ...], values: Mapping[str, str]
    ) -> str:
        shown = ""
        entries = self._entries(path, values)
        wanted = max(entries + 1, node.get("minItems", 0))
        for index in range(min(wanted, node.get("maxItems", MOST))):
            here = (*path, str(index))
            parts = "".join(self._fields(inner, here, values))
            title = f"{_title(path[-1])} {index}" + (" (another)" if index >= entries else "")
            shown += _folded(title, parts, index < max(entries, 1) and path[-1] == "pools")
        about = text_of(node.get("description", ""))
        return f"<fieldset><legend>{_title(path[-1])}</legend><p>{about}</p>{shown}</fieldset>"

    def _entries(self, path: tuple[str, ...], values: Mapping[str, str]) -> int:
        """How many entries of a list are filled in."""
        filled = (n for n in range(MOST) if self._is_filled((*path, str(n)), values))
        return max(filled, default=-1) + 1

    def _is_filled(self, path: tuple[str, ...], values: Mapping[str, str]) -> bool:
        begin = f"{'.'.join(path)}."
        return any(name.startswith(begin) and text.strip() for name, text in values.items())

    def _read(self, schema: Json, path: tuple[str, ...], values: Mapping[str, str]) -> Json:
        found = {}
        for name, given in schema["properties"].items():
            here, node = (*path, name), self._plain(given)
            inner = self._plain(node["items"]) if "items" in node else {}
            value: Any = None
            if "properties" in node and len(path) < 2:
                value = self._read(node, here, values)
            elif "properties" in inner and not path:
                count = range(self._entries(here, values))
                value = [self._read(inner, (*here, str(n)), values) for n in count]
            elif text := values.get(".".join(here), "").strip():
                value = _value(node, here, text)
            if value not in (None, {}, []):
                found[name] = value
        return found

    def _plain(self, node: Json) -> Json:
        """A schema without references, and without what a variable or nothing may stand for."""
        about: Json = {}
        while True:
            about = {key: node[key] for key in _ABOUT if key in node} | about
            if "$ref" in node:
                node = self._definitions[node["$ref"].rpartition("/")[2]]
            elif "anyOf" in node:
                kinds = [one for one in node["anyOf"] if not _stands_in(one)]
                parts = [one for one in kinds if "$ref" in one or "properties" in one]
                if len(kinds) != 1 and len(parts) != 1:
                    return {**about, "type": "any"}
                (node,) = kinds if len(kinds) == 1 else parts
            else:
                return {**node, **about}


def as_yaml(tree: Json) -> str:
    """Returns a job file."""
    text: str = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=1000)
    return text if tree else ""


def _is_plain(node: Json) -> bool:
    """Whether it is a word, a number or a choice."""
    return "enum" in node or node.get("type") in ("string", "integer", "number", "boolean")


def _stands_in(node: Json) -> bool:
    return node.get("type") == "null" or str(node.get("pattern", "")).startswith("\\$\\{")


def _value(node: Json, path: tuple[str, ...], text: str) -> Any:
    if node.get("type") == "string" or "enum" in node:
        return text
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        what = " ".join(str(error).split())
        raise Unusable(NO_YAML, f"{'.'.join(path)}: is not YAML: {what}") from None


def _field(node: Json, path: tuple[str, ...], text: str, required: bool) -> str:
    name = ".".join(path)
    about = text_of(node.get("description", ""))
    known = f' id="{name}" name="{name}"'
    if about:
        known += f' aria-describedby="{name}-about"'
    known += ' aria-required="true"' if required else ""
    choices = node.get("enum") or ([True, False] if node.get("type") == "boolean" else None)
    if choices:
        words = [str(it).lower() if isinstance(it, bool) else str(it) for it in choices]
        words += [text] if text and text not in words else []
        options = "".join(
            f"<option{' selected' if word == text else ''}>{escape(word)}</option>"
            for word in words
        )
        shown = f'<select{known}><option value="">{_default(node)}</option>{options}</select>'
    elif _is_plain(node):
        hint = escape(str((node.get("examples") or [""])[0]))
        shown = f'<input{known} value="{escape(text)}" placeholder="{hint}" autocomplete="off">'
    else:
        shown = f'<textarea{known} rows="2" spellcheck="false">{escape(text)}</textarea>'
        about += "" if about.endswith(".") or not about else "."
        about += " In YAML."
        known = ""
    star = " (required)" if required else ""
    hint = f'<small id="{name}-about">{about}</small>' if about else ""
    label = f'<label for="{name}">{_title(path[-1])}{star}</label>'
    return f'<div class="field">{label}{hint}{shown}</div>'


def _default(node: Json) -> str:
    default = node.get("default")
    word = str(default).lower() if isinstance(default, bool) else str(default)
    return "" if default is None else escape(f"(default: {word})")


def _title(name: str) -> str:
    return text_of(name.replace("_", " "))


def _folded(title: str, inner: str, is_open: bool) -> str:
    return f"<details{' open' if is_open else ''}><summary>{title}</summary>{inner}</details>"
