"""Each kind of store that a run directory can live in, empty, for tests that take ``store``."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import fsspec
import gcsfs

from tests.storage import StorageServer
from trainer.rundir.retry import Backoff
from trainer.rundir.store import Store

KINDS = ["local", "memory", "gs"]
S3 = all(find_spec(name) for name in ("s3fs", "moto", "flask", "flask_cors"))
if S3:
    KINDS.append("s3")
QUICK = Backoff(first=0.01, longest=0.02, limit=0.2)

StoreOf = Callable[[str], Store]


@contextmanager
def new_store(kind: str, folder: Path, server: StorageServer) -> Iterator[Store]:
    """An empty store; on ``gs`` through the real gcsfs, on ``s3`` through the real s3fs."""
    name = uuid.uuid4().hex
    if kind == "local":
        yield Store(str(folder / name))
    elif kind == "memory":
        store = Store(f"memory://{name}")
        yield store
        store.delete("")
    elif kind == "gs":
        yield gs_store(server, f"gs://bucket/{name}")
    else:
        with s3_store(f"s3://{name}/run") as store:
            yield store


@contextmanager
def s3_store(url: str) -> Iterator[Store]:
    """The store of a URL on a server of its own."""
    server = import_module("moto.server").ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        fs = fsspec.filesystem("s3", key="key", secret="secret", endpoint_url=endpoint)
        fs.mkdir(url.split("/")[2])
        yield Store(url, fs, QUICK)
    finally:
        server.stop()


def gs_store(server: StorageServer, url: str) -> Store:
    """The store of a URL on the server."""
    fs = gcsfs.GCSFileSystem(endpoint_url=server.endpoint, token="anon")
    return Store(url, fs, QUICK)
