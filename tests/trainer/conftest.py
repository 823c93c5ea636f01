"""Fixtures: one store of each kind, and the server that the gs:// one talks to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # before gcsfs is imported

from tests.storage import StorageServer, storage_server
from tests.trainer.rundir.stores import KINDS, new_store
from trainer.rundir.store import Store


@pytest.fixture(scope="session")
def _storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StorageServer]:
    with storage_server(tmp_path_factory.mktemp("storage")) as server:
        server.objects.create_bucket("bucket")
        yield server


@pytest.fixture
def server(_storage: StorageServer) -> Iterator[StorageServer]:
    """The emulated Cloud Storage, with one bucket; nothing fails when the test is over."""
    yield _storage
    _storage.heal()


@pytest.fixture(params=KINDS)
def store(
    request: pytest.FixtureRequest, tmp_path: Path, _storage: StorageServer
) -> Iterator[Store]:
    """An empty store: on the local disk, in memory, and on gs:// through gcsfs."""
    with new_store(request.param, tmp_path, _storage) as store:
        yield store
