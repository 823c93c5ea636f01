"""Reads YAML for people: plain values, and where in the file each of them was written.

The YAML is the 1.2 core schema, so that ``1e-3`` is a number and ``no`` is a word. Aliases
and tags are refused: a file says what it means. Environment variables are put in where a
text says ``${NAME}``, before an unquoted text is taken for a number or a word.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from launcher.job.interpolation import InterpolationError, interpolate
from launcher.job.problem import FILE, MISSING, MORE, TWICE, VARIABLE, YAML
from trainer.rundir.usererror import Message, UserError

SIZE_LIMIT = 2**20  # bytes; what people write is a page of text

MOST = 100  # problems that are told: who made more has made one mistake many times

Path_ = tuple[str | int, ...]
Places = dict[
    Path_, str
]  # where each field was written: "job.yaml:7" or "--set pools.1.replicas=7"

# libyaml where PyYAML was built with it: six times as fast, and it limits the nesting itself.
_LOADER: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
_TEXT = "tag:yaml.org,2002:str"
_TAGS = {None, "!", _TEXT, "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"}


class FileError(UserError, ValueError):
    """A file that cannot be used.

    Its messages have one line each: where, which field, what is wrong; what would be right.
    """


def read_file(path: str, kind: str = "a job file") -> str:
    """Returns the text of the file at ``path``; ``kind`` is for messages. Raises FileError."""
    try:
        with open(path, "rb") as stream:
            data = stream.read(SIZE_LIMIT + 1)
        if len(data) > SIZE_LIMIT:
            raise FileError(FILE, f"{path}: is larger than 1 MiB; {kind} is a page of YAML")
        return data.decode("utf-8-sig")
    except FileNotFoundError:
        what = f"there is no such file; give the path of {kind}"
    except IsADirectoryError:
        what = f"is a directory; give the path of {kind} in it"
    except UnicodeDecodeError as error:
        what = "is not text in UTF-8; give the path of a YAML file"
        if b"\0" not in data:  # such as Latin-1
            line = data.count(b"\n", 0, error.start) + 1
            what = f"{line}: is not in UTF-8 (byte 0x{data[error.start]:02x}); save it as UTF-8"
            raise FileError(FILE, f"{path}:{what}") from None
    except (OSError, ValueError) as error:
        if isinstance(error, FileError):
            raise
        what = f"cannot be read: {getattr(error, 'strerror', None) or error}"
    raise FileError(FILE, f"{path}: {what}")


def read_yaml(
    text: str, file: str, variables: Mapping[str, str] = os.environ
) -> tuple[Any, Places]:
    """Returns the plain value that ``text`` holds, and where each of its fields was written.

    Args:
        text: one YAML document.
        file: its name, for messages.
        variables: what ``${NAME}`` refers to.

    Raises FileError.
    """
    reader = _Reader(file, variables)
    try:
        value = reader.document(yaml.parse(text, Loader=_LOADER))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        what = " ".join(filter(None, [error.context, error.problem]))
        if "nesting depth" in what:
            raise FileError(YAML, f"{file}:{line}: is nested too deeply") from None
        lines = text.splitlines()
        near = " ".join(lines[max(0, line - 2) : line])
        hint = '; inside { } and [ ] write "${NAME}" in quotes' if "${" in near else ""
        if mark and mark.line < len(lines) and "\t" in lines[mark.line][: mark.column + 1]:
            hint = "; indent with spaces, not with a tab"
        raise FileError(YAML, f"{file}:{line}: is not YAML: {what}{hint}") from None
    except UnicodeEncodeError:
        raise FileError(YAML, f"{file}:1: is not text in UTF-8; save it as UTF-8") from None
    except yaml.YAMLError as error:  # a character that YAML does not allow
        what = " ".join(str(error).split())
        raise FileError(YAML, f"{file}:1: is not YAML: {what}") from None
    except RecursionError:
        raise FileError(YAML, f"{file}:1: is nested too deeply") from None
    if reader.problems:
        raise FileError.of(reader.problems)
    return value, reader.places


def located(found: Sequence[tuple[Path_, str, str]], places: Places, file: str) -> list[Message]:
    """Returns the problems with their places and fields, in the file's order, a hundred at most.

    Args:
        found: of each problem the field, the id of its kind, and what is wrong.
        places: where each field was written.
        file: the file's name.
    """
    lines: list[tuple[float, Message]] = []
    for loc, id, what in found:
        known = max((n for n in range(len(loc) + 1) if loc[:n] in places), default=0)
        place = places.get(loc[:known], f"{file}:1")
        # Deeper than what was written: a missing field is named, a detail of a value is not.
        field = ".".join(map(str, loc if id == MISSING else loc[: known or 1]))
        line = place.rpartition(":")[2]
        order = float(line) if line.isdecimal() else 0.0
        text = f"{place}: {field}: {what}" if field else f"{place}: {what}"
        lines.append((order, Message(id, text)))
    told = [line for _, line in sorted(lines, key=lambda pair: pair[0])]
    if len(told) <= MOST:
        return told
    more = f"{file}: there are {len(told) - MOST:,} more problems; mend these first"
    return [*told[:MOST], Message(MORE, more)]


class _Reader:
    """Makes plain values of YAML's events; notes their places, and what cannot be read."""

    def __init__(self, file: str, variables: Mapping[str, str]) -> None:
        self._file = file
        self._variables = variables
        self.places: Places = {}
        self.problems: list[Message] = []

    def document(self, events: Iterator[Any]) -> Any:
        value, seen = None, False
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                if seen:
                    raise _error(event, "there is a second document; write one")
                seen = True
                value = self._value(next(events), (), events)
        return value

    def _value(self, event: Any, path: Path_, events: Iterator[Any]) -> Any:
        if isinstance(event, yaml.AliasEvent):
            raise _error(event, "aliases (*name) are not supported; write it out")
        if event.tag not in _TAGS:
            raise _error(event, f"tag {event.tag} is not supported")
        self.places.setdefault(path, f"{self._file}:{event.start_mark.line + 1}")
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event, path)
        if isinstance(event, yaml.SequenceStartEvent):
            entries: list[Any] = []
            while not isinstance(event := next(events), yaml.SequenceEndEvent):
                entries.append(self._value(event, (*path, len(entries)), events))
            return entries
        fields: dict[str, Any] = {}
        while not isinstance(key := next(events), yaml.MappingEndEvent):
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarEvent):
                raise FileError(
                    YAML, f"{self._file}:{line}: a field's name must be text; put it in quotes"
                )
            if key.value in fields:
                field = ".".join(map(str, (*path, key.value)))
                raise FileError(TWICE, f"{self._file}:{line}: {field}: is written twice; keep one")
            inner = (*path, key.value)
            self.places[inner] = f"{self._file}:{line}"
            fields[key.value] = self._value(next(events), inner, events)
        return fields

    def _scalar(self, event: Any, path: Path_) -> Any:
        try:
            text = interpolate(event.value, self._variables)
        except InterpolationError as error:
            place, field = f"{self._file}:{event.start_mark.line + 1}", ".".join(map(str, path))
            text = f"{place}: {field}: {error}" if field else f"{place}: {error}"
            self.problems.append(Message(VARIABLE, text))
            return None
        plain = event.style in (None, "") and event.tag is None
        return _plain(text) if plain else text


def _error(event: Any, what: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(None, None, what, event.start_mark)


def _plain(text: str) -> Any:
    """Returns what an unquoted ``text`` means in YAML 1.2."""
    if text in ("", "~", "null", "Null", "NULL"):
        return None
    if text in ("true", "True", "TRUE", "false", "False", "FALSE"):
        return text.lower() == "true"
    if re.fullmatch(r"[-+]?[0-9]{1,4000}", text):
        return int(text)
    if re.fullmatch(r"0x[0-9a-fA-F]{1,4000}|0o[0-7]{1,4000}", text):
        return int(text, 0)
    if re.fullmatch(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", text):
        return float(text)
    if re.fullmatch(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", text):
        return float(text.replace(".", "").lower())
    return text
