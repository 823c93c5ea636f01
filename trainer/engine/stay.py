"""One worker's stay in one generation: how it gets in, and how it gets out whatever happens.

An abort, from the agent or because a peer was lost, shuts down the connections to all
peers, again and again until the worker has left: one break can miss a connection that
is being made at that moment.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import torch
from horovod.common.exceptions import HorovodInternalError
from horovod.torch import mpi_ops

from trainer.engine import own_groups
from trainer.engine.sockets import break_connections, open_sockets
from trainer.protocol.channel import Channel
from trainer.protocol.messages import Form

BREAK_AGAIN = 0.05  # seconds

# As they are now: in a worker that runs a script, hvd.init and hvd.shutdown will be hooked.
_init: Callable[..., None] = mpi_ops.init
horovod_shutdown: Callable[[], None] = mpi_ops.shutdown


def horovod_init(*args: Any, **kwargs: Any) -> None:
    """``hvd.init()``. Raises HorovodInternalError when peers were lost."""
    try:
        _init(*args, **kwargs)
    except ValueError as error:  # the way in which Horovod says so
        raise HorovodInternalError(str(error)) from error


class Stay:
    """From before ``hvd.init()`` to after ``hvd.shutdown()``. ``leave`` must be called.

    Args:
        channel: reports an abort.
        order: which generation the worker joins.
    """

    def __init__(self, channel: Channel, order: Form) -> None:
        self._order = order
        self._channel = channel
        self._older = open_sockets()
        self._listening: frozenset[int] | None = None  # Horovod's, once it has joined
        self._lock = threading.Lock()
        self._breaker: threading.Thread | None = None
        self._left = threading.Event()
        channel.on_abort(self.break_off)
        if channel.aborted(order.generation):
            self.break_off()

    def join(self, init: Callable[[], None] = horovod_init) -> None:
        """Makes this process a rank of the generation's world, by ``hvd.init()``.

        Raises HorovodInternalError when peers were lost, or the generation was broken off, and
        whatever else ``init`` raises: that is no loss, and would be the same in the next world.
        """
        self.check_aborted()
        os.environ.update(self._order.env)
        with self._channel.collective():
            init()
        if not torch.cuda.is_available():  # else NCCL listens later, and may wait there
            self._listening = open_sockets() - self._older
        self.check_aborted()

    def leave(self) -> None:
        """Shuts Horovod down, and what the program has made for collectives of its own.

        The state in memory stays; a second call does nothing.
        """
        if self._left.is_set():
            return
        with self._channel.collective():
            horovod_shutdown()
            own_groups.leave()
        self._channel.on_abort(None)
        with self._lock:
            self._left.set()
        if self._breaker is not None:
            self._breaker.join()  # else it might still break a connection of the next world
        # Handles of collectives that never completed would pin their tensors.
        mpi_ops._handle_map.clear()

    def check_aborted(self) -> None:
        """Raises HorovodInternalError when the generation has been broken off."""
        if self._channel.aborted(self._order.generation):
            raise HorovodInternalError("the generation was broken off")

    def break_off(self) -> None:
        """From now until the worker has left, its connections to peers are shut down."""
        with self._lock:
            if self._breaker is None and not self._left.is_set():
                self._breaker = threading.Thread(
                    target=self._keep_breaking, name="swell-breaker", daemon=True
                )
                self._breaker.start()

    def _keep_breaking(self) -> None:
        peers = {*self._order.addresses, "127.0.0.1"}
        port = self._order.env.get("HOROVOD_GLOO_RENDEZVOUS_PORT")
        while not self._left.is_set():
            spare_port = int(port) if port else None
            break_connections(self._older, peers, spare_port, self._listening)
            self._left.wait(BREAK_AGAIN)
