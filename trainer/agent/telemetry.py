"""What an agent tells of itself besides its events: its machine, and answers for Prometheus."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping

from trainer.agent.generation import Generation
from trainer.agent.replica import Replica
from trainer.agent.slots import Slots
from trainer.protocol import swell_pb2 as pb
from trainer.rundir.batches import Event
from trainer.rundir.names import ENV_RUN_ID
from trainer.rundir.usererror import Message
from trainer.telemetry.gauges import Endpoint, Gauges, Workers
from trainer.telemetry.machine import EVERY, Sample, Sampler
from trainer.telemetry.settings import TelemetrySettings

log = logging.getLogger("swell.agent")


class Telemetry:
    """Lives beside an agent.

    Args:
        settings: what is told, and where.
        replica: the agent's.
        env: its environment.
    """

    def __init__(
        self, settings: TelemetrySettings, replica: Replica, env: Mapping[str, str]
    ) -> None:
        self._settings = settings
        self._address = replica.address
        self._sampler = Sampler(time.monotonic)
        self._slots: Slots | None = None
        self._generation: Callable[[], Generation | None] = lambda: None
        self._gauges = Gauges(env.get(ENV_RUN_ID, "run"), replica.name, self._look)

    def heard(self, event: Event) -> None:
        """The agent has put this on record."""
        self._gauges.heard(event)

    async def live(
        self,
        slots: Slots,
        generation: Callable[[], Generation | None],
        say: Callable[..., None],
    ) -> None:
        """Samples the machine, and answers, until it is cancelled.

        Args:
            slots: the agent's.
            generation: gives the newest that it knows of.
            say: says something to the leader.
        """
        self._slots, self._generation = slots, generation
        endpoint = self._open()
        sampler = self._sampler if self._settings.machines else None
        try:
            while True:
                if sampler is not None:
                    try:
                        sample = await asyncio.to_thread(sampler.sample)
                        self._gauges.sampled(sample)
                        say(machine=message_of(sample))
                    except (
                        Exception
                    ) as error:  # whatever the machine refuses: training is worth more
                        log.warning("this machine is not sampled any more: %r", error)
                        sampler = None
                await asyncio.sleep(EVERY)
        finally:
            if endpoint is not None:
                endpoint.close()

    def _open(self) -> Endpoint | None:
        if not (port := self._settings.port):
            return None
        try:
            return Endpoint(self._gauges, self._address, port)
        except (OSError, ImportError) as error:  # training is worth more
            what = f"Prometheus is not answered at {self._address}:{port}: {error}"
            log.warning("%s", Message("SW6243", what))
            return None

    def _look(self) -> Workers:
        generation = self._generation()
        workers = [slot.active for slot in (self._slots.all if self._slots else [])]
        return Workers(
            0 if generation is None else generation.number,
            {one.rank: one.step for one in workers if one.generation and one.rank >= 0},
            sum(one.ready for one in workers),
        )


def message_of(sample: Sample) -> pb.Machine:
    """A sample as it travels."""
    return pb.Machine(**sample.values(), gpus=[pb.Gpu(**vars(gpu)) for gpu in sample.gpus])
