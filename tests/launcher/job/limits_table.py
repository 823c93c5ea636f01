"""The table in docs/limits.md, read: each row is an input and the message that it must get."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

DOCUMENT = Path(__file__).parents[3] / "docs/limits.md"
_MANY = re.compile(r"(\[?)([^\s\[{=]*#: [^\s\[{]+|[^\s\[{=]+) \* (\d+)")


@dataclass(frozen=True)
class Row:
    """One limit.

    Attributes:
        limit: in words.
        overrides: what to ``--set`` in the document's job to break it.
        message: what must be said, without the place.
        id: the message's; docs/messages.md explains it.
    """

    limit: str
    overrides: tuple[str, ...]
    message: str
    id: str


def base_job() -> str:
    """The valid job that the rows change, as YAML."""
    text = DOCUMENT.read_text()
    return text.partition("```yaml\n")[2].partition("```")[0]


def rows() -> list[Row]:
    """The rows of the table."""
    found, limit = [], ""
    for line in DOCUMENT.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split(" | ")]
        if not line.startswith("|") or len(cells) != 4 or cells[0] in ("limit", "---"):
            continue
        limit = cells[0] or limit
        overrides = tuple(map(written_out, re.findall(r"`([^`]+)`", cells[1])))
        found.append(Row(limit, overrides, cells[2].strip("`"), cells[3]))
    return found


def written_out(text: str) -> str:
    """Returns ``text`` with ``x * 3`` written three times, ``#`` in it counting from 0.

    After a bracket, or with a counter, the copies are entries; elsewhere they are one word.
    """

    def copies(match: re.Match[str]) -> str:
        bracket, word, count = match.groups()
        joint = ", " if bracket or "#" in word else ""
        return bracket + joint.join(word.replace("#", str(i)) for i in range(int(count)))

    return _MANY.sub(copies, text)
