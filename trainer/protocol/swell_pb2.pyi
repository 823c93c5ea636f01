from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class World(_message.Message):
    __slots__ = ("generation", "slots")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    generation: int
    slots: _containers.RepeatedCompositeFieldContainer[Slots]
    def __init__(self, generation: _Optional[int] = ..., slots: _Optional[_Iterable[_Union[Slots, _Mapping]]] = ...) -> None: ...

class Slots(_message.Message):
    __slots__ = ("member", "count", "address")
    MEMBER_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    member: str
    count: int
    address: str
    def __init__(self, member: _Optional[str] = ..., count: _Optional[int] = ..., address: _Optional[str] = ...) -> None: ...

class Addresses(_message.Message):
    __slots__ = ("rank", "addresses")
    RANK_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    rank: int
    addresses: bytes
    def __init__(self, rank: _Optional[int] = ..., addresses: _Optional[bytes] = ...) -> None: ...

class FromAgent(_message.Message):
    __slots__ = ("hello", "ready", "started", "progress", "stopped", "crashed", "drain", "row", "done", "task_failed", "start", "rank_failed", "proved", "stacks", "ranks", "examined", "machine")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    STARTED_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    STOPPED_FIELD_NUMBER: _ClassVar[int]
    CRASHED_FIELD_NUMBER: _ClassVar[int]
    DRAIN_FIELD_NUMBER: _ClassVar[int]
    ROW_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    TASK_FAILED_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    RANK_FAILED_FIELD_NUMBER: _ClassVar[int]
    PROVED_FIELD_NUMBER: _ClassVar[int]
    STACKS_FIELD_NUMBER: _ClassVar[int]
    RANKS_FIELD_NUMBER: _ClassVar[int]
    EXAMINED_FIELD_NUMBER: _ClassVar[int]
    MACHINE_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    ready: Ready
    started: Started
    progress: Progress
    stopped: Stopped
    crashed: Crashed
    drain: Drain
    row: Row
    done: Done
    task_failed: TaskFailed
    start: Start
    rank_failed: RankFailed
    proved: Proved
    stacks: Stacks
    ranks: Ranks
    examined: Examined
    machine: Machine
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., ready: _Optional[_Union[Ready, _Mapping]] = ..., started: _Optional[_Union[Started, _Mapping]] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ..., stopped: _Optional[_Union[Stopped, _Mapping]] = ..., crashed: _Optional[_Union[Crashed, _Mapping]] = ..., drain: _Optional[_Union[Drain, _Mapping]] = ..., row: _Optional[_Union[Row, _Mapping]] = ..., done: _Optional[_Union[Done, _Mapping]] = ..., task_failed: _Optional[_Union[TaskFailed, _Mapping]] = ..., start: _Optional[_Union[Start, _Mapping]] = ..., rank_failed: _Optional[_Union[RankFailed, _Mapping]] = ..., proved: _Optional[_Union[Proved, _Mapping]] = ..., stacks: _Optional[_Union[Stacks, _Mapping]] = ..., ranks: _Optional[_Union[Ranks, _Mapping]] = ..., examined: _Optional[_Union[Examined, _Mapping]] = ..., machine: _Optional[_Union[Machine, _Mapping]] = ...) -> None: ...

class Shown(_message.Message):
    __slots__ = ("memory", "matmul", "failed")
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    MATMUL_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    memory: float
    matmul: float
    failed: str
    def __init__(self, memory: _Optional[float] = ..., matmul: _Optional[float] = ..., failed: _Optional[str] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("member", "slots", "address", "world", "term", "protocol", "proof_port", "shown", "age")
    MEMBER_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    WORLD_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    PROOF_PORT_FIELD_NUMBER: _ClassVar[int]
    SHOWN_FIELD_NUMBER: _ClassVar[int]
    AGE_FIELD_NUMBER: _ClassVar[int]
    member: str
    slots: int
    address: str
    world: World
    term: int
    protocol: int
    proof_port: int
    shown: Shown
    age: float
    def __init__(self, member: _Optional[str] = ..., slots: _Optional[int] = ..., address: _Optional[str] = ..., world: _Optional[_Union[World, _Mapping]] = ..., term: _Optional[int] = ..., protocol: _Optional[int] = ..., proof_port: _Optional[int] = ..., shown: _Optional[_Union[Shown, _Mapping]] = ..., age: _Optional[float] = ...) -> None: ...

class Ready(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Started(_message.Message):
    __slots__ = ("generation", "step", "idle")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    IDLE_FIELD_NUMBER: _ClassVar[int]
    generation: int
    step: int
    idle: float
    def __init__(self, generation: _Optional[int] = ..., step: _Optional[int] = ..., idle: _Optional[float] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("generation", "step", "quiet", "frozen", "waiting", "received", "saving")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    QUIET_FIELD_NUMBER: _ClassVar[int]
    FROZEN_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    SAVING_FIELD_NUMBER: _ClassVar[int]
    generation: int
    step: int
    quiet: float
    frozen: bool
    waiting: bool
    received: int
    saving: float
    def __init__(self, generation: _Optional[int] = ..., step: _Optional[int] = ..., quiet: _Optional[float] = ..., frozen: bool = ..., waiting: bool = ..., received: _Optional[int] = ..., saving: _Optional[float] = ...) -> None: ...

class Stopped(_message.Message):
    __slots__ = ("generation", "step", "clean", "failed", "cause")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    CLEAN_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    generation: int
    step: int
    clean: bool
    failed: str
    cause: str
    def __init__(self, generation: _Optional[int] = ..., step: _Optional[int] = ..., clean: bool = ..., failed: _Optional[str] = ..., cause: _Optional[str] = ...) -> None: ...

class Crashed(_message.Message):
    __slots__ = ("reason", "spare", "failure")
    REASON_FIELD_NUMBER: _ClassVar[int]
    SPARE_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    reason: str
    spare: bool
    failure: Failure
    def __init__(self, reason: _Optional[str] = ..., spare: bool = ..., failure: _Optional[_Union[Failure, _Mapping]] = ...) -> None: ...

class Failure(_message.Message):
    __slots__ = ("kind", "rank", "step", "reason", "trained", "samples", "count")
    KIND_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    TRAINED_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    kind: str
    rank: int
    step: int
    reason: str
    trained: bool
    samples: _containers.RepeatedScalarFieldContainer[int]
    count: int
    def __init__(self, kind: _Optional[str] = ..., rank: _Optional[int] = ..., step: _Optional[int] = ..., reason: _Optional[str] = ..., trained: bool = ..., samples: _Optional[_Iterable[int]] = ..., count: _Optional[int] = ...) -> None: ...

class Drain(_message.Message):
    __slots__ = ("reason", "deadline")
    REASON_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_FIELD_NUMBER: _ClassVar[int]
    reason: str
    deadline: float
    def __init__(self, reason: _Optional[str] = ..., deadline: _Optional[float] = ...) -> None: ...

class Row(_message.Message):
    __slots__ = ("generation", "scope", "size", "row")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    ROW_FIELD_NUMBER: _ClassVar[int]
    generation: int
    scope: str
    size: int
    row: Addresses
    def __init__(self, generation: _Optional[int] = ..., scope: _Optional[str] = ..., size: _Optional[int] = ..., row: _Optional[_Union[Addresses, _Mapping]] = ...) -> None: ...

class Done(_message.Message):
    __slots__ = ("generation", "step", "metrics", "unsaved", "by_all", "rank")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    UNSAVED_FIELD_NUMBER: _ClassVar[int]
    BY_ALL_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    generation: int
    step: int
    metrics: _containers.ScalarMap[str, float]
    unsaved: str
    by_all: bool
    rank: int
    def __init__(self, generation: _Optional[int] = ..., step: _Optional[int] = ..., metrics: _Optional[_Mapping[str, float]] = ..., unsaved: _Optional[str] = ..., by_all: bool = ..., rank: _Optional[int] = ...) -> None: ...

class TaskFailed(_message.Message):
    __slots__ = ("rank", "step", "reason", "kind", "trained", "generation")
    RANK_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    TRAINED_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    rank: int
    step: int
    reason: str
    kind: str
    trained: bool
    generation: int
    def __init__(self, rank: _Optional[int] = ..., step: _Optional[int] = ..., reason: _Optional[str] = ..., kind: _Optional[str] = ..., trained: bool = ..., generation: _Optional[int] = ...) -> None: ...

class Start(_message.Message):
    __slots__ = ("generation", "address", "port", "version")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    generation: int
    address: str
    port: int
    version: str
    def __init__(self, generation: _Optional[int] = ..., address: _Optional[str] = ..., port: _Optional[int] = ..., version: _Optional[str] = ...) -> None: ...

class RankFailed(_message.Message):
    __slots__ = ("generation", "rank", "code", "seconds", "reason")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    generation: int
    rank: int
    code: int
    seconds: float
    reason: str
    def __init__(self, generation: _Optional[int] = ..., rank: _Optional[int] = ..., code: _Optional[int] = ..., seconds: _Optional[float] = ..., reason: _Optional[str] = ...) -> None: ...

class Proved(_message.Message):
    __slots__ = ("peer", "failed", "address", "peer_address", "latency", "bandwidth")
    PEER_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    PEER_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    LATENCY_FIELD_NUMBER: _ClassVar[int]
    BANDWIDTH_FIELD_NUMBER: _ClassVar[int]
    peer: str
    failed: str
    address: str
    peer_address: str
    latency: float
    bandwidth: float
    def __init__(self, peer: _Optional[str] = ..., failed: _Optional[str] = ..., address: _Optional[str] = ..., peer_address: _Optional[str] = ..., latency: _Optional[float] = ..., bandwidth: _Optional[float] = ...) -> None: ...

class Stacks(_message.Message):
    __slots__ = ("number", "generation", "stacks")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    STACKS_FIELD_NUMBER: _ClassVar[int]
    number: int
    generation: int
    stacks: _containers.RepeatedCompositeFieldContainer[Stack]
    def __init__(self, number: _Optional[int] = ..., generation: _Optional[int] = ..., stacks: _Optional[_Iterable[_Union[Stack, _Mapping]]] = ...) -> None: ...

class Stack(_message.Message):
    __slots__ = ("rank", "text", "busy", "waits_for", "collective", "ended", "missing")
    RANK_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    BUSY_FIELD_NUMBER: _ClassVar[int]
    WAITS_FOR_FIELD_NUMBER: _ClassVar[int]
    COLLECTIVE_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    rank: int
    text: str
    busy: float
    waits_for: str
    collective: bool
    ended: bool
    missing: str
    def __init__(self, rank: _Optional[int] = ..., text: _Optional[str] = ..., busy: _Optional[float] = ..., waits_for: _Optional[str] = ..., collective: bool = ..., ended: bool = ..., missing: _Optional[str] = ...) -> None: ...

class Ranks(_message.Message):
    __slots__ = ("generation", "step", "count", "seconds", "ranks", "computed", "data_wait", "samples", "median_computed", "median_data_wait")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    RANKS_FIELD_NUMBER: _ClassVar[int]
    COMPUTED_FIELD_NUMBER: _ClassVar[int]
    DATA_WAIT_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    MEDIAN_COMPUTED_FIELD_NUMBER: _ClassVar[int]
    MEDIAN_DATA_WAIT_FIELD_NUMBER: _ClassVar[int]
    generation: int
    step: int
    count: int
    seconds: float
    ranks: _containers.RepeatedScalarFieldContainer[int]
    computed: _containers.RepeatedScalarFieldContainer[float]
    data_wait: _containers.RepeatedScalarFieldContainer[float]
    samples: _containers.RepeatedScalarFieldContainer[int]
    median_computed: float
    median_data_wait: float
    def __init__(self, generation: _Optional[int] = ..., step: _Optional[int] = ..., count: _Optional[int] = ..., seconds: _Optional[float] = ..., ranks: _Optional[_Iterable[int]] = ..., computed: _Optional[_Iterable[float]] = ..., data_wait: _Optional[_Iterable[float]] = ..., samples: _Optional[_Iterable[int]] = ..., median_computed: _Optional[float] = ..., median_data_wait: _Optional[float] = ...) -> None: ...

class Examined(_message.Message):
    __slots__ = ("generation", "rank", "reason")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    generation: int
    rank: int
    reason: str
    def __init__(self, generation: _Optional[int] = ..., rank: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class Machine(_message.Message):
    __slots__ = ("cpu", "memory", "disk", "read", "written", "received", "sent", "gpus")
    CPU_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    DISK_FIELD_NUMBER: _ClassVar[int]
    READ_FIELD_NUMBER: _ClassVar[int]
    WRITTEN_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    SENT_FIELD_NUMBER: _ClassVar[int]
    GPUS_FIELD_NUMBER: _ClassVar[int]
    cpu: float
    memory: float
    disk: float
    read: float
    written: float
    received: float
    sent: float
    gpus: _containers.RepeatedCompositeFieldContainer[Gpu]
    def __init__(self, cpu: _Optional[float] = ..., memory: _Optional[float] = ..., disk: _Optional[float] = ..., read: _Optional[float] = ..., written: _Optional[float] = ..., received: _Optional[float] = ..., sent: _Optional[float] = ..., gpus: _Optional[_Iterable[_Union[Gpu, _Mapping]]] = ...) -> None: ...

class Gpu(_message.Message):
    __slots__ = ("used", "memory", "temperature", "clock", "power", "held_back", "links", "links_down", "xid")
    USED_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    CLOCK_FIELD_NUMBER: _ClassVar[int]
    POWER_FIELD_NUMBER: _ClassVar[int]
    HELD_BACK_FIELD_NUMBER: _ClassVar[int]
    LINKS_FIELD_NUMBER: _ClassVar[int]
    LINKS_DOWN_FIELD_NUMBER: _ClassVar[int]
    XID_FIELD_NUMBER: _ClassVar[int]
    used: float
    memory: float
    temperature: float
    clock: float
    power: float
    held_back: bool
    links: int
    links_down: int
    xid: int
    def __init__(self, used: _Optional[float] = ..., memory: _Optional[float] = ..., temperature: _Optional[float] = ..., clock: _Optional[float] = ..., power: _Optional[float] = ..., held_back: bool = ..., links: _Optional[int] = ..., links_down: _Optional[int] = ..., xid: _Optional[int] = ...) -> None: ...

class FromCoordinator(_message.Message):
    __slots__ = ("form", "pause", "abort", "columns", "replace", "save", "release", "finish", "beat", "succeed", "start", "prove", "inspect", "profile", "examine")
    FORM_FIELD_NUMBER: _ClassVar[int]
    PAUSE_FIELD_NUMBER: _ClassVar[int]
    ABORT_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    REPLACE_FIELD_NUMBER: _ClassVar[int]
    SAVE_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    FINISH_FIELD_NUMBER: _ClassVar[int]
    BEAT_FIELD_NUMBER: _ClassVar[int]
    SUCCEED_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    PROVE_FIELD_NUMBER: _ClassVar[int]
    INSPECT_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    EXAMINE_FIELD_NUMBER: _ClassVar[int]
    form: Form
    pause: Pause
    abort: Abort
    columns: Columns
    replace: Replace
    save: Save
    release: Release
    finish: Finish
    beat: Beat
    succeed: Succeed
    start: Start
    prove: Prove
    inspect: Inspect
    profile: Profile
    examine: Examine
    def __init__(self, form: _Optional[_Union[Form, _Mapping]] = ..., pause: _Optional[_Union[Pause, _Mapping]] = ..., abort: _Optional[_Union[Abort, _Mapping]] = ..., columns: _Optional[_Union[Columns, _Mapping]] = ..., replace: _Optional[_Union[Replace, _Mapping]] = ..., save: _Optional[_Union[Save, _Mapping]] = ..., release: _Optional[_Union[Release, _Mapping]] = ..., finish: _Optional[_Union[Finish, _Mapping]] = ..., beat: _Optional[_Union[Beat, _Mapping]] = ..., succeed: _Optional[_Union[Succeed, _Mapping]] = ..., start: _Optional[_Union[Start, _Mapping]] = ..., prove: _Optional[_Union[Prove, _Mapping]] = ..., inspect: _Optional[_Union[Inspect, _Mapping]] = ..., profile: _Optional[_Union[Profile, _Mapping]] = ..., examine: _Optional[_Union[Examine, _Mapping]] = ...) -> None: ...

class Form(_message.Message):
    __slots__ = ("world", "gloo_timeout", "careful")
    WORLD_FIELD_NUMBER: _ClassVar[int]
    GLOO_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    CAREFUL_FIELD_NUMBER: _ClassVar[int]
    world: World
    gloo_timeout: float
    careful: bool
    def __init__(self, world: _Optional[_Union[World, _Mapping]] = ..., gloo_timeout: _Optional[float] = ..., careful: bool = ...) -> None: ...

class Pause(_message.Message):
    __slots__ = ("generation", "grace")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    GRACE_FIELD_NUMBER: _ClassVar[int]
    generation: int
    grace: float
    def __init__(self, generation: _Optional[int] = ..., grace: _Optional[float] = ...) -> None: ...

class Abort(_message.Message):
    __slots__ = ("generation",)
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    generation: int
    def __init__(self, generation: _Optional[int] = ...) -> None: ...

class Columns(_message.Message):
    __slots__ = ("generation", "scope", "columns")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    generation: int
    scope: str
    columns: _containers.RepeatedCompositeFieldContainer[Addresses]
    def __init__(self, generation: _Optional[int] = ..., scope: _Optional[str] = ..., columns: _Optional[_Iterable[_Union[Addresses, _Mapping]]] = ...) -> None: ...

class Replace(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Save(_message.Message):
    __slots__ = ("rank", "size", "deadline")
    RANK_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_FIELD_NUMBER: _ClassVar[int]
    rank: int
    size: int
    deadline: float
    def __init__(self, rank: _Optional[int] = ..., size: _Optional[int] = ..., deadline: _Optional[float] = ...) -> None: ...

class Release(_message.Message):
    __slots__ = ("reason", "rejoin", "broken")
    REASON_FIELD_NUMBER: _ClassVar[int]
    REJOIN_FIELD_NUMBER: _ClassVar[int]
    BROKEN_FIELD_NUMBER: _ClassVar[int]
    reason: str
    rejoin: bool
    broken: bool
    def __init__(self, reason: _Optional[str] = ..., rejoin: bool = ..., broken: bool = ...) -> None: ...

class Beat(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Succeed(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Prove(_message.Message):
    __slots__ = ("peer", "target")
    PEER_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    peer: str
    target: str
    def __init__(self, peer: _Optional[str] = ..., target: _Optional[str] = ...) -> None: ...

class Inspect(_message.Message):
    __slots__ = ("number", "generation")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    number: int
    generation: int
    def __init__(self, number: _Optional[int] = ..., generation: _Optional[int] = ...) -> None: ...

class Examine(_message.Message):
    __slots__ = ("generation", "rank")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    generation: int
    rank: int
    def __init__(self, generation: _Optional[int] = ..., rank: _Optional[int] = ...) -> None: ...

class Profile(_message.Message):
    __slots__ = ("generation", "rank", "number", "first", "last", "memory")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    generation: int
    rank: int
    number: int
    first: int
    last: int
    memory: bool
    def __init__(self, generation: _Optional[int] = ..., rank: _Optional[int] = ..., number: _Optional[int] = ..., first: _Optional[int] = ..., last: _Optional[int] = ..., memory: bool = ...) -> None: ...

class Finish(_message.Message):
    __slots__ = ("state", "reason")
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    state: str
    reason: str
    def __init__(self, state: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...
