"""What an agent answers Prometheus."""

from __future__ import annotations

from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from trainer.telemetry.gauges import MOST, Endpoint, Gauges, Workers
from trainer.telemetry.machine import Gpu, Sample


def gauges() -> Gauges:
    return Gauges("run-1", "workerpool1-0", lambda: Workers(3, {2: 117, 3: 117}, 2))


def asked(told: Gauges) -> dict[tuple[str, str], float]:
    """What Prometheus gets, by metric and the label beside run and replica."""
    endpoint = Endpoint(told, "127.0.0.1", 0)
    try:
        with urlopen(f"http://127.0.0.1:{endpoint.port}/metrics") as answer:
            text = answer.read().decode()
    finally:
        endpoint.close()
    found = {}
    for family in text_string_to_metric_families(text):
        for one in family.samples:
            labels = dict(one.labels)
            assert (labels.pop("run"), labels.pop("replica")) == ("run-1", "workerpool1-0")
            found[one.name, "".join(labels.values())] = one.value
    return found


def test_its_workers_and_its_machine() -> None:
    told = gauges()
    told.sampled(Sample(cpu=0.5, sent=7.0, gpus=(Gpu(used=0.9, held_back=True, xid=79),)))
    found = asked(told)
    assert found["swell_generation", ""] == 3 and found["swell_workers_ready", ""] == 2
    assert found["swell_worker_steps", "2"] == 117
    assert found["swell_machine", "cpu"] == 0.5 and found["swell_machine", "sent"] == 7.0
    assert found["swell_gpu_used", "0"] == 0.9 and found["swell_gpu_held_back", "0"] == 1
    assert found["swell_gpu_xid", "0"] == 79


def test_what_rank_0_has_reported() -> None:
    told = gauges()
    accounts = {"all": 4.0, "data_wait": 1.0}
    for _ in range(2):
        told.heard(
            {
                "event": "steps",
                "count": 4,
                "seconds": 2.0,
                "samples": 64,
                "metrics": {"loss": [2.0, 1.0], "strange": ["nan"]},
                "accounts": accounts,
            }
        )
    told.heard({"event": "evaluated", "metrics": {"accuracy": 0.9}})
    told.heard({"event": "drain"})
    found = asked(told)
    assert found["swell_metric", "loss"] == 1.0 and found["swell_metric", "eval/accuracy"] == 0.9
    assert found["swell_metric", "strange"] != found["swell_metric", "strange"], "it is NaN"
    assert found["swell_rate", "steps"] == 2.0 and found["swell_rate", "samples"] == 32.0
    assert found["swell_spent_seconds_total", "data_wait"] == 2.0
    assert found["swell_events_total", "steps"] == 2 and found["swell_events_total", "drain"] == 1


@pytest.mark.parametrize(
    "event",
    [
        {"event": "steps"},
        {"event": "steps", "metrics": [1], "accounts": [1], "seconds": "x"},
        {"event": "steps", "metrics": {"a": [], "b": None}, "seconds": 0, "count": None},
        {"event": "evaluated", "metrics": None},
    ],
)
def test_what_is_not_as_documented_shows_nothing(event: dict[str, object]) -> None:
    told = gauges()
    told.heard(event)
    assert not {name for name, _ in asked(told)} & {"swell_metric", "swell_rate"}


def test_names_that_never_end_are_not_all_shown() -> None:
    told = gauges()
    for number in range(2 * MOST):
        told.heard({"event": "steps", "metrics": {f"m{number}": [1.0]}})
    told.heard({"event": "steps", "metrics": {"m0": [7.0]}})
    found = asked(told)
    assert sum(name == "swell_metric" for name, _ in found) == MOST
    assert found["swell_metric", "m0"] == 7.0


def test_a_port_that_is_taken_is_an_error_of_the_system() -> None:
    first = Endpoint(gauges(), "127.0.0.1", 0)
    try:
        with pytest.raises(OSError, match="in use"):
            Endpoint(gauges(), "127.0.0.1", first.port)
    finally:
        first.close()
