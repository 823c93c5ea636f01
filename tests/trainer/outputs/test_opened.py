"""Which files are being written, as the operating system has it."""

from __future__ import annotations

from pathlib import Path

from trainer.outputs.opened import opened_to_write


def test_files_that_are_open_to_write_are_found_and_no_others(tmp_path: Path) -> None:
    (tmp_path / "root/step-1").mkdir(parents=True)
    root = tmp_path / "root"
    for name in ("read", "step-1/written", "finished"):
        (root / name).write_text("x")
    with (
        (root / "read").open(),
        (root / "step-1/written").open("a"),
        (tmp_path / "other").open("w"),
    ):
        assert opened_to_write(root) == {"step-1/written"}
    assert opened_to_write(root) == set()


def test_a_folder_that_is_reached_by_a_link_is_that_folder(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "link").symlink_to("root")
    with (tmp_path / "link/a").open("w"):
        assert opened_to_write(tmp_path / "link") == {"a"}
