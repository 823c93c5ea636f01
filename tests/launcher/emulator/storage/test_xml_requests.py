"""The XML API of objects: uploads in parts by the real client, and what others send."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import httpx
import pytest
from google.cloud import storage
from google.cloud.storage import transfer_manager

from tests.storage import StorageServer

MIB = 2**20


def test_the_client_uploads_and_downloads_in_parts(
    bucket: storage.Bucket, server: StorageServer, tmp_path: Path
) -> None:
    data = bytes(range(251)) * (11 * MIB // 251)
    (tmp_path / "file").write_bytes(data)
    blob = bucket.blob("folder/ä b?#.bin")
    blob.metadata, blob.content_language = {"step": "7"}, "de"
    transfer_manager.upload_chunks_concurrently(
        str(tmp_path / "file"),
        blob,
        content_type="application/x-shard",
        chunk_size=5 * MIB,
        worker_type=transfer_manager.THREAD,
        checksum="md5",
    )
    blob.reload()
    assert (blob.size, blob.content_type, blob.md5_hash) == (len(data), "application/x-shard", None)
    assert (blob.metadata, blob.content_language) == ({"step": "7"}, "de")
    transfer_manager.download_chunks_concurrently(
        blob, str(tmp_path / "again"), chunk_size=4 * MIB, worker_type=transfer_manager.THREAD
    )
    assert (tmp_path / "again").read_bytes() == data
    assert len(list(server.folder.glob("blobs/*"))) == 1, "parts go when they are put together"


def begun(http: httpx.Client) -> str:
    """Begins an upload in parts. Returns its id."""
    answer = http.post("/bucket/object?uploads", headers={"x-goog-meta-a": "1"})
    assert answer.status_code == 200, answer.text
    found = ElementTree.fromstring(answer.content).findtext("{*}UploadId")
    assert found
    return found


def part(http: httpx.Client, upload: str, number: int, data: bytes) -> str:
    """Uploads a part. Returns its ETag."""
    query: dict[str, str | int] = {"uploadId": upload, "partNumber": number}
    answer = http.put("/bucket/object", params=query, content=data)
    assert answer.status_code == 200, answer.text
    return answer.headers["etag"]


def complete(http: httpx.Client, upload: str, *parts: tuple[int, str]) -> httpx.Response:
    listed = "".join(
        f"<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>"
        for number, etag in parts
    )
    body = f"<CompleteMultipartUpload>{listed}</CompleteMultipartUpload>"
    return http.post("/bucket/object", params={"uploadId": upload}, content=body.encode())


def code(answer: httpx.Response) -> tuple[int, str | None]:
    return answer.status_code, ElementTree.fromstring(answer.content).findtext("Code")


def test_parts_are_put_together_as_they_are_listed(
    http: httpx.Client, server: StorageServer
) -> None:
    upload, large = begun(http), b"x" * 5 * MIB
    small, first = part(http, upload, 9, b"end"), part(http, upload, 2, large)
    assert code(complete(http, upload, (9, small), (2, first))) == (400, "InvalidArgument")
    assert code(complete(http, upload, (2, small), (9, small))) == (400, "InvalidPart")
    assert code(complete(http, upload, (3, first), (9, small))) == (400, "InvalidPart")
    assert code(complete(http, upload)) == (400, "InvalidArgument")
    little = part(http, upload, 1, b"little")
    assert code(complete(http, upload, (1, little), (2, first))) == (400, "EntityTooSmall")
    assert http.head("/bucket/object").status_code == 404
    assert complete(http, upload, (2, first), (9, small)).status_code == 200
    answer = http.get("/bucket/object")
    assert answer.content == large + b"end" and answer.headers["x-goog-meta-a"] == "1"
    assert code(complete(http, upload, (2, first))) == (404, "NoSuchUpload")
    assert len(list(server.folder.glob("blobs/*"))) == 1


def test_an_upload_in_parts_can_be_given_up(http: httpx.Client, server: StorageServer) -> None:
    upload = begun(http)
    part(http, upload, 1, b"data")
    part(http, upload, 1, b"again")
    assert http.delete("/bucket/object", params={"uploadId": upload}).status_code == 204
    assert code(http.put(f"/bucket/object?partNumber=1&uploadId={upload}")) == (404, "NoSuchUpload")
    assert list(server.folder.glob("blobs/*")) == []


def test_a_damaged_part_is_refused(http: httpx.Client) -> None:
    query: dict[str, str | int] = {"uploadId": begun(http), "partNumber": 1}
    wrong = {"x-goog-hash": "crc32c=AAAAAA=="}
    answer = http.put("/bucket/object", params=query, content=b"data", headers=wrong)
    assert code(answer) == (400, "BadDigest")
    assert code(http.put("/bucket/object", params={**query, "partNumber": 0})) == (
        400,
        "InvalidArgument",
    )


def test_an_object_is_put_read_and_deleted(http: httpx.Client, bucket: storage.Bucket) -> None:
    headers = {
        "Content-Type": "text/plain",
        "Cache-Control": "no-store",
        "x-goog-storage-class": "NEARLINE",
        "x-goog-meta-step": "7",
    }
    made = http.put("/bucket/a/b//c/", content=b"data", headers=headers)
    assert made.status_code == 200
    blob = bucket.get_blob("a/b//c/")
    assert blob.generation == int(made.headers["x-goog-generation"])
    assert (blob.content_type, blob.cache_control) == ("text/plain", "no-store")
    assert (blob.storage_class, blob.metadata) == ("NEARLINE", {"step": "7"})
    etag = made.headers["etag"]
    assert http.get("/bucket/a/b//c/", headers={"If-None-Match": etag}).status_code == 304
    assert http.get("/bucket/a/b//c/", headers={"If-Match": etag}).content == b"data"
    wrong = {"x-goog-if-generation-match": "7"}
    for verb in ("GET", "PUT", "DELETE"):
        answer = http.request(verb, "/bucket/a/b//c/", headers=wrong)
        assert code(answer) == (412, "PreconditionFailed")
    assert http.delete("/bucket/a/b//c/").status_code == 204
    assert code(http.get("/bucket/a/b//c/")) == (404, "NoSuchKey")
    assert code(http.put("/none/a", content=b"")) == (404, "NoSuchBucket")


@pytest.mark.parametrize("body", [b"", b"<a", b"<a><Part><PartNumber>x</PartNumber></Part></a>"])
def test_a_list_of_parts_that_is_none_is_refused(http: httpx.Client, body: bytes) -> None:
    upload = begun(http)
    answer = http.post("/bucket/object", params={"uploadId": upload}, content=body)
    assert code(answer) == (400, "InvalidArgument")
