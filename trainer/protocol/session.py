"""What an agent tells a worker process when it starts it, besides worlds.

Plain dataclasses: a worker starts without pydantic, which alone would take it a tenth of a second.
What comes from run.json, the agent has checked (see trainer.agent.settings).
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from typing import Any

from trainer.rundir.directory import RunDirectory

ENV_SESSION = "SWELL_SESSION"


@dataclass(frozen=True)
class Program:
    """What a worker runs: one of task, script and module.

    Attributes:
        task: ``module:Class`` or ``path.py:Class``.
        task_args: keyword arguments of the task's class.
        script: the path of a script.
        module: the name of a module.
        args: the script's or module's arguments.
    """

    task: str = ""
    task_args: dict[str, Any] = field(default_factory=dict)
    script: str = ""
    module: str = ""
    args: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return self.task or self.script or self.module


@dataclass(frozen=True)
class CheckpointSettings:
    """When checkpoints are written, which of them stay, and where a new run begins.

    Attributes:
        every: seconds between checkpoints; 0 for none by time.
        every_steps: steps between checkpoints; 0 for none by steps.
        keep, keep_every, keep_best: see trainer.checkpoints.retention.
        start_from: the URL of a checkpoint that a new run begins from; "" for none.
        override: settings of the optimizers, by name, that count more than its.
        rename, fresh: how weights of another program fit; see trainer.engine.fitting.
    """

    every: float = 30.0
    every_steps: int = 0
    keep: int = 2
    keep_every: int = 0
    keep_best: str = ""
    start_from: str = ""
    override: dict[str, float] = field(default_factory=dict)
    rename: dict[str, str] = field(default_factory=dict)
    fresh: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class CodeSettings:
    """The user's code that a run brings along: see trainer.agent.code.

    Attributes:
        sha256: the hash of its content.
        size: bytes of all its files together.
        requirements: the file in it that lists what it requires; "" if it requires nothing.
        folder: where it is on this VM, once it is there; not in run.json.
        installed: where on this VM its requirements are; "" if it has none.
    """

    sha256: str
    size: int
    requirements: str = ""
    folder: str = ""
    installed: str = ""


@dataclass(frozen=True)
class TorchrunSettings:
    """How a script or module is run in the manner of torchrun: anew in each generation.

    Attributes:
        max_restarts: how many worlds in a row may fail by the script's own fault, and without
            progress, before the run has failed.
        sizes: the worlds that it may run in, in workers; none for the full one alone.
        grace: seconds that its processes have to end by themselves when a world is left.
        progress: what a step's line of its output looks like: see trainer.worker.reports.
        preload: modules that are imported before a world forms, besides torch.
    """

    max_restarts: int = 3
    sizes: list[int] = field(default_factory=list)
    grace: float = 30.0
    progress: str = ""
    preload: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Session:
    """A worker's surroundings.

    Attributes:
        run_dir_url: the run directory, None outside a run.
        writer: a name for this worker's files that no other process uses.
        slot: which of its machine's workers it is, from 0; also its GPU.
        spare: whether it stands by beside an active worker, and must stay off its GPU.
        program: what it runs.
        checkpoint: what the job says of checkpoints.
        checkpoint_urls: of the directories that have the run's checkpoints; new ones are written
            to the first. Empty: those of the run directory.
        code: the code that the run brings along, on this VM; None without any.
        balance: ``even`` shares of the batch, or shares that follow the workers' ``speed``.
        job_sha256: the job's checksum, for the record.
        audit: whether to log the sample ids of every step.
        on_nonfinite: what becomes of a step whose loss or gradients are not finite, if the job says
            so (see trainer.engine.nonfinite); "" if not.
        torchrun: how the program is run, if that is anew in each generation; else None.
    """

    run_dir_url: str | None = None
    writer: str = "alone"
    slot: int = 0
    spare: bool = False
    program: Program = field(default_factory=Program)
    checkpoint: CheckpointSettings = field(default_factory=CheckpointSettings)
    checkpoint_urls: list[str] = field(default_factory=list)
    code: CodeSettings | None = None
    balance: str = "even"
    job_sha256: str = ""
    audit: bool = False
    on_nonfinite: str = ""
    torchrun: TorchrunSettings | None = None

    @property
    def run_dir(self) -> RunDirectory | None:
        """The run directory, opened; None outside a run."""
        return None if self.run_dir_url is None else RunDirectory(self.run_dir_url)

    @property
    def checkpoint_dirs(self) -> list[RunDirectory]:
        """The directories that have the run's checkpoints, opened; none outside a run."""
        run = [] if self.run_dir_url is None else [self.run_dir_url]
        return [RunDirectory(url) for url in self.checkpoint_urls or run]

    def to_env(self) -> dict[str, str]:
        """The environment variables that carry this session to a worker."""
        return {ENV_SESSION: json.dumps(asdict(self))}

    @classmethod
    def from_json(cls, text: str) -> Session:
        """Reads what ``to_env`` wrote."""
        fields = json.loads(text)
        fields["program"] = Program(**fields["program"])
        fields["checkpoint"] = CheckpointSettings(**fields["checkpoint"])
        fields["code"] = fields["code"] and CodeSettings(**fields["code"])
        fields["torchrun"] = fields["torchrun"] and TorchrunSettings(**fields["torchrun"])
        return cls(**fields)


def current_session() -> Session:
    """The session that an agent left in the environment, or that of a lone process."""
    text = os.environ.get(ENV_SESSION)
    return Session() if text is None else Session.from_json(text)
