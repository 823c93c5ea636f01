"""An output folder on this VM: what is in it, and how it is brought to a version."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from trainer.outputs.commits import Version
from trainer.outputs.files import File, Files, Stamp, by_entry, is_log, log_stays

PART = 32 * 2**20  # bytes; what is in memory at a time
APART = 10**9  # nanoseconds: what was written within it belongs together


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
        """What files there are, by path."""
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
            return File(0, (), before.link, before.mtime_ns)
        size, parts = 0, []
        try:
            with (self.root / path).open("rb") as file:
                while data := file.read(PART):
                    size += len(data)  # what a file of /proc says of itself is nothing
                    parts.append(take(data))
        except OSError:
            return None
        if self._stamp(path) != before:
            return None
        content = File(size, tuple(parts), time=before.mtime_ns)
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
        self._drop_empty_folders()  # one may be where a file is wanted
        for path, file in {**version.logs, **wanted}.items():
            target = self.root / path
            if not (target.is_symlink() or target.is_file()):
                self._write(path, file, fetch)
        self._date(wanted)

    def _stamp(self, path: str) -> Stamp | None:
        """None for what is not there, and what is no file: a pipe, or a link to a folder."""
        file = self.root / path
        try:
            if file.is_symlink() and (link := self._inside(file)):
                found = file.lstat()
                return Stamp(0, found.st_mtime_ns, found.st_ino, link)
            found = file.stat()
        except OSError:
            return None
        if not stat.S_ISREG(found.st_mode):
            return None
        return Stamp(found.st_size, found.st_mtime_ns, found.st_ino)

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

    def _date(self, wanted: Files) -> None:
        """Gives all files their times, folders that of the newest in them, the oldest first.

        Scripts look for the newest checkpoint by the time of a file or a folder, of its content
        (mtime) or its change (ctime): all ranks must find the same one.
        """
        times = {path: file.time for path, file in wanted.items()}
        for path, written in list(times.items()):
            for folder in map(str, PurePosixPath(path).parents[:-1]):
                times[folder] = max(times.get(folder, 0), written)
        group, changed = 0, 0
        for path, written in sorted(times.items(), key=lambda one: one[1]):
            if not written:
                continue
            later = written - group >= APART
            if later:
                group = written
            while (now := self._touch(path, written)) <= changed and later:
                time.sleep(0.001)  # the kernel's clock has ticks
            changed = max(changed, now)
            if path in wanted and (stamp := self._stamp(path)):
                self._known[path] = stamp, wanted[path]

    def _touch(self, path: str, written: int) -> int:
        """Gives a file or folder a time. Returns that of its change."""
        os.utime(self.root / path, ns=(written, written), follow_symlinks=False)
        return os.lstat(self.root / path).st_ctime_ns

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
