"""One generation of the world, as far as one agent has a part in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from trainer.agent.environment import horovod_environment
from trainer.agent.processes import torchrun_environment
from trainer.agent.rendezvous import Rendezvous
from trainer.protocol import messages
from trainer.protocol import swell_pb2 as pb
from trainer.protocol.wire import addresses_in, world_from_message, world_to_message
from trainer.protocol.world import MemberId, Place


class Generation:
    """A world, its rendezvous, and which of this agent's workers have started and stopped in it.

    ``begin`` makes one.

    Attributes:
        number: the generation.
        places: where this agent's workers stand, by slot.
        leads: whether rank 0 is one of them.
    """

    def __init__(self, form: pb.Form, member: MemberId, send_row: Callable[[pb.Row], None]) -> None:
        self._member = member
        self._world = world_from_message(form.world)
        self._addresses = addresses_in(form.world)
        self._gloo_timeout = form.gloo_timeout
        self._careful = form.careful
        self._send_row = send_row
        self._rendezvous = Rendezvous(self._world, member, self._take_row)
        self._done: dict[int, messages.Done] = {}
        self._failures: list[pb.RankFailed] = []
        self._started: dict[int, messages.Started] = {}  # by slot
        self._stopped: dict[int, messages.Stopped] = {}
        self.number = self._world.generation
        self.leads = self._world.members[0] == member
        self.places: list[Place] = self._world.places_of(member)

    @classmethod
    async def begin(
        cls, form: pb.Form, member: MemberId, send_row: Callable[[pb.Row], None]
    ) -> Generation:
        """Starts the rendezvous of a generation.

        Args:
            form: the leader's order.
            member: who this agent is.
            send_row: called with each row of addresses that other agents wait for.

        Raises ValueError for an order that makes no world.
        """
        generation = cls(form, member, send_row)
        await generation._rendezvous.start()
        return generation

    def order(self, place: Place, *, term: int, interface: str) -> messages.Form:
        """The order for the worker at ``place``.

        Args:
            place: one of ``places``.
            term: of the leader who formed this.
            interface: see horovod_environment.
        """
        env = horovod_environment(
            place,
            interface=interface,
            rendezvous_port=self._rendezvous.port,
            gloo_timeout=self._gloo_timeout,
        )
        addresses = tuple(sorted(set(self._addresses.values())))
        return messages.Form(self.number, env, addresses, term, self._careful)

    def order_to_keeper(
        self,
        place: Place,
        *,
        term: int,
        run_id: str,
        max_restarts: int,
        interface: str,
        env: Mapping[str, str],
    ) -> messages.Form:
        """The order for the keeper at ``place``; for the rest see ``torchrun_environment``."""
        variables = torchrun_environment(
            place,
            self._world,
            run_id=run_id,
            max_restarts=max_restarts,
            interface=interface,
            env=env,
        )
        return messages.Form(self.number, variables, (), term)

    # --- the rendezvous ---------------------------------------------------------------

    def take(self, columns: pb.Columns) -> None:
        """Takes in the addresses that all members made for this agent's workers.

        Raises ValueError for what is no address.
        """
        for one in columns.columns:
            self._rendezvous.take(columns.scope, one.rank, one.addresses)

    def break_off(self) -> None:
        """Lets whatever its workers ask of the rendezvous fail fast."""
        self._rendezvous.break_off()

    async def close(self) -> None:
        """Ends the rendezvous."""
        await self._rendezvous.close()

    def _take_row(self, scope: str, size: int, rank: int, row: bytes) -> None:
        addresses = pb.Addresses(rank=rank, addresses=row)
        self._send_row(pb.Row(generation=self.number, scope=scope, size=size, row=addresses))

    # --- its workers ------------------------------------------------------------------

    def note_started(self, slot: int, message: messages.Started) -> None:
        """A slot's worker has begun."""
        self._started[slot] = message

    def note_stopped(self, slot: int, message: messages.Stopped) -> None:
        """A slot's worker has left; it waits for another generation."""
        self._stopped[slot] = message

    @property
    def index(self) -> int:
        """This agent's place among those of the generation."""
        return self._world.members.index(self._member)

    @property
    def count(self) -> int:
        """How many agents the generation has."""
        return len(self._world.members)

    @property
    def whole(self) -> bool:
        """Whether all keepers' processes have ended well."""
        return all(one.whole for one in self._stopped.values())

    @property
    def holder(self) -> int:
        """The slot whose worker has left with the newest state; the first one if none has any."""
        slots = sorted(self._stopped)
        return max(slots, key=lambda s: (self._stopped[s].clean, self._stopped[s].step), default=0)

    def note_crashed(self, slot: int, step: int) -> None:
        """A slot's worker has died after ``step``."""
        self._stopped[slot] = messages.Stopped(self.number, step, clean=False, failed="crashed")

    def note_done(self, slot: int, message: messages.Done) -> None:
        """A slot's script has ended well."""
        self._done[slot] = message

    def note_failed(self, message: messages.Exited) -> pb.RankFailed:
        """The process of one of the keepers has failed. Returns what a leader hears of it."""
        failure = pb.RankFailed(generation=self.number)
        failure.rank, failure.code = message.rank, message.code
        failure.seconds, failure.reason = message.seconds, message.reason
        self._failures.append(failure)
        return failure

    @property
    def half_left(self) -> bool:
        """Whether some of the workers have left, and others have not."""
        return 0 < len(self._stopped) < len(self.places)

    def just_started(self, steps: list[int]) -> bool:
        """Whether all workers have begun, and none has completed a step since.

        Args:
            steps: the newest step of each slot's worker.
        """
        return all(
            slot in self._started and step <= self._started[slot].step
            for slot, step in enumerate(steps)
        )

    # --- what a leader hears of it ----------------------------------------------------

    def to_message(self) -> pb.World:
        """The world, for a leader who may not know it."""
        return world_to_message(self._world, self._addresses)

    def send_rows_again(self) -> None:
        """Unless all have started: a new leader has seen none of the rows."""
        if len(self._started) < len(self.places):
            self._rendezvous.send_again()

    def failures(self) -> list[pb.RankFailed]:
        """The failures of keepers' processes."""
        return self._failures

    @property
    def ended(self) -> list[messages.Done]:
        """What the slots say in which the script has ended well."""
        return list(self._done.values())

    @property
    def ended_in(self) -> set[int]:
        """The slots in which it has."""
        return set(self._done)

    def done(self) -> pb.Done | None:
        """That the processes of all keepers have ended well, if they have."""
        if len(self._done) < len(self.places) or self._stopped:
            return None
        done = self._done.values()
        metrics = {name: value for one in done for name, value in one.metrics.items()}
        step = max(one.step for one in done)
        return pb.Done(generation=self.number, step=step, metrics=metrics)

    def started(self) -> pb.Started | None:
        """That all workers have begun, if they have."""
        if len(self._started) < len(self.places):
            return None
        started, in_order = self._started.values(), sorted(self._started.items())
        return pb.Started(
            generation=self.number,
            step=max(one.step for one in started),
            idle=next((one.idle for _, one in in_order if one.idle is not None), None),
        )

    def stopped(self) -> pb.Stopped | None:
        """That all workers have left, with what they hold, if they have."""
        if len(self._stopped) < len(self.places):
            return None
        stopped = self._stopped.values()
        return pb.Stopped(
            generation=self.number,
            step=max((one.clean, one.step) for one in stopped)[1],
            clean=any(one.clean for one in stopped),
            failed=next((one.failed for one in stopped if one.failed), ""),
            cause=next((one.cause for one in stopped if one.cause), ""),
        )
