"""What a job file says of telemetry, as the trainer reads it in run.json."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trainer.rundir.directory import RunDirectory


@dataclass(frozen=True)
class TelemetrySettings:
    """Where a run is told of, besides its run directory.

    Attributes:
        tensorboard: whether TensorBoard's event files are written, if that is installed.
        required: whether it is a fault if that is not.
        wandb: the project at Weights & Biases, or ENTITY/PROJECT; "" for none.
        mlflow: the URI of an MLflow tracking server; "" for none.
        traces: the URL that OpenTelemetry's traces are sent to; "" for none.
        port: at which agents answer Prometheus; 0 for none.
        machines: whether each machine is sampled.
    """

    tensorboard: bool = True
    required: bool = False
    wandb: str = ""
    mlflow: str = ""
    traces: str = ""
    port: int = 0
    machines: bool = True


@dataclass(frozen=True)
class Subject:
    """Which run is told of.

    Attributes:
        id: its id.
        name: its job's.
        settings: where it is told of.
    """

    id: str
    name: str
    settings: TelemetrySettings


def subject_of(run_dir: RunDirectory) -> Subject | None:
    """Which run it is; None for a folder without one. What is not as it should be is not used.

    Raises OSError, and ValueError for a run.json that is damaged.
    """
    try:
        run = run_dir.run()
    except FileNotFoundError:
        return None
    spec, settings = run.get("spec"), run.get("settings")
    name = spec.get("name") if isinstance(spec, dict) else None
    told = settings.get("telemetry") if isinstance(settings, dict) else None
    return Subject(str(run["id"]), str(name or run["id"]), _settings(told))


def _settings(told: Any) -> TelemetrySettings:
    given = told if isinstance(told, dict) else {}
    known = {name: one for name, one in given.items() if hasattr(TelemetrySettings, name)}
    return TelemetrySettings(**known)
