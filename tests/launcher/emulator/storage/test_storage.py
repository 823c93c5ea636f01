"""The emulated Cloud Storage, as gcsfs and google-cloud-storage see it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import gcsfs
import httpx
import pytest
from google.api_core import exceptions
from google.cloud import storage
from google.cloud.storage.exceptions import InvalidResponse

from tests.storage import StorageServer

MIB = 2**20


def content(size: int) -> bytes:
    return (bytes(range(251)) * (size // 251 + 1))[:size]


# --- gcsfs ----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 5 * MIB, 51 * MIB], ids=str)
def test_gcsfs_reads_what_it_wrote(gcs: gcsfs.GCSFileSystem, size: int) -> None:
    """More than 50 MiB goes by a resumable upload."""
    data = content(size)
    gcs.pipe_file("bucket/a/file", data)
    assert gcs.cat_file("bucket/a/file") == data
    assert gcs.info("bucket/a/file")["size"] == size


def test_gcsfs_streams(gcs: gcsfs.GCSFileSystem) -> None:
    data = content(12 * MIB + 7)
    with gcs.open("bucket/streamed", "wb", block_size=5 * MIB) as file:
        for start in range(0, len(data), MIB):
            file.write(data[start : start + MIB])
    with gcs.open("bucket/streamed", "rb") as file:
        file.seek(len(data) - 10)
        assert file.read() == data[-10:]
    assert gcs.cat_file("bucket/streamed", start=7, end=12) == data[7:12]


def test_gcsfs_gives_up_a_stream(gcs: gcsfs.GCSFileSystem, server: StorageServer) -> None:
    file = gcs.open("bucket/given-up", "wb", block_size=5 * MIB)
    file.write(content(6 * MIB))
    file.flush()
    file.discard()
    assert server.objects.list("bucket").objects == []


def test_gcsfs_lists_folders(gcs: gcsfs.GCSFileSystem) -> None:
    for name in ("a", "b/c", "b/d/e", "b/d/f", "bb", "ü/ä b+%2F?#"):
        gcs.pipe_file(f"bucket/{name}", b"")
    assert gcs.ls("bucket") == ["bucket/a", "bucket/b", "bucket/bb", "bucket/ü"]
    assert gcs.ls("bucket/b") == ["bucket/b/c", "bucket/b/d"]
    assert gcs.find("bucket/b") == ["bucket/b/c", "bucket/b/d/e", "bucket/b/d/f"]
    assert gcs.cat_file("bucket/ü/ä b+%2F?#") == b""
    assert gcs.exists("bucket/b/d") and not gcs.exists("bucket/x")


def test_gcsfs_creates_once(gcs: gcsfs.GCSFileSystem) -> None:
    with ThreadPoolExecutor(16) as pool:

        def race(racer: int) -> bool:
            try:
                gcs.pipe_file("bucket/claim", b"%d" % racer, mode="create")
            except FileExistsError:
                return False
            return True

        won = list(pool.map(race, range(16)))
    assert won.count(True) == 1
    assert gcs.cat_file("bucket/claim") == b"%d" % won.index(True)


def test_gcsfs_copies_moves_and_deletes(gcs: gcsfs.GCSFileSystem) -> None:
    gcs.pipe_file("bucket/a", b"1")
    gcs.cp_file("bucket/a", "bucket/b")
    gcs.mv("bucket/a", "bucket/c")
    assert gcs.cat(["bucket/b", "bucket/c"]) == {"bucket/b": b"1", "bucket/c": b"1"}
    gcs.rm(["bucket/b", "bucket/c"])
    assert gcs.ls("bucket", refresh=True) == []
    with pytest.raises(FileNotFoundError):
        gcs.cat_file("bucket/a")


# --- google-cloud-storage -------------------------------------------------------------


def test_the_client_makes_and_deletes_buckets(client: storage.Client) -> None:
    made = client.create_bucket("a-bucket", location="us-central1")
    assert made.location == "US-CENTRAL1"
    assert [bucket.name for bucket in client.list_buckets()] == ["a-bucket", "bucket"]
    with pytest.raises(exceptions.Conflict):
        client.create_bucket("a-bucket")
    made.blob("x").upload_from_string(b"")
    with pytest.raises(exceptions.Conflict, match="not empty"):
        made.delete()
    made.delete_blob("x")
    made.delete()
    assert client.lookup_bucket("a-bucket") is None


@pytest.mark.parametrize("size", [0, 3, 9 * MIB], ids=str)
def test_the_client_reads_what_it_wrote(client: storage.Client, size: int) -> None:
    """It checks the checksums both ways."""
    blob = client.bucket("bucket").blob("folder/a file")
    blob.upload_from_string(content(size), content_type="text/plain")
    again = client.bucket("bucket").get_blob("folder/a file")
    assert again.content_type == "text/plain" and again.size == size
    for checksum in ("md5", "crc32c"):
        assert again.download_as_bytes(checksum=checksum) == content(size)


def test_the_client_resumes_what_was_cut(client: storage.Client, server: StorageServer) -> None:
    blob = client.bucket("bucket").blob("resumed", chunk_size=MIB)
    server.fail(method="PUT", path="/upload/", skip=1, cut=True, when="after")
    server.fail(method="PUT", path="/upload/", skip=1, status=503)
    blob.upload_from_string(content(9 * MIB + 5))
    assert [rule["times"] for rule in server.rules()] == [0, 0]
    assert blob.download_as_bytes() == content(9 * MIB + 5)


def test_the_client_patches_composes_copies_and_renames(client: storage.Client) -> None:
    bucket = client.bucket("bucket")
    first, second = bucket.blob("1"), bucket.blob("2")
    first.upload_from_string("one")
    second.upload_from_string("two")
    first.metadata = {"step": "7"}
    first.patch()
    first.reload()
    assert (first.metadata, first.metageneration) == ({"step": "7"}, 2)
    whole = bucket.blob("12")
    whole.compose([first, second])
    assert whole.download_as_bytes() == b"onetwo"
    bucket.copy_blob(first, bucket, "copy")
    assert bucket.get_blob("copy").metadata == {"step": "7"}
    bucket.rename_blob(second, "renamed")
    assert [blob.name for blob in client.list_blobs(bucket)] == ["1", "12", "copy", "renamed"]


def test_the_client_lists_page_by_page(client: storage.Client, server: StorageServer) -> None:
    names = [f"{folder}/{number}" for folder in "abc" for number in range(5)] + ["d"]
    for name in names:
        server.objects.put("bucket", name, server.content(b""), {})
    bucket = client.bucket("bucket")
    for size in (1, 2, 7, 100):
        assert [blob.name for blob in client.list_blobs(bucket, page_size=size)] == names
        pages = client.list_blobs(bucket, delimiter="/", page_size=size)
        assert [blob.name for blob in pages] == ["d"]
        assert pages.prefixes == {"a/", "b/", "c/"}
    some = client.list_blobs(bucket, start_offset="a/3", end_offset="b/2")
    assert [blob.name for blob in some] == ["a/3", "a/4", "b/0", "b/1"]


def test_every_precondition_counts(client: storage.Client) -> None:
    blob = client.bucket("bucket").blob("object")
    with pytest.raises(exceptions.PreconditionFailed):
        blob.upload_from_string("x", if_generation_match=1)
    blob.upload_from_string("1", if_generation_match=0)
    old = blob.generation
    with pytest.raises(exceptions.PreconditionFailed):
        blob.upload_from_string("2", if_generation_match=0)
    blob.upload_from_string("2", if_generation_match=old)
    assert blob.generation > old
    refused: list[Any] = [
        lambda: blob.upload_from_string("3", if_generation_match=old),
        lambda: blob.upload_from_string("3", if_generation_not_match=blob.generation),
        lambda: blob.upload_from_string("3", if_metageneration_match=9),
        lambda: blob.download_as_bytes(if_generation_match=old),
        lambda: blob.reload(if_generation_match=old),
        lambda: blob.patch(if_metageneration_match=9),
        lambda: blob.delete(if_generation_match=old),
        lambda: blob.compose([blob], if_generation_match=old),
        lambda: blob.rewrite(blob, if_generation_match=old),
        lambda: blob.rewrite(blob, if_source_generation_match=old),
        lambda: blob.bucket.move_blob(blob, "moved", if_generation_match=old),
        lambda: blob.bucket.move_blob(blob, "moved", if_source_generation_match=old),
    ]
    for request in refused:
        with pytest.raises(exceptions.PreconditionFailed):
            request()
    assert blob.download_as_bytes() == b"2"
    with pytest.raises(exceptions.NotFound):
        client.bucket("bucket").blob("object", generation=old).download_as_bytes()
    blob.delete(if_generation_match=blob.generation)
    assert not blob.exists()


def test_a_resumable_upload_is_refused_at_its_end_too(
    client: storage.Client, server: StorageServer
) -> None:
    blob = client.bucket("bucket").blob("raced", chunk_size=MIB)
    writer = blob.open("wb", if_generation_match=0)
    writer.write(content(2 * MIB))
    client.bucket("bucket").blob("raced").upload_from_string("first")
    with pytest.raises(InvalidResponse, match="412"):
        writer.close()
    assert blob.download_as_bytes() == b"first"


# --- the protocol ----------------------------------------------------------------------


def test_a_read_that_knows_what_is_there_is_told_so(
    http: httpx.Client, server: StorageServer
) -> None:
    made = server.objects.put("bucket", "a", server.content(b"1"), {})
    query = {"ifGenerationNotMatch": made.generation}
    assert http.get("/storage/v1/b/bucket/o/a", params=query).status_code == 304


@pytest.mark.parametrize(
    "asked, status, expected",
    [
        ("bytes=0-0", 206, b"0"),
        ("bytes=7-", 206, b"789"),
        ("bytes=-2", 206, b"89"),
        ("bytes=5-1000", 206, b"56789"),
        ("bytes=10-", 416, None),
        ("nonsense", 200, b"0123456789"),
    ],
)
def test_ranges(
    http: httpx.Client, server: StorageServer, asked: str, status: int, expected: bytes | None
) -> None:
    server.objects.put("bucket", "a", server.content(b"0123456789"), {})
    answer = http.get("/download/storage/v1/b/bucket/o/a", headers={"Range": asked})
    assert answer.status_code == status
    if expected is not None:
        assert answer.content == expected


@pytest.mark.parametrize(
    "method, path, body, status",
    [
        ("POST", "/storage/v1/b", b"{", 400),
        ("POST", "/storage/v1/b", b"[]", 400),
        ("POST", "/storage/v1/b", b'{"name": "../x"}', 400),
        ("POST", "/storage/v1/b", b'{"name": "google-mine"}', 400),
        ("POST", "/storage/v1/b", b" " * (2 * MIB), 400),
        ("GET", "/storage/v1/b/none/o", b"", 404),
        ("GET", "/storage/v1/b/bucket/o/none", b"", 404),
        ("GET", "/storage/v1/b/bucket/o?maxResults=x", b"", 400),
        ("GET", "/storage/v1/b/bucket/o?pageToken=%21", b"", 400),
        ("GET", "/storage/v1/b/bucket/o/a?ifGenerationMatch=x", b"", 400),
        ("DELETE", "/storage/v1/b/bucket/o/none", b"", 404),
        ("POST", "/upload/storage/v1/b/bucket/o?uploadType=media", b"x", 400),
        ("POST", "/upload/storage/v1/b/bucket/o?uploadType=media&name=%0A", b"x", 400),
        ("POST", f"/upload/storage/v1/b/bucket/o?uploadType=media&name={'n' * 1025}", b"x", 400),
        ("POST", "/upload/storage/v1/b/bucket/o?uploadType=multipart&name=a", b"x", 400),
        ("POST", "/upload/storage/v1/b/bucket/o?uploadType=telepathy&name=a", b"x", 400),
        ("PUT", "/upload/storage/v1/b/bucket/o?upload_id=none", b"x", 404),
        ("POST", "/upload/storage/v1/b/none/o?uploadType=media&name=a", b"x", 404),
        ("POST", "/storage/v1/b/bucket/o/a/compose", b'{"sourceObjects": 5}', 400),
        ("POST", "/storage/v1/b/bucket/o/a/compose", b'{"sourceObjects": []}', 400),
        ("PATCH", "/storage/v1/nonsense", b"", 404),
        ("PATCH", "/storage/v2/b", b"", 404),
        ("DELETE", "/storage/v1/b", b"", 405),
        ("POST", "/emulator/v1/faults", b'{"status": 200}', 400),
        ("POST", "/emulator/v1/faults", b'{"status": 503, "cut": true}', 400),
        ("POST", "/emulator/v1/faults", b'{"cut": true, "path": "("}', 400),
        ("POST", "/emulator/v1/faults", b'{"delay": "5"}', 400),
        ("POST", "/emulator/v1/faults", b"{}", 400),
    ],
)
def test_bad_requests_are_refused_with_a_reason(
    http: httpx.Client, method: str, path: str, body: bytes, status: int
) -> None:
    answer = http.request(method, path, content=body)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize("headers", [{"Origin": "https://evil.example"}, {"Host": "evil.example"}])
@pytest.mark.parametrize("path", ["/storage/v1/b", "/emulator/v1/faults"])
def test_web_pages_stay_outside(http: httpx.Client, headers: dict[str, str], path: str) -> None:
    assert http.get(path, headers=headers).status_code == 403


def test_content_that_is_not_what_was_announced_is_refused(
    http: httpx.Client, server: StorageServer
) -> None:
    body = (
        b'--b\r\nContent-Type: application/json\r\n\r\n{"name": "a", "crc32c": "AAAAAA=="}\r\n'
        b"--b\r\nContent-Type: text/plain\r\n\r\ndata\r\n--b--"
    )
    answer = http.post(
        "/upload/storage/v1/b/bucket/o?uploadType=multipart",
        content=body,
        headers={"Content-Type": "multipart/related; boundary=b"},
    )
    assert answer.status_code == 400
    assert server.objects.list("bucket").objects == []


def test_faults_come_when_they_were_asked_for(http: httpx.Client) -> None:
    rule = {"method": "GET", "path": "/b/bucket\\?$", "skip": 1, "times": 2, "status": 500}
    assert http.post("/emulator/v1/faults", json=rule).status_code == 200
    seen = [http.get("/storage/v1/b/bucket").status_code for _ in range(4)]
    assert seen == [200, 500, 500, 200]
    assert http.delete("/emulator/v1/faults").json() == {"rules": []}


def test_a_late_answer(http: httpx.Client, server: StorageServer) -> None:
    server.fail(delay="50ms")
    assert http.get("/storage/v1/b/bucket").status_code == 200
    assert server.rules()[0]["times"] == 0
