"""What the trainer reads of a run's job file: ``settings`` in run.json."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import field
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from trainer.coordinator.limits import Limits
from trainer.protocol.session import (
    CheckpointSettings,
    CodeSettings,
    Program,
    Session,
    TorchrunSettings,
)
from trainer.rundir import formats
from trainer.rundir.bundle import is_plain
from trainer.rundir.directory import RunDirectory
from trainer.rundir.formats import FormatError
from trainer.rundir.names import RUN
from trainer.rundir.retry import START_LIMIT, patiently
from trainer.rundir.usererror import Message, Unusable, UserError
from trainer.telemetry.settings import TelemetrySettings

WRONG = "SW4012"  # the message about settings that are missing, or not what they should be
_UNKNOWN = "unexpected_keyword_argument"  # pydantic's word for it
# Nothing is converted, at any depth: whoever wrote another type meant something else.
_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, config=_STRICT)
class Settings:
    """A run's settings. All times are in seconds.

    Attributes:
        program: what workers run.
        torchrun: how, if that is anew in each generation; else None.
        checkpoint: when checkpoints are written, which stay, and what a new run begins from.
        code: the code that the run brings along; None without any.
        balance: see trainer.protocol.session.
        min_workers, max_workers: bounds of the world's size.
        start_wait, hold_off, heartbeat, suspicion, hang, standstill, stall: see
            trainer.coordinator.limits.
        replace_stragglers: see trainer.coordinator.limits.
        lease_timeout: see trainer.coordinator.limits; None for what suits the store.
        preflight: whether a machine shows what it can do before it takes part.
        spares: warm standbys beside each active worker.
        job_sha256: the job's checksum, for the record.
        audit: whether workers log the sample ids of every step.
        on_nonfinite: see trainer.protocol.session; None where the job does not say.
        telemetry: where the run is told of, besides its run directory.
        fleet: how many CustomJobs form the world at first; None where there is ever one.

    Raises ValueError, also when the values do not agree with each other.
    """

    program: Program = field(default_factory=Program)
    torchrun: TorchrunSettings | None = None
    checkpoint: CheckpointSettings = field(default_factory=CheckpointSettings)
    code: CodeSettings | None = None
    balance: Literal["even", "speed"] = "even"
    min_workers: int = 1
    max_workers: int = 1
    start_wait: float = 60.0
    hold_off: float = 1.0
    heartbeat: float = 0.3
    suspicion: float = 1.5
    hang: float = 10.0
    standstill: float = 30.0
    stall: float = 600.0
    replace_stragglers: float | None = None
    lease_timeout: float | None = None
    preflight: bool = False
    spares: int = 1
    job_sha256: str = ""
    audit: bool = False
    on_nonfinite: Literal["stop", "skip", "rollback"] | None = None
    telemetry: TelemetrySettings = field(default_factory=TelemetrySettings)
    fleet: int | None = None

    def __post_init__(self) -> None:
        program, code = self.program, self.code
        if sum(map(bool, (program.task, program.script, program.module))) != 1:
            raise ValueError("exactly one of program.task, script and module must be set")
        if code and not re.fullmatch("[0-9a-f]{64}", code.sha256):
            raise ValueError("code.sha256 is not a SHA-256")
        if code and code.requirements and not is_plain(code.requirements):
            raise ValueError("code.requirements is not a file of the code")
        if (torchrun := self.torchrun) is not None:
            if program.task:
                raise ValueError("torchrun runs a script or a module, and no task")
            if torchrun.max_restarts < 0 or torchrun.grace < 0:
                raise ValueError("torchrun.max_restarts and grace are not below 0")
            if any(size < 1 for size in torchrun.sizes):
                raise ValueError("torchrun.sizes are numbers of workers, at least 1")
        for local in (True, False):
            self.limits(local)  # raises ValueError when the limits do not agree

    @classmethod
    def of_run(cls, run: dict[str, Any]) -> Settings:
        """The settings in run.json.

        Raises Unusable, naming the field, and FormatError if there are some that are not known.
        """
        settings = run.get("settings")
        if not isinstance(settings, dict):
            raise Unusable(WRONG, "run.json has no settings; launch the run again")
        try:
            # As JSON: strict as Python, an object would have to be a dataclass already.
            return TypeAdapter(cls).validate_json(json.dumps(settings))
        except ValidationError as error:
            raise _explained(error) from None

    def session(
        self,
        *,
        run_dir_url: str,
        checkpoint_urls: list[str],
        writer: str,
        slot: int,
        spare: bool,
        torchrun: TorchrunSettings | None,
    ) -> Session:
        """What a worker has to know of the run; see trainer.protocol.session for the rest."""
        return Session(
            run_dir_url=run_dir_url,
            checkpoint_urls=checkpoint_urls,
            writer=writer,
            slot=slot,
            spare=spare,
            program=self.program,
            torchrun=torchrun,
            checkpoint=self.checkpoint,
            code=self.code,
            balance=self.balance,
            job_sha256=self.job_sha256,
            audit=self.audit,
            on_nonfinite=self.on_nonfinite or "",
        )

    def limits(self, local: bool = True) -> Limits:
        """The limits for membership, and for who leads.

        ``local`` says whether the run directory is on this machine's own file system. An object
        store takes longer to answer, and its clients try again by themselves for a while. Cloud
        Storage lets an object be rewritten once a second:
        cloud.google.com/storage/quotas, "Maximum rate of writes to the same object name".
        """
        timeout = self.lease_timeout or max(5.0 if local else 10.0, 2 * self.suspicion)
        torchrun, least, most = self.torchrun, self.min_workers, self.max_workers
        sizes: tuple[int, ...] = ()
        if torchrun is not None:
            # Another world may train otherwise; so unless the job says so, there is only one.
            known = sorted({*torchrun.sizes}) or [most]
            sizes = tuple(size for size in known if least <= size <= most)
            if not sizes:
                raise ValueError(f"none of torchrun.sizes {known} is from {least} to {most}")
            least, most = sizes[0], sizes[-1]
        return Limits(
            lease_timeout=timeout,
            lease_renew=max(timeout / 10, 0.1 if local else 1.25),
            min_workers=least,
            max_workers=most,
            sizes=sizes,
            max_restarts=torchrun.max_restarts if torchrun else None,
            grace=torchrun.grace if torchrun else 0.0,
            start_wait=self.start_wait,
            hold_off=self.hold_off,
            heartbeat=self.heartbeat,
            suspicion=self.suspicion,
            idle_suspicion=max(10.0, 3 * self.suspicion),
            hang=self.hang,
            standstill=self.standstill,
            stall=self.stall,
            replace_stragglers=self.replace_stragglers,
        )


def read_run(run_dir: RunDirectory) -> tuple[dict[str, Any], Settings]:
    """Reads run.json for an agent. While the store is away it waits.

    One that this version cannot go on with ends the run, as failed: its launcher shows why.

    Returns run.json and the settings in it. Raises Unusable when there is none
    that can be used, OSError when the store does not give it.
    """
    try:
        run = patiently(run_dir.run, limit=START_LIMIT)
        formats.require_usable(run, f"{run_dir.url}/{RUN}")
        return run, Settings.of_run(run)
    except FileNotFoundError as error:
        raise Unusable(
            "SW4002", f"{run_dir.url} is not a run directory: it has no run.json"
        ) from error
    except FormatError as error:
        remedy = (
            f"{formats.UPDATE_IMAGE}, or launch with Swell {formats.version()}"
            if error.newer
            else "update the launcher, or use an image of its version (container.image)"
        )
        reason = f"{error}: {remedy}"
        with suppress(OSError):  # then it is in this replica's log alone
            run_dir.end("failed", str(Message(error.id, reason)))
        raise Unusable(error.id, reason) from None


def _explained(error: ValidationError) -> UserError:
    """What is wrong with run.json, for whoever reads it in a log."""
    problems = {".".join(map(str, one["loc"])): one for one in error.errors(include_url=False)}
    unknown = [name for name, one in problems.items() if one["type"] == _UNKNOWN]
    if unknown:
        what = f"run.json has settings that this trainer does not know: {sorted(unknown)}"
        return FormatError(what, id="SW4011")
    return Unusable(WRONG, "; ".join(_wrong(name, **one) for name, one in problems.items()))


def _wrong(name: str, type: str, msg: str, input: Any, **more: Any) -> str:
    if not name:  # it is about several fields
        return f"run.json's settings: {msg.removeprefix('Value error, ')}"
    if type == "missing":
        return f"run.json's settings lack {name}"
    wanted = msg.removeprefix("Input should be ")
    return f"run.json's {name} is not {wanted}: {repr(input)[:80]}"
