"""From an environment to a running agent: which run it is, who this is, and how that ends."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from socket import socket

from trainer.agent.agent import Agent, Broken, Rejoin
from trainer.agent.code import bring
from trainer.agent.link import Refused
from trainer.agent.networks import between_jobs, settings_here
from trainer.agent.nursery import Nursery, given_nursery
from trainer.agent.preflight import measured
from trainer.agent.replica import find_replica, hostname_trap, parse_cluster_spec
from trainer.agent.settings import read_run
from trainer.protocol.credentials import find_credentials
from trainer.protocol.lease import newest_claim
from trainer.rundir.directory import RunDirectory
from trainer.rundir.events import EventWriter
from trainer.rundir.names import ENV_ATTEMPT, ENV_RUN_DIR, EXIT_FAILED, EXIT_REPLACE, EXIT_RETRY
from trainer.rundir.retry import START_LIMIT, UNREACHABLE, patiently
from trainer.rundir.usererror import Unusable, shown
from trainer.telemetry.logs import configure

log = logging.getLogger("swell.agent")


async def serve(env: Mapping[str, str], nursery_line: socket | None = None) -> int:
    """Runs the agent that ``env`` describes. Returns its exit code.

    Args:
        env: its environment.
        nursery_line: see Nursery.

    Raises ValueError, for the user, when the environment, run directory or code is unusable.
    """
    url = env.get(ENV_RUN_DIR)
    if not url:
        raise Unusable("SW4001", f"{ENV_RUN_DIR} must be set: start the image with swell launch")
    run_dir = RunDirectory(url)
    run, settings = read_run(run_dir)
    credentials = find_credentials(env, run)
    claim = patiently(lambda: newest_claim(run_dir), limit=START_LIMIT)  # its holder is a peer
    replica = find_replica(env, claim.target.rpartition(":")[0] if claim else "")
    if settings.fleet is not None:  # every job has a workerpool0-0
        replica = replace(replica, name=f"{credentials.attempt}/{replica.name}")
        added, why = between_jobs(env, replica.interface)
    else:
        added, why = settings_here(env)
    if why:
        print(f"swell-agent: {why}", flush=True)
    if trap := hostname_trap(replica.address):
        log.warning("%s", trap)
    if settings.preflight:
        replica = replace(replica, shown=await measured(env))
    settings = await asyncio.to_thread(bring, run_dir, settings, env)
    nursery = Nursery.of_run(settings, nursery_line)
    return await Agent(replica, run_dir, settings, credentials, {**env, **added}, nursery).run()


def main() -> int:
    """Runs the agent that this process's environment describes. Returns its exit code."""
    configure(os.environ, sys.stdout, os.environ.get("HOSTNAME", ""))
    try:
        return asyncio.run(serve(os.environ, given_nursery(os.environ)))
    except Rejoin as reason:
        log.info("starting again as a new member: %s", reason)
        os.execv(sys.executable, [sys.executable, "-m", "trainer.agent"])
    except Broken as reason:
        print(f"swell-agent: this machine is at fault: {reason}", file=sys.stderr)
        return EXIT_REPLACE
    except (ValueError, Refused) as error:
        print(f"swell-agent: {shown(error)}", file=sys.stderr)
        tell(os.environ, shown(error))
        return EXIT_FAILED
    except OSError as error:
        why = shown(error, UNREACHABLE)
        print(f"swell-agent: what the run is kept in does not answer: {why}", file=sys.stderr)
        tell(os.environ, f"what the run is kept in does not answer: {why}")  # perhaps by now
        return EXIT_RETRY
    except Exception as error:  # a fault: its traceback is in the log
        tell(os.environ, f"its agent has failed: {type(error).__name__}: {error}")
        raise


def tell(env: Mapping[str, str], why: str) -> None:
    """Puts on record why this replica cannot take part, where its run's user looks."""
    with suppress(Exception):  # what is wrong may be any of this
        name, _ = parse_cluster_spec(env.get("CLUSTER_SPEC"))
        writer = f"replica-{name}-{secrets.token_hex(4)}"
        events = EventWriter(RunDirectory(env[ENV_RUN_DIR]), writer)
        events.emit("agent_failed", member=name, attempt=int(env[ENV_ATTEMPT]), reason=why)
        events.flush()
