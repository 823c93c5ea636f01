"""What happens between two worlds, as a trace: OpenTelemetry, over HTTP, by its own SDK.

Each re-formation is a span from the last step before it to the first one after, and in it are the
times that are known: until the workers have left (``noticed``), until the next world trains
(``formed``), until its first step is complete (``first_step``). What the spans say comes from the
run's events; clocks of machines are not compared, so what ends a span is the event of one machine,
and its length is what that machine has measured, where it has.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from trainer.rundir.batches import Event
from trainer.rundir.numbers import number_in
from trainer.telemetry.curves import Point, Span

NANO = 10**9
TIMEOUT = 10.0  # seconds for the collector to answer
NAMED = ("cause", "generation", "world_size", "step", "lost_steps", "term")


class Reformations:
    """Makes spans of events, which come in order of time. Pure."""

    def __init__(self) -> None:
        self._stopped: float | None = None  # when the world before left
        self._notes: list[tuple[float, str]] = []
        self._resumed: Event | None = None

    def take(self, events: Iterable[Event]) -> Iterator[Point]:
        """Yields each re-formation when its first step is complete."""
        for event in events:
            time = float(event["time"])
            match event["event"]:
                case "drain" | "loss" | "fault" | "member_joined" | "waiting" | "leader_changed":
                    who = f" {event['member']}" if isinstance(event.get("member"), str) else ""
                    self._notes.append((time, f"{event['event']}{who}"))
                case "paused":
                    self._stopped = time
                case "resumed":
                    self._resumed = event
                case "first_step" if self._resumed is not None:
                    took = number_in(event.get("seconds")) or 0.0
                    step = event.get("step")
                    span = self._span(self._resumed, time, took)
                    yield Point(step if isinstance(step, int) else 0, time, span=span)
                    self._stopped = self._resumed = None
                    self._notes.clear()

    def _span(self, resumed: Event, end: float, first_step: float) -> Span:
        formed_at = float(resumed["time"])
        seconds = number_in(resumed.get("seconds")) or 0.0
        begun = max(0.0, formed_at - seconds)
        stopped = self._stopped if self._stopped is not None else begun
        ends = max(formed_at, end)
        parts = [
            Span("formed", begun, formed_at),
            Span("first_step", max(formed_at, ends - first_step), ends),
        ]
        if stopped < begun:
            parts.insert(0, Span("noticed", stopped, begun))
        about = {f"swell.{name}": resumed[name] for name in NAMED if name in resumed}
        start = min(stopped, begun)
        notes = tuple(one for one in self._notes if start <= one[0] <= ends)
        return Span("re-formation", start, ends, about, tuple(parts), notes)


class Traces:
    """Sends spans to a collector of OTLP over HTTP.

    Args:
        where: its URL, such as http://HOST:4318.
        run: the run's id.
        name: the job's.
    """

    def __init__(self, where: str, run: str, name: str) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider

        about = {"service.name": "swell", "swell.run": run, "swell.job": name}
        self._provider = TracerProvider(resource=Resource.create(about), shutdown_on_exit=False)
        self._tracer = self._provider.get_tracer("swell")
        self._exporter = OTLPSpanExporter(f"{where.rstrip('/')}/v1/traces", timeout=TIMEOUT)

    def tell(self, points: Sequence[Point]) -> Iterator[int]:
        """Sends the spans of points, and yields how many points these were.

        Raises OSError when the collector does not take them.
        """
        from opentelemetry.sdk.trace.export import SpanExportResult

        made: list[Any] = []
        for point in points:
            if point.span is not None:
                self._make(point.span, None, made)
        if made and self._exporter.export(made) is not SpanExportResult.SUCCESS:
            raise OSError("the collector has not taken the traces")
        yield len(points)

    def close(self) -> None:
        """Nothing more is sent."""
        self._exporter.shutdown()

    def _make(self, span: Span, within: Any, made: list[Any]) -> None:
        from opentelemetry.trace import set_span_in_context

        start = int(span.start * NANO)
        one = self._tracer.start_span(span.name, within, attributes=span.about, start_time=start)
        for time, what in span.notes:
            one.add_event(what, timestamp=int(time * NANO))
        for part in span.parts:
            self._make(part, set_span_in_context(one), made)
        one.end(int(span.end * NANO))
        made.append(one)
