"""A run's figures for Prometheus; and the dashboard, which asks for nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from launcher.status.exposition import FRESH, SHARE, Exposition
from trainer.rundir.events import CAUSES
from trainer.telemetry.gauges import Gauges, Workers
from trainer.telemetry.machine import Gpu, Sample

DASHBOARD = json.loads((Path(__file__).parents[3] / "docs/grafana.json").read_text())
STATUS: dict[str, Any] = {
    "state": "running",
    "step": 117,
    "generations": [{"world_size": 3}, {"world_size": 4}],
    "drains": 1,
    "losses": 2,
    "steps_lost": None,
    "pauses": [
        {"cause": "loss", "seconds": 1.5},
        {"cause": "loss", "seconds": 0.5},
        {"cause": "grow", "seconds": None},
        {"cause": "drain", "seconds": 0.0},
    ],
    "goodput": 0.93,
    "ledger": {"seconds": {"training": 93.0, "absent": 7.0}},
    "speed": {"steps": 4.0, "mfu": None},
    "checkpoint": {"age": 12.5},
    "spent": {"usd": 3.25, "attempts": 2},
    "metrics": {"loss": 0.5, "strange": "nan"},
    "troubles": ["a disk is full"],
}


def told(status: Mapping[str, Any]) -> dict[tuple[str, str], float]:
    families = Exposition("run-1", lambda: status).collect()
    found = {}
    for one in (sample for family in families for sample in family.samples):
        labels = dict(one.labels)
        assert labels.pop("run") == "run-1"
        found[one.name.removeprefix("swell_run_"), "".join(labels.values())] = one.value
    return found


def test_what_status_says_is_told() -> None:
    found = told(STATUS)
    assert (found["up", ""], found["step", ""], found["world_size", ""]) == (1, 117, 4)
    assert (found["state", "running"], found["state", "failed"]) == (1, 0)
    assert (found["drains", ""], found["losses", ""], found["generations", ""]) == (1, 2, 2)
    assert found["paused_seconds", "loss"] == 2.0
    assert found["goodput", ""] == 0.93 and found["ledger_seconds", "absent"] == 7.0
    assert found["speed", "steps"] == 4.0 and found["checkpoint_age_seconds", ""] == 12.5
    assert (found["usd", ""], found["attempts", ""], found["troubles", ""]) == (3.25, 2, 1)
    assert found["metric", "loss"] == 0.5 and found["metric", "strange"] != 0.5


def test_what_is_not_known_is_left_out_and_not_0() -> None:
    found = told(STATUS)
    assert ("steps_lost", "") not in found and ("speed", "mfu") not in found
    fresh = told({"state": "queued"})
    assert fresh["state", "queued"] == 1
    assert {"goodput", "usd", "world_size"}.isdisjoint(name for name, _ in fresh)


def test_a_cause_that_has_cost_nothing_yet_has_a_series_so_that_a_rise_is_seen() -> None:
    cases: list[list[dict[str, Any]]] = [STATUS["pauses"], []]
    for pauses in cases:
        found = told({**STATUS, "pauses": pauses})
        causes = {label for name, label in found if name == "paused_seconds"}
        assert causes == {*CAUSES}
        assert found["paused_seconds", "drain"] == found["paused_seconds", "grow"] == 0.0
    assert ("paused_seconds", "drain") not in told({"state": "queued"}), "nobody knows"


@pytest.mark.parametrize("error", [OSError("away"), ValueError("damaged")])
def test_a_run_directory_that_cannot_be_read_is_down(error: Exception) -> None:
    def read() -> Mapping[str, Any]:
        raise error

    (family,) = Exposition("run-1", read).collect()
    assert [one.value for one in family.samples] == [0.0]


def test_it_is_read_as_seldom_as_it_takes_long() -> None:
    now, reads = [0.0], [0]

    def read() -> Mapping[str, Any]:
        reads[0] += 1
        now[0] += 2.0  # it takes so long
        return STATUS

    exposition = Exposition("run-1", read, lambda: now[0])
    for at in (0.0, FRESH, 2.0 * SHARE - 0.1, 2.0 * SHARE):
        now[0] = max(now[0], at)
        list(exposition.collect())
    assert reads[0] == 2


def queries() -> list[str]:
    return [one["expr"] for panel in DASHBOARD["panels"] for one in panel["targets"]]


def test_every_query_of_the_dashboard_asks_for_what_there_is() -> None:
    gauges = Gauges("r", "w", lambda: Workers(1, {0: 1}, 1))
    gauges.sampled(Sample(gpus=(Gpu(),)))
    families = [*gauges.collect(), *Exposition("r", lambda: {**STATUS, "steps_lost": 0}).collect()]
    counters = {f"{one.name}_total" for one in families if one.type == "counter"}
    there = counters | {one.name for one in families}
    asked = {name for query in queries() for name in re.findall(r"swell_\w+", query)}
    assert asked - there == set()
    variables = json.dumps(DASHBOARD["templating"])
    assert set(re.findall(r"swell_\w+", variables)) <= there


def test_the_dashboard_is_one() -> None:
    """Grafana publishes no schema of these files: what it needs of each panel, by its handbook."""
    assert DASHBOARD["schemaVersion"] >= 36 and DASHBOARD["uid"] == "swell-run"
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids)) >= 15
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        assert panel["type"] in ("stat", "timeseries") and panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert at["x"] + at["w"] <= 24 and not cells & taken
        taken |= cells
        refs = [one["refId"] for one in panel["targets"]]
        assert len(set(refs)) == len(refs)
    assert all("$run" in query for query in queries())
