"""Weights & Biases and MLflow: a run's points in their own clients' words.

Both know a run again by its id, so that whoever tells of it next goes on with the same. Neither can
take back what it was told: where a run goes back to an earlier step, the curve has that step twice.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

from trainer.telemetry.curves import Point

STEP = "step"  # by which Weights & Biases is to draw: its own steps never go back
RUN_TAG = "swell.run"  # by which MLflow's run is found again
TEXTS = "swell.events"  # where texts are
TAG_LIMIT = 5000  # characters of a tag's value that MLflow takes
AT_ONCE = 900  # values of points in one request to MLflow, whose API takes 1000, and 100 tags


class WandB:
    """A run at Weights & Biases; offline where WANDB_MODE says so.

    Args:
        where: PROJECT, or ENTITY/PROJECT.
        run: the run's id.
        name: the job's name.
    """

    def __init__(self, where: str, run: str, name: str) -> None:
        import wandb

        entity, _, project = where.rpartition("/")
        self._run = wandb.init(
            project=project,
            entity=entity or None,
            id=run,
            name=run,
            group=name,
            resume="allow",
            dir=os.environ.get("WANDB_DIR") or tempfile.mkdtemp(prefix="swell-wandb-"),
            settings=wandb.Settings(console="off", disable_git=True, x_disable_stats=True),
        )
        self._run.define_metric("*", step_metric=STEP)

    def tell(self, points: Sequence[Point]) -> Iterator[int]:
        """Tells points. Yields how many of them it has taken."""
        for number, point in enumerate(points, 1):
            values: dict[str, Any] = dict(point.values)
            values.update((f"events/{name}", text) for name, text in point.texts.items())
            if values:
                self._run.log({**values, STEP: point.step, "time": point.time})
            yield number

    def close(self) -> None:
        """What is not sent yet is sent."""
        self._run.finish()


class MLflow:
    """A run of an MLflow tracking server.

    Args:
        where: the server's URI.
        run: the run's id.
        name: the job's name, which the experiment has.
    """

    def __init__(self, where: str, run: str, name: str) -> None:
        from mlflow import MlflowClient

        self._client = MlflowClient(tracking_uri=where)
        found = self._client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self._client.create_experiment(name)
        known = self._client.search_runs([experiment], f"tags.`{RUN_TAG}` = '{run}'", max_results=1)
        if known:
            self._id = known[0].info.run_id
        else:
            made = self._client.create_run(experiment, tags={RUN_TAG: run}, run_name=run)
            self._id = made.info.run_id

    def tell(self, points: Sequence[Point]) -> Iterator[int]:
        """Tells points, some with each request. Yields how many of them it has taken."""
        from mlflow.entities import Metric, RunTag

        metrics: list[Metric] = []
        tags: dict[str, str] = {}
        for number, point in enumerate(points, 1):
            metrics += (
                Metric(name, value, int(1000 * point.time), point.step)
                for name, value in point.values.items()
                if math.isfinite(value)  # many of its stores take no other
            )
            tags.update((f"{TEXTS}.{name}", one[:TAG_LIMIT]) for name, one in point.texts.items())
            if number < len(points) and len(metrics) + len(points[number].values) <= AT_ONCE:
                continue
            for first in range(0, max(1, len(metrics)), AT_ONCE):
                told = [RunTag(name, text) for name, text in tags.items()]
                self._client.log_batch(
                    self._id, metrics=metrics[first : first + AT_ONCE], tags=told
                )
                tags.clear()
            yield number
            metrics.clear()

    def close(self) -> None:
        """Nothing is left to send; the run stays as it is, for who goes on with it."""
