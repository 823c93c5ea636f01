"""What messages mean, by their ids: the rows of docs/messages.md, which the package brings along.

The page is the one place where they are written; this file reads it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_ROW = re.compile(r"^\| (SW\d{4}) \| (.*) \|$", re.MULTILINE)
_LINK = re.compile(r"\[([^\]]*)\]\((?!https?:)([^)]*)\)")
RETIRED = "*retired*"


@dataclass(frozen=True)
class Kind:
    """One kind of message.

    Attributes:
        id: ``SW`` and four digits.
        name: what it says, in a few words.
        when: when it comes.
        remedy: what to do about it.
    """

    id: str
    name: str
    when: str
    remedy: str

    @property
    def retired(self) -> bool:
        """Whether this version never says it."""
        return self.name.startswith(RETIRED)


def kinds(page: str) -> Iterator[Kind]:
    """Yields what the text of docs/messages.md explains, in its order."""
    for row in _ROW.finditer(page):
        name, when, remedy = (_plain(cell.strip()) for cell in row[2].split(" | "))
        yield Kind(row[1], name, when, remedy)


def id_of(text: str) -> str:
    """Returns the id that somebody means, in small letters, in brackets, or by its number alone.

    The text itself, in capitals, where it is none.
    """
    bare = text.strip().strip("[]").upper()
    return f"SW{bare}" if re.fullmatch(r"\d{4}", bare) else bare


def _plain(cell: str) -> str:
    """A cell for a terminal: links are told by the page that they lead to."""
    return _LINK.sub(_told, cell).replace(r"\|", "|")


def _told(link: re.Match[str]) -> str:
    text, page = link[1], link[2].removeprefix("../")
    where = page if "/" in page else f"docs/{page}"
    return where if text.endswith(".md") else f"{text} ({where})"
