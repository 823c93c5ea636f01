"""No input makes a decoder crash, hang or take memory without end.

A few inputs for each decoder in the usual tests; ``make fuzz`` gives them 100,000, other ones
each time (the seed is printed).
"""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz import between_vms, files_and_answers, run_directory
from tests.fuzz.target import TARGETS

assert between_vms and files_and_answers and run_directory  # which have the targets

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "40"))  # of each target
HANG = 20.0  # seconds of CPU for one input; only a hang takes as long
MEMORY = 600 * 2**20  # bytes that all inputs of one target may add at their worst


def _hangs(number: int, frame: FrameType | None) -> None:
    raise AssertionError(f"an input has kept its decoder busy for {HANG:.0f} s")


@pytest.fixture(scope="module")
def alarm() -> Iterator[None]:
    before = signal.signal(signal.SIGVTALRM, _hangs)
    yield
    signal.signal(signal.SIGVTALRM, before)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", TARGETS)
def test_no_input_is_too_much(name: str, alarm: None) -> None:
    target = TARGETS[name]

    @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def fuzz(data: Any) -> None:
        value = data.draw(target.inputs)
        signal.setitimer(signal.ITIMER_VIRTUAL, HANG)
        try:
            target.take_in(value)
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)

    before = _peak()
    fuzz()
    assert _peak() - before < MEMORY


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
