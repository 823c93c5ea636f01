"""Fixtures: one server for each module, and Google's clients for it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import httpx
import pytest

os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # before gcsfs is imported

import gcsfs
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

from tests.storage import StorageServer, storage_server


@pytest.fixture(scope="module")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StorageServer]:
    with storage_server(tmp_path_factory.mktemp("storage")) as server:
        yield server


@pytest.fixture
def server(_server: StorageServer) -> Iterator[StorageServer]:
    """A server with one empty bucket named ``bucket``."""
    _server.objects.create_bucket("bucket")
    yield _server
    _server.heal()
    _server.empty()


@pytest.fixture
def gcs(server: StorageServer) -> gcsfs.GCSFileSystem:
    return gcsfs.GCSFileSystem(
        endpoint_url=server.endpoint,
        token="anon",
        skip_instance_cache=True,
        use_listings_cache=False,
    )


@pytest.fixture
def client(server: StorageServer) -> storage.Client:
    return storage.Client(
        project="a-project",
        credentials=AnonymousCredentials(),  # type: ignore[no-untyped-call]
        client_options={"api_endpoint": server.endpoint},
    )


@pytest.fixture
def bucket(client: storage.Client) -> storage.Bucket:
    """The empty bucket."""
    return client.bucket("bucket")


@pytest.fixture
def versioned(client: storage.Client) -> storage.Bucket:
    """An empty bucket that keeps old versions."""
    made = client.bucket("versioned")
    made.versioning_enabled = True
    made.create()
    return made


@pytest.fixture
def http(server: StorageServer) -> Iterator[httpx.Client]:
    """For what neither client sends."""
    with httpx.Client(base_url=server.endpoint, timeout=600) as http:
        yield http
