"""The user's code on a VM: fetched, verified, unpacked, and its requirements installed.

The launcher has put a bundle (``trainer.rundir.bundle``) into the run directory, under ``code/``.
An agent does all this before it starts its first worker. Requirements are installed once per VM,
into an environment of its own on top of the image's: only what the image lacks, or has in another
version, is fetched, and the image itself stays as it is.

If the first VM of a run fails in this, so does the run, with the reason, after a few tries. If the
run is under way already, others had no such trouble: this VM goes on trying.
"""

from __future__ import annotations

import fcntl
import os
import stat
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from trainer.agent.beside_code import mark_ready
from trainer.agent.settings import Settings
from trainer.protocol.session import CodeSettings
from trainer.rundir import bundle
from trainer.rundir.directory import RunDirectory
from trainer.rundir.names import CODE, ENV_SCRATCH, ENV_TOKEN, LEADER
from trainer.rundir.retry import UNREACHABLE, Backoff
from trainer.rundir.store import TooLarge
from trainer.rundir.usererror import UserError, shown

TRIES = 3
PAUSES = Backoff(first=5.0, longest=60.0, jitter=0.0)
INSTALL_LIMIT = 1800.0  # seconds; pip has limits of its own for each request, but none for all
SAID = 12  # of pip's last lines, so many are given as the reason


class CodeError(UserError, ValueError):
    """The user's code cannot be had, or what it requires cannot be installed."""


def bring(
    run_dir: RunDirectory,
    settings: Settings,
    env: Mapping[str, str],
    sleep: Callable[[float], object] = time.sleep,
) -> Settings:
    """Brings the run's code onto this VM, ready to be run. From now on this process finds it, too.

    Args:
        run_dir: where the bundle is.
        settings: which one it is, and what it requires.
        env: says in SWELL_SCRATCH where this VM has room; else the folder for temporary files.
        sleep: waits.

    Returns the settings with the place of the code, and of the program in it.
    Raises CodeError when it cannot be had and no VM of the run has it: the run has failed then.
    """
    code, program = settings.code, settings.program
    if code is None:
        return settings
    for tries, pause in enumerate(PAUSES.waits(), start=1):
        try:
            with _alone(scratch_folder(env)) as scratch:
                folder, installed = _prepared(run_dir, code, scratch)
            break
        except (CodeError, OSError) as error:
            why = error if isinstance(error, CodeError) else CodeError(UNREACHABLE, str(error))
            if tries >= TRIES and not run_dir.store.names(LEADER):
                run_dir.end("failed", shown(why))
                raise why from None
            print(f"trying again in {pause:.0f} s: {shown(why)}", file=sys.stderr, flush=True)
        sleep(pause)
    sys.path += [path for path in (folder, installed) if path]  # after all of its own
    where, colon, name = program.task.rpartition(":")
    return replace(
        settings,
        program=replace(
            program,
            task=f"{Path(folder, where)}{colon}{name}" if where.endswith(".py") else program.task,
            script=program.script and str(Path(folder, program.script)),
        ),
        code=replace(code, folder=folder, installed=installed),
    )


def scratch_folder(env: Mapping[str, str]) -> Path:
    """Returns a folder on this VM that is nobody else's. Raises OSError."""
    given = env.get(ENV_SCRATCH)
    folder = Path(given or Path(tempfile.gettempdir(), f"swell-{os.getuid()}"))
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    about = folder.lstat()
    # In a folder that all share, who makes a link can turn it later.
    theirs = not given and (not stat.S_ISDIR(about.st_mode) or about.st_mode & 0o022)
    if theirs or folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to somebody else; set {ENV_SCRATCH} to another")
    return folder


@contextmanager
def _alone(folder: Path) -> Iterator[Path]:
    """Keeps other agents that share ``folder``, if this is no VM of its own, waiting."""
    with (folder / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


def _prepared(run_dir: RunDirectory, code: CodeSettings, scratch: Path) -> tuple[str, str]:
    """Returns where the code is, and where what it requires; "" if that is nothing."""
    base = scratch / code.sha256
    folder = base / "code"
    if not folder.is_dir():
        try:
            data = run_dir.store.read(f"{CODE}/{code.sha256}.tar.gz", bundle.MAX_BYTES)
            files = bundle.decode(data, sha256=code.sha256, size=code.size)
        except (bundle.BundleError, TooLarge) as error:
            raise CodeError("SW4013", str(error)) from None
        bundle.unpack(files, folder)
        print(f"code: {len(files)} files, verified, in {folder}", flush=True)
    installed = ""
    if code.requirements:
        installed = str(_installed(base / "env", folder, code.requirements))
    mark_ready(folder)
    return str(folder), installed


def _installed(env: Path, code: Path, requirements: str) -> Path:
    """Installs what the file ``requirements`` lists. Returns where it is."""
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(env)}))
    done = env / "complete"
    if done.exists():
        return packages
    import venv  # here: workers, which only enter the code, do without

    print(f"installing what {requirements} lists", flush=True)
    began = time.monotonic()
    venv.EnvBuilder(clear=True, symlinks=True, with_pip=False).create(env)
    # What this interpreter sees is seen there, too. (Not system_site_packages: that is the base
    # interpreter's, which is another one if this is a virtual environment's.)
    seen = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    lines = [f"import site; site.addsitedir({path!r})\n" for path in seen]
    (packages / "_image.pth").write_text("".join(lines))
    _pip(env / "bin" / "python", code, requirements)
    done.touch()
    print(f"installed in {time.monotonic() - began:.0f} s", flush=True)
    return packages


def _pip(python: Path, folder: Path, requirements: str) -> None:
    """Runs pip, whose words go to this process's own output. Raises CodeError."""
    # -I: else pip would be looked for in the code first.
    options = ("--no-input", "--disable-pip-version-check", "--progress-bar", "off")
    command = [str(python), "-I", "-m", "pip", "install", *options, "--requirement", requirements]
    last: deque[str] = deque(maxlen=SAID)
    with subprocess.Popen(
        command,
        cwd=folder,
        env={key: value for key, value in os.environ.items() if key != ENV_TOKEN},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout
        limit = threading.Timer(INSTALL_LIMIT, process.kill)
        limit.start()
        for line in process.stdout:
            print(f"pip: {line.rstrip()}", flush=True)
            last.append(line.rstrip())
        limit.cancel()
    if process.returncode:
        errors = [line for line in last if line.startswith("ERROR")] or list(last)
        why = errors[0] if errors else f"pip ended with status {process.returncode}"
        raise CodeError("SW4014", "\n".join([f"{requirements} cannot be installed: {why}", *last]))
