"""``JobModel``: the base of everything in a job file.

It refuses unknown fields and reports every problem in plain words: what is wrong; what would
be right. Fields that clash are reported together with fields that are wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ModelWrapValidatorHandler,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_core import CoreSchema, InitErrorDetails, core_schema

from launcher.job.problem import (
    CHOICE,
    COUNT,
    FORM,
    MISSING,
    RANGE,
    TYPE,
    UNKNOWN_FIELD,
    Problem,
    problem,
)

DEFAULT: Any = {}  # of a field that is a model: validated in its place, not built by itself

MOST = 100  # unknown names in one part for which the nearest known one is looked for


@dataclass(frozen=True)
class Text:
    """Annotates a ``str`` field with the one form that its text may have.

    Args:
        pattern: regular expression for the whole text, in the syntax that JSON Schema shares.
        remedy: what to write instead, for the error.
    """

    pattern: str
    remedy: str

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {**handler(schema), "pattern": f"^{self.pattern}$"}

    def _check(self, text: str) -> str:
        if not re.fullmatch(self.pattern, text):
            raise problem(FORM, f"is {text[:60]!r}; {self.remedy}")
        return text


def resource(template: str) -> Text:
    """Returns the form of a full resource name; words in capitals stand for any name."""
    return Text(re.sub(r"\b[A-Z]+\b", r"[^/\\s]+", template), f"write {template}")


def beside(path: str, info: ValidationInfo) -> str:
    """Returns the absolute path that a file's ``path`` means: beside the job file."""
    return str((Path((info.context or {}).get("folder", ".")) / path).resolve())


def _script(path: str, info: ValidationInfo) -> str:
    if not path.endswith(".py") or "\0" in path:
        raise problem(FORM, f"is {path[:60]!r}; write path/to/script.py")
    return beside(path, info)


Script = Annotated[str, AfterValidator(_script)]  # a file beside the job file


class JobModel(BaseModel):
    """A part of a job: refuses unknown fields, and reports every problem in plain words.

    It may have a short form, such as a text: ``_written_out`` makes of it the mapping that it
    stands for, ``_short`` is its JSON Schema, and ``_forms`` says what may be written.
    """

    # Built when first used, and then with everything inside it: the time to start counts.
    model_config = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, frozen=True, defer_build=True
    )
    _short: ClassVar[dict[str, Any] | None] = None
    _forms: ClassVar[str] = "a mapping (lines of field: value)"

    @model_validator(mode="wrap")
    @classmethod
    def _validate(cls, data: Any, handler: ModelWrapValidatorHandler[Any]) -> Any:
        data = cls._written_out(data)
        try:
            model = handler(data)
        except ValidationError as error:
            errors = error.errors(include_url=False)
            found = [
                _detail(e["loc"], *cls._in_words(dict(e), search=n < MOST), e["input"])
                for n, e in enumerate(errors)
            ]
        else:
            found = []
        # A clash between fields is said in the same breath as what is wrong inside them.
        clashes = cls._clashes(data if found else model._given())
        found += [_detail(*clash) for clash in clashes]
        if found:
            raise ValidationError.from_exception_data(cls.__name__, found)
        return model

    def _given(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.model_fields_set}

    @classmethod
    def _written_out(cls, data: Any) -> Any:
        """Returns the mapping that a short form stands for; anything else as it is."""
        return data

    @classmethod
    def _clashes(cls, fields: Any) -> Iterator[Problem]:
        """Yields what does not fit together in ``fields``: those given; they may be invalid."""
        yield from ()

    @classmethod
    def written_out(cls, data: Any) -> Any:
        """Returns ``data``, of which anything may be wrong, without short forms at any depth."""
        data = cls._written_out(data)
        if not isinstance(data, dict):
            return data
        whole = dict(data)
        for name, field in cls.model_fields.items():
            model = _model_in(field.annotation)
            if model is None or name not in whole:
                continue
            inner = whole[name]
            if isinstance(inner, list):
                whole[name] = [model.written_out(i) for i in inner]
            elif not _is_list(field.annotation):  # one entry alone is no list, and is said as it is
                whole[name] = model.written_out(inner)
        return whole

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        long = handler(schema)
        if cls._short is None:
            return long
        whole = handler.resolve_ref_schema(long)
        described: dict[str, Any] = {
            key: whole.pop(key) for key in ("title", "description") if key in whole
        }
        full = dict(whole)
        whole.clear()
        whole.update(described, anyOf=[full, cls._short])
        return long

    @classmethod
    def _in_words(cls, error: dict[str, Any], search: bool) -> tuple[str, str]:
        """Returns the id and the words of an error of pydantic's."""
        kind, value, limits = error["type"], error["input"], error.get("ctx", {})
        if kind == "extra_forbidden":
            known = tuple(cls.model_fields)
            name = str(error["loc"][-1])[:60] if search else ""
            return UNKNOWN_FIELD, _unknown(name, known)
        if kind == "missing":
            return MISSING, "is missing; add it"
        if kind == "model_type":
            return TYPE, f"is {_shown(value)}; write {cls._forms}"
        if kind in ("too_long", "too_short"):
            most, least = limits.get("max_length"), limits.get("min_length")
            remedy = f"write at most {most}" if most else f"write at least {least}"
            return COUNT, f"has {limits['actual_length']} entries; {remedy}"
        if kind == "literal_error":
            return CHOICE, f"is {_shown(value)}; {_nearest(value, limits['expected'])}"
        if kind not in _REMEDIES:
            return _id_of(kind), str(error["msg"])
        id, remedy = _REMEDIES[kind]
        return id, f"is {_shown(value)}; {remedy.format(**limits)}"


# What pydantic calls it: the id, and what to write instead.
_REMEDIES = {
    "int_type": (TYPE, "write a whole number"),
    "int_from_float": (TYPE, "write a whole number"),
    "float_type": (TYPE, "write a number"),
    "string_type": (TYPE, "write text (in quotes when it looks like a number)"),
    "bool_type": (TYPE, "write true or false"),
    "list_type": (TYPE, "write a list ([a, b], or lines that begin with -)"),
    "dict_type": (TYPE, "write a mapping (lines of name: value)"),
    "greater_than": (RANGE, "write more than {gt:g}"),
    "greater_than_equal": (RANGE, "write at least {ge:g}"),
    "less_than_equal": (RANGE, "write at most {le:g}"),
    "string_too_short": (RANGE, "write at least {min_length} character"),
    "invalid-json-value": (TYPE, "write text, a number, true, false, a list or a mapping"),
    "finite_number": (RANGE, "write a finite number"),
}


def _id_of(kind: str) -> str:
    """Returns the id of an error: its own, or for one that pydantic words, that of any value."""
    return kind if kind.startswith("SW") else FORM


def problems_in(error: ValidationError) -> list[Problem]:
    """Returns the problems that were found while a part of a job was validated."""
    return [(e["loc"], _id_of(e["type"]), e["msg"]) for e in error.errors(include_url=False)]


def _shown(value: Any) -> str:
    if value is None:
        return "empty"
    if isinstance(value, str | int | float | bool):
        return repr(value)[:60]
    return (
        "a list"
        if isinstance(value, list)
        else "a mapping"
        if isinstance(value, dict)
        else "not that"
    )


def _nearest(value: Any, expected: str) -> str:
    """Returns the remedy for a value that is none of those in pydantic's text of them."""
    known = re.findall(r"'([^']*)'", expected)
    near = get_close_matches(str(value)[:60], known, n=1, cutoff=0.75)
    return f"did you mean {near[0]}?" if near else f"write {expected.replace(chr(39), '')}"


def _detail(loc: tuple[str | int, ...], id: str, what: str, value: Any = None) -> InitErrorDetails:
    return InitErrorDetails(type=problem(id, what), loc=loc, input=value)


@lru_cache(maxsize=100)  # the same slip is often made in many places
def _unknown(name: str, known: tuple[str, ...]) -> str:
    near = get_close_matches(name, known, n=1, cutoff=0.6)
    remedy = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
    return f"is not a known field; {remedy}"


def _model_in(annotation: Any) -> type[JobModel] | None:
    """Returns the model that an annotation such as ``list[Pool]`` or ``Disk | None`` is about."""
    if isinstance(annotation, type) and issubclass(annotation, JobModel):
        return annotation
    return next(filter(None, map(_model_in, get_args(annotation))), None)


def _is_list(annotation: Any) -> bool:
    return get_origin(annotation) is list or any(map(_is_list, get_args(annotation)))


def valid(model: type[Any], data: Any) -> Any:
    """Returns ``data`` as a ``model``, or None when it is not one."""
    if isinstance(data, model):
        return data
    try:
        return model.model_validate(data)
    except ValidationError:
        return None


def whole(fields: Any, name: str, default: int | None) -> int | None:
    """Returns the whole number ``name`` of a model or mapping, or None when it is not one."""
    found = (
        fields.get(name, default) if isinstance(fields, dict) else getattr(fields, name, default)
    )
    return found if isinstance(found, int) and not isinstance(found, bool) else None
