from __future__ import annotations

import hashlib
import importlib.metadata
import io
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import build_horovod
from build_horovod import (
    BuildError,
    Progress,
    ProgressView,
    build_environment,
    build_options,
    cache_key,
    cache_root,
    check_source,
    compile_jobs,
    error_lines,
    keep,
    missing_tools,
    parse_progress,
    unpack,
)
from horovod_fixes import FIXES


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class TestCacheKey:
    INGREDIENTS: dict[str, Any] = {  # noqa: RUF012 (read only)
        "torch": "2.13.0+cpu",
        "python": "3.11",
        "platform": "linux-x86_64",
        "options": {"HOROVOD_WITH_GLOO": "1"},
        "fixes": FIXES,
    }

    def test_is_readable(self) -> None:
        key = cache_key(**self.INGREDIENTS)
        assert key.startswith("horovod-0.28.1-torch-2.13.0+cpu-python-3.11-linux-x86_64-cpu-")

    @pytest.mark.parametrize(
        "change",
        [
            {"torch": "2.13.0"},
            {"python": "3.12"},
            {"platform": "linux-aarch64"},
            {"options": {"HOROVOD_WITH_GLOO": "1", "HOROVOD_GPU_OPERATIONS": "NCCL"}},
            {"options": {"HOROVOD_WITH_GLOO": "0"}},
            {"fixes": FIXES[:-1]},
            {"fixes": (*FIXES[:-1], replace(FIXES[-1], new="other"))},
        ],
        ids=str,
    )
    def test_changes_with_each_ingredient(self, change: dict[str, Any]) -> None:
        assert cache_key(**self.INGREDIENTS | change) != cache_key(**self.INGREDIENTS)

    def test_order_of_options_does_not_matter(self) -> None:
        one = {"A": "1", "B": "2"}
        other = {"B": "2", "A": "1"}
        assert cache_key(**self.INGREDIENTS | {"options": one}) == cache_key(
            **self.INGREDIENTS | {"options": other}
        )


def test_cache_is_where_the_environment_says() -> None:
    assert cache_root({"SWELL_CACHE": "/a", "XDG_CACHE_HOME": "/b"}) == Path("/a")
    assert cache_root({"XDG_CACHE_HOME": "/b"}) == Path("/b/swell")
    assert cache_root({}) == Path("~/.cache/swell").expanduser()


def test_options_take_places_of_cuda_from_the_environment_for_gpus_only() -> None:
    environ = {"HOROVOD_NCCL_HOME": "/nccl", "HOROVOD_RANK": "3", "HOME": "/home"}
    assert "HOROVOD_NCCL_HOME" not in build_options(gpu=False, environ=environ)
    options = build_options(gpu=True, environ=environ)
    assert options["HOROVOD_GPU_OPERATIONS"] == "NCCL"
    assert options["HOROVOD_NCCL_HOME"] == "/nccl"
    assert "HOROVOD_RANK" not in options


def test_compile_does_not_inherit_a_surrounding_make_or_run() -> None:
    environ = {"MAKEFLAGS": "n --jobserver-auth=3,4", "MAKELEVEL": "1", "HOROVOD_RANK": "3"}
    environment = build_environment(
        {"HOROVOD_WITH_GLOO": "1"}, 4, environ | {"HOME": "/h", "PATH": "/bin"}
    )
    assert environment["MAKEFLAGS"] == "-j4"
    assert environment["HOME"] == "/h"
    assert environment["PATH"].endswith(":/bin")
    assert environment["HOROVOD_WITH_GLOO"] == "1"
    assert not {"MAKELEVEL", "HOROVOD_RANK"} & environment.keys()


@pytest.mark.parametrize(
    ("cores", "gigabytes", "jobs"), [(2, 16, 2), (64, 16, 8), (4, 1, 1), (1, 64, 1)]
)
def test_jobs_fit_cores_and_memory(cores: int, gigabytes: int, jobs: int) -> None:
    assert compile_jobs(cores, gigabytes << 30) == jobs


class TestMissingTools:
    ALL = ("g++", "make", "cmake", "/usr/local/cuda/bin/nvcc")

    @pytest.fixture
    def include(self, tmp_path: Path) -> Path:
        (tmp_path / "Python.h").touch()
        return tmp_path

    def missing(self, include: Path, *absent: str, **more: Any) -> dict[str, str]:
        present = set(self.ALL) - set(absent)
        return missing_tools(
            lambda name: name if name in present else None, include, more.pop("environ", {}), **more
        )

    def test_nothing(self, include: Path) -> None:
        assert self.missing(include, gpu=True) == {}

    @pytest.mark.parametrize(
        ("absent", "what", "package"),
        [
            ("g++", "a C++ compiler", "g++"),
            ("make", "make", "make"),
            ("cmake", "cmake", "cmake"),
        ],
    )
    def test_each_program(self, include: Path, absent: str, what: str, package: str) -> None:
        assert self.missing(include, absent) == {what: package}

    def test_headers(self, tmp_path: Path) -> None:
        assert self.missing(tmp_path) == {"Python.h": "python3-dev"}

    def test_cuda_only_for_gpus(self, include: Path) -> None:
        nvcc = self.ALL[-1]
        assert self.missing(include, nvcc) == {}
        assert self.missing(include, nvcc, gpu=True) == {"nvcc": "nvidia-cuda-toolkit"}

    def test_a_named_compiler_must_exist(self, include: Path) -> None:
        assert "a C++ compiler" in self.missing(include, environ={"CXX": "icpc -fast"})
        assert self.missing(include, "g++", environ={"CXX": "make -x"}) == {}


def test_message_names_the_packages(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SWELL_CACHE", str(tmp_path))
    monkeypatch.setattr(
        build_horovod, "missing_tools", lambda *_: {"make": "make", "Python.h": "python3-dev"}
    )
    assert build_horovod.main(["--check"]) == 2
    assert capsys.readouterr().err == (
        "Horovod cannot be compiled here without make and Python.h. "
        "Install with: apt-get install make python3-dev\n"
    )


def test_check_asks_for_no_compiler_when_wheels_are_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SWELL_CACHE", str(tmp_path))
    monkeypatch.setattr(build_horovod, "missing_tools", lambda *_: {"make": "make"})
    (tmp_path / "wheels" / "key").mkdir(parents=True)
    (tmp_path / "wheels" / "key" / "horovod.whl").touch()
    assert build_horovod.main(["--check"]) == 0


def test_missing_torch_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setenv("SWELL_CACHE", str(tmp_path))
    monkeypatch.setattr(importlib.metadata, "version", version)
    assert build_horovod.main(["--install"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("PyTorch is not installed for ")
    assert message.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "progress"),
    [
        (
            "  [ 45%] Building CXX object a/CMakeFiles/b.dir/__/common/controller.cc.o\n",
            Progress(45, "controller.cc"),
        ),
        ("[  2%] Linking CXX shared library ../lib/mpi_lib_v2.so", Progress(2, "mpi_lib_v2.so")),
        ("[100%] Built target pytorch", Progress(100, "pytorch")),
        ("-- Configuring done", None),
        ("cd /x && c++ -DA=[45%] -c controller.cc", None),
        ("", None),
    ],
)
def test_progress_is_read_from_cmake(line: str, progress: Progress | None) -> None:
    assert parse_progress(line) == progress


class TestProgressView:
    def view(self, out: io.StringIO) -> ProgressView:
        times = iter(range(0, 1000, 5))
        return ProgressView(out, clock=lambda: next(times))

    def test_writes_a_line_every_ten_percent_to_a_file(self) -> None:
        out = io.StringIO()
        view = self.view(out)
        for percent in (0, 2, 9, 12, 15, 40, 41, 100, 100):
            view.show(Progress(percent, "some.cc"))
        view.close()
        assert out.getvalue().splitlines() == [
            "Horovod   0%    5 s  some.cc",
            "Horovod  12%   10 s  some.cc",
            "Horovod  40%   15 s  some.cc",
            "Horovod 100%   20 s  some.cc",
        ]

    def test_rewrites_one_line_on_a_terminal(self) -> None:
        out = Terminal()
        view = self.view(out)
        for percent in (1, 2):
            view.show(Progress(percent, "some.cc"))
        view.close()
        assert "\n" not in out.getvalue()
        assert out.getvalue().split("\r\033[K") == [
            "",
            "Horovod   1%    5 s  some.cc",
            "Horovod   2%   10 s  some.cc",
            "",
        ]


def test_error_lines_are_the_last_that_speak_of_an_error() -> None:
    log = ["a.cc:1:2: error: first", "fine", "cc -Wno-terrors", "b.cc: Error 1", "  ERROR: last "]
    assert error_lines(log) == ["a.cc:1:2: error: first", "b.cc: Error 1", "ERROR: last"]
    assert error_lines(log, limit=1) == ["ERROR: last"]


class TestSource:
    def archive(self, folder: Path, skip: str = "") -> Path:
        """An archive with the places that the fixes change, without one file."""
        archive = folder / "source.tar.gz"
        texts: dict[str, str] = {}
        for fix in FIXES:
            texts[fix.file] = texts.get(fix.file, "") + fix.old + "\n"
        with tarfile.open(archive, "w:gz") as tar:
            for file, text in texts.items():
                member = tarfile.TarInfo(f"horovod-0.28.1/{file}")
                member.size = len(text)
                if file != skip:
                    tar.addfile(member, io.BytesIO(text.encode()))
        return archive

    def test_is_unpacked_with_its_fixes(self, tmp_path: Path) -> None:
        tree = unpack(self.archive(tmp_path), tmp_path)
        assert "CXX_STANDARD 17" in (tree / "CMakeLists.txt").read_text()

    def test_that_the_fixes_do_not_fit_stops_the_build(self, tmp_path: Path) -> None:
        with pytest.raises(BuildError, match=r"CMakeLists\.txt: fix 'cxx17' matches 0 places"):
            unpack(self.archive(tmp_path, skip="CMakeLists.txt"), tmp_path)

    def test_with_another_checksum_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        archive = self.archive(tmp_path)
        found = hashlib.sha256(archive.read_bytes()).hexdigest()
        with pytest.raises(BuildError, match=f"its SHA-256 is {found}"):
            check_source(archive)
        monkeypatch.setattr(build_horovod, "SHA256", found)
        check_source(archive)

    def test_that_is_not_there_is_said(self, tmp_path: Path) -> None:
        with pytest.raises(BuildError, match="No such file") as caught:
            check_source(tmp_path / "nothing.tar.gz")
        assert caught.value.exit_code == 2


def test_a_wheel_that_is_kept_twice_is_there_once(tmp_path: Path) -> None:
    wheel = tmp_path / "horovod.whl"
    for content in ("first", "second"):
        wheel.write_text(content)
        kept = keep(wheel, tmp_path / "cache" / "key")
    assert kept.read_text() == "second"
    assert list(kept.parent.iterdir()) == [kept]
