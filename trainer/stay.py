"""One worker's stay in one generation: how it gets in, and how it gets out whatever happens.

An abort, from the agent or because a peer was lost, shuts down the connections to all
peers, again and again until the worker has left: one break can miss a connection that
is being made at that moment.
"""

from __future__ import annotations

import os
import threading
from types import TracebackType

import horovod.torch as hvd
from horovod.common.exceptions import HorovodInternalError
from horovod.torch import mpi_ops

from trainer.channel import Channel, Generation
from trainer.sockets import break_connections, open_sockets

BREAK_AGAIN = 0.05  # seconds


class Stay:
    """From before ``hvd.init()`` to after ``hvd.shutdown()``; a context manager.

    Args:
        channel: who tells of an abort.
        generation: where the worker stays.
    """

    def __init__(self, channel: Channel, generation: Generation) -> None:
        self.generation = generation
        self._channel = channel
        self._older = open_sockets()
        self._breaking = threading.Event()
        self._left = threading.Event()

    def __enter__(self) -> Stay:
        self._channel.on_abort(self.break_off)
        if self._channel.aborted(self.generation.number):
            self.break_off()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.leave()

    def join(self) -> None:
        """Makes this process a rank of the generation's world.

        Raises HorovodInternalError when peers were lost, or the generation was broken off.
        """
        self.check_aborted()
        os.environ.update(self.generation.env)
        try:
            with self._channel.collective():
                hvd.init()
        except ValueError as error:  # the way in which Horovod says that peers were lost
            raise HorovodInternalError(str(error)) from error
        self.check_aborted()

    def leave(self) -> None:
        """Shuts Horovod down. The state in memory stays; a second call does nothing."""
        if self._left.is_set():
            return
        with self._channel.collective():
            hvd.shutdown()
        self._left.set()
        self._channel.on_abort(None)
        # Handles of collectives that never completed would pin their tensors.
        mpi_ops._handle_map.clear()

    def check_aborted(self) -> None:
        """Raises HorovodInternalError when the generation has been broken off."""
        if self._channel.aborted(self.generation.number):
            raise HorovodInternalError("the generation was broken off")

    def break_off(self) -> None:
        """From now until the worker has left, its connections to peers are shut down."""
        if not self._breaking.is_set():
            self._breaking.set()
            threading.Thread(target=self._keep_breaking, name="swell-breaker", daemon=True).start()

    def _keep_breaking(self) -> None:
        peers = {*self.generation.addresses, "127.0.0.1"}
        port = self.generation.env.get("HOROVOD_GLOO_RENDEZVOUS_PORT")
        while not self._left.is_set():
            break_connections(self._older, peers, int(port) if port else None)
            self._left.wait(BREAK_AGAIN)
