"""Each kind of store that a run directory can live in, empty, for tests that take ``store``."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import gcsfs

from tests.storage import StorageServer
from trainer.retry import Retry
from trainer.store import Store

KINDS = ["local", "memory", "gs"]
QUICK = Retry(first=0.01, longest=0.02, limit=0.2)

StoreOf = Callable[[str], Store]


@contextmanager
def new_store(kind: str, folder: Path, server: StorageServer) -> Iterator[Store]:
    """An empty store; on ``gs`` through the real gcsfs."""
    name = uuid.uuid4().hex
    if kind == "local":
        yield Store(str(folder / name))
    elif kind == "memory":
        store = Store(f"memory://{name}")
        yield store
        store.delete("")
    else:
        yield gs_store(server, f"gs://bucket/{name}")


def gs_store(server: StorageServer, url: str) -> Store:
    """The store of a URL on the server."""
    fs = gcsfs.GCSFileSystem(endpoint_url=server.endpoint, token="anon")
    return Store(url, fs, QUICK)
