"""Re-formations as spans, and a collector that gets them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from trainer.rundir.batches import Event
from trainer.telemetry.apart import Apart
from trainer.telemetry.curves import Point, Span
from trainer.telemetry.traces import Reformations

LOSS: list[Event] = [
    {"event": "loss", "time": 100.0, "member": "workerpool1-0"},
    {"event": "paused", "time": 100.5, "generation": 1, "cause": "loss"},
    {"event": "generation_formed", "time": 101.0, "generation": 2},
    {"event": "resumed", "time": 102.0, "generation": 2, "world_size": 3, "cause": "loss",
     "step": 7, "seconds": 1.25},
    {"event": "first_step", "time": 102.5, "generation": 2, "step": 8, "seconds": 0.25},
]  # fmt: skip


def spans(*events: Event) -> list[Span]:
    return [point.span for point in Reformations().take(events) if point.span is not None]


def test_a_re_formation_reaches_from_the_stop_to_the_first_step() -> None:
    (span,) = spans(*LOSS)
    assert (span.start, span.end) == (100.5, 102.5)
    assert span.about == {
        "swell.cause": "loss",
        "swell.generation": 2,
        "swell.world_size": 3,
        "swell.step": 7,
    }
    assert [(part.name, part.start, part.end) for part in span.parts] == [
        ("noticed", 100.5, 100.75),
        ("formed", 100.75, 102.0),
        ("first_step", 102.25, 102.5),
    ]


def test_what_happened_meanwhile_is_noted() -> None:
    late = {"event": "member_joined", "time": 101.5, "member": "workerpool2-0"}
    (span,) = spans(*LOSS[:3], late, *LOSS[3:])
    assert span.notes == ((101.5, "member_joined workerpool2-0"),)


def test_one_without_a_first_step_is_part_of_the_next() -> None:
    again = {**LOSS[3], "time": 104.0, "generation": 3}
    (span,) = spans(*LOSS[:4], again, {**LOSS[4], "time": 105.0})
    assert (span.start, span.end, span.about["swell.generation"]) == (100.5, 105.0, 3)


@pytest.mark.parametrize("shift", [-50.0, 50.0])
def test_clocks_that_differ_make_no_span_that_ends_before_it_begins(shift: float) -> None:
    events = [*LOSS[:4], {**LOSS[4], "time": LOSS[4]["time"] + shift}]
    (span,) = spans(*events)
    assert all(one.start <= one.end for one in (span, *span.parts))


def test_a_span_travels_as_json() -> None:
    (span,) = spans(*LOSS)
    assert Span.from_json(json.loads(json.dumps(asdict(span)))) == span


@pytest.fixture
def collector() -> Iterator[tuple[str, list[bytes], list[int]]]:
    """A collector: where it is, what it has got, and what it is to answer next, if not 200."""
    got: list[bytes] = []
    answers: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(self.rfile.read(int(self.headers["Content-Length"])))
            assert self.path == "/v1/traces"
            self.send_response(answers.pop(0) if answers else 200)
            self.end_headers()

        def log_message(self, *args: Any) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", got, answers
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.soak
def test_a_collector_gets_them(collector: tuple[str, list[bytes], list[int]]) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    url, got, answers = collector
    points: list[Point] = list(Reformations().take(LOSS))
    answers.append(400)
    one = Apart("traces", url, "run-1", "digits")
    with pytest.raises(OSError, match="has not taken"):
        one.tell(points)
    one.tell([])  # it has kept them
    process = one._process
    assert process is not None
    one.close()
    assert process.wait() == 0
    (resource,) = ExportTraceServiceRequest.FromString(got[-1]).resource_spans
    about = {it.key: it.value.string_value for it in resource.resource.attributes}
    assert about["swell.run"] == "run-1"
    (scope,) = resource.scope_spans
    by_name = {span.name: span for span in scope.spans}
    whole = by_name["re-formation"]
    assert (whole.start_time_unix_nano, whole.end_time_unix_nano) == (
        100_500_000_000,
        102_500_000_000,
    )
    assert {span.parent_span_id for span in scope.spans} == {b"", whole.span_id}
    assert by_name.keys() == {"re-formation", "noticed", "formed", "first_step"}
