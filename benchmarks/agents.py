"""Swell's agents without a launcher: what runs on the VMs, and nothing else on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.protocol.authority import new_secret
from trainer.protocol.credentials import fingerprint
from trainer.rundir import formats
from trainer.rundir.directory import RunDirectory
from trainer.rundir.names import ENV_ADDRESS, ENV_RUN_DIR, ENV_SLOTS, ENV_TOKEN

# Where nothing listens: no agent of a benchmark asks this machine's real metadata server.
NO_METADATA = "127.0.0.1:1"

Command = Callable[[Sequence[str]], list[str]]


class Agents:
    """One agent per replica, and the run that they belong to.

    Args:
        folder: where the run directory and the agents' output go.
        addresses: of the replicas; the first is pool 0's.
        settings: of the run, see trainer.agent.settings.
        env: the environment for everything.
    """

    def __init__(
        self,
        folder: Path,
        addresses: Sequence[str],
        settings: Mapping[str, Any],
        env: Mapping[str, str],
    ) -> None:
        self.run_dir = RunDirectory(str(folder / "run"))
        self._folder = folder
        self._addresses = addresses
        self._env = env
        self._token = new_secret()
        self.run_dir.create_json(
            "run.json",
            {
                "id": folder.name,
                "settings": dict(settings),
                "authority_sha256": fingerprint(self._token),
                "created": time.time(),
                "by": "benchmarks",
                **formats.RUN.stamp(),
            },
        )

    def start(self, index: int, command: Command = list) -> subprocess.Popen[bytes]:
        """Starts the agent of one replica. ``command`` puts it where it is to run."""
        with (self._folder / f"agent-{index}.log").open("ab") as log:
            return subprocess.Popen(
                command([sys.executable, "-m", "trainer.agent"]),
                env=self._environment(index),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _environment(self, index: int) -> dict[str, str]:
        others = len(self._addresses) - 1
        cluster = {"workerpool0": ["pool0:2222"]}
        if others:
            cluster["workerpool1"] = [f"pool1-{one}:2222" for one in range(others)]
        task = (
            {"type": "workerpool1", "index": index - 1}
            if index
            else {"type": "workerpool0", "index": 0}
        )
        return {
            **os.environ,
            **self._env,
            ENV_RUN_DIR: self.run_dir.url,
            ENV_TOKEN: self._token,
            ENV_ADDRESS: self._addresses[index],
            ENV_SLOTS: "1",
            "CLUSTER_SPEC": json.dumps({"cluster": cluster, "task": task}),
            "GCE_METADATA_HOST": NO_METADATA,
        }
