"""An output folder on this VM: what is in it, and how it is brought to a version."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from trainer.outputs.commits import Version
from trainer.outputs.files import File, Stamp, is_log

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
        for folder, _, names in os.walk(self.root):
            for name in names:
                path = Path(folder, name)
                try:
                    stat = path.stat()
                except OSError:  # it has just gone, or is a link to nothing
                    continue
                stamp = Stamp(stat.st_size, stat.st_mtime_ns, stat.st_ino)
                found[path.relative_to(self.root).as_posix()] = stamp
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
        for path in self.stamps():
            if not is_log(path) and not self._is(path, wanted.get(path)):  # a log goes on
                self._move_aside(path)
        for path, file in {**version.logs, **wanted}.items():
            if not (self.root / path).exists():
                self._write(path, file, fetch)
        self._drop_empty_folders()

    def _stamp(self, path: str) -> Stamp | None:
        try:
            stat = (self.root / path).stat()
        except OSError:
            return None
        return Stamp(stat.st_size, stat.st_mtime_ns, stat.st_ino)

    def _is(self, path: str, wanted: File | None) -> bool:
        """Whether a file here has this content."""
        if wanted is None:
            return False
        here = self.read(path, digest)
        if here is None or here.size != wanted.size:
            return False
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
