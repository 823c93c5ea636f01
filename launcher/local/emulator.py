"""The local target's emulator: a process of its own, which outlives the launch that started it.

Each run has one, on the state in ``SWELL_HOME/runs/<id>/local``. A launch finds it there, or
starts it on what an earlier one has left; when the run has ended, it stops it. Should the launch be
killed, the VMs train on, and the emulator ends by itself when nothing runs any more.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, Request, build_opener

from launcher.emulator.state import Whereabouts, in_use, whereabouts
from launcher.emulator.token import read_token
from launcher.emulator.vms import netns
from launcher.emulator.vms.life import anything_lives, kill_all
from launcher.interruption import deferred
from launcher.job.marketfile import Incident, Market, market_to_json
from launcher.job.sizes import Size
from trainer.rundir.private import append_private, make_private, write_private
from trainer.rundir.usererror import UserError

START_LIMIT = 60.0  # seconds
STOP_LIMIT = 20.0
IDLE = "30s"  # without a launch and without VMs
LOOK_EVERY = 0.02
NOT_STARTED = "SW2201"
SILENT = "SW2202"  # the message about an emulator that does not answer


class LocalError(UserError, RuntimeError):
    """The local target does not work as it should."""


class Emulator:
    """The emulator of one state directory. For several threads.

    Args:
        state: its folder: jobs, logs.
        buckets: the folder of the buckets that its VMs find at ``gs://``.
        market: what its Spot market does.
        vm: what a VM is: "process", "netns" or "container".
        memory: the most bytes that a container may use; None for its machine's own.
    """

    def __init__(
        self,
        state: Path,
        buckets: Path,
        market: list[Incident] | Market,
        vm: str = "process",
        memory: int | None = None,
    ) -> None:
        self._state = state
        self._buckets = buckets
        self._market = market
        self._vm = vm
        self._memory = memory
        self._child: subprocess.Popen[bytes] | None = None
        self._stopped = False
        self._changing = threading.Lock()
        self.endpoint = ""
        self.token = ""

    def start(self) -> None:
        """Finds the emulator, or starts it.

        Raises LocalError when it does not start, or when it was stopped here.
        """
        with self._changing:
            if self._stopped:
                raise LocalError("SW2214", "the emulator was stopped, and its VMs with it")
            try:
                where = self._found() or self._started()
                token = read_token(self._state).text
            except LocalError:
                raise
            except (OSError, UserError) as error:
                raise LocalError(NOT_STARTED, f"the emulator did not start: {error}") from None
            self.endpoint, self.token = where.endpoint, token

    def stop(self) -> None:
        """Stops it and everything that it started, and waits until all that is gone."""
        with self._changing:
            self._stopped = True
            stop(self._state)
            self._reap()

    @property
    def has_vms(self) -> bool:
        """Whether VMs live, its own or those of an earlier one."""
        return anything_lives(self._state / "vms")

    def _found(self) -> Whereabouts | None:
        """Where the emulator is, if there is one, once it serves."""
        deadline = time.monotonic() + START_LIMIT
        while in_use(self._state):
            if (where := whereabouts(self._state)) and where.endpoint:
                return where
            if time.monotonic() > deadline:
                raise self._problem()
            time.sleep(LOOK_EVERY)
        return None

    def _started(self) -> Whereabouts:
        make_private(self._state)
        market = self._state / "market.json"
        text = json.dumps(market_to_json(self._market), indent=1) + "\n"
        if not market.exists() or market.read_text() != text:
            write_private(market, text)
        options = ["--state", str(self._state), "--market", str(market)]
        options += ["--buckets", str(self._buckets), "--vm", self._vm, "--idle", IDLE]
        options += ["--memory", str(Size(self._memory))] if self._memory else []
        self._reap()
        try:
            with deferred():
                self._child = self._spawn(options)
            self._await_line(self._child)
            if where := self._found():
                return where
        except BaseException:
            if self._child is not None:
                self._child.kill()  # nobody knows of it yet; VMs of an earlier one live on
                self._child.wait()
            raise
        raise self._problem()

    def _spawn(self, options: list[str]) -> subprocess.Popen[bytes]:
        with append_private(self._state / "emulator.log") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "launcher.emulator", *options],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=child_environment(),
                start_new_session=True,  # Ctrl-C, or the end of a terminal, is not for it
            )

    def _await_line(self, child: subprocess.Popen[bytes]) -> None:
        """Returns when it has printed a line, or has ended: another may have been quicker."""
        assert child.stdout
        with child.stdout:
            if not select.select([child.stdout], [], [], START_LIMIT)[0]:
                raise self._problem()
            child.stdout.readline()

    def _problem(self) -> LocalError:
        log = self._state / "emulator.log"
        said = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
        why = said[-1] if said else "it said nothing"
        return LocalError(NOT_STARTED, f"the emulator did not start: {why} (more in {log})")

    def _reap(self) -> None:
        """Lets go of a child that has ended. (One that lives is left to whoever adopts it.)"""
        if self._child and self._child.poll() is not None:
            self._child = None


def goes_on(state: Path) -> bool:
    """Whether an emulator works on a state, or VMs live that one has left there."""
    return in_use(state) or anything_lives(state / "vms")


def stop(state: Path) -> bool:
    """Stops the emulator that works on a state, and all VMs, whether one works on it or not.

    Returns whether there was anything to stop. Raises OSError.
    """
    there = goes_on(state)
    while in_use(state):
        where = whereabouts(state)
        if where is None or not _ended(state, where):
            time.sleep(LOOK_EVERY)  # it has only just begun, or ended
    if there:
        kill_all(state / "vms")  # of one that was killed, or had to be
        netns.collect()
    return there


def _ended(state: Path, where: Whereabouts) -> bool:
    """Ends an emulator. Returns whether that one was found."""
    try:
        process = os.pidfd_open(where.pid)
    except ProcessLookupError:
        return False
    try:
        if whereabouts(state) != where:  # it may be another process of that number
            return False
        for number, limit in ((signal.SIGTERM, STOP_LIMIT), (signal.SIGKILL, None)):
            signal.pidfd_send_signal(process, number)
            if select.select([process], [], [], limit)[0]:
                break
    finally:
        os.close(process)
    return True


class Replicas:
    """The emulator's own routes for one job: what it knows about its VMs, and what befalls them.

    Args:
        endpoint: base URL of the emulator.
        job: the CustomJob's resource name.
        token: the emulator's.
    """

    def __init__(self, endpoint: str, job: str, token: str) -> None:
        self._token = token
        self._base = f"{endpoint}/emulator/v1/{job}/replicas"

    @classmethod
    def of_state(cls, state: Path, job: str) -> Replicas:
        """Returns those of the emulator that works on a state directory.

        Raises LocalError when there is none, or it is not this user's alone.
        """
        where = whereabouts(state)
        if where is None or not where.endpoint:
            raise LocalError(SILENT, "the emulator does not answer: it has ended, or only starts")
        try:
            return cls(where.endpoint, job, read_token(state).text)
        except OSError as error:
            raise LocalError(SILENT, f"the emulator does not answer: {error}") from None

    def list(self) -> list[dict[str, Any]]:
        """Returns ``[{"replica", "state", "address", "restarts", "pid"}]``. Raises LocalError."""
        return list(self._send(self._base))

    def preempt(self, replica: str, notice: str | None) -> None:
        """Takes a VM away; without a notice it just vanishes. Raises LocalError."""
        self._send(
            f"{self._base}/{replica}:preempt", {"notice": notice} if notice else {"silent": True}
        )

    def restore(self, replica: str) -> None:
        """Gives a VM back under its old name. Raises LocalError."""
        self._send(f"{self._base}/{replica}:restore", {})

    def _send(self, url: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {
            "Content-Type": "application/json",
            "Authorization": f"Bearer {self._token}",
        }
        request = Request(url, data, headers)
        try:
            # Without the proxies of the environment: this never leaves the machine.
            with build_opener(ProxyHandler({})).open(request, timeout=30) as response:
                return json.load(response)
        except HTTPError as error:
            try:
                said = str(json.load(error)["error"]["message"])
            except (ValueError, KeyError, TypeError):
                said = f"the emulator answered {error.code}; see its log, emulator.log"
            raise LocalError("SW2203", said) from None
        except (URLError, OSError, ValueError) as error:
            raise LocalError(SILENT, f"the emulator does not answer: {error}") from None


def child_environment() -> dict[str, str]:
    """Returns this environment, with the launcher importable from any folder."""
    root = str(Path(__file__).parents[2])
    path = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
