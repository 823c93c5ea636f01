"""TensorBoard's event files, as TensorBoard reads them."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

from tests.trainer.rundir.compacted import watched
from trainer.rundir.directory import RunDirectory
from trainer.rundir.store import Store
from trainer.telemetry import board
from trainer.telemetry.board import EVENTS, LOGS, Board
from trainer.telemetry.curves import Point


def losses(*values: float, first: int = 1, again: bool = False) -> list[Point]:
    steps = enumerate(values, first)
    return [Point(s, 100.0 + s, {"loss": it}, again=again and s == first) for s, it in steps]


def read(folder: Path) -> dict[str, list[tuple[int, Any]]]:
    """Every series in a folder, as TensorBoard's reader has it."""
    reader = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    reader.Reload()
    found = {}
    for tag in reader.Tags()["tensors"]:
        values = [(it.step, it.tensor_proto) for it in reader.Tensors(tag)]
        found[tag] = [
            (s, it.string_val[0] if it.string_val else it.float_val[0]) for s, it in values
        ]
    return found


def test_numbers_and_texts_are_read_back(tmp_path: Path) -> None:
    one = Board(Store(str(tmp_path)), 1)
    one.tell([*losses(3.0, 2.0), Point(2, 103.0, texts={"drain": "**drain**"})])
    one.tell([])
    one.tell(losses(1.0, first=3))
    assert read(tmp_path / LOGS) == {"loss": [(1, 3.0), (2, 2.0), (3, 1.0)]}
    assert read(tmp_path / EVENTS) == {"drain": [(2, b"**drain**")]}


def test_the_next_leader_takes_back_what_the_last_one_told_beyond_its_position(
    tmp_path: Path,
) -> None:
    Board(Store(str(tmp_path)), 1).tell(losses(3.0, 2.0, 7.0, 7.0))
    Board(Store(str(tmp_path)), 2, step=2).tell(losses(1.0, first=3))
    assert read(tmp_path / LOGS) == {"loss": [(1, 3.0), (2, 2.0), (3, 1.0)]}


def test_a_curve_that_goes_back_is_read_as_one_line_and_what_happened_stays(
    tmp_path: Path,
) -> None:
    one = Board(Store(str(tmp_path)), 1)
    one.tell([*losses(4.0, 3.0, 2.0), Point(3, 103.5, texts={"loss": "**loss**"})])
    one.tell(losses(9.0, 8.0, 7.0, 6.0, first=2, again=True))
    assert read(tmp_path / LOGS) == {"loss": [(1, 4.0), (2, 9.0), (3, 8.0), (4, 7.0), (5, 6.0)]}
    assert read(tmp_path / EVENTS) == {"loss": [(3, b"**loss**")]}


def test_a_reader_that_has_the_file_open_sees_what_is_added(tmp_path: Path) -> None:
    one = Board(Store(str(tmp_path)), 1)
    one.tell(losses(3.0))
    (file,) = (tmp_path / LOGS).glob("*tfevents*")
    reader = EventFileLoader(str(file))
    assert [event.step for event in reader.Load()] == [0, 0, 1]
    one.tell(losses(2.0, first=2))
    assert [event.step for event in reader.Load()] == [2]


def test_objects_are_written_whole_and_left_when_they_are_large(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(board, "PART", 200)
    store = Store("memory://board")
    try:
        one = Board(store, 7)
        for step in range(1, 10):
            one.tell(losses(float(step), first=step))
        names = store.names(LOGS)
        assert len(names) > 1 and names == sorted(names)
        assert all(name.startswith("events.out.tfevents.000007") for name in names)
        assert all(store.size(f"{LOGS}/{name}") < 300 for name in names)
    finally:
        store.delete("")


def test_what_a_store_did_not_take_is_written_the_next_time(tmp_path: Path) -> None:
    _, store = watched(RunDirectory("memory://away"))
    try:
        one = Board(store, 1)

        def away() -> None:
            raise OSError("the store is away")

        store.before = away
        with pytest.raises(OSError, match="away"):
            one.tell(losses(3.0))
        store.before = lambda: None
        one.tell([])
        (name,) = store.names(LOGS)
        (tmp_path / name).write_bytes(store.read(f"{LOGS}/{name}"))
        assert read(tmp_path) == {"loss": [(1, 3.0)]}
    finally:
        store.delete("")


def test_a_disk_that_is_full_leaves_no_half_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Board(Store(str(tmp_path)), 1)
    one.tell(losses(3.0))
    with monkeypatch.context() as patch:
        patch.setattr(board, "append_private", lambda path: Full(path))
        with pytest.raises(OSError, match="space"):
            one.tell(losses(2.0, first=2))
    one.tell([])
    assert read(tmp_path / LOGS) == {"loss": [(1, 3.0), (2, 2.0)]}


class Full:
    """A file on a disk that has room for three more bytes."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)

    def __enter__(self) -> Full:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def fileno(self) -> int:
        return self._file.fileno()

    def write(self, data: bytes) -> int:
        self._file.write(data[:3])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
