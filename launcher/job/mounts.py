"""``/gcs/BUCKET``: where Vertex AI mounts buckets as folders, and the local target has none.

What names such a folder in a job would find nothing on a local VM, or write to this machine's disk
in the belief that it is a bucket. So it is said before anything starts, unless the folder is there:
VMs that share this machine's files find what its user has put, or mounted, in that place.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from launcher.job.job import Job
from launcher.job.problem import Problem

MOUNTS = "/gcs"
NAMED = "SW1122"
IN_SOURCE = "SW1193"  # a warning: whether that line is reached, the text does not tell
_FOLDER = re.compile(
    r"(?<![\w.$}/-])/gcs/(?P<bucket>[a-z0-9][a-z0-9._-]*[a-z0-9])(?![^/\s'\",:;#)\]}])"
)


def named(job: Job, mounts: Path = Path(MOUNTS)) -> Iterator[Problem]:
    """Yields each value of a job that names a bucket's folder, unless local VMs have that.

    Args:
        job: the job.
        mounts: where the folders are that are there.
    """
    remedy = "" if job.local.vm == "container" else f", or make or mount {MOUNTS}/{{0}} here"
    for path, text in _texts(job.to_dict()):
        if path[:1] in (("name",), ("labels",), ("local",), ("notify",)):
            continue
        for bucket in dict.fromkeys(found["bucket"] for found in _FOLDER.finditer(text)):
            if not _is_there(job, mounts / bucket):
                yield (
                    path,
                    NAMED,
                    f"names {MOUNTS}/{bucket}, which Vertex AI mounts and local VMs do not have; "
                    f"write gs://{bucket}, which fsspec opens on both{remedy.format(bucket)}",
                )


def in_source(
    job: Job, field: str, name: str, source: bytes, mounts: Path = Path(MOUNTS)
) -> Iterator[Problem]:
    """Yields a warning if a Python source names the folder of buckets, and local VMs lack it.

    Args:
        job: the job.
        field: by which the source is part of it.
        name: of the source.
        source: its text.
        mounts: as for ``named``.
    """
    if MOUNTS.encode() not in source or _is_there(job, mounts):
        return
    lines = list(_lines(source))
    if lines:
        more = f" and {len(lines) - 1} more" if len(lines) > 1 else ""
        what = f"{name}:{lines[0]}{more}: names {MOUNTS}, where Vertex AI mounts buckets and local "
        yield (field,), IN_SOURCE, f"{what}VMs have nothing; open gs://BUCKET with fsspec on both"


def _is_there(job: Job, folder: Path) -> bool:
    """Whether local VMs find a folder: containers do not see this machine's."""
    return job.local.vm != "container" and folder.is_dir()


def _texts(
    value: object, path: tuple[str | int, ...] = ()
) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yields each text in a job, and where it is."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _texts(inner, (*path, name))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _texts(inner, (*path, index))


def _lines(source: bytes) -> Iterator[int]:
    """Yields the lines of a source with a text that is such a folder, or begins with it."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return  # that it is not Python is said elsewhere
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(text)) if f"{text}/".startswith(f"{MOUNTS}/"):
                yield node.lineno
