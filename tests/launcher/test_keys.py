"""Keys on a real terminal, which is afterwards as it was."""

from __future__ import annotations

import io
import os
import pty
import signal
import termios
from collections.abc import Iterator
from typing import IO

import pytest

from launcher.keys import keys_of, name_of

LONG = 600.0  # seconds; only a test that fails waits so long


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, IO[str]]]:
    """A terminal of which this process is in the foreground, so far as it asks."""
    far, near = pty.openpty()
    monkeypatch.setattr(os, "tcgetpgrp", lambda _: os.getpgrp())
    with open(near, encoding="utf-8") as stdin:
        yield far, stdin
    os.close(far)


@pytest.mark.parametrize(
    ("sent", "name"),
    [
        (b"q", "q"),
        (b"2", "2"),
        (b"\x1b[A", "up"),
        (b"\x1bOB", "down"),
        (b"\x1b[5~", "page up"),
        (b" ", "page down"),
        (b"G", "end"),
        (b"\x1b", "\x1b"),
        (b"\x1b[99;9u", "\x1b[99;9u"),
        (b"\xff", "�"),
    ],
)
def test_a_key_wakes(terminal: tuple[int, IO[str]], sent: bytes, name: str) -> None:
    far, stdin = terminal
    with keys_of(stdin) as wait:
        assert wait is not None
        os.write(far, sent)
        assert wait(LONG) == name
        assert wait(0.0) is None


def test_keys_come_one_after_another(terminal: tuple[int, IO[str]]) -> None:
    far, stdin = terminal
    with keys_of(stdin) as wait:
        assert wait is not None
        os.write(far, b"\x1b[B2\x1b[6~q")
        assert [wait(LONG) for _ in range(4)] == ["down", "2", "page down", "q"]


def test_the_terminal_is_as_it_was_whatever_happens(terminal: tuple[int, IO[str]]) -> None:
    _, stdin = terminal
    before = termios.tcgetattr(stdin.fileno())
    with pytest.raises(KeyboardInterrupt), keys_of(stdin):
        during = termios.tcgetattr(stdin.fileno())
        assert not during[3] & termios.ECHO and not during[3] & termios.ICANON
        assert during[3] & termios.ISIG, "Ctrl-C is a signal still"
        signal.raise_signal(signal.SIGINT)
    assert termios.tcgetattr(stdin.fileno()) == before


def test_where_nobody_can_press_one_there_are_none(
    terminal: tuple[int, IO[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, stdin = terminal
    read, write = os.pipe()
    os.close(write)
    with open(read, encoding="utf-8") as pipe, keys_of(pipe) as wait:
        assert wait is None
    with keys_of(io.StringIO("q")) as wait:
        assert wait is None
    monkeypatch.setattr(os, "tcgetpgrp", lambda _: os.getpgrp() + 1)
    with keys_of(stdin) as wait:
        assert wait is None, "in the background it would be stopped"


def test_a_key_has_one_name() -> None:
    assert {name_of(sent) for sent in (b"j", b"\x1b[B", b"\x1bOB")} == {"down"}
