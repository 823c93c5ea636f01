"""``UserError``: an error for the person who meets it, with an id that the documentation explains.

An id, ``SW`` and four digits, stands for one kind of message and never for another one, while its
texts may be reworded at any time: docs/messages.md has a row for each. It is given where the error
is raised and carried as data: the text of an error is without it, and whoever shows the error to a
person puts it at the end of the first line (``shown``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

_Error = TypeVar("_Error", bound="UserError")


@dataclass(frozen=True)
class Message:
    """What a person is told; as text, with its id.

    Attributes:
        id: of its kind; empty for what another process has shown, which has its id in the text.
        text: what is wrong, where, and what to do; details may follow on further lines.
    """

    id: str
    text: str

    def __str__(self) -> str:
        if not self.id:
            return self.text
        first, newline, rest = self.text.partition("\n")
        return f"{first} [{self.id}]{newline}{rest}"


class UserError(Exception):
    """What its reader can put right. Its text is for them, and has no id.

    Attributes:
        messages: what they are told, each with its id.
    """

    def __init__(self, id: str, text: str) -> None:
        super().__init__(text)
        self.messages: tuple[Message, ...] = (Message(id, text),)

    @classmethod
    def of(cls: type[_Error], messages: Sequence[Message]) -> _Error:
        """Returns the error of several messages, of which there is at least one."""
        error = cls(messages[0].id, "\n".join(one.text for one in messages))
        error.messages = tuple(messages)
        return error

    @property
    def id(self) -> str:
        """The id of the first message."""
        return self.messages[0].id

    @property
    def problems(self) -> list[str]:
        """The texts of the messages."""
        return [one.text for one in self.messages]


class Unusable(UserError, ValueError):
    """A value, a variable, a file: something given that is not what it should be."""


def shown(error: BaseException, other: str = "") -> str:
    """Returns the text of ``error`` for a person, with its ids; ``other`` is for one without."""
    if isinstance(error, UserError):
        return "\n".join(map(str, error.messages))
    return str(Message(other, str(error)))
