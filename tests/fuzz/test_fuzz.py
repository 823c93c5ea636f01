"""No input makes a decoder crash, hang or take memory without end.

A few inputs for each decoder in the usual tests; ``make fuzz`` gives them 100,000, other ones
each time (the seed is printed).
"""

from __future__ import annotations

import os
import random
import resource
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from tests.fuzz import between_vms, files_and_answers, run_directory
from tests.fuzz.inputs import vary
from tests.fuzz.target import TARGETS

assert between_vms and files_and_answers and run_directory  # which have the targets

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "20"))  # of each target
VARIANTS = int(os.environ.get("FUZZ_VARIANTS", "4"))  # of each example, besides itself
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
        chance = random.Random(data.draw(st.integers(0, 2**32)))
        for variant in (value, *(vary(value, chance) for _ in range(VARIANTS))):
            signal.setitimer(signal.ITIMER_VIRTUAL, HANG)
            try:
                target.take_in(variant)
            except BaseException:
                note(f"taken in: {variant!r}")
                raise
            finally:
                signal.setitimer(signal.ITIMER_VIRTUAL, 0)

    before = _peak()
    fuzz()
    assert _peak() - before < MEMORY


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
