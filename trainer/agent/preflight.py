"""What this machine can do, measured before it takes part: ``elastic: {preflight: true}``.

A process of its own measures, and is gone before workers begin: it imports torch, which an agent
does without. What it has found is judged by the leader, beside what others have shown
(trainer.coordinator.preflight).
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress

from trainer.protocol import swell_pb2 as pb
from trainer.rundir.names import ENV_TOKEN
from trainer.rundir.untrusted import parse_json

COMMAND = (sys.executable, "-m", "trainer.health", "--preflight")
LIMIT = 120.0  # seconds; it takes five, and a minute where torch is read from a slow disk
LAST = 200  # characters of what a process that has failed said last


async def measured(
    env: Mapping[str, str], command: Sequence[str] = COMMAND, limit: float = LIMIT
) -> pb.Shown:
    """Measures this machine; whatever goes wrong is what it has shown.

    Args:
        env: the environment; the run's token is left out of the process's.
        command: what measures.
        limit: seconds that it may take.
    """
    process = await asyncio.create_subprocess_exec(
        *command,
        env={key: value for key, value in env.items() if key != ENV_TOKEN},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, errors = await asyncio.wait_for(process.communicate(), limit)
    except asyncio.TimeoutError:
        return pb.Shown(failed=f"it could not be measured within {limit:g} s")
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    if process.returncode != 0:
        last = errors.decode("utf-8", "replace").strip().rpartition("\n")[2][-LAST:]
        return pb.Shown(failed=last or f"what measures it has ended with {process.returncode}")
    try:
        found = parse_json(out)
        return pb.Shown(memory=float(found["memory"]), matmul=float(found["matmul"]))
    except (ValueError, KeyError, TypeError, OverflowError, json.JSONDecodeError):
        return pb.Shown(failed="what measures it says nothing that can be understood")
