"""TensorBoard's event files, as they grow."""

from __future__ import annotations

from pathlib import Path

import pytest
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary

from trainer.worker.event_files import EventFiles
from trainer.worker.reports import Report


def record(step: int, **scalars: float) -> bytes:
    values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
    data: bytes = Event(step=step, summary=Summary(value=values)).SerializeToString()
    return len(data).to_bytes(8, "little") + b"crc." + data + b"crc."


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "version_0/events.out.tfevents.1.host"


@pytest.fixture
def files(file: Path) -> EventFiles:
    file.parent.mkdir()
    files = EventFiles(file.parents[1])
    files.begin()
    return files


def append(file: Path, data: bytes) -> None:
    with file.open("ab") as opened:
        opened.write(data)


def test_what_a_step_says_is_told_together_and_once(files: EventFiles, file: Path) -> None:
    append(file, record(1, loss=0.5) + record(1, lr=0.25) + record(3, loss=0.25))
    assert files.read() == [Report(1, {"loss": 0.5, "lr": 0.25}), Report(3, {"loss": 0.25})]
    assert files.read() == []
    append(file, record(3, late=1.0) + record(4, loss=1.0))
    assert files.read() == [Report(4, {"loss": 1.0})]


def test_a_record_that_is_being_written_is_read_when_it_is_whole(
    files: EventFiles, file: Path
) -> None:
    data = record(1, loss=0.5) + record(2, loss=0.25)
    for end in range(len(record(1, loss=0.5)), len(data)):
        file.write_bytes(data[:end])
        files.read()
        assert files.read() == []
    file.write_bytes(data)
    assert files.read() == [Report(2, {"loss": 0.25})]


def test_files_of_an_earlier_process_are_not_read_again(files: EventFiles, file: Path) -> None:
    append(file, record(7, loss=0.5))
    files.begin()
    assert files.read() == []
    append(file.with_name("events.out.tfevents.2.host"), record(4, loss=1.0))
    assert files.read() == [Report(4, {"loss": 1.0})]


@pytest.mark.parametrize("data", [b"\xff" * 90, b"\0" * 90, record(1, loss=1)[:12] + b"\xff" * 90])
def test_a_damaged_file_says_nothing(files: EventFiles, file: Path, data: bytes) -> None:
    append(file, data)
    assert files.read() == []
    append(file.with_name("another.tfevents"), record(2, loss=1.0))
    assert files.read() == [Report(2, {"loss": 1.0})]


def test_other_events_are_no_steps(files: EventFiles, file: Path) -> None:
    append(file, record(0) + record(5) + record(0, started=1.0))
    assert files.read() == []
