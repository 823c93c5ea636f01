"""Property tests are repeatable by default, and explore when asked.

``make test`` runs the same examples every time, and ``make quick`` a few of them.
``pytest --hypothesis-profile=explore`` runs new ones, and more, from a seed that is printed;
``--hypothesis-seed=SEED`` runs those again.
"""

from __future__ import annotations

import gc
import random
import signal
from collections.abc import Generator

import pytest
from hypothesis import settings

from tests.turns import in_turn

settings.register_profile("repeatable", derandomize=True, deadline=None, print_blob=True)
settings.register_profile("quick", settings.get_profile("repeatable"), max_examples=10)
settings.register_profile("explore", max_examples=1000, deadline=None, print_blob=True)
settings.load_profile("repeatable")


@pytest.hookimpl(tryfirst=True)  # before Hypothesis reads its seed
def pytest_configure(config: pytest.Config) -> None:
    # What a shell starts in the background ignores Ctrl-C, and by nohup that a terminal hangs up;
    # and so would all that this process starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    exploring = config.getoption("--hypothesis-profile") == "explore"
    if exploring and config.getoption("--hypothesis-seed") is None:
        config.option.hypothesis_seed = str(random.getrandbits(32))


def pytest_report_header(config: pytest.Config) -> str:
    seed = config.getoption("--hypothesis-seed")
    return f"hypothesis seed: {seed if seed is not None else 'none (derandomized)'}"


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is imported and collected stays: nobody looks for garbage in it, now or later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    workers = getattr(config, "workerinput", {"workercount": 1})["workercount"]
    if workers > 1:
        items[:] = in_turn(items, lambda item: item.nodeid.partition("::")[0], workers)
