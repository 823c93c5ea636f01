"""What a run's files say, read strictly: a field that is not as documented counts as absent.

The files come from several machines, and perhaps from another version of Swell. What is damaged
or newer must neither keep anybody from reading the rest, nor pass for something that it is not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from trainer.rundir.events import Event  # needs fsspec, which is slow to import

STRICT = ConfigDict(strict=True, allow_inf_nan=False)

_Kind = TypeVar("_Kind", bound="DataclassInstance")


def read_record(kind: type[_Kind], record: Mapping[str, Any]) -> _Kind:
    """Returns ``record`` as a ``kind``; what is not of its type is left at its default.

    Args:
        kind: a dataclass that has a default for every field.
        record: a JSON object; other fields than those of ``kind`` are passed over.
    """
    return kind(**_given(kind, record))


def _given(kind: type[_Kind], record: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of ``kind`` that ``record`` has, and has of their type."""
    checks, given = _checks(kind), {}
    for name, value in record.items():
        if (check := checks.get(name)) is not None:
            try:
                given[name] = check(value)
            except ValidationError:
                continue
    return given


@cache
def _checks(kind: type[_Kind]) -> dict[str, Callable[[object], Any]]:
    """What each field's value goes through."""
    hints = get_type_hints(kind)
    return {name: _check(hints[name]) for name in kind.__dataclass_fields__}


@cache
def _check(hint: Any) -> Callable[[object], Any]:
    return TypeAdapter(hint, config=STRICT).validator.validate_python


@dataclass(frozen=True)
class EventRecord:
    """One event, as far as it is of the documented form (see trainer.rundir.events)."""

    event: str = ""
    time: float = 0.0
    accounts: dict[str, Any] | None = None
    action: str | None = None
    address: str | None = None
    age: float | None = None
    attempt: int | None = None
    bandwidth: float | None = None
    before: int | None = None
    beside: bool | None = None
    by: str | None = None
    cause: str | None = None
    changes: list[str] | None = None
    checkpoint: int | None = None
    choice: str | None = None
    controller: int | None = None
    count: int | None = None
    data_wait: float | None = None
    deadline_seconds: float | None = None
    device: str | None = None
    faults: int | None = None
    first: int | None = None
    flops: float | None = None
    generation: int | None = None
    gone: bool | None = None
    incarnation: str | None = None
    jobs: int | None = None
    latency: float | None = None
    least: bool | None = None
    limit: float | None = None
    lost_steps: int | None = None
    machine: str | None = None
    member: str | None = None
    members: list[str] | None = None
    metrics: dict[str, Any] | None = None  # of any kind: each reader asks what it can use
    min_workers: int | None = None
    names: list[str] | None = None
    on_demand: float | None = None
    over: bool | None = None
    peer: str | None = None
    peer_address: str | None = None
    profile: int | None = None
    rank: int | None = None
    ratio: float | None = None
    reason: str | None = None
    region: str | None = None
    replicas: int | None = None
    samples: int | None = None
    script: bool | None = None
    seconds: float | None = None
    slots: int | None = None
    stacks: str | None = None
    state: str | None = None
    step: int | None = None
    strategy: str | None = None
    term: int | None = None
    then: str | None = None
    total_steps: int | None = None
    unit: int | None = None
    url: str | None = None
    usual: float | None = None
    usd_per_hour: float | None = None
    verdict: str | None = None
    wanted: int | None = None
    whose: str | None = None
    world_size: int | None = None

    @classmethod
    def of(cls, event: Event) -> EventRecord:
        """Returns what ``event`` says."""
        # A run has millions, and each says a few of these: the class has the defaults of the rest.
        made = object.__new__(cls)
        vars(made).update(_given(cls, event))
        return made

    @property
    def told(self) -> tuple[int, dict[str, list[Any]]]:
        """Of an event ``steps``: how many, and the values of each metric in the last of them."""
        known: tuple[int, dict[str, list[Any]]] | None = vars(self).get("_told")
        if known is None:  # several fold the same record
            metrics = self.metrics or {}
            series = {name: of for name, of in metrics.items() if isinstance(of, list) and of}
            count = max(self.count or 0, *map(len, series.values()), 0)
            series.pop("step", None)  # what a script that tells no metrics has in their place
            known = vars(self)["_told"] = count, series
        return known
