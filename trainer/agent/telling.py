"""What an agent tells its coordinator of itself and of its workers, as messages of the protocol."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trainer.agent.replica import Replica
from trainer.agent.slots import Slot
from trainer.agent.worker_process import WorkerProcess
from trainer.protocol import messages
from trainer.protocol import swell_pb2 as pb
from trainer.protocol.lease import Claim
from trainer.protocol.world import MemberId
from trainer.rundir import clock
from trainer.rundir.formats import PROTOCOL


def hello_of(member: MemberId, replica: Replica, term: int, proof_port: int) -> pb.Hello:
    """Who this is.

    Args:
        member: it.
        replica: where it runs.
        term: of the leader that it means to speak to.
        proof_port: where it answers members of other jobs; 0 if there are none.
    """
    return pb.Hello(
        member=str(member),
        slots=replica.slots,
        address=replica.address,
        term=term,
        protocol=PROTOCOL,
        proof_port=proof_port,
        age=clock.lived(),
        shown=replica.shown,
    )


def unreached(member: MemberId, address: str, claim: Claim, why: str) -> dict[str, Any]:
    """What the event ``unreachable`` says of a leader that no message reaches.

    Args:
        member: who does not reach it.
        address: where that is.
        claim: the leader's.
        why: in words.
    """
    leader = claim.member.partition("#")[0]
    return {
        "member": member.replica,
        "incarnation": member.incarnation,
        "peer": leader,
        "address": address,
        "peer_address": claim.target.rpartition(":")[0],
        "reason": f"{member.replica} does not reach {leader}: {why}",
    }


def progress(generation: int, slots: Sequence[Slot], now: float) -> pb.Progress:
    """How far the workers are, and how they are.

    Args:
        generation: that they are in; 0 for none.
        slots: the agent's.
        now: monotonic seconds.
    """
    inside = [slot.active for slot in slots if slot.active.generation]
    return pb.Progress(
        generation=generation,
        step=max((slot.active.step for slot in slots), default=0),
        quiet=max((now - worker.heard for worker in inside), default=0.0),
        frozen=any(slot.active.frozen for slot in slots),
        waiting=bool(inside) and all(worker.waiting for worker in inside),
        received=min((worker.received for worker in inside), default=0),
        saving=max((worker.saving for worker in inside), default=0.0),
    )


def crashed(worker: WorkerProcess, reason: str, kind: str, spare: bool) -> pb.Crashed:
    """A worker's process has ended.

    Args:
        worker: which.
        reason: how, in words.
        kind: whose fault that may be (see ``trainer.coordinator.blame``); "" for nobody's.
        spare: whether a warm process takes its place.
    """
    told = pb.Crashed(reason=reason, spare=spare)
    if kind:
        taking = worker.taking
        if taking is None or taking.step != worker.step:  # that step is over
            taking = messages.Taking(worker.step, [], 0)
        failure = pb.Failure(
            kind=kind,
            rank=worker.rank,
            step=worker.step,
            reason=reason,
            trained=worker.trained,
            samples=taking.samples,
            count=taking.count,
        )
        told.failure.CopyFrom(failure)
    return told


def failed(worker: WorkerProcess, reason: str, kind: str) -> pb.TaskFailed:
    """The program has raised in a worker; ``reason`` is what it said, ``kind`` as above."""
    return pb.TaskFailed(
        rank=worker.rank,
        step=worker.step,
        reason=reason,
        kind=kind,
        trained=worker.trained,
        generation=worker.generation,
    )


def spent(message: messages.Ranks) -> pb.Ranks:
    """What each rank has spent, as rank 0 says."""
    return pb.Ranks(
        generation=message.generation,
        step=message.step,
        count=message.count,
        seconds=message.seconds,
        ranks=message.ranks,
        computed=message.computed,
        data_wait=message.data_wait,
        samples=message.samples or [0] * len(message.ranks),
        median_computed=message.median.get("computed", 0.0),
        median_data_wait=message.median.get("data_wait", 0.0),
    )


def done(message: messages.Done) -> pb.Done:
    """Training is complete, as rank 0 says; of a script, as each rank does."""
    return pb.Done(
        generation=message.generation,
        step=message.step,
        metrics=message.metrics,
        unsaved=message.unsaved,
        by_all=message.by_all,
        rank=message.rank,
    )
