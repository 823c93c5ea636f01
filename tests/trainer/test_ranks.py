"""The server of which the tests' processes are forked."""

from __future__ import annotations

import gc

from tests.trainer.ranks import alone


def test_processes_begin_with_all_that_they_need() -> None:
    """No module may change what the server imports by being imported: there is only one server.

    Else each of many hundreds of processes would import anew what its test needs.
    """
    assert alone(gc.get_freeze_count) > 100_000, "tests.trainer.preloaded was not imported"
