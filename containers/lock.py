"""Writes the lock files of the images: every package with its version and hashes.

    python containers/lock.py [--upgrade] [UV ARGUMENT ...]

=========================== ====================================== ==============
file                        what                                   Python
=========================== ====================================== ==============
requirements-cpu.txt        what runs, with PyTorch's CPU build    Debian 12's
requirements-gpu.txt        what runs, with PyTorch and CUDA       Ubuntu 24.04's
requirements-build.txt      what Horovod's build needs             both
requirements-controller.txt what a run's controller needs          Debian 12's
=========================== ====================================== ==============

The versions that are in a lock file stay unless they no longer fit or ``--upgrade`` is given.
PyTorch's CPU build is not on PyPI: further arguments, such as ``--find-links DIR`` or
``--index URL``, tell uv where it is.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from configparser import ConfigParser
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PLATFORM = "x86_64-unknown-linux-gnu"  # of all A2 and A3 machines


@dataclass(frozen=True)
class Lock:
    """One lock file.

    Args:
        name: ``requirements-NAME.txt``.
        sources: files that say what is wanted.
        python: the oldest Python that it is for.
        cpu: whether PyTorch's CPU build is wanted, under that local version.
        extras: of setup.cfg, what it is to have.
    """

    name: str
    sources: tuple[str, ...]
    python: str
    cpu: bool = False
    extras: tuple[str, ...] = ("trainer", "gcs", "board", "metrics")

    @property
    def path(self) -> Path:
        """The lock file."""
        return HERE / f"requirements-{self.name}.txt"


RUNS = ("-", "containers/torch.txt")  # the standard input: setup.cfg's requirements
LOCKS = (
    Lock("build", ("containers/build.txt",), "3.11"),
    Lock("cpu", RUNS, "3.11", cpu=True),
    Lock("gpu", RUNS, "3.12"),
    Lock("controller", ("-",), "3.11", extras=("vertex", "gcs")),
)


def requirements(lock: Lock) -> str:
    """What an image needs of setup.cfg, one per line. (uv would have to build Swell to read it.)"""
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    extras = setup["options.extras_require"]
    wanted = [setup["options"]["install_requires"], *(extras[name] for name in lock.extras)]
    return "\n".join(wanted)


def command(lock: Lock, upgrade: bool, more: list[str]) -> list[str]:
    """The command that writes ``lock``; ``more`` are arguments for uv."""
    # The build's setuptools is in the same environment: one version must do for both.
    together = ["--constraint", "containers/build.txt"] if lock.name != "build" else []
    return [
        *(sys.executable, "-m", "uv", "pip", "compile", "--quiet", *lock.sources),
        *together,
        *("--python-version", lock.python, "--python-platform", PLATFORM),
        *("--generate-hashes", "--no-emit-index-url", "--no-header", "--no-annotate"),
        *("--only-binary", ":all:", "--output-file", str(lock.path.relative_to(ROOT))),
        *(["--upgrade"] if upgrade else []),
        *(more if lock.cpu else []),
    ]


def main() -> int:
    """Returns the exit code: uv's, which says what is wrong."""
    parser = argparse.ArgumentParser(description="Writes the lock files of the images.")
    parser.add_argument("--upgrade", action="store_true", help="take the newest that fits")
    args, more = parser.parse_known_args()
    for lock in LOCKS:
        uv = command(lock, args.upgrade, more)
        code = subprocess.run(uv, cwd=ROOT, input=requirements(lock), text=True).returncode
        if code:
            return code
        text = lock.path.read_text(encoding="utf-8")
        if lock.cpu and "\ntorch==" in text and "+cpu" not in text:
            print(
                f"{lock.path}: has PyTorch's CUDA build, gigabytes; say where its CPU build is: "
                "--find-links DIR or --index URL",
                file=sys.stderr,
            )
            return 1
        print(f"{lock.path.relative_to(ROOT)}: {text.count('==')} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
