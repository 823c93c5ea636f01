"""``swell image check``: whether an image can be a replica, tried on this machine.

The image is run here with podman or docker, without a network: it has to be here already.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from launcher.emulator.vms import commands, podman
from trainer.rundir.usererror import UserError

AGENT = "swell-agent"
LIMIT = 300.0  # seconds; PyTorch's first import from a cold disk takes a while


class ImageError(UserError, RuntimeError):
    """The image could not be looked at."""


@dataclass(frozen=True)
class Judgement:
    """One thing that was looked at.

    Attributes:
        what: it, such as "entry point".
        ok: whether it is as it should be.
        detail: what was found, and what to do when it is not.
        id: which message it is (docs/messages.md), when it is not.
    """

    what: str
    ok: bool
    detail: str
    id: str = ""


def check_image(image: str) -> list[Judgement]:
    """Looks at an image and runs it.

    Raises ImageError when there is no engine, no such image, or it cannot be run at all.
    """
    engine = podman.find_engine()
    if engine is None:
        raise ImageError(
            "SW6101", "looking at an image needs podman or docker: apt-get install podman"
        )
    with _configured(engine) as environment:
        inspected = _inspect(engine, image, environment)
        said = _run(
            [
                *(engine, "run", "--rm", "--pull=never", "--network", "none"),
                *("--entrypoint", "python", image, "-m", "trainer.health", "--json"),
            ],
            environment,
        )
    return judge(inspected, said, version("swell"))


def judge(
    inspected: dict[str, Any], said: subprocess.CompletedProcess[str], own_version: str
) -> list[Judgement]:
    """Returns what there is to say about an image.

    Args:
        inspected: what the engine says of it.
        said: how ``trainer.health`` ended in it.
        own_version: of the launcher, which must be that of the image.
    """
    return list(_judge(inspected, said, own_version))


def _judge(
    inspected: dict[str, Any], said: subprocess.CompletedProcess[str], own_version: str
) -> Iterator[Judgement]:
    config = inspected.get("Config") or {}
    entry, arguments = config.get("Entrypoint") or [], config.get("Cmd") or []
    if any(word.rpartition("/")[2] == AGENT for word in entry):
        yield Judgement("entry point", True, " ".join(entry))
    else:
        found = " ".join(entry) or "none"
        remedy = f'does not start {AGENT}; write ENTRYPOINT ["tini", "--", "{AGENT}"]'
        yield Judgement("entry point", False, f"{found} {remedy}", "SW6105")
    program = " ".join(arguments)
    yield Judgement("program", True, program or "none of its own: the job file says what runs")
    user = str(config.get("User") or "root")
    root = user.split(":")[0] in ("root", "0")
    remedy = f"{user}; end the Dockerfile with USER 10001:10001" if root else user
    yield Judgement("user", not root, remedy, "SW6106" if root else "")
    yield Judgement("size", True, f"{int(inspected.get('Size') or 0) / 1e9:.2f} GB on disk")
    try:
        health = json.loads(said.stdout.strip().splitlines()[-1]) if not said.returncode else None
    except (ValueError, IndexError):
        health = None
    if not isinstance(health, dict):
        yield Judgement("training", False, commands.last_line(said), "SW6107")
        return
    nccl = ", NCCL" if health.get("nccl") else ""
    names = {"Python": "python", "PyTorch": "torch", "Horovod": "horovod"}
    parts = (f"{name} {health.get(key)}" for name, key in names.items())
    yield Judgement("training", True, f"hvd.init and an allreduce work: {', '.join(parts)}{nccl}")
    same = health.get("swell") == own_version
    remedy = "" if same else f"; this launcher is {own_version}, build the image from the same"
    detail = f"{health.get('swell')}{remedy}"
    yield Judgement("Swell", same, detail, "" if same else "SW6108")


def _inspect(engine: str, image: str, environment: dict[str, str]) -> dict[str, Any]:
    done = _run([engine, "image", "inspect", image], environment)
    if done.returncode:
        pull = f"{Path(engine).name} pull {image}"
        raise ImageError(
            "SW6102", f"there is no image {image} on this machine; get it with: {pull}"
        )
    try:
        (found,) = json.loads(done.stdout)
    except ValueError:
        raise ImageError("SW6103", f"{engine} says nothing that can be read of {image}") from None
    return dict(found)


def _run(command: Sequence[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    try:
        return commands.run(command, environment, LIMIT)
    except OSError as error:
        raise ImageError("SW6104", str(error)) from None


@contextmanager
def _configured(engine: str) -> Iterator[dict[str, str]]:
    """The environment for an engine: podman as root is told what works on this machine."""
    if Path(engine).name != "podman" or os.geteuid() != 0:
        yield dict(os.environ)
        return
    with tempfile.NamedTemporaryFile("w", prefix="swell-", suffix=".conf") as file:
        configuration = podman.configure(Path(file.name), os.environ)
        yield {**os.environ, "CONTAINERS_CONF": configuration}
