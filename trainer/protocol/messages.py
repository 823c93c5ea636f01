"""What an agent and its worker say to each other: a dataclass for each kind, a JSON line for each.

Both come from one image, so that nothing here has a version. Neither takes the other at its word
for that: the user's program runs in the worker, and may have written into the pipe.
"""

from __future__ import annotations

import json
import math
from dataclasses import MISSING, dataclass, fields
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from trainer.rundir.untrusted import parse_json

# --- agent to worker ----------------------------------------------------------------------


@dataclass(frozen=True)
class Form:
    """Join a world.

    Attributes:
        generation: its number.
        env: the HOROVOD_* variables for ``hvd.init()``.
        addresses: where the other members live; an abort breaks the connections to them.
        term: that of the leader who formed it.
        careful: say before each step which samples it takes: it may be the last that is heard.
    """

    generation: int
    env: dict[str, str]
    addresses: tuple[str, ...]
    term: int = 0
    careful: bool = False


@dataclass(frozen=True)
class Start:
    """To a keeper: start the script's process in the generation that it was told of.

    Attributes:
        generation: which one.
        address, port: where rank 0's process is to listen.
    """

    generation: int
    address: str
    port: int


@dataclass(frozen=True)
class Pause:
    """Leave the generation after the running step.

    Attributes:
        generation: which one.
        grace: seconds that a keeper's process has to end in.
    """

    generation: int
    grace: float = 0.0


@dataclass(frozen=True)
class Abort:
    """Leave the generation now: it is broken off."""

    generation: int


@dataclass(frozen=True)
class Save:
    """Write a share of a checkpoint of what you hold.

    Attributes:
        rank, size: the worker's place among those who write.
        until: when this VM is taken away, in seconds of the monotonic clock, which all processes
            of a machine share.
    """

    rank: int = 0
    size: int = 1
    until: float = math.inf


@dataclass(frozen=True)
class Profile:
    """Profile some of your steps.

    Attributes:
        number: of the wish (see trainer.rundir.profiles).
        generation, rank: in which world, and where in it; other workers are not asked.
        first, last: of the steps.
        memory: whether what you allocate is looked at, too.
    """

    number: int
    generation: int
    rank: int
    first: int
    last: int
    memory: bool = False


@dataclass(frozen=True)
class Exit:
    """The worker's life is over."""


# --- worker to agent ----------------------------------------------------------------------


@dataclass(frozen=True)
class Alive:
    """The process lives, whatever its training thread does.

    Attributes:
        waiting: whether that thread waits for its peers, in a collective.
        frozen: of a keeper: whether its process is stopped by a signal.
        group: of a keeper: the process group that its process leads; 0 without one.
    """

    waiting: bool
    frozen: bool = False
    group: int = 0


@dataclass(frozen=True)
class Ready:
    """The worker is warm: it can join a world at once."""


@dataclass(frozen=True)
class Received:
    """How many bytes of state have come so far, while a world begins."""

    generation: int
    bytes: int


@dataclass(frozen=True)
class Started:
    """The worker has joined a world, and holds what all its ranks hold.

    Attributes:
        generation, rank: which world, and where in it.
        step: the step that the world goes on from.
        idle: seconds since this worker's last step; None if it has taken none.
        bytes: of state that were sent to make all ranks equal.
        seconds: what that took.
    """

    generation: int
    rank: int
    step: int
    idle: float | None
    bytes: int
    seconds: float


@dataclass(frozen=True)
class Progress:
    """How far the worker is.

    Attributes:
        generation: which world it is in.
        step: steps completed.
        saving: seconds that its share of a checkpoint would take; 0 where that is not known.
    """

    generation: int
    step: int
    saving: float = 0.0


@dataclass(frozen=True)
class Taking:
    """Which samples the worker is about to take, in a world in which it is to be careful.

    Attributes:
        step: steps completed.
        samples: ids of the first of them.
        count: how many there are.
    """

    step: int
    samples: list[int]
    count: int


@dataclass(frozen=True)
class Steps:
    """Consecutive steps of one generation.

    Attributes:
        generation: which one.
        first: the first of the steps.
        metrics: ``metrics[name][i]`` is of step ``first + i``.
        total_steps: of the whole run; None where nobody knows.
        count: how many steps they are.
        seconds: that they took together, each since the one before; the first step of a world,
            which has none before it, takes none.
        samples: of all ranks, that they took in these seconds; 0 without a data set.
        age: seconds since the last of them was completed.
        data_wait: of the ``seconds``, those that rank 0 has waited for its batches; None where
            nobody knows.
        accounts: seconds of all ranks together, by what they went into (see
            trainer.engine.timing), in these ``seconds``; None where nobody knows.
    """

    generation: int
    first: int
    metrics: dict[str, list[float]]
    total_steps: int | None = None
    count: int = 0
    seconds: float = 0.0
    samples: int = 0
    age: float = 0.0
    data_wait: float | None = None
    accounts: dict[str, float] | None = None


@dataclass(frozen=True)
class Ranks:
    """What each rank has spent over the newest steps of a generation; in seconds.

    Attributes:
        generation: which one.
        step: the last of the steps.
        count, seconds: how many they are, and what they took.
        ranks: of whom the rest is: all; in a large world those whose own time was the longest.
        computed, data_wait: of each of these: what it computed, and waited for its batches.
        waited: of each of these: what it waited for slower ranks.
        samples: of each of these: how many it has computed; none where nobody knows.
        median: of ``computed`` and ``data_wait``, over all ranks.
    """

    generation: int
    step: int
    count: int
    seconds: float
    ranks: list[int]
    computed: list[float]
    data_wait: list[float]
    waited: list[float]
    median: dict[str, float]
    samples: list[int] | None = None


@dataclass(frozen=True)
class Stopped:
    """The worker has left a generation, and waits for the next.

    Attributes:
        generation: which one.
        step: the last step that it completed.
        clean: whether it holds exactly the state after that step.
        failed: why it left, if nobody asked it to.
        cause: "repeat" or "rollback" if it was this worker that wanted another world.
        whole: of a keeper: whether its process has ended well, and all it wrote is finished.
    """

    generation: int
    step: int
    clean: bool
    failed: str
    whole: bool = False
    cause: str = ""


@dataclass(frozen=True)
class Exited:
    """A keeper's process has failed, and nobody had asked it to end.

    Attributes:
        generation, rank: which world, and where in it.
        code: its exit code; the number of a signal that killed it, negative.
        seconds: how long it lived.
        reason: its traceback, or what its end looked like.
    """

    generation: int
    rank: int
    code: int
    seconds: float
    reason: str


@dataclass(frozen=True)
class Saved:
    """The worker holds no state that is not in a checkpoint, or could not be saved between worlds.

    Attributes:
        step: of the state.
        unsaved: why it is in no checkpoint; empty if it is in one.
    """

    step: int
    unsaved: str = ""


@dataclass(frozen=True)
class Done:
    """Training is complete.

    Attributes:
        unsaved: what of it is not saved, and why; empty if all is.
        by_all: whether it is so only once all ranks have said it; else rank 0's word counts.
    """

    generation: int
    rank: int
    step: int
    metrics: dict[str, float]
    unsaved: str = ""
    by_all: bool = False


@dataclass(frozen=True)
class Failed:
    """The user's code has raised.

    Attributes:
        reason: the traceback.
        kind: whose fault it may be (see trainer.coordinator.blame).
    """

    reason: str
    kind: str = "program"


@dataclass(frozen=True)
class Event:
    """An event of trainer.rundir.events, for the agent to emit."""

    name: str
    fields: dict[str, Any]


ToWorker = Form | Start | Pause | Abort | Save | Profile | Exit
FromWorker = (
    Alive
    | Ready
    | Received
    | Started
    | Progress
    | Taking
    | Steps
    | Ranks
    | Stopped
    | Exited
    | Saved
    | Done
    | Failed
    | Event
)
Message = ToWorker | FromWorker

# --- lines --------------------------------------------------------------------------------

_KINDS: dict[str, type[Message]] = {kind.__name__.lower(): kind for kind in get_args(Message)}
_TYPES: dict[str, dict[str, Any]] = {op: get_type_hints(kind) for op, kind in _KINDS.items()}


def encode(message: Message) -> bytes:
    """Returns the message as a line, its end included."""
    op = type(message).__name__.lower()
    return json.dumps({"op": op, **vars(message)}).encode() + b"\n"


def decode(line: bytes) -> Message | None:
    """Returns the message of a line; None for one of a kind that is not known here.

    Fields that are not known are passed over, too. Raises ValueError for what is no message, and
    for one that lacks a field or has a value of a wrong type.
    """
    record = parse_json(line)
    op = record.get("op") if isinstance(record, dict) else None
    if not isinstance(op, str):
        raise ValueError("it is no message: it has no op")
    if op not in _KINDS:
        return None
    values = {}
    for field in fields(_KINDS[op]):
        if field.name in record:
            values[field.name] = _checked(record[field.name], _TYPES[op][field.name], op)
        elif field.default is MISSING:
            raise ValueError(f"{op} lacks {field.name}")
    return _KINDS[op](**values)


def _checked(value: Any, wanted: Any, op: str) -> Any:
    """Returns a value of JSON as the type that is wanted; raises ValueError if it is another."""
    origin, inner = get_origin(wanted), get_args(wanted)
    if wanted is Any or type(value) is wanted:
        return value
    if wanted is float and type(value) is int:
        return value
    if origin is UnionType:  # with None
        return None if value is None else _checked(value, inner[0], op)
    if origin is dict and isinstance(value, dict):
        return {key: _checked(one, inner[1], op) for key, one in value.items()}
    if origin in (list, tuple) and isinstance(value, list):
        return origin(_checked(one, inner[0], op) for one in value)
    raise ValueError(f"{op} has a {type(value).__name__} where {wanted} belongs")
