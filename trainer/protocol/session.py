"""What an agent tells a worker process when it starts it, besides worlds."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from typing import Any

from trainer.rundir.directory import RunDirectory

ENV_SESSION = "SWELL_SESSION"


@dataclass(frozen=True)
class Session:
    """A worker's surroundings.

    Attributes:
        run_dir_url: the run directory, None outside a run.
        writer: a name for this worker's files that no other process uses.
        slot: which of its machine's workers it is, from 0; also its GPU.
        spare: whether it stands by beside an active worker, and must stay off its GPU.
        task: ``module:Class`` or ``path.py:Class``.
        task_args: keyword arguments of the task's class.
        script: the path of a script to run instead of a task.
        module: the name of a module to run instead of a task.
        args: the script's or module's arguments.
        balance: ``even`` shares of the batch, or shares that follow the workers' ``speed``.
        checkpoint_every: seconds between checkpoints; 0 for none by time.
        checkpoint_every_steps: steps between checkpoints; 0 for none by steps.
        checkpoint_keep, checkpoint_keep_every, checkpoint_keep_best: see checkpoints.retention.
        checkpoint_from: the URL of a checkpoint that a new run begins from; "" for none.
        checkpoint_urls: of the directories that have the run's checkpoints; new ones are written
            to the first. Empty: those of the run directory.
        job_sha256: the job's checksum, for the record.
        audit: whether to log the sample ids of every step.
        code_folder: where the user's code is, if the run brought it along: see trainer.agent.code.
        code_installed: where that is which the code requires; "" if it requires nothing.
    """

    run_dir_url: str | None = None
    writer: str = "alone"
    slot: int = 0
    spare: bool = False
    task: str = ""
    task_args: dict[str, Any] = field(default_factory=dict)
    script: str = ""
    module: str = ""
    args: list[str] = field(default_factory=list)
    balance: str = "even"
    checkpoint_every: float = 30.0
    checkpoint_every_steps: int = 0
    checkpoint_keep: int = 2
    checkpoint_keep_every: int = 0
    checkpoint_keep_best: str = ""
    checkpoint_from: str = ""
    checkpoint_urls: list[str] = field(default_factory=list)
    job_sha256: str = ""
    audit: bool = False
    code_folder: str = ""
    code_installed: str = ""

    @property
    def run_dir(self) -> RunDirectory | None:
        """The run directory, opened; None outside a run."""
        return None if self.run_dir_url is None else RunDirectory(self.run_dir_url)

    @property
    def checkpoint_dirs(self) -> list[RunDirectory]:
        """Those of ``checkpoint_urls``, opened."""
        return [RunDirectory(url) for url in self.checkpoint_urls]

    def to_env(self) -> dict[str, str]:
        """The environment variables that carry this session to a worker."""
        return {ENV_SESSION: json.dumps(asdict(self))}


def current_session() -> Session:
    """The session that an agent left in the environment, or that of a lone process."""
    text = os.environ.get(ENV_SESSION)
    return Session() if text is None else Session(**json.loads(text))
