"""Listings: globs, prefixes, offsets and partial answers, as Google's clients ask for them."""

from __future__ import annotations

import httpx
import pytest
from google.api_core import exceptions
from google.cloud import storage

from tests.storage import StorageServer

NAMES = ["a.txt", "a/", "a/1.txt", "a/b/2.txt", "a/b/3.log", "c[1].txt", "ü.txt"]


@pytest.fixture
def named(server: StorageServer, bucket: storage.Bucket) -> storage.Bucket:
    """The bucket, with empty objects of those names."""
    for name in NAMES:
        server.objects.put("bucket", name, server.content(b""), {"metadata": {"name": name}})
    return bucket


@pytest.mark.parametrize(
    "glob, expected",
    [
        ("*", ["a.txt", "c[1].txt", "ü.txt"]),
        ("**", NAMES),
        ("*.txt", ["a.txt", "c[1].txt", "ü.txt"]),
        ("**.txt", ["a.txt", "a/1.txt", "a/b/2.txt", "c[1].txt", "ü.txt"]),
        ("**/*.txt", ["a.txt", "a/1.txt", "a/b/2.txt", "c[1].txt", "ü.txt"]),
        ("a/**/*.txt", ["a/1.txt", "a/b/2.txt"]),
        ("a/*", ["a/", "a/1.txt"]),
        ("?.txt", ["a.txt", "ü.txt"]),
        ("a?txt", ["a.txt"]),
        ("a?1.txt", []),
        ("a/b/[2-3].*", ["a/b/2.txt", "a/b/3.log"]),
        ("a/b/[!3].*", ["a/b/2.txt"]),
        ("a/b/[^2].*", ["a/b/3.log"]),
        ("a/{1.txt,b/*.log}", ["a/1.txt", "a/b/3.log"]),
        ("{**/2,a}.{txt,log}", ["a.txt", "a/b/2.txt"]),
        (r"c\[1].txt", ["c[1].txt"]),
        ("nothing*", []),
    ],
)
def test_a_glob_picks_names(named: storage.Bucket, glob: str, expected: list[str]) -> None:
    assert [one.name for one in named.list_blobs(match_glob=glob)] == expected
    pages = named.list_blobs(match_glob=glob, page_size=2)
    assert [one.name for one in pages] == expected


def test_a_glob_picks_prefixes_too(named: storage.Bucket) -> None:
    found = named.list_blobs(match_glob="a/*/", prefix="a/", delimiter="/")
    assert [one.name for one in found] == [] and found.prefixes == {"a/b/"}
    with pytest.raises(exceptions.BadRequest, match="delimiter"):
        list(named.list_blobs(match_glob="*", delimiter="-"))


@pytest.mark.parametrize("glob", ["[a", "{a", "[z-a]"])
def test_a_glob_that_is_none_is_refused(named: storage.Bucket, glob: str) -> None:
    with pytest.raises(exceptions.BadRequest, match="matchGlob"):
        list(named.list_blobs(match_glob=glob))


def test_a_folders_own_object_is_listed_when_it_is_asked_for(named: storage.Bucket) -> None:
    found = named.list_blobs(delimiter="/", include_trailing_delimiter=True)
    assert [one.name for one in found] == ["a.txt", "a/", "c[1].txt", "ü.txt"]
    assert found.prefixes == {"a/"}
    found = named.list_blobs(delimiter="/")
    assert [one.name for one in found] == ["a.txt", "c[1].txt", "ü.txt"]
    assert found.prefixes == {"a/"}


def test_offsets_bound_a_listing(named: storage.Bucket) -> None:
    found = named.list_blobs(start_offset="a/1.txt", end_offset="c")
    assert [one.name for one in found] == ["a/1.txt", "a/b/2.txt", "a/b/3.log"]
    found = named.list_blobs(start_offset="a/b", prefix="a/", delimiter="/")
    assert [one.name for one in found] == [] and found.prefixes == {"a/b/"}
    assert list(named.list_blobs(end_offset="a")) == []


def test_a_partial_answer_has_what_was_asked_for(
    named: storage.Bucket, client: storage.Client, http: httpx.Client
) -> None:
    found = list(named.list_blobs(fields="items(name,size),nextPageToken", page_size=2))
    assert [one.name for one in found] == NAMES
    assert all(one.size == 0 and one.generation is None and one.etag is None for one in found)
    assert named.blob("a.txt").exists(), "asks for the name alone"
    path = "/storage/v1/b/bucket/o"
    for fields, expected in {
        "items/name": {"items": [{"name": name} for name in NAMES]},
        "items(metadata/name)": {"items": [{"metadata": {"name": name}} for name in NAMES]},
        "items(metadata(name))": {"items": [{"metadata": {"name": name}} for name in NAMES]},
        "kind,nextPageToken": {"kind": "storage#objects"},
        "items/*/name": {"items": [{"metadata": {"name": name}} for name in NAMES]},
    }.items():
        assert http.get(path, params={"fields": fields}).json() == expected, fields
    for fields in ("nme", "items(nme)", "items(name", "items)", "items//name", ",", "items(name)x"):
        answer = http.get(path, params={"fields": fields})
        assert answer.status_code == 400, fields
        assert "field selection" in answer.json()["error"]["message"]
    changed = http.patch(
        f"{path}/a.txt", params={"fields": "metadata"}, json={"metadata": {"x": "1"}}
    )
    assert changed.json() == {"metadata": {"name": "a.txt", "x": "1"}}


def test_buckets_are_listed_page_by_page(client: storage.Client) -> None:
    for number in range(3):
        client.create_bucket(f"more-{number}")
    names = ["bucket", "more-0", "more-1", "more-2"]
    for size in (1, 2, 3, 4, 5):
        assert [one.name for one in client.list_buckets(page_size=size)] == names
    assert [one.name for one in client.list_buckets(prefix="more", max_results=2)] == names[1:3]
    assert client.bucket("more-1").exists() and not client.bucket("none").exists()
