from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from compiling import (
    Progress,
    ProgressView,
    build_environment,
    compile_jobs,
    error_lines,
    missing_tools,
    parse_progress,
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


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
