"""What the trainer reads of a run's job file: ``settings`` in run.json."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from typing import Any

from trainer.coordinator.limits import Limits
from trainer.rundir.bundle import is_plain

_KINDS = {
    "str": (str,),
    "bool": (bool,),
    "int": (int,),
    "float": (int, float),
    "float | None": (int, float, type(None)),
    "list[str]": (list,),
    "dict[str, Any]": (dict,),
}  # what JSON may hold for a field of that type


@dataclass(frozen=True)
class Settings:
    """A run's settings. All times are in seconds.

    Attributes:
        task: ``module:Class`` or ``path.py:Class``.
        task_args: keyword arguments of the task's class.
        script: the path of a script to run instead of a task.
        module: the name of a module to run instead of a task.
        args: the script's or module's arguments.
        balance: see trainer.protocol.session.
        min_workers, max_workers: bounds of the world's size.
        start_wait, hold_off, heartbeat, suspicion, hang, stall: see trainer.coordinator.limits.
        lease_timeout: see trainer.coordinator.limits; None for what suits the store.
        spares: warm standbys beside each active worker.
        checkpoint_every, …, checkpoint_from, job_sha256: see trainer.protocol.session.
        audit: whether workers log the sample ids of every step.
        code_sha256: which code the run brings along; "" for none. See trainer.agent.code.
        code_size: how many bytes its files have together.
        code_requirements: the file in it that lists what it requires; "" if nothing.
        code_folder, code_installed: where both are on this VM, once they are; see
            trainer.protocol.session.
    """

    task: str = ""
    task_args: dict[str, Any] = field(default_factory=dict)
    script: str = ""
    module: str = ""
    args: list[str] = field(default_factory=list)
    balance: str = "even"
    min_workers: int = 1
    max_workers: int = 1
    start_wait: float = 60.0
    hold_off: float = 1.0
    heartbeat: float = 0.3
    suspicion: float = 1.5
    hang: float = 10.0
    stall: float = 600.0
    lease_timeout: float | None = None
    spares: int = 1
    checkpoint_every: float = 30.0
    checkpoint_every_steps: int = 0
    checkpoint_keep: int = 2
    checkpoint_keep_every: int = 0
    checkpoint_keep_best: str = ""
    checkpoint_from: str = ""
    job_sha256: str = ""
    audit: bool = False
    code_sha256: str = ""
    code_size: int = 0
    code_requirements: str = ""
    code_folder: str = ""
    code_installed: str = ""

    def __post_init__(self) -> None:
        if sum(map(bool, (self.task, self.script, self.module))) != 1:
            raise ValueError("exactly one of task, script and module must be set")
        if self.balance not in ("even", "speed"):
            raise ValueError(f"balance {self.balance!r} is neither even nor speed")
        if self.code_sha256 and not re.fullmatch("[0-9a-f]{64}", self.code_sha256):
            raise ValueError("code_sha256 is not a SHA-256")
        if self.code_requirements and not is_plain(self.code_requirements):
            raise ValueError("code_requirements is not a file of the code")
        for local in (True, False):
            self.limits(local)  # raises ValueError when the limits do not agree

    @classmethod
    def of_run(cls, run: dict[str, Any]) -> Settings:
        """The settings in run.json. Raises ValueError, naming the field, if they are unusable."""
        settings = run.get("settings")
        if not isinstance(settings, dict):
            raise ValueError("run.json has no settings")
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(settings) - known)
        if unknown:
            raise ValueError(f"run.json has settings that this trainer does not know: {unknown}")
        for f in fields(cls):
            if f.name in settings and type(settings[f.name]) not in _KINDS[str(f.type)]:
                found = str(settings[f.name])[:80]
                raise ValueError(f"run.json's {f.name} is not {f.type}: {found!r}")
        if not all(isinstance(arg, str) for arg in settings.get("args", ())):
            raise ValueError("run.json's args are not all text")
        return cls(**settings)

    def session(self) -> dict[str, Any]:
        """What a worker's session takes over of them under the same name."""
        checkpoints = {name: v for name, v in vars(self).items() if name.startswith("checkpoint_")}
        return {
            **checkpoints,
            "code_folder": self.code_folder,
            "code_installed": self.code_installed,
        }

    def limits(self, local: bool = True) -> Limits:
        """The limits for membership, and for who leads.

        ``local`` says whether the run directory is on this machine's own file system. An object
        store takes longer to answer, and its clients try again by themselves for a while. Cloud
        Storage lets an object be rewritten once a second:
        cloud.google.com/storage/quotas, "Maximum rate of writes to the same object name".
        """
        timeout = self.lease_timeout or max(5.0 if local else 10.0, 2 * self.suspicion)
        return Limits(
            lease_timeout=timeout,
            lease_renew=max(timeout / 10, 0.1 if local else 1.25),
            min_workers=self.min_workers,
            max_workers=self.max_workers,
            start_wait=self.start_wait,
            hold_off=self.hold_off,
            heartbeat=self.heartbeat,
            suspicion=self.suspicion,
            idle_suspicion=max(10.0, 3 * self.suspicion),
            hang=self.hang,
            stall=self.stall,
        )
