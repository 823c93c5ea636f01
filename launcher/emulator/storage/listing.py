"""A listing of a bucket's objects, page by page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from launcher.emulator.storage import globs
from launcher.emulator.storage.errors import Refused
from launcher.emulator.storage.index import Position, Tables
from launcher.emulator.storage.resource import Object

BEGIN: Position = ("", 0)


@dataclass(frozen=True)
class Query:
    """What a listing is asked for.

    Attributes:
        prefix: only names that begin so.
        delimiter: names that have it behind the prefix are summed up as prefixes.
        start: where to begin: at the first name, or where the page before has ended.
        end: the first name not to list, if any.
        limit: how many objects and prefixes at most.
        glob: only objects and prefixes that fit; see ``globs``.
        trailing: whether an object that is named as a prefix is listed as an object, too.
        versions: whether old versions are listed.
    """

    prefix: str = ""
    delimiter: str = ""
    start: Position = BEGIN
    end: str = ""
    limit: int = 1000
    glob: str = ""
    trailing: bool = False
    versions: bool = False

    def fits(self) -> Callable[[str], object]:
        """Returns what tells whether a name fits the glob. Raises Refused."""
        if not self.glob:
            return lambda name: True
        if self.delimiter not in ("", "/"):
            raise Refused("With matchGlob, the delimiter must be /.")
        return globs.compiled(self.glob).fullmatch


@dataclass(frozen=True)
class Listing:
    """One page of a listing; ``next`` continues it."""

    objects: list[Object]
    prefixes: list[str]
    next: Position | None


def page(tables: Tables, bucket: str, query: Query) -> Listing:
    """Returns a page in order of names and, of one name, of generations. Raises Refused."""
    objects: list[Object] = []
    prefixes: list[str] = []
    fits = query.fits()
    position = max((query.prefix, 0), query.start)
    while True:
        one = tables.following(bucket, position, query.versions)
        if (
            one is None
            or not one.name.startswith(query.prefix)
            or (query.end and one.name >= query.end)
        ):
            return Listing(objects, prefixes, None)
        folder = _folder(one.name, query)
        if fits(folder or one.name):
            trailing: list[Object] = []
            if query.trailing and folder == one.name:
                trailing = tables.versions(bucket, folder) if query.versions else [one]
            room = query.limit - len(objects) - len(prefixes)
            if room <= len(trailing) and (objects or prefixes):
                return Listing(objects, prefixes, position)
            if folder:
                prefixes.append(folder)
            objects += trailing if folder else [one]
        position = _behind(folder) if folder else _after(one, query.versions)


def _folder(name: str, query: Query) -> str:
    """The prefix that ``name`` is summed up as, or nothing."""
    cut = name.find(query.delimiter, len(query.prefix)) if query.delimiter else -1
    return name[: cut + len(query.delimiter)] if cut >= 0 else ""


def _behind(prefix: str) -> Position:
    """The first position behind everything that begins with ``prefix``."""
    following = ord(prefix[-1]) + 1
    if following > 0x10FFFF:
        raise Refused("This delimiter is not supported.")
    return prefix[:-1] + chr(0xE000 if following == 0xD800 else following), 0


def _after(one: Object, versions: bool) -> Position:
    """The first position behind an object, or behind that version of it."""
    return (one.name, one.generation + 1) if versions else (one.name + "\0", 0)
