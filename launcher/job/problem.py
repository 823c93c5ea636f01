"""Problems of files that people write, and of the values in them: the kinds, by their ids.

What only one module says has its id there. docs/messages.md explains them all.
"""

from __future__ import annotations

from pydantic_core import PydanticCustomError

# The field's path; the id of the kind; what is wrong, what would be right.
Problem = tuple[tuple[str | int, ...], str, str]

FILE = "SW1001"  # there is no such file, or it cannot be read as text
YAML = "SW1002"  # the text is not YAML, or more of it than is read here
NO_MAPPING = "SW1003"
VARIABLE = "SW1005"
TWICE = "SW1006"
UNKNOWN_FIELD = "SW1007"
MISSING = "SW1008"
TYPE = "SW1009"
RANGE = "SW1010"
COUNT = "SW1011"
FORM = "SW1012"
UNIT = "SW1013"
CHOICE = "SW1014"
CONFLICT = "SW1015"  # two fields of which one may stand
DEPENDS = "SW1016"  # a field that means nothing without another, or another value of it
RESERVED = "SW1017"
NUL = "SW1018"
MORE = "SW1019"
ABSENT = "SW1020"  # a file or folder that a field names
NOT_SENT = "SW1021"
NO_EFFECT = "SW1022"
NO_REPLICA = "SW1023"
ORDER = "SW1024"  # two values that do not fit each other
NO_VM = "SW1118"  # a kind of VM that cannot be had on this machine


def problem(id: str, text: str) -> PydanticCustomError:
    """Returns the error that shows ``text`` as it is; its type is the id."""
    return PydanticCustomError(id, "{text}", {"text": text})
