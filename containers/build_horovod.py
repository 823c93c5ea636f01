"""Builds Horovod for the PyTorch of the interpreter that runs this script.

    python build_horovod.py --install          into this interpreter's environment
    python build_horovod.py --out DIR          the wheel, for an image

Horovod's newest release is source only and neither compiles against current PyTorch nor survives
the loss of a peer at every moment: it is downloaded, checked against its checksum, patched
(``patches``) and compiled, which takes minutes. The wheel fits one PyTorch and one Python, so it
is kept under both in ``$SWELL_CACHE/wheels`` (default ``~/.cache/swell``), and the next call takes
seconds.

Exit code 2 when something is missing on this machine, 1 when the build fails.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from compiling import (
    BuildError,
    ProgressView,
    build_environment,
    check_tools,
    compile_jobs,
    compile_wheel,
    error_lines,
)
from patching import Patch, PatchError, apply_patches, read_patches

VERSION = "0.28.1"
SHA256 = "92a43f5a94c43907a56805bad15f19700c62ffc83b7ca483f9e104e229f67ef0"
HERE = Path(__file__).resolve().parent


# --- what is built, and the name it is kept under ---------------------------------------------


def build_options(gpu: bool, environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that choose what Horovod's build makes.

    Variables that say where CUDA and NCCL are, or how to link them, are taken from ``environ``;
    every other HOROVOD variable there is left out.
    """
    options = {
        "HOROVOD_WITH_PYTORCH": "1",
        "HOROVOD_WITHOUT_TENSORFLOW": "1",
        "HOROVOD_WITHOUT_MXNET": "1",
        "HOROVOD_WITH_GLOO": "1",
        "HOROVOD_WITHOUT_MPI": "1",
    }
    if gpu:
        options["HOROVOD_GPU_OPERATIONS"] = "NCCL"
        places = ("HOROVOD_CUDA_", "HOROVOD_NCCL_", "HOROVOD_BUILD_CUDA_")
        options |= {name: value for name, value in environ.items() if name.startswith(places)}
    return options


def cache_key(
    torch: str, python: str, platform: str, options: Mapping[str, str], patches: Sequence[Patch]
) -> str:
    """The folder name of a wheel: readable, and different whenever the wheel would be.

    So what patches change counts, and not how they explain it.
    """
    kind = "gpu" if "HOROVOD_GPU_OPERATIONS" in options else "cpu"
    changes = [repr(dataclasses.astuple(one)) for patch in patches for one in patch.changes]
    recipe = [SHA256, sorted(options.items()), changes]
    digest = hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:12]
    return f"horovod-{VERSION}-torch-{torch}-python-{python}-{platform}-{kind}-{digest}"


def cache_root(environ: Mapping[str, str]) -> Path:
    """The folder that keeps what was downloaded or built once."""
    if chosen := environ.get("SWELL_CACHE"):
        return Path(chosen).expanduser().absolute()
    return Path(environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().absolute() / "swell"


def installed_torch() -> str:
    """The version of PyTorch beside this interpreter, such as ``2.13.0+cpu``."""
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        raise BuildError(
            f"PyTorch is not installed for {sys.executable}: "
            f"run {sys.executable} -m pip install -r {HERE / 'torch.txt'}",
            exit_code=2,
        ) from None


# --- the steps --------------------------------------------------------------------------------


def download(folder: Path) -> Path:
    """Fetches the source archive with pip, which refuses it when the checksum differs."""
    wanted = folder / "horovod.txt"
    wanted.write_text(f"horovod=={VERSION} --hash=sha256:{SHA256}\n", encoding="utf-8")
    command = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"),
        *("--no-binary", "horovod", "--no-build-isolation", "--dest", str(folder)),
        *("--requirement", str(wanted)),
    ]
    done = subprocess.run(command, text=True, capture_output=True, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        why = error_lines(done.stderr.splitlines(), limit=1) or ["pip gave no reason"]
        raise BuildError(f"Horovod's source could not be downloaded: {why[0]}")
    return folder / f"horovod-{VERSION}.tar.gz"


def check_source(archive: Path) -> None:
    """Raises BuildError unless the archive is the released one."""
    try:
        found = hashlib.sha256(archive.read_bytes()).hexdigest()
    except OSError as error:
        raise BuildError(f"{archive}: {error.strerror}", exit_code=2) from None
    if found != SHA256:
        raise BuildError(f"{archive} is not Horovod {VERSION}: its SHA-256 is {found}")


def unpack(archive: Path, folder: Path, patches: Sequence[Patch]) -> Path:
    """Unpacks the source archive and returns the source tree, patched."""
    with tarfile.open(archive) as tar:
        tar.extraction_filter = getattr(tarfile, "data_filter", lambda member, _: member)
        tar.extractall(folder)
    tree = folder / f"horovod-{VERSION}"
    apply_patches(patches, tree)
    return tree


def keep(wheel: Path, folder: Path) -> Path:
    """Copies a wheel into a folder; it appears there whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, delete=False) as part:
        shutil.copyfile(wheel, part.name)
    os.chmod(part.name, 0o644)
    os.replace(part.name, folder / wheel.name)
    return folder / wheel.name


def build(
    cache: Path,
    key: str,
    options: Mapping[str, str],
    patches: Sequence[Patch],
    source: Path | None,
) -> Path:
    """Builds the wheel from its source and returns its place in the cache."""
    log = cache / "logs" / f"{key}-{os.getpid()}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    jobs = compile_jobs(
        len(os.sched_getaffinity(0)), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    )
    with tempfile.TemporaryDirectory(dir=cache, prefix="build-") as name:
        folder = Path(name)
        if source is None:
            print(f"Downloading the source of Horovod {VERSION}", flush=True)
        archive = source or download(folder)
        check_source(archive)
        tree = unpack(archive, folder, patches)
        print(f"Compiling Horovod {VERSION} with {jobs} jobs (minutes, once)", flush=True)
        environment = build_environment(options, jobs, os.environ)
        built = compile_wheel(tree, folder / "wheel", environment, log, ProgressView(sys.stdout))
        wheel = keep(built, cache / "wheels" / key)
    log.unlink()
    return wheel


def kept_wheel(folders: Iterable[Path], key: str) -> Path | None:
    """The wheel that one of the folders keeps under a key, if there is one."""
    return next((wheel for folder in folders for wheel in (folder / key).glob("*.whl")), None)


def install(wheel: Path) -> None:
    """Installs the wheel beside this interpreter and checks that it loads there."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    # Another build of the same version may be there.
    if subprocess.run([*pip, "--force-reinstall", wheel]).returncode != 0:
        raise BuildError(f"pip could not install {wheel}")
    check = [sys.executable, "-c", "import horovod.torch"]
    done = subprocess.run(check, text=True, capture_output=True)
    if done.returncode != 0:
        why = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise BuildError(f"{wheel} does not load ({why}); delete it to have it built again")


# --- the command ------------------------------------------------------------------------------


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=f"Builds Horovod {VERSION} for this PyTorch.")
    parser.add_argument("--install", action="store_true", help="install the wheel here")
    parser.add_argument("--out", type=Path, metavar="DIR", help="copy the wheel to DIR")
    parser.add_argument("--gpu", action="store_true", help="with NCCL (needs CUDA)")
    parser.add_argument("--source", type=Path, metavar="FILE", help="the source archive, if here")
    parser.add_argument(
        "--wheels", type=Path, metavar="DIR", help="wheels built before; only read from"
    )
    parser.add_argument("--check", action="store_true", help="only check for compiler and tools")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Does what the command line asks for."""
    cache = cache_root(os.environ)
    if args.check:
        # With wheels in the cache there is probably nothing to compile.
        if not any(cache.glob("wheels/*/*.whl")):
            check_tools(args.gpu, os.environ)
        return
    options = build_options(args.gpu, os.environ)
    patches = read_patches(HERE / "patches")
    key = cache_key(
        installed_torch(),
        f"{sys.version_info.major}.{sys.version_info.minor}",
        sysconfig.get_platform(),
        options,
        patches,
    )
    wheel = kept_wheel([cache / "wheels", *filter(None, [args.wheels])], key)
    if wheel is None:
        check_tools(args.gpu, os.environ)
        wheel = build(cache, key, options, patches, args.source)
    if args.install:
        install(wheel)
    if args.out is not None:
        wheel = keep(wheel, args.out)
    print(f"Horovod {VERSION} for PyTorch {installed_torch()}: {wheel}")


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code."""
    try:
        run(arguments(argv))
    except BuildError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except PatchError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted; nothing was installed.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
