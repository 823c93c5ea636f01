"""Where runs live, and how one is found again.

A run's files are in its run directory. By default that is ``SWELL_HOME/runs/<id>``
(``SWELL_HOME`` is ``~/.swell`` unless set); for a run elsewhere ``SWELL_HOME/index/<id>.json``
says where. On the local target ``gs://`` means buckets that are emulated, in
``SWELL_HOME/buckets``. What belongs to this machine only (logs of local VMs, the lock of a living
launch) is in ``SWELL_HOME/runs/<id>/local``, wherever the run directory is.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher.api.reach import Unreachable, reaching
from trainer.protocol.authority import Authority
from trainer.protocol.credentials import AUTHORITY, fingerprint
from trainer.rundir.directory import DAMAGED, RunDirectory
from trainer.rundir.formats import (
    ANOTHER_VERSION,
    UPDATE_LAUNCHER,
    FormatError,
    version,
    written_by,
)
from trainer.rundir.locks import hold, is_held
from trainer.rundir.names import OUTCOME, OUTCOME_ROOM, RUN
from trainer.rundir.private import append_private, make_private, write_private
from trainer.rundir.untrusted import parse_json
from trainer.rundir.usererror import UserError

if TYPE_CHECKING:
    from launcher.job.job import Job

CHANGES = "changes_worlds"  # of run.json: see launcher.job.source
ENV_LOCK = "SWELL_LAUNCH_LOCK"
NO_RUN = "SW2005"  # the message about a folder that is no run directory
UNREADABLE = "SW2006"  # the message about a run directory that cannot be read
OVER = "SW2011"  # the message that a run has ended
ELSEWHERE = "SW2008"  # the message about a local run of another machine
_BUCKET = re.compile(r"[a-z0-9]+://[^/:]+(?=/|$)")
_ID = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


class RunError(UserError, ValueError):
    """A run that cannot be created or found, or that is not as it must be."""


def folder() -> Path:
    """Swell's folder on this machine."""
    return Path(os.environ.get("SWELL_HOME") or "~/.swell").expanduser().absolute()


def new_id(name: str, now: float) -> str:
    """Returns an id for a new run: the job's name, the local date of ``now``, four letters."""
    letters = "".join(secrets.choice("abcdefghjkmnpqrstvwxyz23456789") for _ in range(4))
    return f"{name}-{time.strftime('%m%d-%H%M', time.localtime(now))}-{letters}"


def check_id(run_id: str) -> None:
    """Raises RunError when ``run_id`` cannot be a run's id."""
    if not _ID.fullmatch(run_id):
        raise RunError(
            "SW2001",
            f"--run-id {run_id[:80]}: is not a run id; "
            "write lowercase letters, digits and -, at most 63",
        )


def buckets_folder() -> Path:
    """Where the local target's buckets are."""
    return folder() / "buckets"


def directory_url(run_id: str, output: str | None) -> str:
    """Returns the URL of the run directory that a new run gets; ``output`` is the job's."""
    if output is None:
        return str(folder() / "runs" / run_id)
    output = output.removeprefix("file://")
    if "://" not in output:
        output = str(Path(output).expanduser().absolute())
    return f"{output.rstrip('/')}/{run_id}"


def checkpoint_urls(
    run_id: str, url: str, buckets: Mapping[str, str], region: str = ""
) -> list[str]:
    """Returns the URLs of the directories that have a run's checkpoints.

    An attempt in ``region`` writes its own to the first of them.

    Args:
        run_id: the run.
        url: of its run directory.
        buckets: the job's ``checkpoint.buckets``.
        region: where the attempt is; without one the run directory is first.
    """
    own = {there: directory_url(run_id, bucket) for there, bucket in buckets.items()}
    return list(dict.fromkeys([own.get(region, url), url, *own.values()]))


def checkpoint_directories(
    run_dir: RunDirectory, buckets: Iterable[str] = ()
) -> tuple[list[RunDirectory], list[str]]:
    """Returns the directories that have the run's checkpoints; the run directory is the first.

    A run directory may be anybody's. What it names is opened where it is itself, and elsewhere if
    this machine launched the run with it, or if ``buckets`` has it.

    Args:
        run_dir: the run directory.
        buckets: URLs, such as a job file's ``checkpoint.buckets``.

    Returns the URLs that it names and that are not opened, too.
    """
    run = read_run(run_dir)
    run_id = str(run["id"])
    written = checkpoint_in(run).get("buckets")
    every = written.items() if isinstance(written, dict) else ()
    named = {str(region): url for region, url in every if url and isinstance(url, str)}
    known = _index().get(run_id, {})
    own = known.get("buckets") if known.get("url") == run_dir.url else None
    trusted = {*buckets, *(own if isinstance(own, list) else [])}
    trusted_urls = {directory_url(run_id, str(bucket)) for bucket in trusted}
    _, *urls = dict.fromkeys([run_dir.url, *checkpoint_urls(run_id, run_dir.url, named)])
    opened, left = [run_dir], []
    for url in urls:
        if url in trusted_urls or within(url, run_dir.url):
            opened.append(_open(url, str(run.get("target"))))
        else:
            left.append(url)
    return opened, left


def checkpoint_in(run: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the job's ``checkpoint`` as run.json has it; today no job file may be such."""
    spec = run.get("spec")
    written = spec.get("checkpoint") if isinstance(spec, dict) else None
    return written if isinstance(written, dict) else {}


def within(url: str, own: str) -> bool:
    """Whether what a run directory names is in its own bucket; on a disk, in its own folder."""
    place = _BUCKET.match(own)
    if place is None:
        return "://" not in url and Path(os.path.realpath(url)).is_relative_to(
            os.path.realpath(own)
        )
    return url.startswith(f"{place[0]}/") and "::" not in url


def directory_for(run_id: str, output: str | None, target: str = "vertex") -> RunDirectory:
    """Returns the run directory that a new run gets; ``output`` is the job's."""
    return _open(directory_url(run_id, output), target)


def open_directory(url: str) -> RunDirectory:
    """Returns the run directory at ``url``, of a run that this machine may know."""
    for entry in _index().values():
        if entry["url"] == url:
            return _open(url, str(entry.get("target")))
    return _open(url, "")


def _open(url: str, target: str) -> RunDirectory:
    with reaching(url):  # the store's client may look for credentials
        return _opened(url, target)


def _opened(url: str, target: str) -> RunDirectory:
    if target == "local" and url.startswith("gs://"):
        from launcher.local.buckets import LocalBuckets  # its parts come with the emulator

        return RunDirectory(url, LocalBuckets(buckets_folder()))
    return RunDirectory(url)


def read_run(run_dir: RunDirectory) -> dict[str, Any]:
    """Returns run.json, of any format that is known.

    Raises RunError when it is of a newer one, damaged or not there, and OSError.
    """
    try:
        with reaching(run_dir.url):
            run = run_dir.run()
        id_of(run, run_dir)
        return run
    except FileNotFoundError:
        gone = f"there is no {RUN} in it; was it removed?"
        raise RunError(NO_RUN, f"{run_dir.url}: is not a run directory: {gone}") from None
    except FormatError as error:
        raise RunError(ANOTHER_VERSION, f"{error}: {UPDATE_LAUNCHER}") from None
    except ValueError as error:
        raise RunError(DAMAGED, str(error)) from None


def id_of(run: Mapping[str, Any], run_dir: RunDirectory) -> str:
    """Returns the id in run.json, which names files of this machine.

    Raises RunError when it is none.
    """
    run_id = str(run.get("id"))
    if not _ID.fullmatch(run_id):
        raise RunError(
            DAMAGED,
            f"{run_dir.url}/{RUN} is damaged: {run_id[:80]!r} is not a run id; "
            "restore it, or launch a new run from one of its checkpoints (--from)",
        )
    return run_id


def require_answer(run_dir: RunDirectory) -> None:
    """Raises OSError when the run directory does not answer."""
    with reaching(run_dir.url):
        run_dir.store.exists(RUN)


def job_of(run: Mapping[str, Any]) -> Job:
    """Returns the job in run.json.

    Raises RunError when it is not one of this version's: another wrote it, whose fields differ.
    """
    from pydantic import ValidationError

    from launcher.job.job import Job

    try:
        return Job.model_validate(run.get("spec"))
    except ValidationError as error:
        found = error.errors(include_url=False)
        wrong = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in found)
        raise RunError(
            ANOTHER_VERSION,
            f"{run.get('id')}: its job is of Swell {written_by(run)}; "
            f"Swell {version()} does not take it: {wrong}",
        ) from None


def create(run_dir: RunDirectory, record: dict[str, Any]) -> None:
    """Writes run.json, and makes the run findable by its id.

    Raises RunError when the id is taken.
    """
    run_id = record["id"]
    require_new(run_id, run_dir)
    with reaching(run_dir.url):
        created = run_dir.create_json(RUN, record)
    if not created:
        raise _taken(run_id, run_dir.url)
    run_dir.store.keep_spare(OUTCOME, OUTCOME_ROOM)
    checkpoint = (record.get("spec") or {}).get("checkpoint") or {}
    buckets = list((checkpoint.get("buckets") or {}).values())
    if run_dir.url != str(folder() / "runs" / run_id) or buckets:
        entry = folder() / "index" / f"{run_id}.json"
        make_private(entry.parent)
        about = {"url": run_dir.url, "target": record.get("target"), "buckets": buckets}
        write_private(entry, json.dumps({"id": run_id, **about}) + "\n")


def require_new(run_id: str, run_dir: RunDirectory) -> None:
    """Raises RunError when the id is taken already."""
    known = urls().get(run_id)
    with reaching(run_dir.url):
        exists = run_dir.store.exists(RUN)
    if known or exists:
        raise _taken(run_id, known or run_dir.url)


def _taken(run_id: str, url: str) -> RunError:
    return RunError(
        "SW2002",
        f"--run-id {run_id}: there is a run of this id already, in {url}; choose another id",
    )


def urls() -> dict[str, str]:
    """Returns the run directories of all runs that this machine knows, by id."""
    found = {run_id: str(entry["url"]) for run_id, entry in _index().items()}
    for run in sorted((folder() / "runs").glob(f"*/{RUN}")):
        found[run.parent.name] = str(run.parent)
    return found


def _index() -> dict[str, dict[str, Any]]:
    found = {}
    for path in sorted((folder() / "index").glob("*.json")):
        with suppress(OSError, ValueError):
            entry = parse_json(path.read_bytes())
            if isinstance(entry, dict) and "url" in entry:
                found[path.stem] = entry
    return found


def find(name: str) -> RunDirectory:
    """Returns the run that ``name`` means: an id, a unique beginning of one, or a URL.

    Raises RunError.
    """
    known = urls()
    if name in known:
        return open_directory(known[name])
    if "/" in name or name in (".", ".."):
        try:
            run_dir = open_directory(name if "://" in name else str(Path(name).absolute()))
            with reaching(run_dir.url):
                found = run_dir.store.exists(RUN)
            if found:
                return run_dir
        except Unreachable:
            raise
        except (ValueError, OSError, ImportError) as error:
            why = " ".join(str(error).split())
            raise RunError(UNREADABLE, f"{name}: cannot be read: {why}") from None
        raise RunError(NO_RUN, f"{name}: is not a run directory: there is no {RUN} in it")
    matches = [run_id for run_id in known if name and run_id.startswith(name)]
    if len(matches) == 1:
        return open_directory(known[matches[0]])
    if matches:
        raise RunError("SW2004", f"{name}: could be {', '.join(matches[:5])}; write more of the id")
    if name and (folder() / "runs" / name).is_dir():
        gone = f"there is no {RUN} in {folder() / 'runs' / name} any more; was it removed?"
        raise RunError(NO_RUN, f"{name}: {gone}")
    near = get_close_matches(name, known, n=1)
    remedy = f"did you mean {near[0]}?" if near else "swell runs lists what there is"
    raise RunError("SW2003", f"{name}: there is no such run; {remedy}")


def local_folder(run_id: str) -> Path:
    """Returns the folder for what concerns a run on this machine only."""
    return folder() / "runs" / run_id / "local"


def issue_secret(run_dir: RunDirectory, attempt: int, *, alone: bool) -> str:
    """Returns the secret of a run's next attempt.

    Args:
        run_dir: the run.
        attempt: its number.
        alone: whether no other attempt runs. Then the run gets a new authority, whose hash is in
            run.json, and no agent of an earlier attempt is let in any more.

    Raises RunError when other attempts run, and what vouches for them is on another machine.
    """
    kept, run = _authority_file(run_dir), read_run(run_dir)
    key = kept_key(str(run.get("id")))
    authority = None if alone else _authority(kept, run, key, attempt)
    if authority is None:
        if not alone:
            raise RunError(
                "SW2028",
                f"{run.get('id')}: its key is on the machine that launched it; attach to it there",
            )
        authority = Authority.of(key, attempt) if key else Authority.new()
        make_private(kept.parent)
        write_private(kept, authority.text)
        secret = authority.issue(attempt)
        run_dir.write_json(RUN, {**run, AUTHORITY: fingerprint(secret)})
        return secret
    return authority.issue(attempt)


def _authority_file(run_dir: RunDirectory) -> Path:
    return local_folder(str(read_run(run_dir).get("id"))) / "authority"


def keep_key(run_id: str, key: str = "") -> None:
    """Keeps a run's key here, by default a new one: the run has controllers. Raises OSError."""
    make_private(local_folder(run_id))
    write_private(local_folder(run_id) / "key", key or secrets.token_hex(32))


def kept_key(run_id: str) -> str | None:
    """Returns the key of a run that has controllers; None where it is not kept here."""
    with suppress(OSError):
        return (local_folder(run_id) / "key").read_text().strip() or None
    return None


def _authority(
    kept: Path, run: Mapping[str, Any], key: str | None, attempt: int
) -> Authority | None:
    """The run's, from what is kept here: itself, or the key of which it was made."""
    with suppress(OSError, ValueError):
        authority = Authority.parse(kept.read_text())
        if fingerprint(authority.text) == run.get(AUTHORITY):
            return authority
    for first in range(attempt - 1, 0, -1) if key else ():
        authority = Authority.of(str(key), first)
        if fingerprint(authority.text) == run.get(AUTHORITY):
            return authority
    return None


@contextmanager
def launch_lock(run_id: str, refusal: str = "") -> Iterator[int]:
    """Held by a launch for as long as it lives; the kernel gives it back when it dies.

    Yields its file descriptor. A child that inherits that, and its number in ENV_LOCK, holds the
    lock from its start on: so a launch goes into the background, and is never seen as gone.

    Raises RunError, with ``refusal`` if it is given, when another launch holds it.
    """
    folder = local_folder(run_id)
    make_private(folder)
    inherited = os.environ.pop(ENV_LOCK, None)
    with (
        open(int(inherited), "ab") if inherited else append_private(folder / "launch.lock")
    ) as lock:
        if not hold(lock.fileno()):
            raise RunError("SW2007", refusal or f"--run-id {run_id}: is being launched already")
        yield lock.fileno()


def launch_lives(run_id: str) -> bool:
    """Whether a launch on this machine is looking after the run."""
    return is_held(local_folder(run_id) / "launch.lock")


def changes_worlds(run: Mapping[str, Any]) -> bool | None:
    """Whether a run's program takes it that its world changes; None where run.json does not say."""
    known = run.get(CHANGES)
    return known if isinstance(known, bool) else None


def is_fleet(run: dict[str, Any]) -> bool:
    """Whether the run whose run.json this is may have several jobs at a time."""
    spec = run.get("spec")
    return isinstance(spec, dict) and spec.get("fleet") is not None


def require_replica(run: dict[str, Any], replica: str) -> None:
    """Raises RunError when the run whose run.json this is has no such replica.

    Args:
        run: run.json.
        replica: its name; in a fleet with the attempt's number before it.
    """
    job = job_of(run)
    names = job.replicas()
    attempt, slash, name = replica.rpartition("/")
    if not job.is_fleet or not attempt.isdecimal():
        attempt, slash, name = "", "", replica
    if name not in names:
        near = get_close_matches(name, names, n=1)
        mean = f"did you mean {attempt}{slash}{near[0]}?" if near else ""
        remedy = mean or f"there are {', '.join(names[:8])}"
        raise RunError("SW2009", f"{run['id']}: has no replica {replica}; {remedy}")


def launched_here(run: dict[str, Any], directory: RunDirectory) -> bool:
    """Whether this user launched the run on this machine.

    Args:
        run: run.json, which says so; but it may be anybody's.
        directory: where it is.
    """
    known = urls().get(str(run["id"]), "")
    here = directory.url in (known, os.path.realpath(known)) or known == os.path.realpath(
        directory.url
    )
    return here and run.get("by") == whoami()


def whoami() -> str:
    """Returns user@host."""
    import getpass
    import socket

    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # an id without a name, as in some containers
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
