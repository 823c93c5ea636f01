"""What a job needs of this machine on the local target, and what every target needs of it."""

from __future__ import annotations

import importlib.util
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from launcher import home
from launcher.doctor.checkup import Check, Finding, failed, passed
from launcher.job.job import Job
from launcher.job.problem import NO_VM
from launcher.packing.ignore import UNREADABLE, PackingError
from launcher.packing.pack import in_bytes, pack, summary
from launcher.supervision.webhook import WebhookError, find_url
from trainer.rundir.private import make_private

NO_ADDRESS = "SW6004"  # the message about an address of this machine's own that VMs need
FREE = 2 * 2**30  # bytes of disk; logs, events and the checkpoints of a small run
EMULATOR = {"starlette": "emulator", "uvicorn": "emulator", "google_crc32c": "emulator"}
CLIENT = {"google.cloud.aiplatform_v1": "vertex"}
TRAINER = {"torch": "trainer", "grpc": "trainer", "safetensors": "trainer"}


def common_checks(job: Job) -> Iterator[Check]:
    """Yields the checks of what a job needs of this machine on any target."""
    if job.code:
        yield Check("code", lambda: code(job))
    if job.notify:
        yield Check("webhook", lambda: webhook(job))


def local_checks(job: Job) -> Iterator[Check]:
    """Yields the checks of what a job needs on the local target."""
    needed = {**EMULATOR, **CLIENT, **(TRAINER if job.slots else {})}
    if (job.output or "").startswith("gs://"):
        needed["gcsfs"] = "gcs"
    yield Check("Python packages", lambda: packages(needed))
    if job.slots:
        yield Check("Horovod", horovod)
    yield Check("VMs", lambda: vms(job.local.vm))
    yield Check("ports", ports)
    yield Check("disk", lambda: disk(home.folder()))


def code(job: Job) -> Finding:
    """Whether the code can be sent as it is."""
    assert job.code
    try:
        return passed(summary(pack(job.code)).removeprefix("code: "))
    except (PackingError, OSError) as error:
        first, *more = str(error).removeprefix("code: ").splitlines()
        said, _, fix = first.partition("; ")
        id = error.id if isinstance(error, PackingError) else UNREADABLE
        return failed(id, said, fix + (f" (and {len(more)} more)" if more else ""))


def webhook(job: Job) -> Finding:
    """Whether the webhook's URL is where the job says. It is not called."""
    assert job.notify
    try:
        find_url(job.notify)
    except WebhookError as error:
        said, _, fix = str(error).partition("; ")
        return failed(error.id, said, fix)
    return passed("its URL is there")


def packages(needed: dict[str, str]) -> Finding:
    """Whether what the target is made of is installed.

    Args:
        needed: the extra of Swell that brings it, by module.
    """
    missing = [name for name in needed if not _is_installed(name)]
    if not missing:
        return passed("all are there")
    extras = ",".join(sorted({needed[name] for name in missing}))
    said = f"missing: {', '.join(missing)}"
    return failed("SW6002", said, f"run: pip install 'swell[{extras}]'")


def horovod() -> Finding:
    """Whether Horovod is built for this Python and its torch."""
    found = importlib.util.find_spec("horovod")
    places = (found.submodule_search_locations if found else None) or []
    library = [file for place in places for file in Path(place, "torch").glob("mpi_lib_v2*.so")]
    if library:
        return passed(f"built, in {places[0]}")
    said = "is installed, but without its part for torch" if found else "is not installed"
    return failed("SW6003", f"it {said}", "run: make setup (containers/build_horovod.py builds it)")


def vms(kind: str) -> Finding:
    """Whether VMs of this kind can be had."""
    from launcher.emulator.vms.places import missing

    why = missing(kind)
    if why is None:
        return passed(f"{kind} VMs can be made")
    said, _, fix = why.partition(": ")
    return failed(NO_VM, said, f"{fix or 'see above'}, or write local: {{vm: process}}")


def ports() -> Finding:
    """Whether an address of this machine's own can be had, and listened on."""
    from launcher.emulator.vms.address import LoopbackAddress

    try:
        address = LoopbackAddress()
    except OSError as error:
        said = f"no loopback address can be had: {error}"
        return failed(NO_ADDRESS, said, "check: ip address show lo")
    try:
        with socket.create_server((address.address, 0)):
            return passed(f"{address.address} can be listened on")
    except OSError as error:
        return failed(
            NO_ADDRESS,
            f"{address.address} cannot be listened on: {error.strerror}",
            "check: ip address show lo",
        )
    finally:
        address.release()


def disk(folder: Path) -> Finding:
    """Whether Swell's folder can be written, and there is room for a run."""
    try:
        make_private(folder)
        with tempfile.TemporaryFile(dir=folder):
            free = shutil.disk_usage(folder).free
    except OSError as error:
        said = f"{folder} cannot be written: {error.strerror}"
        return failed("SW6005", said, "set SWELL_HOME to another")
    if free < FREE:
        return failed(
            "SW6006",
            f"{in_bytes(free)} are free in {folder}, a run may need {in_bytes(FREE)}",
            "make room, or set SWELL_HOME to another disk",
        )
    return passed(f"{in_bytes(free)} are free in {folder}")


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False
