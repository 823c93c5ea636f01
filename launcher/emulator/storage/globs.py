"""Cloud Storage's patterns of names (``matchGlob``), as regular expressions.

``*`` and ``?`` stay within a folder, ``**`` crosses folders, ``**/`` is any number of whole
folders, and none, too. ``[a-c]`` and ``[!a-c]`` are one character, ``{a,b}`` is either pattern,
and a backslash takes a character as it is.
"""

from __future__ import annotations

import re

from launcher.emulator.storage.errors import Refused

_CLASS = re.compile(r"\[([!^]?)(\]?[^\]]*)\]")


def compiled(pattern: str) -> re.Pattern[str]:
    """Returns what names that fit ``pattern`` match fully. Raises Refused."""
    parts: list[str] = []
    position = depth = 0
    while position < len(pattern):
        rest = pattern[position:]
        taken = 1
        if rest.startswith("**/") and pattern[position - 1 : position] in ("", "/", "{", ","):
            parts.append("(?:.*/)?")
            taken = 3
        elif rest.startswith("**"):
            parts.append(".*")
            taken = 2
        elif rest[0] == "*":
            parts.append("[^/]*")
        elif rest[0] == "?":
            parts.append("[^/]")
        elif found := _CLASS.match(rest):
            inside = re.sub(r"([\\\[&~|])", r"\\\1", found[2])
            parts.append(f"[{'^' if found[1] else ''}{inside}]")
            taken = found.end()
        elif rest[0] == "{":
            parts.append("(?:")
            depth += 1
        elif rest[0] == "}" and depth:
            parts.append(")")
            depth -= 1
        elif rest[0] == "," and depth:
            parts.append("|")
        elif rest[0] == "[":
            raise Refused(f"Invalid matchGlob {pattern[:80]!r}: a [ is not closed.")
        else:
            taken = 2 if rest[0] == "\\" and len(rest) > 1 else 1
            parts.append(re.escape(rest[taken - 1]))
        position += taken
    if depth:
        raise Refused(f"Invalid matchGlob {pattern[:80]!r}: a {{ is not closed.")
    try:
        return re.compile("".join(parts), re.DOTALL)
    except re.error as error:
        raise Refused(f"Invalid matchGlob {pattern[:80]!r}: {error}") from None
