"""The market, as users write it: in a file of its own, and in a job file."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from launcher.job.durations import Steps
from launcher.job.jobfile import JobFileError, load_market
from launcher.job.marketfile import (
    Incident,
    Market,
    MarketField,
    market_to_json,
    not_come,
    whole_market,
)
from launcher.target import load_job

WHOLE = """\
speed: 60
notice: none
survivors: restart
retry: 10min
isolated: true
seed: 7
capacity:
  - {machine: a2-highgpu-1g, region: us-central1, vms: {0s: 8, 10min: 3}}
  - {machine: a2-highgpu-1g, trace: traces/a.txt}
incidents:
  - {at: 150 steps, preempt: workerpool1-0, back: 350 steps}
"""


def written(folder: Path, text: str) -> str:
    path = folder / "market.yaml"
    path.write_text(text)
    return str(path)


def test_a_whole_market(tmp_path: Path) -> None:
    market = load_market(written(tmp_path, WHOLE))
    assert market == Market.model_validate(
        {
            "speed": 60.0,
            "notice": None,
            "survivors": "restart",
            "retry": timedelta(minutes=10),
            "isolated": True,
            "seed": 7,
            "capacity": [
                {
                    "machine": "a2-highgpu-1g",
                    "region": "us-central1",
                    "vms": {"0s": 8, "10min": 3},
                },
                {"machine": "a2-highgpu-1g", "trace": str(tmp_path / "traces/a.txt")},
            ],
            "incidents": [{"at": "150 steps", "preempt": "workerpool1-0", "back": "350 steps"}],
        }
    )
    assert market.notice is None
    assert market.capacity[0].vms == {timedelta(): 8, timedelta(minutes=10): 3}
    assert market.incidents[0].at == Steps(150)


def test_defaults_and_the_list_of_incidents(tmp_path: Path) -> None:
    market = load_market(written(tmp_path, "[{at: 5s, vanish: workerpool0-0}]"))
    assert market == Market(incidents=[Incident(at=timedelta(seconds=5), vanish="workerpool0-0")])
    assert (market.notice, market.survivors) == (timedelta(seconds=30), "keep")


@pytest.mark.parametrize("text", [WHOLE, "[{at: 5s, vanish: workerpool0-0}]", "{}"])
def test_a_market_reads_as_it_was_written_down(tmp_path: Path, text: str) -> None:
    market = load_market(written(tmp_path, text))
    again = load_market(written(tmp_path, json.dumps(market_to_json(market))))
    assert again == market


@pytest.mark.parametrize(
    "text, says",
    [
        ("7", ":1: is 7; write a mapping"),
        ("speed: 0", ":1: speed: is 0; write more than 0"),
        ("speed: fast", ":1: speed: is 'fast'; write a number"),
        ("notice: 30", ":1: notice: needs a unit; write 30s or 30min; or write none"),
        ("retry: 0s", ":1: retry: is 0; write at least 1s"),
        ("survivors: maybe", ":1: survivors: is 'maybe'; write keep, restart or fail"),
        ("sped: 2", ":1: sped: is not a known field; did you mean speed?"),
        ("capacity:\n- {machine: a2-higgpu-1g, vms: {0s: 1}}", ":2: capacity.0.machine: 'a2-hig"),
        ("capacity:\n- {machine: a2-highgpu-1g}", ":2: capacity.0: needs one of vms and trace"),
        (
            "capacity:\n- {machine: a2-highgpu-1g, vms: {0s: 1}, trace: t}",
            ":2: capacity.0: needs one of vms and trace",
        ),
        (
            "capacity:\n- {machine: a2-highgpu-1g, vms: {5s: 1}}",
            ":2: capacity.0.vms: does not say how it begins; write {0s: 8, …}",
        ),
        (
            "capacity:\n- {machine: a2-highgpu-1g, vms: {0s: -1}}",
            ":2: capacity.0.vms.0s: is -1; write at least 0",
        ),
        (
            "capacity:\n- {machine: a2-highgpu-1g, vms: {0s: 1}}\n"
            "- {machine: a2-highgpu-1g, vms: {0s: 2}}",
            ":3: capacity.1: is there already; write one entry per machine, region",
        ),
        ("[{at: 1s}]", ":1: 0: needs one of preempt and vanish; write preempt: workerpool1-0"),
        ("[{preempt: workerpool1-0}]", ":1: 0.at: is missing; add it"),
        ("[{at: 1s, vanish: worker}]", ":1: 0.vanish: 'worker' is not a replica; write one such"),
        ("[{at: 150, vanish: workerpool1-0}]", ":1: 0.at: needs a unit; write 150 steps or 150s"),
        (
            "[{at: 1s, vanish: workerpool1-0, notice: 1s}]",
            ":1: 0.notice: belongs to preempt; vanish comes without notice",
        ),
        ("{", ":2: is not YAML"),
    ],
)
def test_a_wrong_market_is_refused_with_line_and_field(
    tmp_path: Path, text: str, says: str
) -> None:
    path = written(tmp_path, text)
    with pytest.raises(JobFileError) as refused:
        load_market(path)
    (problem, *others) = refused.value.problems
    assert problem.startswith(f"{path}{says}")
    assert not others


JOB = "name: a\ntask: module:Class\npools: [{machine: a2-highgpu-1g}]\n"


def test_a_job_file_takes_either_form(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(JOB + "local: {market: [{at: 5s, vanish: workerpool0-0}]}\n")
    listed = load_job(str(path)).local.market
    assert whole_market(listed).incidents == listed
    path.write_text(JOB + "local: {market: {capacity: [{machine: a2-highgpu-1g, trace: a.txt}]}}\n")
    market = whole_market(load_job(str(path)).local.market)
    assert market.capacity[0].trace == str(tmp_path / "a.txt")


def test_a_job_file_says_which_replica_of_a_market_no_pool_has(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(JOB + "local:\n  market:\n    incidents: [{at: 5s, vanish: workerpool1-0}]\n")
    with pytest.raises(JobFileError, match=r"job\.yaml:6: local\.market\.incidents\.0\.vanish: no"):
        load_job(str(path))


def test_editors_can_check_a_market() -> None:
    schema = TypeAdapter(MarketField).json_schema()
    text = json.dumps(schema)
    for field in ("capacity", "survivors", "incidents", "trace", "preempt"):
        assert f'"{field}"' in text


def test_a_vm_comes_back_after_it_went(tmp_path: Path) -> None:
    file = tmp_path / "market.yaml"
    file.write_text("- {at: 150 steps, preempt: workerpool1-0, back: 150 steps}\n")
    with pytest.raises(JobFileError, match=r"1: 0\.back: is 150 steps, and it goes at 150 steps"):
        load_market(str(file))


def test_a_region_of_the_capacity_is_one_there_is(tmp_path: Path) -> None:
    file = tmp_path / "market.yaml"
    entry = "capacity: [{{machine: a2-highgpu-1g, region: {}, vms: {{0s: 1}}}}]\n"
    file.write_text(entry.format("us-centrall1"))
    with pytest.raises(JobFileError, match=r"region: .* did you mean us-central1\?"):
        load_market(str(file))
    for region in ("us-central1", "local"):
        file.write_text(entry.format(region))
        assert load_market(str(file)).capacity[0].region == region


def test_what_was_to_come_after_the_end_is_told() -> None:
    market = {"speed": 60, "incidents": [
        {"at": "100 steps", "vanish": "workerpool1-1"},
        {"at": "300 steps", "preempt": "workerpool1-0", "back": "600 steps"},
        {"at": "1h", "vanish": "workerpool1-1"},
    ]}  # fmt: skip
    whole = Market.model_validate(market)
    assert [*not_come(whole, 120, 30.0)] == [
        "local.market: workerpool1-0 was to be taken away at 300 steps, and 1 more; the run has "
        "ended before that, at step 120: write less, or train longer"
    ]
    assert [*not_come(whole, 300, 61.0)] == [], "an hour of the market passes in a minute"
    assert [*not_come(Market(), 0, 0.0)] == []
