"""Compiles Horovod's source into a wheel, and shows how far it is."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

# A compiler process that includes PyTorch's headers needs up to this much.
BYTES_PER_JOB = 2 << 30
POLL_SECONDS = 0.5


class BuildError(Exception):
    """Why there is no wheel, in words for the person who asked for it."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


# --- what the machine must have ---------------------------------------------------------------


def missing_tools(
    find: Callable[[str], str | None],
    include: Path,
    environ: Mapping[str, str],
    gpu: bool = False,
    headers: str = "python3-dev",
) -> dict[str, str]:
    """What the compile needs and is not here, with the Debian package that has it.

    Args:
        find: says where a program is, or None (``shutil.which``).
        include: the folder of this Python's headers.
        environ: may name a compiler in CXX, or CUDA's folder in HOROVOD_CUDA_HOME or CUDA_HOME.
        gpu: whether CUDA's compiler is needed as well.
        headers: the package with this Python's headers.
    """
    missing = {}
    compilers = [environ["CXX"].split()[0]] if environ.get("CXX") else ["c++", "g++", "clang++"]
    if not any(find(name) for name in compilers):
        missing["a C++ compiler"] = "g++"
    if not find("make"):
        missing["make"] = "make"
    if not (include / "Python.h").is_file():
        missing["Python.h"] = headers
    if not find("cmake"):
        missing["cmake"] = "cmake"
    if gpu:
        cuda = environ.get("HOROVOD_CUDA_HOME") or environ.get("CUDA_HOME") or "/usr/local/cuda"
        if not (find("nvcc") or find(f"{cuda}/bin/nvcc")):
            missing["nvcc"] = "nvidia-cuda-toolkit"
    return missing


def headers_package(system_python: Path = Path("/usr/bin/python3")) -> str:
    """The Debian package with the headers of the running Python."""
    version = f"python3.{sys.version_info.minor}"
    return "python3-dev" if system_python.resolve().name == version else f"{version}-dev"


def check_tools(gpu: bool, environ: Mapping[str, str]) -> None:
    """Raises BuildError, with the packages to install, when the compile could not start."""
    path = search_path(environ)
    missing = missing_tools(
        lambda name: shutil.which(name, path=path),
        Path(sysconfig.get_path("include")),
        environ,
        gpu,
        headers_package(),
    )
    if missing:
        raise BuildError(
            f"Horovod cannot be compiled here without {' and '.join(missing)}. "
            f"Install with: apt-get install {' '.join(missing.values())}",
            exit_code=2,
        )


def search_path(environ: Mapping[str, str]) -> str:
    """PATH with this interpreter's own programs (its CMake) first."""
    return os.pathsep.join([str(Path(sys.executable).parent), environ.get("PATH", os.defpath)])


def compile_jobs(cores: int, memory: int) -> int:
    """How many compilers run at once, given cores and bytes of memory."""
    return max(1, min(cores, memory // BYTES_PER_JOB))


# --- progress ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Progress:
    """How far CMake's build is: percent, and the file or library it works on."""

    percent: int
    what: str


_PROGRESS = re.compile(r"^\s*\[\s*(\d{1,3})%\]\s+(\S.*)$")


def parse_progress(line: str) -> Progress | None:
    """Reads a line like ``[ 45%] Building CXX object a/b.dir/c.cc.o``; None for any other."""
    match = _PROGRESS.match(line)
    if match is None:
        return None
    last = match[2].split()[-1]
    return Progress(int(match[1]), Path(last).name.removesuffix(".o"))


class ProgressView:
    """Shows progress: one line rewritten in place on a terminal, else a line every 10 %.

    Args:
        out: where to write.
        clock: seconds that only go forward.
    """

    def __init__(self, out: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._out = out
        self._clock = clock
        self._began = clock()
        self._next = 0
        self._in_place = out.isatty()

    def show(self, progress: Progress) -> None:
        """Takes the next report of the build."""
        if self._in_place:
            width = shutil.get_terminal_size().columns - 1
            self._out.write(f"\r\033[K{self._text(progress)[:width]}")
        elif progress.percent >= self._next:
            self._next = progress.percent // 10 * 10 + 10
            self._out.write(self._text(progress) + "\n")
        self._out.flush()

    def close(self) -> None:
        """Leaves the terminal at the beginning of an empty line."""
        if self._in_place:
            self._out.write("\r\033[K")
            self._out.flush()

    def _text(self, progress: Progress) -> str:
        seconds = self._clock() - self._began
        return f"Horovod {progress.percent:3d}% {seconds:4.0f} s  {progress.what}"


def error_lines(log: Iterable[str], limit: int = 8) -> list[str]:
    """The last lines of a build's log that speak of an error."""
    found = [line.strip()[:300] for line in log if re.search(r"\berror\b", line, re.IGNORECASE)]
    return found[-limit:]


# --- the compile ------------------------------------------------------------------------------


def build_environment(
    options: Mapping[str, str], jobs: int, environ: Mapping[str, str]
) -> dict[str, str]:
    """The environment of the compile: this one without what a surrounding make or run put in."""
    foreign = ("HOROVOD_", "MAKE", "MFLAGS")
    kept = {name: value for name, value in environ.items() if not name.startswith(foreign)}
    return kept | {
        **options,
        "PATH": search_path(environ),
        "MAKEFLAGS": f"-j{jobs}",
        "CMAKE_POLICY_VERSION_MINIMUM": "3.5",
        "PYTHONUNBUFFERED": "1",
    }


def watch(process: subprocess.Popen[bytes], lines: Iterable[str], view: ProgressView) -> None:
    """Shows how far the compile is, from the lines that its log gains, until it ends."""
    progress = Progress(0, "configuring")
    ended = False
    while not ended:
        ended = process.poll() is not None
        for line in lines:
            progress = parse_progress(line) or progress
        view.show(progress)
        if not ended:
            time.sleep(POLL_SECONDS)


def compile_wheel(
    tree: Path, folder: Path, environment: Mapping[str, str], log: Path, view: ProgressView
) -> Path:
    """Compiles the source tree and returns the wheel in ``folder``; all output goes to ``log``."""
    command = [
        *(sys.executable, "-m", "pip", "wheel", "--verbose", "--no-build-isolation", "--no-deps"),
        *("--use-pep517", "--wheel-dir", str(folder), str(tree)),
    ]
    with (
        log.open("w", encoding="utf-8") as written,
        log.open(encoding="utf-8", errors="replace") as lines,
        subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        try:
            watch(process, lines, view)
        finally:
            view.close()
    wheels = list(folder.glob("*.whl"))
    if process.returncode != 0 or not wheels:
        errors = error_lines(log.read_text(encoding="utf-8", errors="replace").splitlines())
        raise BuildError("\n  ".join([f"Horovod did not compile; the whole log: {log}", *errors]))
    return wheels[0]
