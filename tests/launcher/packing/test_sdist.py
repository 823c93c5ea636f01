"""The code as a Python package, for replicas without an agent."""

from __future__ import annotations

import io
import tarfile

from launcher.packing import sdist
from trainer.rundir.bundle import File


def read(package: bytes) -> dict[str, str]:
    with tarfile.open(fileobj=io.BytesIO(package)) as tar:
        return {e.name: tar.extractfile(e).read().decode() for e in tar}  # type: ignore[union-attr]


def test_a_plain_folder_gets_a_setup_file_that_names_everything() -> None:
    names = ["train.py", "pkg/__init__.py", "pkg/deep/x.py", "no-module.py", "notes.md", "r.txt"]
    files = [File(name, b"") for name in names[:-1]]
    text = b"# ours\nnumpy>=2 # new\n--index-url https://x\n./a.whl\n\nx @ https://y\nrich[a]==1\n"
    found = read(sdist.build([*files, File("r.txt", text)], "r.txt"))
    assert set(found) == {f"swell-code-0/{name}" for name in [*names, "setup.py"]}
    setup = found["swell-code-0/setup.py"]
    assert "py_modules=['train']" in setup
    assert "packages=['pkg', 'pkg.deep']" in setup
    assert "install_requires=['numpy>=2', 'rich[a]==1']" in setup
    compile(setup, "setup.py", "exec")


def test_a_project_of_its_own_stays_as_it_is() -> None:
    files = [File("pyproject.toml", b"[project]\n"), File("src/x/__init__.py", b"")]
    assert set(read(sdist.build(files, None))) == {
        "swell-code-0/pyproject.toml",
        "swell-code-0/src/x/__init__.py",
    }


def test_a_run_finds_its_package_by_the_hash() -> None:
    url = sdist.package_url("gs://bucket-b/runs/one", "ab" * 32)
    assert url == f"gs://bucket-b/runs/one/code/swell-code-{'ab' * 16}.tar.gz"
