"""What the emulated Cloud Storage keeps: buckets, objects, and what may be asked of one."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from typing import Any

from launcher.emulator.storage.errors import ConditionFailed, NotChanged

STANDARD = "STANDARD"  # the storage class of what names none


@dataclass(frozen=True)
class Bucket:
    """A bucket.

    Attributes:
        created, updated: Unix time in seconds.
        metageneration: counts changes of the settings, from 1.
        settings: what its owner says about it: versioning, labels, storageClass, …
    """

    name: str
    location: str
    created: float
    updated: float
    metageneration: int = 1
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def versioned(self) -> bool:
        """Whether objects that are replaced or deleted are kept as old versions."""
        return bool((self.settings.get("versioning") or {}).get("enabled"))

    @property
    def storage_class(self) -> str:
        """The storage class of objects that name none."""
        return str(self.settings.get("storageClass") or STANDARD)

    @property
    def etag(self) -> str:
        """Changes whenever the bucket does."""
        return _etag(self.metageneration)


@dataclass(frozen=True)
class Object:
    """One version of an object.

    Attributes:
        generation: changes with the content; higher than all before it.
        metageneration: counts changes of the fields of this generation, from 1.
        blob: the name of the file with its bytes.
        crc32c, md5: checksums of the content, in base64 as the API has them. What was put together
            from parts has no ``md5``.
        created, updated: Unix time in seconds.
        fields: what its owner says about it: contentType, metadata, …; and ``componentCount``.
        deleted: since when it is an old version, in Unix time; None for the one that is live.
    """

    bucket: str
    name: str
    generation: int
    metageneration: int
    blob: str
    size: int
    crc32c: str
    md5: str | None
    created: float
    updated: float
    fields: dict[str, Any] = field(default_factory=dict)
    deleted: float | None = None

    @property
    def etag(self) -> str:
        """Changes whenever the object does."""
        return _etag(self.generation, self.metageneration)

    @property
    def xml_etag(self) -> str:
        """What the XML API calls its ETag: the content's MD5, where there is one."""
        if self.md5 is None:
            return self.etag
        return binascii.hexlify(base64.b64decode(self.md5)).decode()

    @property
    def storage_class(self) -> str:
        """Its storage class."""
        return str(self.fields.get("storageClass") or STANDARD)

    @property
    def zipped(self) -> bool:
        """Whether its bytes are what gzip has made of the content."""
        return self.fields.get("contentEncoding") == "gzip"


@dataclass(frozen=True)
class Conditions:
    """What must hold of an object or a bucket for a request to be carried out.

    Attributes:
        generation_match, generation_not_match: 0 stands for no object.
        metageneration_match, metageneration_not_match: likewise.
        etag_match, etag_not_match: ETags of which one must fit, or none may; ``*`` fits anything
            that is there.
    """

    generation_match: int | None = None
    generation_not_match: int | None = None
    metageneration_match: int | None = None
    metageneration_not_match: int | None = None
    etag_match: frozenset[str] | None = None
    etag_not_match: frozenset[str] = frozenset()

    def check(self, found: Object | Bucket | None, *, reading: bool = False) -> None:
        """Raises ConditionFailed, or NotChanged for a read, when they do not hold."""
        generation = found.generation if isinstance(found, Object) else 0
        metageneration = found.metageneration if found else 0
        etags = _etags(found)
        if (
            self.generation_match not in (None, generation)
            or self.metageneration_match not in (None, metageneration)
            or (self.etag_match is not None and not self.etag_match & etags)
        ):
            raise ConditionFailed
        if (
            self.generation_not_match == generation
            or self.metageneration_not_match == metageneration
            or self.etag_not_match & etags
        ):
            raise NotChanged if reading else ConditionFailed


ANY = Conditions()


def _etags(found: Object | Bucket | None) -> set[str]:
    if found is None:
        return set()
    return {"*", found.etag, *([found.xml_etag] if isinstance(found, Object) else [])}


def _etag(*numbers: int) -> str:
    return base64.b64encode(".".join(map(str, numbers)).encode()).decode()
