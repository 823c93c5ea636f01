"""Whoever prints never waits for a reader, and never learns of its end."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest

from launcher.views.outlet import Outlet
from tests.trainer.ranks import PATIENCE


class Pipe:
    """A pipe that an outlet writes to."""

    def __init__(self) -> None:
        self.reads, writes = os.pipe()
        self.stream: TextIO = os.fdopen(writes, "w")
        self.gone = threading.Event()
        self.outlet = Outlet(self.stream, lambda error: self.gone.set(), most=1000)

    def leave(self) -> None:
        os.close(self.reads)
        self.reads = -1

    def close(self) -> None:
        if self.reads >= 0:
            self.leave()
        self.stream.close()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.close()


def test_what_is_printed_comes_out_in_order(pipe: Pipe) -> None:
    for number in range(3):
        print(f"line {number}", file=pipe.outlet)
    pipe.outlet.drain()
    assert os.read(pipe.reads, 1000) == b"line 0\nline 1\nline 2\n"


def test_a_reader_that_goes_away_is_told_of_once_and_hurts_nobody(pipe: Pipe) -> None:
    pipe.leave()
    for _ in range(3):
        print("more", file=pipe.outlet)
        pipe.outlet.drain()
    assert pipe.gone.wait(PATIENCE)
    pipe.stream.flush()  # as at the end of the program: nothing is left that could fail then


def test_nobody_waits_for_a_pipe_that_is_full_and_little_is_held(pipe: Pipe) -> None:
    for number in range(100):
        print(f"{number:5}" * 1000, file=pipe.outlet)
    assert len(pipe.outlet._waiting) < 10_000
    assert b"    0    0" in os.read(pipe.reads, 100_000)


def test_a_pipe_that_does_not_block_is_waited_for(pipe: Pipe) -> None:
    os.set_blocking(pipe.stream.fileno(), False)
    text = "x" * 200_000
    print(text, end="", file=pipe.outlet)
    came = b""
    while len(came) < len(text):
        came += os.read(pipe.reads, 100_000)
    assert came.decode() == text


def test_a_full_disk_hurts_nobody() -> None:
    errors: list[OSError] = []
    told = threading.Event()

    def gone(error: OSError) -> None:
        errors.append(error)
        told.set()

    with open("/dev/full", "w") as full:
        outlet = Outlet(full, gone)
        print("text", file=outlet)
        outlet.drain()
        assert told.wait(PATIENCE)
    assert errors[0].strerror == "No space left on device"


def test_without_any_output_everything_is_taken() -> None:
    outlet = Outlet(None)
    print("text", file=outlet)
    outlet.drain()
    assert not outlet.isatty()
    with pytest.raises(io.UnsupportedOperation):
        outlet.fileno()


def test_a_stream_without_a_descriptor_will_do() -> None:
    stream = io.StringIO()
    outlet = Outlet(stream)
    print("text", file=outlet)
    outlet.drain()
    assert stream.getvalue() == "text\n"


@pytest.mark.parametrize("full", [False, True])
def test_it_can_be_led_elsewhere_though_nobody_reads(
    pipe: Pipe, tmp_path: Path, full: bool
) -> None:
    print("x" * (200_000 if full else 1), file=pipe.outlet)
    with (tmp_path / "log").open("w") as log:
        pipe.outlet.redirect(log)
        print("now here", file=pipe.outlet)
        pipe.outlet.drain()
    assert (tmp_path / "log").read_text() == "now here\n"
