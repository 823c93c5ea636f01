"""Fixtures: shards on gs://, through the real gcsfs, and a cache."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import fsspec
import gcsfs
import pytest

from tests.storage import StorageServer
from tests.trainer.data.shards.shelf import Shelf

_numbers = itertools.count()


@pytest.fixture
def shelf(
    server: StorageServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Shelf]:
    """A folder of shards on the emulated Cloud Storage."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.endpoint)
    # Here, and in processes that are started: none looks for a metadata server.
    monkeypatch.setitem(fsspec.config.conf, "gs", {"token": "anon"})
    monkeypatch.setenv("FSSPEC_GS_TOKEN", "anon")
    gcsfs.GCSFileSystem.clear_instance_cache()
    yield Shelf(server, f"gs://bucket/shelf-{next(_numbers)}", tmp_path)
    gcsfs.GCSFileSystem.clear_instance_cache()
