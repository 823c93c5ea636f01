"""Reads a job file: YAML in, a valid ``Job`` out, or every problem with its file and line.

The YAML is the 1.2 core schema, so that ``1e-3`` is a number and ``no`` is a word. Anchors
and tags are refused: a job file says what it means.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from launcher.marketfile import Market, MarketField, whole_market
from launcher.part import Problem
from launcher.spec import Job, Target

SIZE_LIMIT = 2**20  # bytes; a job file is a page of text

Path_ = tuple[str | int, ...]
Places = dict[
    Path_, str
]  # where each field was written: "job.yaml:7" or "--set pools.1.replicas=7"


class JobFileError(ValueError):
    """A job file that cannot be used.

    Attributes:
        problems: one line each: where, which field, what is wrong; what would be right.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)


def load_job(
    path: str | os.PathLike[str],
    overrides: Sequence[str] = (),
    target: Target | None = None,
) -> Job:
    """Reads a job file.

    Args:
        path: the YAML file.
        overrides: ``a.b=value`` texts that replace single fields; values are YAML.
        target: also check what this target needs.

    Raises JobFileError.
    """
    file = os.fspath(path)
    tree, places = read_yaml(_text(file), file)
    if not isinstance(tree, dict):
        what = "is empty" if tree is None else "is not a mapping"
        raise JobFileError([f"{file}:1: {what}; write lines of field: value, beginning with name:"])
    for override in overrides:
        _override(tree, places, override)
    try:
        job = Job.model_validate(tree, context={"folder": str(Path(file).parent)})
    except ValidationError as error:
        found = [(e["loc"], e["msg"]) for e in error.errors()]
        raise JobFileError(_located(found, places, file)) from None
    if target and (unfit := job.problems_on(target)):
        raise JobFileError(_located(unfit, places, file))
    return job


def load_market(file: str) -> Market:
    """Reads and checks a market file of the emulator; JSON will do as well as YAML.

    Raises JobFileError with every problem found, each with its line and field.
    """
    tree, places = read_yaml(_text(file), file)
    try:
        context = {"folder": str(Path(file).parent)}
        return whole_market(TypeAdapter(MarketField).validate_python(tree, context=context))
    except ValidationError as error:
        found = [(e["loc"], e["msg"]) for e in error.errors()]
        raise JobFileError(_located(found, places, file)) from None


def read_yaml(text: str, file: str) -> tuple[Any, Places]:
    """Returns the plain value that ``text`` holds, and where each of its fields was written.

    Args:
        text: one YAML document.
        file: its name, for messages.

    Raises JobFileError.
    """
    places: Places = {}
    try:
        node = yaml.compose(text, Loader=_Loader)
        return (None if node is None else _value(node, (), places, file)), places
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        what = " ".join(filter(None, [error.context, error.problem]))
        raise JobFileError([f"{file}:{line}: is not YAML: {what}"]) from None
    except yaml.YAMLError as error:  # a character that YAML does not allow
        what = " ".join(str(error).split())
        raise JobFileError([f"{file}:1: is not YAML: {what}"]) from None
    except RecursionError:
        raise JobFileError([f"{file}:1: is nested too deeply for a job file"]) from None


_PLAIN_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq", "str")}


class _Loader(yaml.BaseLoader):
    def compose_node(self, parent: Any, index: Any) -> Any:
        events: Any = self
        if events.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(
                None,
                None,
                "aliases (*name) are not supported; write it out",
                events.peek_event().start_mark,
            )
        return super().compose_node(parent, index)


def _value(node: Any, path: Path_, places: Places, file: str) -> Any:
    places.setdefault(path, f"{file}:{node.start_mark.line + 1}")
    if node.tag not in _PLAIN_TAGS:
        raise yaml.MarkedYAMLError(None, None, f"tag {node.tag} is not supported", node.start_mark)
    if isinstance(node, yaml.SequenceNode):
        return [_value(child, (*path, i), places, file) for i, child in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        result: dict[str, Any] = {}
        for key, child in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise JobFileError([f"{file}:{line}: a field's name must be text"])
            if key.value in result:
                raise JobFileError([f"{file}:{line}: {key.value}: is written twice; keep one"])
            inner = (*path, key.value)
            places[inner] = f"{file}:{line}"
            result[key.value] = _value(child, inner, places, file)
        return result
    return node.value if node.style else _scalar(node.value)


def _scalar(text: str) -> Any:
    """Returns what an unquoted ``text`` means in YAML 1.2."""
    if text in ("", "~", "null", "Null", "NULL"):
        return None
    if text in ("true", "True", "TRUE", "false", "False", "FALSE"):
        return text.lower() == "true"
    if re.fullmatch(r"[-+]?[0-9]{1,4000}", text):
        return int(text)
    if re.fullmatch(r"0x[0-9a-fA-F]+|0o[0-7]+", text):
        return int(text, 0)
    if re.fullmatch(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", text):
        return float(text)
    if re.fullmatch(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", text):
        return float(text.replace(".", "").lower())
    return text


def _text(file: str) -> str:
    try:
        with open(file, "rb") as stream:
            data = stream.read(SIZE_LIMIT + 1)
        if len(data) > SIZE_LIMIT:
            raise JobFileError([f"{file}: is larger than 1 MiB; a job file is a page of YAML"])
        return data.decode("utf-8-sig")
    except FileNotFoundError:
        what = "there is no such file; give the path of a job file"
    except IsADirectoryError:
        what = "is a directory; give the path of a job file in it"
    except UnicodeDecodeError:
        what = "is not text in UTF-8; give the path of a YAML file"
    except (OSError, ValueError) as error:
        if isinstance(error, JobFileError):
            raise
        what = f"cannot be read: {getattr(error, 'strerror', None) or error}"
    raise JobFileError([f"{file}: {what}"])


def _override(tree: dict[str, Any], places: Places, override: str) -> None:
    """Applies one ``a.b=value`` to ``tree``."""
    here = f"--set {override}"
    dotted, equals, text = override.partition("=")
    names = dotted.strip().split(".")
    if not equals or not all(names):
        raise JobFileError([f"{here}: is not an override; write --set pools.1.replicas=7"])
    try:
        value, _ = read_yaml(text, here)
    except JobFileError as error:
        what = error.problems[0].rpartition(": is not YAML: ")[2]
        raise JobFileError([f"{here}: the value is not YAML: {what}"]) from None
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
                    [f"{here}: {field}: has no entry {name}; there are {len(at)} ({entries})"]
                )
            key = int(name)
        elif not isinstance(at, dict):
            field = ".".join(names[:depth])
            raise JobFileError([f"{here}: {field}: is a single value; {name} cannot be set in it"])
        path = (*path, key)
        if last:
            at[key] = value
        elif isinstance(at, dict) and at.get(name) is None:
            at[key] = {}
        at = at[key]
    for old in [place for place in places if place[: len(path)] == path]:
        del places[old]
    places[path] = here


def _located(found: Sequence[Problem], places: Places, file: str) -> list[str]:
    """Returns each problem with its place and field, in the order of the file."""
    lines: list[tuple[int, str]] = []
    for loc, what in found:
        known = max((n for n in range(len(loc) + 1) if loc[:n] in places), default=0)
        place = places.get(loc[:known], f"{file}:1")
        # Deeper than what was written: a missing field is named, a detail of a value is not.
        field = ".".join(map(str, loc if "is missing" in what else loc[:known]))
        line = place.rpartition(":")[2]
        order = int(line) if line.isdecimal() else 0
        lines.append((order, f"{place}: {field}: {what}" if field else f"{place}: {what}"))
    return [line for _, line in sorted(lines, key=lambda pair: pair[0])]
