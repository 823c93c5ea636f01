"""An output folder on this VM: what is in it, and how it is brought to a version."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from trainer.outputs.commits import Version
from trainer.outputs.files import File, Stamp, by_entry, is_log, log_stays

PART = 32 * 2**20  # bytes; what is in memory at a time


class Folder:
    """The folder.

    Args:
        root: where it is. What is moved aside goes to a folder beside it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._aside = root.with_name(f"{root.name}.aside")
        self._known: dict[str, tuple[Stamp, File]] = {}
        root.mkdir(parents=True, exist_ok=True)

    def stamps(self) -> dict[str, Stamp]:
        """What there is, by path."""
        found = {}
        for folder, folders, names in os.walk(self.root):
            links = [name for name in folders if Path(folder, name).is_symlink()]
            for name in [*names, *links]:
                path = Path(folder, name).relative_to(self.root).as_posix()
                if stamp := self._stamp(path):  # else it has just gone, or leads elsewhere
                    found[path] = stamp
        return found

    def read(self, path: str, take: Callable[[bytes], str]) -> File | None:
        """Reads a file, part by part. Returns its content; None if it changes meanwhile.

        Args:
            path: which one.
            take: called with each part of a file that has changed; returns its name.
        """
        before = self._stamp(path)
        if before is None:
            return None
        known = self._known.get(path)
        if known is not None and known[0] == before:
            return known[1]
        if before.link:
            return File(0, (), before.link)
        parts = []
        try:
            with (self.root / path).open("rb") as file:
                while data := file.read(PART):
                    parts.append(take(data))
        except OSError:
            return None
        if self._stamp(path) != before:
            return None
        content = File(before.size, tuple(parts))
        self._known[path] = before, content
        return content

    def restore(self, version: Version, fetch: Callable[[str], bytes]) -> None:
        """Brings the folder to a version. What is here and not in it is moved aside.

        Args:
            version: which one.
            fetch: returns a part by its name; raises OSError.
        """
        shutil.rmtree(self._aside, ignore_errors=True)
        wanted = version.files
        there = self.stamps()
        others = by_entry(there)
        for path in there:
            if is_log(path):  # it goes on
                right = log_stays(path, version.entries, others)
            else:
                right = self._is(path, wanted.get(path))
            if not right:
                self._move_aside(path)
        for path, file in {**version.logs, **wanted}.items():
            if not os.path.lexists(self.root / path):
                self._write(path, file, fetch)
        self._drop_empty_folders()

    def _stamp(self, path: str) -> Stamp | None:
        """None for what is not there, and for a link to a folder elsewhere."""
        file = self.root / path
        try:
            if file.is_symlink() and (link := self._inside(file)):
                stat = file.lstat()
                return Stamp(0, stat.st_mtime_ns, stat.st_ino, link)
            stat = file.stat()
        except OSError:
            return None
        return None if file.is_dir() else Stamp(stat.st_size, stat.st_mtime_ns, stat.st_ino)

    def _inside(self, link: Path) -> str:
        """What a link leads to, as a path from the folder; "" for what is not in it."""
        target = os.path.normpath(link.parent / os.readlink(link))  # not what that leads to
        root = f"{os.path.normpath(self.root)}/"
        return target.removeprefix(root) if target.startswith(root) else ""

    def _is(self, path: str, wanted: File | None) -> bool:
        """Whether a file here has this content."""
        if wanted is None:
            return False
        here = self.read(path, digest)
        if here is None or (here.size, here.link) != (wanted.size, wanted.link):
            return False
        if here.link:
            return True
        if [name[-64:] for name in here.parts] != [name[-64:] for name in wanted.parts]:
            return False
        self._known[path] = self._known[path][0], wanted  # by the names that the store has
        return True

    def _move_aside(self, path: str) -> None:
        self._known.pop(path, None)
        target = self._aside / path
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(self.root / path, target)

    def _write(self, path: str, file: File, fetch: Callable[[str], bytes]) -> None:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        part = self.root.with_name(f"{self.root.name}.part-{secrets.token_hex(4)}")
        try:
            if file.link:
                os.symlink(os.path.relpath(self.root / file.link, target.parent), part)
            else:
                with part.open("wb") as opened:
                    for data in self._checked(file, fetch):
                        opened.write(data)
            os.replace(part, target)
        finally:
            part.unlink(missing_ok=True)
        stamp = self._stamp(path)
        assert stamp is not None
        self._known[path] = stamp, file

    def _checked(self, file: File, fetch: Callable[[str], bytes]) -> Iterator[bytes]:
        size = 0
        for name in file.parts:
            data = fetch(name)
            if not name.endswith(digest(data)):
                raise OSError(f"part {name} is damaged")
            size += len(data)
            yield data
        if size != file.size:
            raise OSError(f"its parts have {size} bytes, not {file.size}")

    def _drop_empty_folders(self) -> None:
        for folder, _, _ in os.walk(self.root, topdown=False):
            if Path(folder) != self.root and not os.listdir(folder):
                os.rmdir(folder)


def digest(data: bytes) -> str:
    """The SHA-256 of a part, with which its name ends."""
    return hashlib.sha256(data).hexdigest()
