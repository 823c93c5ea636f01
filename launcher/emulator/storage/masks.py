"""Partial answers: what ``fields=items(name,size),nextPageToken`` leaves of one."""

from __future__ import annotations

import re
from typing import Any

from launcher.emulator.storage.errors import Refused

Mask = dict[str, Any]  # names, each with a mask of what is below; an empty one takes everything

_TOKEN = re.compile(r"[A-Za-z0-9_.\-]+|[*,()/]")


def _names(simple: str, **kinds: str) -> dict[str, str]:
    return {**dict.fromkeys(simple.split(), ""), **kinds}


# What there is to select of each kind of answer, with the kind of what is below.
_KINDS: dict[str, dict[str, str]] = {
    "storage#object": _names("""
        acl bucket cacheControl componentCount contentDisposition contentEncoding contentLanguage
        contentType contexts crc32c customTime customerEncryption etag eventBasedHold generation
        hardDeleteTime id kind kmsKeyName md5Hash mediaLink metadata metageneration name owner
        restoreToken retention retentionExpirationTime selfLink size softDeleteTime storageClass
        temporaryHold timeCreated timeDeleted timeFinalized timeStorageClassUpdated updated
    """),
    "storage#bucket": _names("""
        acl autoclass billing cors customPlacementConfig defaultEventBasedHold defaultObjectAcl
        encryption etag generation hardDeleteTime hierarchicalNamespace iamConfiguration id ipFilter
        kind labels lifecycle location locationType logging metageneration name objectRetention
        owner projectNumber retentionPolicy rpo satisfiesPZI satisfiesPZS selfLink softDeletePolicy
        softDeleteTime storageClass timeCreated updated versioning website
    """),
    "storage#storageLayout": _names("bucket hierarchicalNamespace kind location locationType"),
    "storage#objects": _names("kind nextPageToken prefixes", items="storage#object"),
    "storage#buckets": _names("kind nextPageToken unreachable", items="storage#bucket"),
    "storage#rewriteResponse": _names(
        "done kind objectSize rewriteToken totalBytesRewritten", resource="storage#object"
    ),
}


def selected(answer: dict[str, Any], fields: str | None) -> dict[str, Any]:
    """Returns what ``fields`` selects of an answer. Raises Refused for what no answer has."""
    if not fields:
        return answer
    mask = _parsed(fields)
    _check(mask, answer["kind"])
    picked: dict[str, Any] = _pick(answer, mask)
    return picked


def _parsed(fields: str) -> Mask:
    tokens = _TOKEN.findall(fields)
    if "".join(tokens) != re.sub(r"\s", "", fields):
        raise Refused(f"Invalid field selection {fields[:80]}")
    mask: Mask = {}
    _several(tokens, mask)
    if tokens:
        raise Refused(f"Invalid field selection {fields[:80]}")
    return mask


def _several(tokens: list[str], mask: Mask) -> None:
    """Takes selections from the front of the tokens into ``mask``, up to a ``)`` or the end."""
    _one(tokens, mask)
    while tokens and tokens[0] == ",":
        tokens.pop(0)
        _one(tokens, mask)


def _one(tokens: list[str], mask: Mask) -> None:
    if not tokens or tokens[0] in ",()/":
        raise Refused("Invalid field selection: a name is missing.")
    name = tokens.pop(0)
    # What was asked for as a whole stays whole.
    below: Mask = {} if mask.get(name) == {} else mask.setdefault(name, {})
    if tokens and tokens[0] == "/":
        tokens.pop(0)
        _one(tokens, below)
    elif tokens and tokens[0] == "(":
        tokens.pop(0)
        _several(tokens, below)
        if not tokens or tokens.pop(0) != ")":
            raise Refused("Invalid field selection: a bracket is not closed.")
    else:
        below.clear()


def _check(mask: Mask, kind: str) -> None:
    known = _KINDS.get(kind)
    if known is None:
        return
    for name, below in mask.items():
        if name != "*" and name not in known:
            raise Refused(f"Invalid field selection {name}")
        if below and name in known:
            _check(below, known[name])


def _pick(value: Any, mask: Mask) -> Any:
    if not mask:
        return value
    if isinstance(value, list):
        return [_pick(one, mask) for one in value if isinstance(one, dict | list)]
    rest = mask.get("*")
    picked = {}
    for name, one in value.items():
        below = mask.get(name, rest)
        if below is not None and (not below or isinstance(one, dict | list)):
            picked[name] = _pick(one, below)
    return picked
