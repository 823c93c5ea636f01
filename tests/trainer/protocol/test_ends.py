"""How a process has ended, in words: whatever it was that ended it."""

from __future__ import annotations

import signal

import pytest

from trainer.protocol.ends import end_of, name_of_signal


@pytest.mark.parametrize(
    "code, words",
    [
        (0, "exit code 0"),
        (3, "exit code 3"),
        (-signal.SIGSEGV, "killed by SIGSEGV"),
        (-signal.SIGILL, "killed by SIGILL"),
        (-signal.SIGRTMIN, "killed by SIGRTMIN"),
        (-(signal.SIGRTMIN + 6), "killed by SIGRTMIN+6"),
        (-signal.SIGRTMAX, "killed by SIGRTMAX"),
        (-32, "killed by signal 32"),  # the C library's own
    ],
)
def test_an_exit_code_in_words(code: int, words: str) -> None:
    assert end_of(code) == words


def test_every_signal_that_there_can_be_has_a_name() -> None:
    names = [name_of_signal(number) for number in range(1, 65)]
    assert len({*names}) == 64 and all(names)
