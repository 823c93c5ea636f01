"""Writes: checksums, fields and resumable uploads, as Google's clients send them."""

from __future__ import annotations

import base64
import gzip
import hashlib
from collections.abc import Mapping
from typing import Any

import google_crc32c
import httpx
import pytest
from google.api_core import exceptions
from google.cloud import storage

from tests.storage import StorageServer

KIB, MIB = 2**10, 2**20
UPLOAD = "/upload/storage/v1/b/bucket/o"
DATA = bytes(range(256)) * 4 * KIB  # 1 MiB


def hashes(data: bytes) -> dict[str, str]:
    """The checksums of ``data``, as X-Goog-Hash names them."""
    crc32c = google_crc32c.Checksum(data).digest()
    md5 = hashlib.md5(data, usedforsecurity=False).digest()
    return {
        "crc32c": base64.b64encode(crc32c).decode(),
        "md5": base64.b64encode(md5).decode(),
    }


# --- checksums ------------------------------------------------------------------------


def claims(data: bytes) -> list[Mapping[str, str]]:
    """The headers in which a client may say what the checksum of ``data`` is."""
    said = hashes(data)
    return [
        {"X-Goog-Hash": f"crc32c={said['crc32c']}"},
        {"X-Goog-Hash": f"md5={said['md5']}"},
        {"X-Goog-Hash": f"crc32c={said['crc32c']},md5={said['md5']}"},
        {"Content-MD5": said["md5"]},
    ]


@pytest.mark.parametrize("right, wrong", list(zip(claims(b"data"), claims(b"other"), strict=True)))
@pytest.mark.parametrize("how", ["media", "xml", "resumable"])
def test_checksums_in_headers_are_compared(
    http: httpx.Client,
    server: StorageServer,
    how: str,
    right: Mapping[str, str],
    wrong: Mapping[str, str],
) -> None:
    for headers, status in ((wrong, 400), (right, 200)):
        if how == "xml":
            answer = http.put("/bucket/object", content=b"data", headers=headers)
        elif how == "media":
            query = {"uploadType": "media", "name": "object"}
            answer = http.post(UPLOAD, params=query, content=b"data", headers=headers)
        else:
            answer = http.put(begun(http), content=b"data", headers=headers)
        assert answer.status_code == status, answer.text
        assert len(server.objects.list("bucket").objects) == (status == 200)


def test_checksums_that_the_client_is_given_are_compared(bucket: storage.Bucket) -> None:
    blob = bucket.blob("object", chunk_size=256 * KIB)
    large = DATA * 9  # smaller ones go without the value that is given
    wrong, right = hashes(b"other")["crc32c"], hashes(large)["crc32c"]
    with pytest.raises(exceptions.BadRequest):
        blob.upload_from_string(large, crc32c_checksum_value=wrong)
    assert not blob.exists()
    blob.upload_from_string(large, crc32c_checksum_value=right)
    for data in (b"data", DATA):
        for checksum in ("md5", "crc32c"):
            blob.upload_from_string(data, checksum=checksum)
            assert blob.download_as_bytes(checksum=checksum) == data
            assert blob.crc32c == hashes(data)["crc32c"] and blob.md5_hash == hashes(data)["md5"]


# --- fields ---------------------------------------------------------------------------


def test_put_replaces_and_patch_changes(bucket: storage.Bucket) -> None:
    blob = bucket.blob("object")
    blob.metadata, blob.cache_control, blob.storage_class = {"a": "1"}, "no-store", "COLDLINE"
    blob.upload_from_string("data", content_type="text/plain")
    blob = bucket.blob("object")
    blob.content_language = "de"
    blob.metadata = {"b": "2"}
    blob.patch()
    assert (blob.cache_control, blob.content_language) == ("no-store", "de")
    assert blob.metadata == {"a": "1", "b": "2"}
    again = bucket.blob("object")
    again.metadata = {"c": "3"}
    again.update()
    assert (again.cache_control, again.content_language, again.content_type) == (None, None, None)
    assert again.metadata == {"c": "3"} and again.metageneration == 3
    assert again.storage_class == "COLDLINE" and again.generation == blob.generation
    again.metadata = {"c": None}
    again.patch()
    assert again.metadata is None or again.metadata == {}
    again.metadata = None
    again.patch()
    assert again.metadata is None


def test_a_storage_class_is_kept_and_changes_with_a_rewrite(
    client: storage.Client, bucket: storage.Bucket
) -> None:
    cold = client.bucket("cold")
    cold.storage_class = "NEARLINE"
    cold.create()
    blob = cold.blob("object")
    blob.upload_from_string("data")
    assert blob.storage_class == "NEARLINE", "the bucket's"
    blob.update_storage_class("ARCHIVE")
    assert cold.get_blob("object").storage_class == "ARCHIVE"
    assert blob.download_as_bytes() == b"data"
    blob.storage_class = "STANDARD"
    with pytest.raises(exceptions.BadRequest, match="rewrite"):
        blob.patch()
    blob = bucket.blob("object")
    blob.storage_class = "WARM"
    with pytest.raises(exceptions.BadRequest, match="storage class"):
        blob.upload_from_string("data")


def test_a_copy_has_its_sources_fields_or_those_that_are_given(bucket: storage.Bucket) -> None:
    source = bucket.blob("source")
    source.metadata, source.cache_control = {"a": "1"}, "no-store"
    source.upload_from_string("data", content_type="text/plain")
    copied = bucket.blob("copied")
    copied.rewrite(source)
    assert (copied.metadata, copied.cache_control) == ({"a": "1"}, "no-store")
    given = bucket.blob("given")
    given.metadata = {"b": "2"}
    given.rewrite(source)
    assert (given.metadata, given.cache_control) == ({"b": "2"}, None)


# --- resumable uploads ------------------------------------------------------------------


def begun(http: httpx.Client, **headers: str) -> str:
    """Begins a resumable upload of ``object``. Returns where it goes on."""
    query = {"uploadType": "resumable", "name": "object"}
    answer = http.post(
        UPLOAD, params=query, headers={k.replace("_", "-"): v for k, v in headers.items()}
    )
    assert answer.status_code == 200, answer.text
    return answer.headers["location"]


def send(
    http: httpx.Client, where: str, data: bytes, content_range: str, **more: Any
) -> httpx.Response:
    headers = {"Content-Range": f"bytes {content_range}", **more}
    return http.put(where, content=data, headers=headers)


def test_an_upload_goes_on_where_it_was(http: httpx.Client, server: StorageServer) -> None:
    where = begun(http, x_upload_content_type="text/plain")
    answer = send(http, where, b"", "*/*")
    assert (answer.status_code, answer.headers.get("range")) == (308, None)
    answer = send(http, where, DATA[: 512 * KIB], f"0-{512 * KIB - 1}/*")
    assert (answer.status_code, answer.headers["range"]) == (308, f"bytes=0-{512 * KIB - 1}")
    answer = send(http, where, b"", f"*/{MIB}")
    assert (answer.status_code, answer.headers["range"]) == (308, f"bytes=0-{512 * KIB - 1}")
    answer = send(http, where, b"", "*/*", **{"X-GUploader-No-308": "yes"})
    assert (answer.status_code, answer.headers["x-http-status-code-override"]) == (200, "308")
    # What was sent already may come again.
    answer = send(http, where, DATA[256 * KIB :], f"{256 * KIB}-{MIB - 1}/{MIB}")
    assert answer.status_code == 200
    made = answer.json()
    assert (made["size"], made["contentType"]) == (str(MIB), "text/plain")
    assert made["crc32c"] == hashes(DATA)["crc32c"]
    assert send(http, where, b"", "*/*").json() == made, "who has not heard the answer asks again"
    assert [one.name for one in server.objects.list("bucket").objects] == ["object"]


def test_of_a_chunk_that_is_not_the_last_whole_quanta_are_kept(http: httpx.Client) -> None:
    where = begun(http)
    answer = send(http, where, DATA[: 300 * KIB], f"0-{300 * KIB - 1}/*")
    assert (answer.status_code, answer.headers["range"]) == (308, f"bytes=0-{256 * KIB - 1}")
    answer = send(http, where, b"x" * 1000, f"{256 * KIB}-{256 * KIB + 999}/*")
    assert answer.status_code == 400 and "262144" in answer.text
    answer = send(http, where, DATA[256 * KIB :], f"{256 * KIB}-{MIB - 1}/{MIB}")
    assert answer.json()["crc32c"] == hashes(DATA)["crc32c"]


@pytest.mark.parametrize(
    "data, content_range",
    [(b"data", "0-*/*"), (b"data", "0-*/4"), (b"data", "0-3/4"), (b"", "*/0"), (b"data", None)],
)
def test_an_upload_ends_when_its_length_is_reached(
    http: httpx.Client, data: bytes, content_range: str | None
) -> None:
    where = begun(http)
    if content_range is None:
        answer = http.put(where, content=data)
    else:
        answer = send(http, where, data, content_range)
    assert answer.status_code == 200
    assert http.get("/bucket/object").content == data


@pytest.mark.parametrize(
    "content_range, why",
    [
        ("9-12/13", "exceeds already uploaded size"),
        ("0-9/10", "Content-Range says otherwise"),
        ("0-3/5", "262144"),
        ("nonsense", "Invalid Content-Range"),
        ("0-3/4", "announced"),
    ],
)
def test_a_chunk_that_does_not_fit_is_refused(
    http: httpx.Client, server: StorageServer, content_range: str, why: str
) -> None:
    length = {"x_upload_content_length": "8"} if why == "announced" else {}
    where = begun(http, **length)
    answer = send(http, where, b"data", content_range)
    assert answer.status_code == 400 and why in answer.text
    assert server.objects.list("bucket").objects == []
    assert send(http, where, b"", "*/*").status_code == 308, "it can go on"


def test_an_announced_length_ends_an_upload(http: httpx.Client) -> None:
    where = begun(http, x_upload_content_length=str(MIB))
    assert send(http, where, DATA[: 256 * KIB], f"0-{256 * KIB - 1}/*").status_code == 308
    answer = send(http, where, DATA[256 * KIB :], f"{256 * KIB}-{MIB - 1}/*")
    assert answer.json()["size"] == str(MIB)


def test_what_has_ended_is_gone(http: httpx.Client, bucket: storage.Bucket) -> None:
    cancelled, complete = begun(http), begun(http)
    assert http.put(complete, content=b"data").status_code == 200
    for where in (cancelled, complete):
        assert http.delete(where).status_code == 499
        assert send(http, where, b"", "*/*").status_code == 404
        assert http.delete(where).status_code == 404
    bucket.blob("object").delete()
    failed = begun(http)
    assert http.put(failed, content=b"data", headers={"Content-MD5": "wrong"}).status_code == 400
    assert http.put(failed, content=b"data").status_code == 410
    raced = begun(http) + "&ifGenerationMatch=0"
    assert http.put(raced, content=b"data").status_code == 200, "conditions count when it begins"
    unknown = f"{UPLOAD}?uploadType=resumable&upload_id=none"
    assert http.put(unknown, content=b"data").status_code == 404


def test_gclouds_path_for_uploads_is_another(http: httpx.Client) -> None:
    query = {"uploadType": "resumable", "name": "object"}
    answer = http.post(f"/resumable{UPLOAD}", params=query)
    assert http.put(answer.headers["location"], content=b"data").json()["size"] == "4"


def test_a_method_may_be_written_in_a_header(http: httpx.Client, bucket: storage.Bucket) -> None:
    bucket.blob("object").upload_from_string("data")
    headers = {"X-HTTP-Method-Override": "PATCH"}
    path = "/storage/v1/b/bucket/o/object"
    answer = http.post(path, json={"contentLanguage": "de"}, headers=headers)
    assert answer.json()["contentLanguage"] == "de"


def test_a_name_is_said_once(http: httpx.Client) -> None:
    query = {"uploadType": "resumable", "name": "object"}
    assert http.post(UPLOAD, params=query, json={"name": "another"}).status_code == 400
    assert http.post(UPLOAD, params=query, json={"name": "object"}).status_code == 200


def test_a_description_may_come_compressed(http: httpx.Client) -> None:
    body = gzip.compress(b'{"name": "object", "metadata": {"a": "1"}}')
    query = {"uploadType": "resumable"}
    answer = http.post(UPLOAD, params=query, content=body, headers={"Content-Encoding": "gzip"})
    assert http.put(answer.headers["location"], content=b"data").json()["metadata"] == {"a": "1"}


def test_the_client_writes_and_reads_a_file(bucket: storage.Bucket) -> None:
    blob = bucket.blob("object")
    with blob.open("wb", chunk_size=256 * KIB, if_generation_match=0) as file:
        for start in range(0, MIB, 100 * KIB):
            file.write(DATA[start : start + 100 * KIB])
    with blob.open("rb", chunk_size=256 * KIB) as file:
        assert file.read() == DATA
    with pytest.raises(exceptions.PreconditionFailed):
        blob.upload_from_string(b"other", if_generation_match=0)
