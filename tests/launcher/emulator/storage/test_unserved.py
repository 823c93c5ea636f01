"""What is not served is refused by the name that docs/emulator.md has for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gcsfs
import httpx
import pytest
from google.cloud import storage

from launcher.emulator.storage.unserved import Feature
from tests.storage import StorageServer

PAGE = Path(__file__).parents[4] / "docs/emulator.md"
B, O = "/storage/v1/b/bucket", "/storage/v1/b/bucket/o/a"  # noqa: E741
UPLOAD = "/upload/storage/v1/b/bucket/o?uploadType=media&name=a"
Sent = tuple[str, str, dict[str, Any]]

REQUESTS: list[tuple[Feature, Sent]] = [
    (Feature.ACLS, ("GET", f"{B}/acl", {})),
    (Feature.ACLS, ("GET", f"{O}/acl", {})),
    (Feature.ACLS, ("POST", f"{UPLOAD}&predefinedAcl=publicRead", {})),
    (Feature.ACLS, ("PUT", "/bucket/a", {"headers": {"x-goog-acl": "public-read"}})),
    (Feature.ACLS, ("PATCH", O, {"json": {"acl": [{"entity": "allUsers"}]}})),
    (Feature.CACHES, ("GET", f"{B}/anywhereCaches", {})),
    (Feature.CHANGES, ("POST", f"{B}/o/watch", {})),
    (Feature.CONTEXTS, ("PATCH", O, {"json": {"contexts": {"custom": {"a": {"value": "b"}}}}})),
    (Feature.CONTEXTS, ("GET", f"{B}/o?filter=a", {})),
    (Feature.CUSTOMER_KEYS, ("GET", O, {"headers": {"x-goog-encryption-algorithm": "AES256"}})),
    (Feature.DATES, ("GET", "/bucket/a", {"headers": {"If-Modified-Since": "now"}})),
    (Feature.FOLDERS, ("GET", f"{B}/folders", {})),
    (Feature.FOLDERS, ("POST", f"{B}/managedFolders", {})),
    (Feature.FOLDERS, ("PATCH", B, {"json": {"hierarchicalNamespace": {"enabled": True}}})),
    (Feature.HMAC_KEYS, ("GET", "/storage/v1/projects/p/hmacKeys", {})),
    (Feature.HOLDS, ("PATCH", O, {"json": {"temporaryHold": True}})),
    (Feature.HOLDS, ("PATCH", B, {"json": {"defaultEventBasedHold": True}})),
    (Feature.IAM, ("GET", f"{B}/iam", {})),
    (Feature.IAM, ("GET", f"{B}/iam/testPermissions?permissions=a", {})),
    (Feature.KMS, ("POST", f"{UPLOAD}&kmsKeyName=key", {})),
    (
        Feature.LIFECYCLE,
        ("PATCH", B, {"json": {"lifecycle": {"rule": [{"action": {"type": "x"}}]}}}),
    ),
    (Feature.LIFECYCLE, ("PATCH", B, {"json": {"autoclass": {"enabled": True}}})),
    (Feature.NOTIFICATIONS, ("GET", f"{B}/notificationConfigs", {})),
    (Feature.PLACEMENT, ("PATCH", B, {"json": {"rpo": "ASYNC_TURBO"}})),
    (Feature.PLACEMENT, ("POST", f"{B}/relocate", {})),
    (Feature.REQUESTER_PAYS, ("PATCH", B, {"json": {"billing": {"requesterPays": True}}})),
    (Feature.RETENTION, ("PATCH", B, {"json": {"retentionPolicy": {"retentionPeriod": "9"}}})),
    (Feature.RETENTION, ("POST", f"{B}/lockRetentionPolicy", {})),
    (Feature.SERVICE_ACCOUNTS, ("GET", "/storage/v1/projects/p/serviceAccount", {})),
    (Feature.SOFT_DELETE, ("GET", f"{B}/o?softDeleted=true", {})),
    (Feature.SOFT_DELETE, ("POST", f"{O}/restore", {})),
    (Feature.WEB, ("PATCH", B, {"json": {"cors": [{"maxAgeSeconds": 1}]}})),
    (Feature.XML_BUCKETS, ("GET", "/bucket", {})),
    (Feature.XML_BUCKETS, ("PUT", "/bucket/", {})),
    (Feature.XML_COPIES, ("PUT", "/bucket/b", {"headers": {"x-goog-copy-source": "bucket/a"}})),
    (Feature.XML_RESUMABLE, ("POST", "/bucket/b", {"headers": {"x-goog-resumable": "start"}})),
    (Feature.XML_SUBRESOURCES, ("GET", "/bucket/a?acl", {})),
    (Feature.XML_SUBRESOURCES, ("GET", "/bucket/a?uploadId=x", {})),
]


@pytest.mark.parametrize("feature, request_", REQUESTS, ids=lambda one: getattr(one, "name", None))
def test_what_is_not_served_is_said(
    http: httpx.Client, server: StorageServer, feature: Feature, request_: Sent
) -> None:
    server.objects.put("bucket", "a", server.content(b"data"), {})
    before = server.objects.get("bucket", "a"), server.objects.bucket("bucket")
    verb, path, more = request_
    answer = http.request(verb, path, **more)
    assert answer.status_code == 501
    assert feature.value in answer.text
    assert (server.objects.get("bucket", "a"), server.objects.bucket("bucket")) == before
    assert [one.name for one in server.objects.list("bucket").objects] == ["a"]


def test_the_page_lists_what_is_not_served_and_this_suite_asks_for_it() -> None:
    assert {feature for feature, _ in REQUESTS} == set(Feature)
    page = PAGE.read_text()
    assert [one.value for one in Feature if f"- {one.value}" not in page] == []


def test_what_switches_something_off_is_no_request_for_it(
    client: storage.Client, gcs: gcsfs.GCSFileSystem
) -> None:
    gcs.mkdir("by-gcsfs", enable_versioning=True)  # with the ACLs that buckets have anyway
    assert client.get_bucket("by-gcsfs").versioning_enabled
    bucket = client.bucket("by-client")
    bucket.lifecycle_rules = []
    bucket.cors = []
    bucket.requester_pays = False
    bucket.labels = {"team": "a"}
    bucket.iam_configuration.uniform_bucket_level_access_enabled = True
    bucket.create(location="europe-west4")
    again = client.get_bucket("by-client")
    assert (again.location, again.location_type) == ("EUROPE-WEST4", "region")
    assert again.labels == {"team": "a"}
    assert again.iam_configuration.uniform_bucket_level_access_enabled
    again.labels = {}
    again.update()
    assert client.get_bucket("by-client").labels == {}
    blob = again.blob("a")
    blob.upload_from_string("data", predefined_acl="projectPrivate")
    blob.temporary_hold = False
    blob.patch()


@pytest.mark.parametrize(
    "location, kind, rpo",
    [
        ("us-central1", "region", None),
        ("eu", "multi-region", "DEFAULT"),
        ("nam4", "dual-region", "DEFAULT"),
    ],
)
def test_a_bucket_says_what_google_says_of_a_new_one(
    client: storage.Client, location: str, kind: str, rpo: str | None
) -> None:
    made = client.create_bucket("a-bucket", location=location)
    assert (made.location, made.location_type, made.rpo) == (location.upper(), kind, rpo)
    assert made.storage_class == "STANDARD" and not made.versioning_enabled
    assert made.iam_configuration.public_access_prevention == "inherited"
    assert not made.iam_configuration.uniform_bucket_level_access_enabled


def test_flat_buckets_say_so(http: httpx.Client, server: StorageServer) -> None:
    answer = http.get(f"{B}/storageLayout").json()
    assert answer["hierarchicalNamespace"] == {"enabled": False}
