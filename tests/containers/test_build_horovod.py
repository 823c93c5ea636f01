from __future__ import annotations

import hashlib
import importlib.metadata
import io
import tarfile
from pathlib import Path
from typing import Any

import pytest

import build_horovod
import compiling
from build_horovod import (
    build_options,
    cache_key,
    cache_root,
    check_source,
    keep,
    unpack,
)
from compiling import BuildError
from patching import PatchError, parse_patch

CMAKE = "set(CMAKE_CXX_STANDARD 14)\n"
PATCH = b"""Subject: [PATCH horovod-0.28.1 1/1] Compile as C++17

PyTorch needs it.
---
diff --git a/CMakeLists.txt b/CMakeLists.txt
--- a/CMakeLists.txt
+++ b/CMakeLists.txt
@@ -1 +1 @@
-set(CMAKE_CXX_STANDARD 14)
+set(CMAKE_CXX_STANDARD 17)
"""
PATCHES = (parse_patch("0001-Compile-as-C-17.patch", PATCH),)
OTHER = (parse_patch("0001-Compile-as-C-17.patch", PATCH.replace(b"17)", b"20)")),)
REWORDED = (parse_patch("0001-Ask-for-C-17.patch", PATCH.replace(b"Compile as", b"Ask for")),)


class TestCacheKey:
    INGREDIENTS: dict[str, Any] = {  # noqa: RUF012 (read only)
        "torch": "2.13.0+cpu",
        "python": "3.11",
        "platform": "linux-x86_64",
        "options": {"HOROVOD_WITH_GLOO": "1"},
        "patches": PATCHES,
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
            {"patches": ()},
            {"patches": OTHER},
        ],
        ids=str,
    )
    def test_changes_with_each_ingredient(self, change: dict[str, Any]) -> None:
        assert cache_key(**self.INGREDIENTS | change) != cache_key(**self.INGREDIENTS)

    def test_does_not_change_with_the_prose_of_a_patch(self) -> None:
        reworded = self.INGREDIENTS | {"patches": REWORDED}
        assert cache_key(**reworded) == cache_key(**self.INGREDIENTS)

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


def test_message_names_the_packages(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SWELL_CACHE", str(tmp_path))
    monkeypatch.setattr(
        compiling, "missing_tools", lambda *_: {"make": "make", "Python.h": "python3-dev"}
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
    monkeypatch.setattr(compiling, "missing_tools", lambda *_: {"make": "make"})
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


class TestSource:
    def archive(self, folder: Path, text: str = CMAKE) -> Path:
        """An archive with the one file that the patch is for."""
        archive = folder / "source.tar.gz"
        with tarfile.open(archive, "w:gz") as tar:
            member = tarfile.TarInfo("horovod-0.28.1/CMakeLists.txt")
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
        return archive

    def test_is_unpacked_and_patched(self, tmp_path: Path) -> None:
        tree = unpack(self.archive(tmp_path), tmp_path, PATCHES)
        assert (tree / "CMakeLists.txt").read_text() == "set(CMAKE_CXX_STANDARD 17)\n"

    def test_that_the_patches_do_not_fit_stops_the_build(self, tmp_path: Path) -> None:
        with pytest.raises(PatchError, match=r"0001-\S+ does not fit CMakeLists\.txt, hunk 1 of 1"):
            unpack(self.archive(tmp_path, "project(horovod)\n" + CMAKE), tmp_path, PATCHES)

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


def test_a_fault_of_the_patches_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SWELL_CACHE", str(tmp_path))
    monkeypatch.setattr(build_horovod, "HERE", tmp_path)
    assert build_horovod.main(["--install"]) == 1
    assert capsys.readouterr().err == f"there are no patches in {tmp_path / 'patches'}\n"


def test_a_wheel_that_is_kept_twice_is_there_once(tmp_path: Path) -> None:
    wheel = tmp_path / "horovod.whl"
    for content in ("first", "second"):
        wheel.write_text(content)
        kept = keep(wheel, tmp_path / "cache" / "key")
    assert kept.read_text() == "second"
    assert list(kept.parent.iterdir()) == [kept]
