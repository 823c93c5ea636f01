"""Environment variables in a file's texts: ``${NAME}``.

``${NAME:-text}`` is ``text`` where the variable is missing or empty, and ``$${`` stands for
``${`` itself. Nothing else that has a ``$`` is touched: ``$(NAME)`` is Vertex AI's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_REFERENCE = re.compile(r"\$\$\{|\$\{(?P<inner>[^}]*)(?P<end>\}?)")
_INNER = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)(:-(?P<default>.*))?", re.DOTALL)


class InterpolationError(ValueError):
    """A reference that means nothing; the message says what would be right."""


def interpolate(text: str, variables: Mapping[str, str]) -> str:
    """Returns ``text`` with the values of the variables that it refers to.

    A value is not looked into again. Raises InterpolationError.
    """
    if "${" not in text:
        return text
    return _REFERENCE.sub(lambda match: _value(match, variables), text)


def _value(match: re.Match[str], variables: Mapping[str, str]) -> str:
    if match.group() == "$${":
        return "${"
    inner = match.group("inner")
    read = _INNER.fullmatch(inner)
    if read is None or not match.group("end"):
        raise InterpolationError(
            f"${{{inner[:40]} is not a variable; write ${{NAME}}, or $${{ for a plain ${{"
        )
    name, default = read.group("name"), read.group("default")
    found = variables.get(name)
    if found is not None and not _is_text(found):
        raise InterpolationError(
            f"the variable {name[:60]} is not text in UTF-8; set another value"
        )
    if found or (found is not None and default is None):
        return found
    if default is None:
        raise InterpolationError(
            f"the environment has no {name[:60]}; set it, or write ${{{name[:60]}:-DEFAULT}}"
        )
    return default


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:  # bytes that os.environ keeps as surrogates
        return False
    return "\0" not in value
