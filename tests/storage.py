"""The emulated Cloud Storage in a thread of the test, and the words to make it fail."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from launcher.emulator.listener import Listener
from launcher.emulator.storage.blobs import Content
from launcher.emulator.storage.listing import Query
from launcher.emulator.storage.objects import Objects
from launcher.emulator.storage.server import Storage

ADDRESS = "127.0.0.1"


class StorageServer:
    """A running server.

    Attributes:
        endpoint: its base URL.
        folder: where its objects are kept.
        objects: what it serves, to look at directly.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.objects = Objects(folder)
        self._storage = Storage(self.objects)
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        assert self._ready.wait(600)

    def fail(self, **rule: Any) -> None:
        """Makes requests fail; see launcher.emulator.storage.faults."""
        self._storage.faults.add(rule)

    def heal(self) -> None:
        """Nothing fails any more."""
        self._storage.faults.clear()

    def rules(self) -> list[dict[str, Any]]:
        """The faults that are in force."""
        return self._storage.faults.rules()

    def content(self, data: bytes) -> Content:
        """Content that is ready to be put."""
        with self.objects.receiving() as receiver:
            receiver.write(data)
        return receiver.content()

    def empty(self) -> None:
        """Removes all buckets, with all that is in them."""
        for bucket in self.objects.buckets():
            for one in self.objects.list(bucket.name, Query(versions=True)).objects:
                self.objects.delete(bucket.name, one.name, generation=one.generation)
            self.objects.delete_bucket(bucket.name)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        listener = Listener(self._storage.app(), ADDRESS)
        listener.start()
        self.endpoint = f"http://{listener.authority}"
        self._ready.set()
        await self._stop.wait()
        await listener.stop()


@contextmanager
def storage_server(folder: Path) -> Iterator[StorageServer]:
    """Serves ``folder`` for the length of the block."""
    server = StorageServer(folder)
    try:
        yield server
    finally:
        server.close()
