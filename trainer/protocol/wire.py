"""What agents and the coordinator share on the wire: the service, its limits, its messages.

Messages of swell.proto are made of membership's plain values here, and the reverse.
"""

from __future__ import annotations

import math

from trainer.protocol import signals
from trainer.protocol import swell_pb2 as pb
from trainer.protocol.messages import Profile, Save
from trainer.protocol.world import MemberId, World, arrange
from trainer.rundir.events import Cause
from trainer.rundir.formats import PROTOCOL

SERVICE = "swell.Coordinator"
METHOD = "Join"
PROOF_SERVICE = "swell.Proof"  # which agents of a fleet serve each other
PROOF_METHOD = "Show"
MESSAGE_LIMIT = 64 * 2**20  # bytes; the largest name all members of a world (45 each), or
# the addresses that all ranks made for one member's ranks (8 or 28 each)

# A peer that vanished is noticed even while nobody has anything to say to it.
KEEPALIVE = (
    ("grpc.keepalive_time_ms", 5000),
    ("grpc.keepalive_timeout_ms", 5000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)

OWN_CAUSES: tuple[Cause, ...] = ("repeat", "rollback")  # why workers leave a world by themselves
SAMPLES_LIMIT = 64  # ids in a Failure
FAILED_LIMIT = 300  # characters of why a machine has shown nothing
SLOTS_LIMIT = 1024  # workers of one member; no machine has as many GPUs


def slots_of(hello: pb.Hello) -> int:
    """How many workers a member has room for, within reason."""
    return min(max(1, hello.slots), SLOTS_LIMIT)


def age_of(hello: pb.Hello) -> float:
    """For how long an agent has lived, in seconds; 0 where it does not say."""
    return round(hello.age, 2) if 0 < hello.age < math.inf else 0.0


def shown_in(hello: pb.Hello) -> signals.Shown | None:
    """What a member's machine has shown; None if it was not asked to."""
    if not hello.HasField("shown"):
        return None
    return signals.Shown(hello.shown.memory, hello.shown.matmul, hello.shown.failed[:FAILED_LIMIT])


def misfit(hello: pb.Hello) -> str | None:
    """Why a coordinator of this version cannot lead an agent; None if it can."""
    if hello.protocol == PROTOCOL:
        return None
    older = "agent" if hello.protocol < PROTOCOL else "coordinator"
    return (
        f"the agent speaks protocol {hello.protocol}, and the coordinator {PROTOCOL}: update the "
        f"{older}'s image (container.image); all pools of a run need one version of Swell"
    )


def world_to_message(world: World, addresses: dict[MemberId, str]) -> pb.World:
    """The message for a world; ``addresses`` says where its members live."""
    return pb.World(
        generation=world.generation,
        slots=[
            pb.Slots(member=str(member), count=count, address=addresses.get(member, ""))
            for member, count in world.slots
        ],
    )


def world_from_message(message: pb.World) -> World:
    """Raises ValueError when the message is not a world."""
    if any(one.count > SLOTS_LIMIT for one in message.slots):
        raise ValueError(f"a member with more than {SLOTS_LIMIT} workers")
    return arrange(
        message.generation, [(MemberId.parse(one.member), one.count) for one in message.slots]
    )


def addresses_in(message: pb.World) -> dict[MemberId, str]:
    """Where the members of the message's world live."""
    return {MemberId.parse(one.member): one.address for one in message.slots}


def order_to_message(
    order: signals.Pause | signals.Abort | signals.Replace | signals.Save | signals.Release,
) -> pb.FromCoordinator:
    """The message for an order to a member, or to all members of a world."""
    match order:
        case signals.Pause(world, grace):
            return pb.FromCoordinator(pause=pb.Pause(generation=world.generation, grace=grace))
        case signals.Abort(world):
            return pb.FromCoordinator(abort=pb.Abort(generation=world.generation))
        case signals.Replace():
            return pb.FromCoordinator(replace=pb.Replace())
        case signals.Save(_, rank, size, left):
            deadline = left if math.isfinite(left) else None
            return pb.FromCoordinator(save=pb.Save(rank=rank, size=size, deadline=deadline))
        case signals.Release(_, reason, rejoin, broken):
            release = pb.Release(reason=reason, rejoin=rejoin, broken=broken)
            return pb.FromCoordinator(release=release)


def save_from_message(message: pb.Save, now: float) -> Save:
    """The order for a worker, at ``now`` seconds of the monotonic clock."""
    until = now + message.deadline if message.HasField("deadline") else math.inf
    return Save(message.rank, message.size, until)


def profile_from_message(asked: pb.Profile) -> Profile:
    """The order for a worker."""
    steps = asked.first, asked.last
    return Profile(asked.number, asked.generation, asked.rank, *steps, asked.memory)


def event_from_message(member: MemberId, message: pb.FromAgent) -> signals.Event | None:
    """What an agent's message means to membership; None for those that do not concern it.

    Raises ValueError for a message without a body, or about nobody.
    """
    kind = message.WhichOneof("body")
    if kind == "ready":
        return signals.Ready(member)
    if kind == "started":
        started = message.started
        idle = started.idle if started.HasField("idle") else None
        return signals.Started(member, started.generation, started.step, idle)
    if kind == "progress":
        progress = message.progress
        return signals.Progress(
            member,
            progress.generation,
            progress.step,
            progress.quiet,
            progress.frozen,
            progress.waiting,
            progress.received,
            progress.saving,
        )
    if kind == "stopped":
        stopped = message.stopped
        return signals.Stopped(
            member,
            stopped.generation,
            stopped.step,
            stopped.clean,
            stopped.failed,
            next((one for one in OWN_CAUSES if one == stopped.cause), "break"),
        )
    if kind == "crashed":
        crashed = message.crashed
        failure = _failure(crashed.failure) if crashed.HasField("failure") else None
        return signals.Crashed(member, crashed.reason, crashed.spare, failure)
    if kind == "drain":
        return signals.Drain(member, message.drain.reason, message.drain.deadline)
    if kind == "done":
        done = message.done
        metrics = dict(done.metrics)
        return signals.Done(
            member, done.generation, done.step, metrics, done.unsaved, done.by_all, done.rank
        )
    if kind == "task_failed":
        failed = message.task_failed
        kind, trained = failed.kind or "program", failed.trained or not failed.kind
        return signals.TaskFailed(
            member, failed.rank, failed.step, failed.reason, kind, trained, failed.generation
        )
    if kind == "rank_failed":
        rank = message.rank_failed
        return signals.RankFailed(
            member, rank.generation, rank.rank, rank.code, rank.seconds, rank.reason
        )
    if kind == "proved":
        proved = message.proved
        return signals.Proved(
            member,
            MemberId.parse(proved.peer),
            proved.failed,
            proved.address,
            proved.peer_address,
            proved.latency,
            proved.bandwidth,
        )
    if kind in ("row", "start", "stacks", "ranks", "examined"):
        return None
    raise ValueError(f"an agent sent {kind!r}")


def _failure(message: pb.Failure) -> signals.Failure:
    return signals.Failure(
        message.kind,
        message.rank,
        message.step,
        message.reason,
        message.trained,
        tuple(message.samples[:SAMPLES_LIMIT]),
        message.count,
    )
