"""A worker that is an echo."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# It stands in for trainer.worker, which is slow to start: what it is told comes back in an event,
# but an order to save, which is answered with a sign of life. FIRST is run before all that.
ECHO = """
import json, os, sys, time
reads, writes = (int(fd) for fd in os.environ["SWELL_CONTROL"].split(","))
pipe = os.fdopen(writes, "w", buffering=1)
def say(op, **fields):
    print(json.dumps({"op": op, **fields}), file=pipe)
exec(os.environ.get("FIRST", ""))
say("ready")
for line in os.fdopen(reads):
    order = json.loads(line)
    if order["op"] == "exit":
        sys.exit(int(os.environ.get("EXIT", 0)))
    if order["op"] == "save":
        say("alive", waiting=True)
    elif order["op"] == "abort":
        print(os.environ["NOISE"], file=pipe)
    else:
        say("event", name="heard", fields=order)
"""


@pytest.fixture
def echo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment of a worker that is an echo."""
    package = tmp_path / "trainer"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "worker.py").write_text(ECHO)
    monkeypatch.chdir(tmp_path)  # before the real one, for python -m
    return {"PATH": os.environ["PATH"]}
