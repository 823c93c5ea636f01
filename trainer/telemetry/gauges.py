"""What an agent answers Prometheus: its workers, what rank 0's have reported, and its machine.

By prometheus_client, the official one. It listens at the address at which other agents reach this
one, and nowhere else. Whoever reaches that can read what is here: numbers, and the names of run,
replica and metrics; no secret, and nothing can be asked for or changed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainer.rundir.batches import Event
from trainer.rundir.numbers import number_in, numbers_in
from trainer.telemetry.machine import Sample

if TYPE_CHECKING:
    from prometheus_client import Metric

MOST = 200  # metrics of a task that are shown; each name is a series

log = logging.getLogger("swell.agent")


@dataclass(frozen=True)
class Workers:
    """What an agent knows of its workers at a moment.

    Attributes:
        generation: the newest; 0 before the first.
        steps: completed, by rank.
        ready: how many are warm, or train.
    """

    generation: int
    steps: Mapping[int, int]
    ready: int


class Gauges:
    """An agent's figures, for as long as it lives.

    Args:
        run: the run's id.
        replica: the agent's replica.
        look: called when somebody asks.
    """

    def __init__(self, run: str, replica: str, look: Callable[[], Workers]) -> None:
        self._labels = {"run": run, "replica": replica}
        self._look = look
        self._sample: Sample | None = None
        self._metrics: dict[str, float] = {}
        self._rates: dict[str, float] = {}
        self._spent: dict[str, float] = {}
        self._events: dict[str, int] = {}

    def heard(self, event: Event) -> None:
        """The agent has put this on record."""
        kind = str(event["event"])
        self._events[kind] = self._events.get(kind, 0) + 1
        if kind in ("steps", "evaluated"):
            prefix = "" if kind == "steps" else "eval/"
            metrics = event.get("metrics")
            for name, told in (metrics if isinstance(metrics, dict) else {}).items():
                value = number_in(told[-1] if isinstance(told, list) and told else told)
                key = f"{prefix}{name}"
                if value is not None and (len(self._metrics) < MOST or key in self._metrics):
                    self._metrics[key] = float(value)
        if kind == "steps":
            self._steps(event)

    def sampled(self, sample: Sample) -> None:
        """The machine's newest sample."""
        self._sample = sample

    def _steps(self, event: Event) -> None:
        for name, seconds in numbers_in(event.get("accounts")).items():
            self._spent[name] = self._spent.get(name, 0.0) + max(0.0, seconds)
        took = number_in(event.get("seconds"))
        if not took or took <= 0:
            return
        for name, field in (("steps", "count"), ("samples", "samples")):
            if (count := number_in(event.get(field))) is not None:
                self._rates[name] = count / took

    def collect(self) -> Iterator[Metric]:
        """All figures, as prometheus_client asks for them; in a thread of its own."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        names, values = list(self._labels), list(self._labels.values())

        def gauge(name: str, what: str, by: str, told: Mapping[Any, float]) -> Metric:
            family = GaugeMetricFamily(
                f"swell_{name}", what, labels=[*names, *([by] if by else [])]
            )
            for one, value in told.items():
                family.add_metric([*values, *([str(one)] if by else [])], value)
            return family

        def counter(name: str, what: str, by: str, told: Mapping[str, float]) -> Metric:
            family = CounterMetricFamily(f"swell_{name}", what, labels=[*names, by])
            for one, value in told.items():
                family.add_metric([*values, one], value)
            return family

        workers = self._look()
        yield gauge("generation", "The newest world's number", "", {"": workers.generation})
        yield gauge("workers_ready", "Workers that are warm, or train", "", {"": workers.ready})
        yield gauge("worker_steps", "Steps completed, by rank", "rank", workers.steps)
        # dict(…): the agent goes on while this is written.
        yield gauge(
            "metric", "The newest value of a metric of the task", "name", dict(self._metrics)
        )
        yield gauge("rate", "A second, over the newest steps told", "of", dict(self._rates))
        spent = "Seconds of all ranks together, by what they went into"
        yield counter("spent_seconds", spent, "account", dict(self._spent))
        yield counter("events", "What this agent has put on record", "event", dict(self._events))
        if (sample := self._sample) is not None:
            what = "What the machine does: parts from 0 to 1, bytes a second"
            yield gauge("machine", what, "of", sample.values())
            for name in ("used", "memory", "temperature", "clock", "power", "held_back", "xid"):
                told = {index: float(getattr(gpu, name)) for index, gpu in enumerate(sample.gpus)}
                yield gauge(f"gpu_{name}", f"{name} of each GPU, as NVML has it", "gpu", told)


class Endpoint:
    """Answers Prometheus until it is closed.

    Args:
        gauges: what.
        address: where, and nowhere else.
        port: of it; 0 for any.

    Raises OSError when that port is taken, and ImportError without prometheus_client.
    """

    def __init__(self, gauges: Any, address: str, port: int) -> None:
        from prometheus_client import start_http_server
        from prometheus_client.registry import CollectorRegistry

        registry = CollectorRegistry(auto_describe=False)
        registry.register(gauges)
        self._server, self._thread = start_http_server(port, address, registry)
        self.port = int(self._server.server_port)

    def close(self) -> None:
        """Answers nobody any more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
