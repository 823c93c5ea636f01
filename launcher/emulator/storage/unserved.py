"""What Cloud Storage can do and the emulator cannot: each is refused by its name.

Nothing that would change what a request does is passed over in silence. docs/emulator.md lists
the same names.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import Any

from launcher.emulator.storage.errors import NotServed


class Feature(enum.Enum):
    """What is refused, by the name that docs/emulator.md has for it."""

    ACLS = "ACLs"
    CACHES = "Anywhere Cache"
    CHANGES = "object change notifications"
    CONTEXTS = "object contexts"
    CUSTOMER_KEYS = "customer-supplied encryption keys"
    DATES = "conditions on dates (If-Modified-Since)"
    FOLDERS = "folders and hierarchical namespaces"
    HMAC_KEYS = "HMAC keys"
    HOLDS = "object holds"
    IAM = "IAM policies"
    KMS = "customer-managed encryption keys"
    LIFECYCLE = "lifecycle rules and Autoclass"
    NOTIFICATIONS = "Pub/Sub notifications"
    PLACEMENT = "dual-region placement, turbo replication and relocation"
    REQUESTER_PAYS = "requester pays"
    RETENTION = "retention policies"
    SERVICE_ACCOUNTS = "service accounts of projects"
    SOFT_DELETE = "soft delete"
    WEB = "CORS, websites, usage logs and IP filters"
    XML_BUCKETS = "the XML API of buckets"
    XML_COPIES = "copies by the XML API"
    XML_RESUMABLE = "resumable uploads by the XML API"
    XML_SUBRESOURCES = "objects' subresources in the XML API"


# Each with the values that change nothing: whoever reaches the emulator owns everything in it.
_OWNERS = {"private", "projectPrivate", "bucketOwnerRead", "bucketOwnerFullControl"}
_XML_OWNERS = {"private", "project-private", "bucket-owner-read", "bucket-owner-full-control"}
_PARAMETERS = {
    "predefinedAcl": (Feature.ACLS, _OWNERS),
    "predefinedDefaultObjectAcl": (Feature.ACLS, _OWNERS),
    "destinationPredefinedAcl": (Feature.ACLS, _OWNERS),
    "enableObjectRetention": (Feature.RETENTION, {"false"}),
    "overrideUnlockedRetention": (Feature.RETENTION, {"false"}),
    "kmsKeyName": (Feature.KMS, set()),
    "destinationKmsKeyName": (Feature.KMS, set()),
    "softDeleted": (Feature.SOFT_DELETE, {"false"}),
    "filter": (Feature.CONTEXTS, set()),
    "dropContextGroups": (Feature.CONTEXTS, set()),
}
_HEADERS = {
    "x-goog-acl": (Feature.ACLS, _XML_OWNERS),
    "x-goog-encryption-algorithm": (Feature.CUSTOMER_KEYS, set()),
    "x-goog-encryption-key": (Feature.CUSTOMER_KEYS, set()),
    "x-goog-copy-source-encryption-algorithm": (Feature.CUSTOMER_KEYS, set()),
    "x-goog-encryption-kms-key-name": (Feature.KMS, set()),
    "x-goog-copy-source": (Feature.XML_COPIES, set()),
    "x-goog-resumable": (Feature.XML_RESUMABLE, set()),
    "if-modified-since": (Feature.DATES, set()),
    "if-unmodified-since": (Feature.DATES, set()),
}
_OBJECT_FIELDS = {
    "acl": Feature.ACLS,
    "contexts": Feature.CONTEXTS,
    "customerEncryption": Feature.CUSTOMER_KEYS,
    "eventBasedHold": Feature.HOLDS,
    "kmsKeyName": Feature.KMS,
    "retention": Feature.RETENTION,
    "temporaryHold": Feature.HOLDS,
}
_BUCKET_FIELDS = {
    "acl": Feature.ACLS,
    "autoclass": Feature.LIFECYCLE,
    "billing": Feature.REQUESTER_PAYS,
    "cors": Feature.WEB,
    "customPlacementConfig": Feature.PLACEMENT,
    "defaultEventBasedHold": Feature.HOLDS,
    "defaultObjectAcl": Feature.ACLS,
    "encryption": Feature.KMS,
    "hierarchicalNamespace": Feature.FOLDERS,
    "ipFilter": Feature.WEB,
    "lifecycle": Feature.LIFECYCLE,
    "logging": Feature.WEB,
    "objectRetention": Feature.RETENTION,
    "retentionPolicy": Feature.RETENTION,
    "rpo": Feature.PLACEMENT,
    "softDeletePolicy": Feature.SOFT_DELETE,
    "website": Feature.WEB,
}
# By the part of a path that follows a bucket, an object or a project.
_OF_BUCKETS = {
    "acl": Feature.ACLS,
    "anywhereCaches": Feature.CACHES,
    "defaultObjectAcl": Feature.ACLS,
    "folders": Feature.FOLDERS,
    "iam": Feature.IAM,
    "lockRetentionPolicy": Feature.RETENTION,
    "managedFolders": Feature.FOLDERS,
    "notificationConfigs": Feature.NOTIFICATIONS,
    "operations": Feature.SOFT_DELETE,
    "relocate": Feature.PLACEMENT,
    "restore": Feature.SOFT_DELETE,
}
_OF_OBJECTS = {"acl": Feature.ACLS, "iam": Feature.IAM, "restore": Feature.SOFT_DELETE}
_OF_PROJECTS = {"hmacKeys": Feature.HMAC_KEYS, "serviceAccount": Feature.SERVICE_ACCOUNTS}


def check_request(query: Mapping[str, str], headers: Mapping[str, str]) -> None:
    """Raises NotServed when a request's parameters or headers ask for what is not served."""
    for given, known in ((query, _PARAMETERS), (headers, _HEADERS)):
        for name, (feature, harmless) in known.items():
            if given.get(name, "") not in harmless | {""}:
                raise NotServed(feature.value)


def check_object(body: Mapping[str, Any]) -> None:
    """Raises NotServed when an object's description asks for what is not served."""
    _check_fields(body, _OBJECT_FIELDS)


def check_bucket(body: Mapping[str, Any]) -> None:
    """Raises NotServed when a bucket's description asks for what is not served."""
    _check_fields(body, _BUCKET_FIELDS)


def check_path(path: Sequence[str]) -> None:
    """Raises NotServed when a path of the JSON API, behind its version, is not served."""
    match path:
        case "b", _, "o", "bulkRestore", *_:
            raise NotServed(Feature.SOFT_DELETE.value)
        case "b", _, "o", "watch":
            raise NotServed(Feature.CHANGES.value)
        case "b", _, "o", _, part, *_ if part in _OF_OBJECTS:
            raise NotServed(_OF_OBJECTS[part].value)
        case "b", _, part, *_ if part in _OF_BUCKETS:
            raise NotServed(_OF_BUCKETS[part].value)
        case "channels", *_:
            raise NotServed(Feature.CHANGES.value)
        case "projects", _, part, *_ if part in _OF_PROJECTS:
            raise NotServed(_OF_PROJECTS[part].value)


def _check_fields(body: Mapping[str, Any], known: Mapping[str, Feature]) -> None:
    for name, feature in known.items():
        if _asks(body.get(name)):
            raise NotServed(feature.value)


def _asks(value: Any) -> bool:
    """Whether a field says anything but that something is off."""
    if isinstance(value, dict):
        return any(_asks(one) for one in value.values())
    if isinstance(value, list):
        return any(_asks(one) for one in value)
    return value not in (None, False, "", 0, "0", "DEFAULT")
