"""Reads: parts, compression, checksums and headers, as Google's clients see them."""

from __future__ import annotations

import gzip
from pathlib import Path

import gcsfs
import httpx
import pytest
from google.api_core import exceptions
from google.cloud import storage

from tests.storage import StorageServer

PLAIN = b"a line of a log\n" * 100_000
ZIPPED = gzip.compress(PLAIN, mtime=0)
MEDIA = "/download/storage/v1/b/bucket/o/object?alt=media"


@pytest.fixture
def zipped(bucket: storage.Bucket) -> storage.Blob:
    """An object that is stored compressed."""
    blob = bucket.blob("object")
    blob.content_encoding = "gzip"
    blob.upload_from_string(ZIPPED, content_type="text/plain")
    return blob


# --- gzip -----------------------------------------------------------------------------


def test_the_client_gets_what_was_compressed_as_it_was(zipped: storage.Blob) -> None:
    for checksum in ("md5", "crc32c", None):
        assert zipped.download_as_bytes(checksum=checksum) == PLAIN
        assert zipped.download_as_bytes(raw_download=True, checksum=checksum) == ZIPPED


@pytest.mark.parametrize("accepts", ["identity", "", "br, deflate", "gzip;q=0"])
def test_who_does_not_take_gzip_is_sent_the_content(
    http: httpx.Client, zipped: storage.Blob, accepts: str
) -> None:
    headers = {"Accept-Encoding": accepts, "Range": "bytes=4-8"}
    answer = http.get(MEDIA, headers=headers)
    assert answer.status_code == 200, "there is no part of it"
    assert answer.content == PLAIN
    assert "content-encoding" not in answer.headers and "content-range" not in answer.headers
    assert answer.headers["x-guploader-response-body-transformations"] == "gunzipped"
    assert answer.headers["x-goog-stored-content-encoding"] == "gzip"
    assert answer.headers["x-goog-stored-content-length"] == str(len(ZIPPED))
    assert f"crc32c={zipped.crc32c}" in answer.headers["x-goog-hash"], "of what is stored"


@pytest.mark.parametrize("accepts", ["gzip", "deflate, gzip;q=0.5", "*"])
def test_who_takes_gzip_is_sent_what_is_stored(
    http: httpx.Client, zipped: storage.Blob, accepts: str
) -> None:
    with http.stream("GET", MEDIA, headers={"Accept-Encoding": accepts}) as answer:
        assert b"".join(answer.iter_raw()) == ZIPPED
        assert answer.headers["content-encoding"] == "gzip"
    headers = {"Accept-Encoding": accepts, "Range": "bytes=0-9"}
    with http.stream("GET", MEDIA, headers=headers) as answer:
        assert answer.status_code == 206
        assert b"".join(answer.iter_raw()) == ZIPPED[:10]


def test_what_must_not_be_transformed_is_not(http: httpx.Client, zipped: storage.Blob) -> None:
    zipped.cache_control = "no-transform"
    zipped.patch()
    with http.stream("GET", MEDIA, headers={"Accept-Encoding": "identity"}) as answer:
        assert b"".join(answer.iter_raw()) == ZIPPED
        assert answer.headers["cache-control"] == "no-transform"


def test_several_compressed_contents_are_one(bucket: storage.Bucket, http: httpx.Client) -> None:
    for name in "12":
        bucket.blob(name).upload_from_string(gzip.compress(f"part {name}\n".encode()))
    whole = bucket.blob("object")
    whole.content_encoding = "gzip"
    whole.compose([bucket.blob("1"), bucket.blob("2")])
    answer = http.get(MEDIA, headers={"Accept-Encoding": "identity"})
    assert answer.content == b"part 1\npart 2\n"


def test_gcsfs_reads_what_was_compressed(gcs: gcsfs.GCSFileSystem, tmp_path: Path) -> None:
    fixed = {"content_encoding": "gzip"}
    gcs.pipe_file("bucket/object", ZIPPED, fixed_key_metadata=fixed)
    assert gcs.cat_file("bucket/object") == PLAIN
    gcs.get_file("bucket/object", str(tmp_path / "got"))
    assert (tmp_path / "got").read_bytes() == PLAIN


# --- parts ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "size, asked, status, expected",
    [
        (10, "bytes=0-0", 206, (b"0", "bytes 0-0/10")),
        (10, "bytes=7-", 206, (b"789", "bytes 7-9/10")),
        (10, "bytes=-2", 206, (b"89", "bytes 8-9/10")),
        (10, "bytes=-100", 206, (b"0123456789", "bytes 0-9/10")),
        (10, "bytes=5-1000", 206, (b"56789", "bytes 5-9/10")),
        (10, "bytes=10-", 416, (None, "bytes */10")),
        (10, "bytes=-0", 416, (None, "bytes */10")),
        (0, "bytes=0-", 416, (None, "bytes */0")),
        (10, "bytes=5-3", 200, (b"0123456789", None)),
        (10, "nonsense", 200, (b"0123456789", None)),
    ],
)
@pytest.mark.parametrize(
    "path", [MEDIA, "/bucket/object", "/storage/v1/b/bucket/o/object?alt=media"]
)
def test_ranges(
    http: httpx.Client,
    server: StorageServer,
    path: str,
    size: int,
    asked: str,
    status: int,
    expected: tuple[bytes | None, str | None],
) -> None:
    server.objects.put("bucket", "object", server.content(b"0123456789"[:size]), {})
    answer = http.get(path, headers={"Range": asked})
    assert answer.status_code == status
    assert answer.headers.get("content-range") == expected[1]
    assert expected[0] is None or answer.content == expected[0]


def test_the_client_reads_parts(bucket: storage.Bucket) -> None:
    blob = bucket.blob("object")
    blob.upload_from_string(b"0123456789")
    assert blob.download_as_bytes(start=2, end=4) == b"234"
    with pytest.raises(exceptions.RequestRangeNotSatisfiable):
        blob.download_as_bytes(start=10)
    with blob.open("rb", chunk_size=256 * 1024) as file:
        file.seek(8)
        assert file.read() == b"89"
    bucket.blob("empty").upload_from_string(b"")
    with bucket.blob("empty").open("rb") as file:
        assert file.read() == b""


# --- what comes along -------------------------------------------------------------------


def test_what_was_said_of_an_object_is_said_when_it_is_read(
    bucket: storage.Bucket, http: httpx.Client
) -> None:
    blob = bucket.blob("object")
    blob.cache_control = "private, max-age=60"
    blob.content_disposition = "attachment; filename=ä.txt"
    blob.content_language = "de"
    blob.metadata = {"step": "7"}
    blob.storage_class = "NEARLINE"
    blob.upload_from_string(b"data", content_type="text/plain")
    for path in (MEDIA, "/bucket/object"):
        headers = http.get(path).headers
        assert headers["cache-control"] == "private, max-age=60"
        assert headers["content-disposition"] == blob.content_disposition
        assert headers["content-language"] == "de"
        assert headers["content-type"] == "text/plain"
        assert headers["x-goog-storage-class"] == "NEARLINE"
        assert headers["x-goog-generation"] == str(blob.generation)
        assert headers["x-goog-hash"] == f"crc32c={blob.crc32c},md5={blob.md5_hash}"
        assert "last-modified" in headers
    assert headers["x-goog-meta-step"] == "7"


@pytest.mark.parametrize("path", [MEDIA, "/bucket/object", "/storage/v1/b/bucket/o/object"])
def test_head_is_get_without_its_body(http: httpx.Client, server: StorageServer, path: str) -> None:
    server.objects.put("bucket", "object", server.content(b"0123456789"), {})
    head, get = http.head(path), http.get(path)
    assert (head.status_code, head.content) == (200, b"")
    assert dict(head.headers) == dict(get.headers) | {"date": head.headers["date"]}
    assert http.head(path.replace("object", "none")).status_code == 404


def test_a_composed_object_has_no_md5(bucket: storage.Bucket, http: httpx.Client) -> None:
    for name in "12":
        bucket.blob(name).upload_from_string(name)
    whole = bucket.blob("object")
    whole.compose([bucket.blob("1"), bucket.blob("2")])
    assert (whole.md5_hash, whole.component_count, whole.content_type) == (None, 2, None)
    headers = http.get(MEDIA).headers
    assert headers["x-goog-hash"] == f"crc32c={whole.crc32c}"
    assert headers["x-goog-component-count"] == "2"
    assert whole.download_as_bytes(checksum="crc32c") == b"12"
    twice = bucket.blob("twice")
    twice.compose([whole, whole])
    assert twice.component_count == 4
    copied = bucket.copy_blob(whole, bucket, "copy")
    assert (copied.component_count, copied.md5_hash) == (2, None)
