"""``telemetry:`` in a job file: where a run is told of, besides its run directory."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from launcher.job.model import JobModel, Text

_HOST = r"https?://[^\s/@]+(/\S*)?"  # no name and password: run.json has it, and whoever reads that
Project = Annotated[
    str,
    Text(r"([A-Za-z0-9_.\-]+/)?[A-Za-z0-9_.\-]{1,128}", "write PROJECT, or ENTITY/PROJECT"),
]
Tracking = Annotated[
    str,
    Text(
        rf"{_HOST}|/\S+",
        "write http(s)://HOST:PORT, without a password (MLFLOW_TRACKING_PASSWORD is for that), or "
        "the path of a folder that all VMs have",
    ),
]
Collector = Annotated[
    str, Text(_HOST, "write http(s)://HOST:PORT, without a password: a collector of OTLP over HTTP")
]


class Telemetry(JobModel):
    """Where a run is told of, besides its run directory."""

    tensorboard: bool = Field(True, description="TensorBoard's event files, in logs/")
    wandb: Project | None = Field(None, description="A project at Weights & Biases")
    mlflow: Tracking | None = Field(None, description="An MLflow tracking server")
    traces: Collector | None = Field(
        None, description="A collector of OpenTelemetry, for what happens when worlds form anew"
    )
    port: int | None = Field(
        None, ge=1024, le=65535, description="Where each agent answers Prometheus"
    )
    machines: bool = Field(True, description="A sample of each machine every ten seconds")

    def settings(self) -> dict[str, Any]:
        """Returns what the trainer reads of it."""
        return self.model_dump(exclude_none=True, exclude_unset=True)
