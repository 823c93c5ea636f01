"""The local target: the emulator as a child of the launch.

The child has its own session, so that Ctrl-C reaches only the launch, and the launch
holds its standard input: however the launch ends, even killed, the emulator sees the end
of its input, kills its VMs and exits.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, Request, build_opener

from launcher.emulator.token import read_token
from launcher.job.marketfile import Incident, Market, market_to_json
from launcher.job.sizes import Size
from trainer.rundir.private import make_private
from trainer.rundir.usererror import UserError

START_LIMIT = 60.0  # seconds
STOP_LIMIT = 20.0


class LocalError(UserError, RuntimeError):
    """The local target does not work as it should."""


class Emulator:
    """A running emulator; leaving the context stops it and everything that it started.

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
        self.endpoint = ""
        self.token = ""

    def __enter__(self) -> Emulator:
        make_private(self._state)
        market = self._state / "market.json"
        market.write_text(json.dumps(market_to_json(self._market), indent=1) + "\n")
        options = ["--port", "0", "--state", str(self._state), "--market", str(market)]
        options += ["--buckets", str(self._buckets), "--vm", self._vm]
        options += ["--memory", str(Size(self._memory))] if self._memory else []
        with (self._state / "emulator.log").open("ab") as log:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "launcher.emulator", *options, "--until-eof"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=child_environment(),
                start_new_session=True,
            )
        try:
            self.endpoint = self._read_endpoint(self._child)
            self.token = read_token(self._state).text
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stops the emulator and waits until it is gone."""
        child = self._child
        if child is None:
            return
        assert child.stdin and child.stdout
        child.stdin.close()
        child.stdout.close()
        try:
            child.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        self._child = None

    def _read_endpoint(self, child: subprocess.Popen[bytes]) -> str:
        assert child.stdout
        deadline = time.monotonic() + START_LIMIT
        line = b""
        while not line.endswith(b"\n"):
            wait = max(0.0, deadline - time.monotonic())
            ready, _, _ = select.select([child.stdout], [], [], wait)
            piece = os.read(child.stdout.fileno(), 4096) if ready else b""
            if not piece:
                log = self._state / "emulator.log"
                said = log.read_text(errors="replace").strip().splitlines()
                why = said[-1] if said else "it said nothing"
                raise LocalError("SW2201", f"the emulator did not start: {why} (more in {log})")
            line += piece
        return str(json.loads(line)["endpoint"])


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
        try:
            token = read_token(state).text
            endpoint = json.loads((state / "emulator.json").read_bytes())["endpoint"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise LocalError("SW2202", f"the emulator does not answer: {error}") from None
        return cls(str(endpoint), job, token)

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
                said = f"the emulator answered {error.code}"
            raise LocalError("SW2203", said) from None
        except (URLError, OSError, ValueError) as error:
            raise LocalError("SW2202", f"the emulator does not answer: {error}") from None


def child_environment() -> dict[str, str]:
    """Returns this environment, with the launcher importable from any folder."""
    root = str(Path(__file__).parents[2])
    path = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
