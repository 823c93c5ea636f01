"""What is trained with Swell has the parameters that plain PyTorch gives it.

Cases in which every two values of the grid meet; ``make fuzz`` takes other ones, at random::

    FUZZ_CASES=1000 pytest tests/conformance --hypothesis-profile=explore

One case alone, of either::

    CONFORMANCE_CASE=AdamW+clip+tied+reentrant+short+3 pytest tests/conformance/test_conformance.py
"""

from __future__ import annotations

import os

import pytest

from tests.conformance.cases import Case, at_random, in_pairs
from tests.conformance.fleet import Fleet
from tests.conformance.journey import journey
from tests.conformance.report import differences


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" not in metafunc.fixturenames:
        return
    if "CONFORMANCE_CASE" in os.environ:
        cases = [Case.parse(os.environ["CONFORMANCE_CASE"])]
    elif "FUZZ_CASES" in os.environ:
        seed = metafunc.config.getoption("--hypothesis-seed")
        cases = at_random(str(seed), int(os.environ["FUZZ_CASES"]))
    else:
        cases = in_pairs()
    metafunc.parametrize("case", cases, ids=str)


def test_training_with_swell_is_training_with_plain_pytorch(case: Case, fleet: Fleet) -> None:
    print(f"CONFORMANCE_CASE={case} pytest tests/conformance")  # seen when the test fails
    plain = fleet.plainly(case)
    wrong = [
        f"member {member}: {what}"
        for member, report in sorted(fleet.elastically(case).items())
        for what in differences(plain, report, journey(case), member)
    ]
    assert not wrong, "\n".join(wrong)
