"""Where run directories and checkpoints go: ``Place``, a bucket's folder or one of this machine.

Buckets are named as Google's storage/docs/buckets#naming has it.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from launcher.job.problem import FORM, NUL, problem

BUCKETS = ("gs", "s3")  # the schemes of stores that all VMs may reach; docs/checkpoints.md
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/|(gs|s3):", re.IGNORECASE)
_PART = re.compile(r"[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?")  # of a bucket's name, between dots
_ADDRESS = re.compile(r"\d+(\.\d+){3}")


def _place(text: str) -> str:
    if "\0" in text:
        raise problem(NUL, "holds a NUL character; remove it")
    scheme, form, rest = text.partition("://")
    if not form or not scheme.isalnum():
        if _SCHEME.match(text):
            raise problem(FORM, f"is {text[:60]!r}; write gs://BUCKET/FOLDER")
        return text
    if scheme == "file" and rest.startswith("/"):
        return text
    bucket, _, folder = rest.partition("/")
    if scheme not in BUCKETS or not bucket:
        raise problem(FORM, f"is {text[:60]!r}; write gs://BUCKET/FOLDER")
    if not is_bucket(bucket):
        raise problem(
            FORM,
            f"is in {bucket[:60]!r}, which is no bucket's name; write lowercase letters, digits, "
            "-, _ and ., 3 to 63 of them, the first and the last a letter or a digit",
        )
    if "//" in rest or not folder.isprintable() or re.search(r"[?*#\[\]]", folder):
        raise problem(FORM, f"is {text[:60]!r}; write a folder without //, #, *, ? and brackets")
    return text


def is_bucket(name: str) -> bool:
    """Whether a bucket of Google's can be called ``name``."""
    if not 3 <= len(name) <= 222 or _ADDRESS.fullmatch(name):
        return False
    reserved = name.startswith("goog") or "google" in name
    return not reserved and all(map(_PART.fullmatch, name.split(".")))


Place = Annotated[str, Field(min_length=1), AfterValidator(_place)]
