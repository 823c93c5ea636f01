"""What a command waits for on the network is said after seconds, and given up after a minute."""

from __future__ import annotations

import socket
import threading
import time
from functools import partial

import pytest

from launcher.api.reach import Unreachable, impatient, reaching, watching
from tests.trainer.ranks import PATIENCE

URL = "gs://b/runs"


def test_what_does_not_answer_is_said_and_then_given_up() -> None:
    said: list[str] = []
    watch = partial(impatient, say=said.append, after=0.05)
    over = pytest.raises(Unreachable, match="gs://b/runs has not answered for")
    with watching(watch), over, reaching(URL, 0.2):
        try:
            threading.Event().wait(PATIENCE)
        except Exception:  # as the loops of clients that try again
            threading.Event().wait(PATIENCE)
    assert said == ["gs://b/runs has not answered for 0 s; trying for 0 s more"]


def test_a_socket_that_never_answers_is_left() -> None:
    watch = partial(impatient, say=lambda line: None, after=0.1)
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as silent,
        watching(watch),
        pytest.raises(Unreachable),
        reaching(URL, 0.1),
    ):
        silent.recv(1)


def test_what_answers_in_time_is_not_spoken_of() -> None:
    said: list[str] = []
    with watching(partial(impatient, say=said.append, after=0.05)), reaching(URL, 0.1):
        pass
    time.sleep(0.15)  # neither a word nor an alarm comes late
    assert said == []


def test_of_several_the_outermost_counts() -> None:
    watch = partial(impatient, say=lambda line: None)
    with watching(watch), pytest.raises(Unreachable, match="gs://outer"):
        with reaching("gs://outer", 0.1), reaching(URL, 0.01):
            pass
        with reaching("gs://outer", 0.1), reaching(URL, PATIENCE):
            threading.Event().wait(PATIENCE)


def test_an_error_is_raised_as_it_is() -> None:
    watch = partial(impatient, say=lambda line: None)
    with watching(watch), pytest.raises(PermissionError), reaching(URL):
        raise PermissionError("403")


def test_a_path_is_not_watched_nor_a_program_that_does_not_ask_for_it() -> None:
    said: list[str] = []
    with watching(partial(impatient, say=said.append, after=0.0)), reaching("/tmp/runs", 0.01):
        time.sleep(0.05)
    with reaching(URL, 0.01):
        time.sleep(0.05)
    assert said == []
