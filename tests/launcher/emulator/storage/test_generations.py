"""Generations, preconditions and old versions, as google-cloud-storage and gcsfs see them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gcsfs
import httpx
import pytest
from google.api_core import exceptions
from google.cloud import storage

from tests.storage import StorageServer

WRONG = {
    "if_generation_match": 7,
    "if_metageneration_match": 7,
    "if_generation_not_match": None,  # of the object that is there
    "if_metageneration_not_match": 1,
}


def uploaded(bucket: storage.Bucket, name: str, data: str = "data") -> storage.Blob:
    blob = bucket.blob(name)
    blob.upload_from_string(data)
    return blob


# --- preconditions --------------------------------------------------------------------

Request = Callable[[storage.Blob, dict[str, Any]], Any]
WRITES: dict[str, Request] = {
    "upload": lambda blob, conditions: blob.upload_from_string("other", **conditions),
    "patch": lambda blob, conditions: blob.patch(**conditions),
    "update": lambda blob, conditions: blob.update(**conditions),
    "delete": lambda blob, conditions: blob.delete(**conditions),
    "rewrite": lambda blob, conditions: blob.rewrite(uploaded(blob.bucket, "source"), **conditions),
    "copy": lambda blob, conditions: blob.bucket.copy_blob(
        uploaded(blob.bucket, "source"), blob.bucket, blob.name, **conditions
    ),
    "move": lambda blob, conditions: blob.bucket.move_blob(
        uploaded(blob.bucket, "source"), blob.name, **conditions
    ),
}


# The client writes the last of an upload's as ifMetaGenerationNotMatch, which means nothing.
MISSPELT = ("upload", "if_metageneration_not_match")


@pytest.mark.parametrize(
    "write, condition",
    [(write, one) for write in WRITES for one in WRONG if (write, one) != MISSPELT],
)
def test_a_write_whose_condition_fails_changes_nothing(
    bucket: storage.Bucket, write: str, condition: str
) -> None:
    blob = uploaded(bucket, "object")
    before = bucket.get_blob("object")
    wrong = WRONG[condition] or before.generation
    with pytest.raises(exceptions.PreconditionFailed):
        WRITES[write](blob, {condition: wrong})
    after = bucket.get_blob("object")
    assert (after.generation, after.metageneration) == (before.generation, before.metageneration)
    assert after.download_as_bytes() == b"data"


@pytest.mark.parametrize("write", ["rewrite", "copy", "move"])
@pytest.mark.parametrize("condition", WRONG)
def test_a_copy_whose_sources_condition_fails_copies_nothing(
    bucket: storage.Bucket, write: str, condition: str
) -> None:
    source = uploaded(bucket, "source")
    wrong = {condition.replace("if_", "if_source_"): WRONG[condition] or source.generation}
    with pytest.raises(exceptions.PreconditionFailed):
        if write == "rewrite":
            bucket.blob("copy").rewrite(source, **wrong)
        elif write == "copy":
            bucket.copy_blob(source, bucket, "copy", **wrong)
        else:
            bucket.move_blob(source, "copy", **wrong)
    assert [blob.name for blob in bucket.list_blobs()] == ["source"]


def test_compose_looks_at_each_source_and_at_its_goal(bucket: storage.Bucket) -> None:
    first, second, goal = (uploaded(bucket, name) for name in ("1", "2", "goal"))
    right = [first.generation, second.generation]
    for wrong in (
        {"if_generation_match": 0},
        {"if_metageneration_match": 7},
        {"if_source_generation_match": [first.generation, first.generation]},
    ):
        with pytest.raises(exceptions.PreconditionFailed):
            goal.compose([first, second], **wrong)
    goal.compose([first, second], if_source_generation_match=right)
    assert goal.download_as_bytes() == b"datadata"


def test_compose_takes_old_versions_and_deletes_what_it_took(
    versioned: storage.Bucket, http: httpx.Client
) -> None:
    old = uploaded(versioned, "1", "old")
    uploaded(versioned, "1", "new")
    body = {"sourceObjects": [{"name": "1", "generation": old.generation}, {"name": "1"}]}
    path = "/storage/v1/b/versioned/o/goal/compose"
    assert http.post(path, json=body).json()["componentCount"] == 2
    assert versioned.blob("goal").download_as_bytes() == b"oldnew"
    http.post(path, json={"sourceObjects": [{"name": "1"}]}, params={"deleteSourceObjects": "true"})
    assert versioned.blob("goal").download_as_bytes() == b"new"
    assert not versioned.blob("1").exists()


def test_a_read_can_ask_for_what_it_has_not(bucket: storage.Bucket) -> None:
    blob = uploaded(bucket, "object")
    for same in (
        {"if_generation_not_match": blob.generation},
        {"if_metageneration_not_match": 1},
        {"if_etag_not_match": blob.etag},
    ):
        with pytest.raises(exceptions.NotModified):
            bucket.blob("object").reload(**same)
        with pytest.raises(exceptions.NotModified):
            bucket.blob("object").download_as_bytes(**same)


def test_an_etag_is_a_condition(bucket: storage.Bucket, http: httpx.Client) -> None:
    blob = uploaded(bucket, "object")
    bucket.blob("object").reload(if_etag_match=[blob.etag, "another"])
    assert bucket.blob("object").download_as_bytes(if_etag_match=blob.etag) == b"data"
    with pytest.raises(exceptions.PreconditionFailed):
        bucket.blob("object").reload(if_etag_match="another")
    with pytest.raises(exceptions.PreconditionFailed):
        bucket.blob("object").download_as_bytes(if_etag_match="another")
    path, etag = "/storage/v1/b/bucket/o/object", blob.etag
    assert http.get(path).headers["etag"] == etag
    for verb in ("PATCH", "PUT", "DELETE"):
        for headers in ({"If-Match": "another"}, {"If-None-Match": etag}, {"If-None-Match": "*"}):
            assert http.request(verb, path, headers=headers).status_code == 412
    assert http.patch(path, json={}, headers={"If-Match": f'"{etag}"'}).status_code == 200
    assert http.delete(path, headers={"If-Match": etag}).status_code == 412, "it has changed since"
    assert http.delete(path, headers={"If-Match": "*"}).status_code == 204


def test_what_a_bucket_says_changes_under_a_condition(bucket: storage.Bucket) -> None:
    bucket.reload()
    bucket.labels = {"team": "a"}
    with pytest.raises(exceptions.PreconditionFailed):
        bucket.patch(if_metageneration_match=7)
    bucket.patch(if_metageneration_match=1)
    assert (bucket.metageneration, bucket.labels) == (2, {"team": "a"})
    with pytest.raises(exceptions.NotModified):
        bucket.reload(if_metageneration_not_match=2)
    with pytest.raises(exceptions.PreconditionFailed):
        bucket.delete(if_metageneration_match=1)


# --- versions -------------------------------------------------------------------------


def contents(bucket: storage.Bucket) -> list[tuple[str, bytes, bool]]:
    """All versions: name, content, whether it is live."""
    return [
        (one.name, one.download_as_bytes(), one.time_deleted is None)
        for one in bucket.list_blobs(versions=True)
    ]


def test_old_versions_are_kept_until_they_are_deleted(versioned: storage.Bucket) -> None:
    versioned.reload()
    assert versioned.versioning_enabled
    first = uploaded(versioned, "a", "1")
    second = uploaded(versioned, "a", "2")
    uploaded(versioned, "b", "3")
    assert contents(versioned) == [("a", b"1", False), ("a", b"2", True), ("b", b"3", True)]
    assert [blob.name for blob in versioned.list_blobs()] == ["a", "b"]
    versioned.blob("a").delete()
    assert not versioned.blob("a").exists()
    assert versioned.get_blob("a", generation=second.generation).download_as_bytes() == b"2"
    versioned.blob("a", generation=second.generation).delete()
    with pytest.raises(exceptions.NotFound):
        versioned.blob("a", generation=second.generation).delete()
    assert contents(versioned) == [("a", b"1", False), ("b", b"3", True)]
    versioned.copy_blob(first, versioned, "a", source_generation=first.generation)
    assert versioned.blob("a").download_as_bytes() == b"1", "restored, as Google's page has it"


def test_a_version_is_read_and_changed_by_its_generation(versioned: storage.Bucket) -> None:
    old = uploaded(versioned, "a", "1")
    new = uploaded(versioned, "a", "2")
    by_generation = versioned.blob("a", generation=old.generation)
    by_generation.metadata = {"which": "old"}
    by_generation.patch(if_generation_match=old.generation, if_metageneration_match=1)
    assert (by_generation.metageneration, by_generation.metadata) == (2, {"which": "old"})
    assert versioned.get_blob("a").metadata is None
    with pytest.raises(exceptions.PreconditionFailed):
        by_generation.delete(if_metageneration_match=1)
    by_generation.delete(if_generation_match=old.generation)
    assert versioned.blob("a", generation=new.generation).download_as_bytes() == b"2"


def test_a_moved_object_leaves_an_old_version(versioned: storage.Bucket) -> None:
    versioned.move_blob(uploaded(versioned, "a", "1"), "b")
    assert contents(versioned) == [("a", b"1", False), ("b", b"1", True)]


def test_without_versioning_another_generation_is_not_there(bucket: storage.Bucket) -> None:
    old = uploaded(bucket, "a", "1")
    new = uploaded(bucket, "a", "2")
    with pytest.raises(exceptions.NotFound):
        bucket.blob("a", generation=old.generation).delete()
    with pytest.raises(exceptions.NotFound):
        bucket.blob("a", generation=old.generation).patch()
    with pytest.raises(exceptions.NotFound):
        bucket.copy_blob(new, bucket, "b", source_generation=old.generation)
    assert contents(bucket) == [("a", b"2", True)]


def test_versioning_can_be_ended(versioned: storage.Bucket) -> None:
    uploaded(versioned, "a", "1")
    uploaded(versioned, "a", "2")
    versioned.versioning_enabled = False
    versioned.patch()
    uploaded(versioned, "a", "3")
    assert contents(versioned) == [("a", b"1", False), ("a", b"3", True)]
    with pytest.raises(exceptions.Conflict):
        versioned.delete()
    versioned.delete(force=True)


def test_versions_are_listed_page_by_page(versioned: storage.Bucket) -> None:
    for name in ("a", "b/", "b/c"):
        for data in "123":
            uploaded(versioned, name, data)
    for size in range(1, 10):
        found = [
            (one.name, one.generation)
            for one in versioned.list_blobs(versions=True, page_size=size)
        ]
        assert found == sorted(found) and len(set(found)) == 9
        folders = versioned.list_blobs(
            versions=True, delimiter="/", include_trailing_delimiter=True, page_size=size
        )
        assert [one.name for one in folders] == ["a"] * 3 + ["b/"] * 3
        assert folders.prefixes == {"b/"}


def test_gcsfs_reads_and_removes_by_generation(
    server: StorageServer, versioned: storage.Bucket
) -> None:
    gcs = gcsfs.GCSFileSystem(
        endpoint_url=server.endpoint, token="anon", version_aware=True, use_listings_cache=False
    )
    old = uploaded(versioned, "a", "1").generation
    gcs.pipe_file("versioned/a", b"2")
    assert gcs.cat_file(f"versioned/a#{old}") == b"1"
    assert gcs.cat_file("versioned/a") == b"2"
    gcs.cp_file(f"versioned/a#{old}", "versioned/copy")
    assert gcs.cat_file("versioned/copy") == b"1"
    gcs.rm(f"versioned/a#{old}")
    with pytest.raises(FileNotFoundError):
        gcs.cat_file(f"versioned/a#{old}")
    assert gcs.cat_file("versioned/a") == b"2"
