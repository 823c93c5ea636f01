"""A machine shows what it can do; whatever goes wrong is what it has shown."""

from __future__ import annotations

import asyncio
import sys

import pytest

from trainer.agent.preflight import measured
from trainer.protocol import swell_pb2 as pb
from trainer.rundir.names import ENV_TOKEN


def shown(code: str, limit: float = 600.0, token: str = "secret") -> pb.Shown:
    command = (sys.executable, "-S", "-c", code)
    return asyncio.run(measured({"PATH": "/usr/bin", ENV_TOKEN: token}, command, limit))


def test_what_was_measured_is_what_is_shown() -> None:
    assert shown('print(\'{"memory": 2e10, "matmul": 1e11}\')') == pb.Shown(
        memory=2e10, matmul=1e11
    )


def test_a_process_that_fails_says_why() -> None:
    told = shown("import sys; sys.exit('This installation cannot train: a product is wrong')")
    assert told.failed == "This installation cannot train: a product is wrong"
    assert shown("import os; os._exit(3)").failed == "what measures it has ended with 3"


@pytest.mark.parametrize("said", ["", "nonsense", "[]", "{}", '{"memory": "x", "matmul": 1}'])
def test_what_cannot_be_understood_is_no_figure(said: str) -> None:
    assert (
        shown(f"print({said!r})").failed == "what measures it says nothing that can be understood"
    )


def test_one_that_hangs_is_ended() -> None:
    told = shown("import time; time.sleep(600)", limit=0.2)
    assert told.failed == "it could not be measured within 0.2 s"


def test_the_runs_token_is_not_passed_on() -> None:
    told = shown(f"import os, sys; sys.exit(os.environ.get({ENV_TOKEN!r}, 'none'))")
    assert told.failed == "none"
