"""Batches: what google-cloud-storage and gcsfs put into one request."""

from __future__ import annotations

import gcsfs
import httpx
import pytest
from google.api_core import exceptions
from google.cloud import storage

from tests.storage import StorageServer


@pytest.fixture
def named(server: StorageServer, bucket: storage.Bucket) -> storage.Bucket:
    """The bucket, with some objects."""
    for name in ("a", "b", "c/ä d?#", "e"):
        server.objects.put("bucket", name, server.content(name.encode()), {})
    return bucket


def names(server: StorageServer) -> list[str]:
    return [one.name for one in server.objects.list("bucket").objects]


def test_the_client_changes_and_deletes_in_batches(
    named: storage.Bucket, client: storage.Client, server: StorageServer
) -> None:
    with client.batch():
        changed = named.blob("a")
        changed.metadata = {"ä": "1"}
        changed.patch()
        named.blob("b").delete()
        named.blob("c/ä d?#").delete()
    assert named.get_blob("a").metadata == {"ä": "1"}
    assert names(server) == ["a", "e"]


def test_one_that_fails_leaves_the_others_alone(
    named: storage.Bucket, client: storage.Client, server: StorageServer
) -> None:
    with pytest.raises(exceptions.NotFound), client.batch():
        named.blob("none").delete()
        named.blob("a").delete()
    with client.batch(raise_exception=False) as batch:
        named.blob("b").delete(if_generation_match=7)
        named.blob("e").delete()
    assert [one.status_code for one in batch._responses] == [412, 204]
    assert names(server) == ["b", "c/ä d?#"]


def test_gcsfs_deletes_in_batches(
    named: storage.Bucket, gcs: gcsfs.GCSFileSystem, server: StorageServer
) -> None:
    gcs.rm(["bucket/a", "bucket/b"])
    assert names(server) == ["c/ä d?#", "e"]
    gcs.rm("bucket/c", recursive=True)
    assert names(server) == ["e"]
    server.fail(path="/batch/", status=503)
    gcs.rm(["bucket/e"])
    assert names(server) == []


def test_a_batch_of_nothing_or_of_content_is_refused(http: httpx.Client) -> None:
    kind = {"Content-Type": "multipart/mixed; boundary=x"}
    path = "/batch/storage/v1"
    bodies = {
        "": "no parts",
        "--x\r\n\r\nGET /a\r\n": "no parts",
        "--x\r\nA: b\r\n--x--": "no headers",
        "--x\r\nA: b\r\n\r\nnonsense\r\n--x--": "no request",
        "--x\r\nA: b\r\n\r\nGET /download/storage/v1/b/bucket/o/a\r\n--x--": "content",
        "--x\r\nA: b\r\n\r\nGET /storage/v1/b/bucket/o/a?alt=media\r\n--x--": "content",
        "--x\r\nA: b\r\n\r\nPOST /batch/storage/v1\r\n--x--": "content",
    }
    for body, why in bodies.items():
        answer = http.post(path, content=body.encode(), headers=kind)
        assert answer.status_code == 400 and why in answer.text, body
    assert http.post(path, content=b"--x--").status_code == 400, "no boundary"
