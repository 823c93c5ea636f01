"""``Part``: the base of everything in a job file.

A part refuses unknown fields and says every problem in plain words: what is wrong;
what would be right. Fields that clash are said together with fields that are wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

Problem = tuple[tuple[str | int, ...], str]  # the field's path; what is wrong, what would be right


def problem(text: str) -> PydanticCustomError:
    """Returns the error that shows ``text`` as it is."""
    return PydanticCustomError("job", "{text}", {"text": text})


class Part(BaseModel):
    """A part of a job: refuses unknown fields, and says every problem in plain words."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)

    @model_validator(mode="wrap")
    @classmethod
    def _validate(cls, data: Any, handler: ModelWrapValidatorHandler[Any]) -> Any:
        try:
            part = handler(data)
        except ValidationError as error:
            found = [
                InitErrorDetails(
                    type=problem(cls._in_words(dict(e))), loc=e["loc"], input=e["input"]
                )
                for e in error.errors()
            ]
        else:
            found = []
        # A clash between fields is said in the same breath as what is wrong inside them.
        clashes = cls._clashes(data if found else dict(part))
        found += [
            InitErrorDetails(type=problem(what), loc=loc, input=None) for loc, what in clashes
        ]
        if found:
            raise ValidationError.from_exception_data(cls.__name__, found)
        return part

    @classmethod
    def _clashes(cls, fields: Any) -> Iterator[Problem]:
        """Yields what does not fit together in ``fields``, whose values may be invalid."""
        yield from ()

    @classmethod
    def _in_words(cls, error: dict[str, Any]) -> str:
        kind, value, limits = error["type"], error["input"], error.get("ctx", {})
        if kind == "extra_forbidden":
            return _unknown(error["loc"][-1], list(cls.model_fields))
        if kind == "missing":
            return "is missing; add it"
        if kind not in _REMEDIES:
            return str(error["msg"])
        shown = repr(value) if isinstance(value, str | int | float | bool) else "not that"
        shown = "empty" if value is None else shown
        return f"is {shown[:60]}; {_REMEDIES[kind].format(**limits)}"


_REMEDIES = {
    "int_type": "write a whole number",
    "int_from_float": "write a whole number",
    "float_type": "write a number",
    "string_type": "write text (in quotes when it looks like a number)",
    "bool_type": "write true or false",
    "list_type": "write a list ([a, b], or lines that begin with -)",
    "dict_type": "write a mapping (lines of name: value)",
    "model_type": "write a mapping (lines of field: value)",
    "greater_than": "write more than {gt}",
    "greater_than_equal": "write at least {ge}",
    "literal_error": "write {expected}",
    "less_than_equal": "write at most {le}",
    "too_long": "at most {max_length} entries",
    "too_short": "write at least {min_length} entry",
    "string_too_short": "write at least {min_length} character",
    "invalid-json-value": "write text, a number, true, false, a list or a mapping",
    "finite_number": "write a finite number",
}


def _unknown(name: object, known: list[str]) -> str:
    near = get_close_matches(str(name), known, n=1, cutoff=0.6)
    remedy = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
    return f"is not a known field; {remedy}"


def valid(part: type[Any], data: Any) -> Any:
    """Returns ``data`` as a ``part``, or None when it is not one."""
    try:
        return part.model_validate(data)
    except ValidationError:
        return None


def whole(fields: Any, name: str, default: int | None) -> int | None:
    """Returns the whole number ``name`` of a part or mapping, or None when it is not one."""
    found = (
        fields.get(name, default) if isinstance(fields, dict) else getattr(fields, name, default)
    )
    return found if isinstance(found, int) and not isinstance(found, bool) else None
