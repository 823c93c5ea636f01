"""A run's controller: ``python -m launcher.controller``, the program of its CustomJob.

It looks after the run as ``swell attach`` does, from the run directory and what it was entrusted
with, and writes what it does to its log. It ends with 0 when the run has ended, or when another
controller has relieved it. With 134 it is started again; with 1 it is not, for nothing would come
of it.

Vertex AI starts it again a few times only. So it does not end by what may pass (a store, an API or
a role that is missing for a while): it tries again, for an hour.
"""

from __future__ import annotations

import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from types import FrameType
from typing import TextIO

from launcher import home
from launcher.api.apierror import ApiError
from launcher.api.client import import_client
from launcher.api.retry import Retries
from launcher.api.vertex import Jobs, own_endpoint
from launcher.draft import Draft, LaunchError, reopen
from launcher.job.controllerjob import (
    ENV_EMULATOR,
    ENV_EMULATOR_TOKEN,
    ENV_NUMBER,
    ENV_TRUST,
    ENV_TRUST_SECRET,
)
from launcher.job.machines import LOCAL
from launcher.job.yamlfile import FileError
from launcher.oversight import Oversight, oversight_of
from launcher.run import webhook_of
from launcher.supervision.attendance import Relieved, read_attendants
from launcher.supervision.duty import Duty
from launcher.target import LOCAL_BACKOFF, LOCAL_BEAT, LOCAL_SETTLE, Target, vertex
from launcher.terminal import visible
from launcher.trust import Trust
from trainer.protocol.secretmanager import read_secret
from trainer.rundir.directory import RunDirectory
from trainer.rundir.formats import version
from trainer.rundir.names import (
    ENV_RUN_DIR,
    ENV_RUN_ID,
    ENV_SCRATCH,
    EXIT_FAILED,
    EXIT_OK,
    EXIT_REPLACE,
    EXIT_RETRY,
)
from trainer.rundir.retry import Backoff
from trainer.rundir.usererror import Unusable, UserError, shown

MISSING = "SW2035"  # the message about a controller that was not started by a launch
DAMAGED = "SW2036"  # the message about what it was entrusted with, if that cannot be read
FINAL = (FileError, LaunchError, Unusable, home.RunError)  # nothing comes of another try
TRANSIENT = (ApiError, UserError, OSError)  # of these something may; FINAL are UserErrors, too
TROUBLE = Backoff(first=5.0, longest=300.0, limit=3600.0)


@dataclass(frozen=True)
class Order:
    """Which run a controller looks after, and as what.

    Attributes:
        run_dir: URL of the run directory.
        run_id: the run.
        number: the controller's, from 1.
        trust: what it was entrusted with.
    """

    run_dir: str
    run_id: str
    number: int
    trust: Trust


def order_of(env: Mapping[str, str]) -> Order:
    """Returns what the environment says.

    Raises Unusable when that is not what a launch writes, OSError when Secret Manager, which has
    part of it, does not answer.
    """
    text = env.get(ENV_TRUST, "")
    where = ENV_TRUST
    if not text and (version := env.get(ENV_TRUST_SECRET)):
        where, text = version, read_secret(version, env)
    needed = {name: env.get(name, "") for name in (ENV_RUN_DIR, ENV_RUN_ID, ENV_NUMBER)}
    missing = [name for name, value in [*needed.items(), (ENV_TRUST, text)] if not value]
    if missing:
        what = f"{' and '.join(missing)} must be set"
        raise Unusable(MISSING, f"{what}: swell launch JOB --controller starts a controller")
    number = needed[ENV_NUMBER]
    if not (number.isascii() and number.isdecimal() and 0 < len(number) < 10 and int(number)):
        raise Unusable(MISSING, f"{ENV_NUMBER} is {number[:20]!r}; it is a controller's number")
    try:
        trust = Trust.parse(text)
    except ValueError as error:
        raise Unusable(
            DAMAGED, f"{where} is not what a launch entrusts a controller with: {error}"
        ) from None
    return Order(needed[ENV_RUN_DIR], needed[ENV_RUN_ID], int(number), trust)


def target_of(draft: Draft, env: Mapping[str, str]) -> Target:
    """Returns where a controller sends CustomJobs: Vertex AI, or the emulator whose VM it is."""
    via, token = env.get(ENV_EMULATOR, ""), env.get(ENV_EMULATOR_TOKEN, "")
    if not via:
        return vertex(draft.job)

    @cache
    def jobs(region: str) -> Jobs:
        retries = Retries(LOCAL_BACKOFF)
        project = draft.job.project or LOCAL
        return Jobs(
            project, region, own_endpoint(region, env), via=via, token=token, retries=retries
        )

    if draft.target == "vertex":
        return Target(jobs, secrets=via, token=token)
    return Target(
        jobs,
        poll=0.25,
        settle=LOCAL_SETTLE,
        stop_grace=60.0,
        apart=15.0,
        secrets=via,
        token=token,
        beat=LOCAL_BEAT,
    )


def look_after(order: Order, env: Mapping[str, str]) -> None:
    """Sees a run through, or until another controller takes over.

    Raises Relieved then, and what keeps it from going on.
    """
    order.trust.keep(order.run_id)
    draft = reopen(RunDirectory(order.run_dir), order.trust)
    target = target_of(draft, env)
    duties: list[Duty] = []

    def leave() -> None:
        for duty in duties:
            duty.end()

    with ExitStack() as resources:
        # Last, when the webhook has been told: until then another life of it would tell that.
        resources.callback(leave)
        attendants = read_attendants(draft.directory)
        missed = any(it.controller and not it.left for it in attendants.values())
        listener = resources.enter_context(webhook_of(draft, late=missed))
        seen: Oversight = oversight_of(
            draft, target, resources, listener=listener, sleep=time.sleep, own=order.number
        )
        duties.append(seen.duty)
        _say(f"looks after run {order.run_id} in {order.run_dir} as its controller {order.number}")
        outcome = seen.supervisor.run()
        seen.duty.close()
    _say(f"run {order.run_id} has ended: {outcome.get('state')}")


def main(env: Mapping[str, str] = os.environ, sleep: Callable[[float], object] = time.sleep) -> int:
    """Runs the controller. Returns the process's exit code.

    With ``--check`` it says whether it could: an image that has not what it needs is not made.

    Args:
        env: what it was started with.
        sleep: waits for so many seconds.
    """
    if sys.argv[1:] == ["--check"]:
        return _check()
    signal.signal(signal.SIGTERM, _terminated)
    # A folder of its own: on a local VM this user's home is not the controller's.
    os.environ["SWELL_HOME"] = env.get(ENV_SCRATCH) or tempfile.mkdtemp(prefix="swell-")
    try:
        _patiently(lambda: look_after(order_of(env), env), sleep)
    except Relieved:
        _say("another controller looks after the run; this one ends")
    except FINAL as error:
        _say(shown(error), sys.stderr)
        return EXIT_FAILED
    except TRANSIENT as error:
        _say(shown(error), sys.stderr)
        return EXIT_RETRY
    except KeyboardInterrupt:
        _say("it is stopped; the run goes on, and another may look after it")
        return EXIT_REPLACE
    return EXIT_OK


def _patiently(do: Callable[[], None], sleep: Callable[[float], object]) -> None:
    """Does it, again after what may pass; raises that when it has not passed for long."""
    waits = TROUBLE.waits()
    while True:
        began = time.monotonic()
        try:
            return do()
        except FINAL:
            raise
        except TRANSIENT as error:
            if time.monotonic() - began >= TROUBLE.limit:  # this is another trouble
                waits = TROUBLE.waits()
            if (wait := next(waits, None)) is None:
                raise
            _say(f"{shown(error)}; trying again in {wait:.0f} s", sys.stderr)
            sleep(wait)


def _check() -> int:
    try:
        import_client()
        import cryptography  # noqa: F401
        import gcsfs  # noqa: F401
        import google.auth  # noqa: F401
    except ImportError as error:
        _say(f"it cannot look after runs: {error}", sys.stderr)
        return EXIT_FAILED
    _say(f"Swell {version()} on Python {platform.python_version()} can look after runs")
    return EXIT_OK


def _terminated(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def _say(text: str, out: TextIO = sys.stdout) -> None:
    for line in text.splitlines():
        print(f"swell controller: {visible(line)}", file=out, flush=True)


if __name__ == "__main__":
    sys.exit(main())
