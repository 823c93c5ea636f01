"""What a probe's reports come to, and who reads that later."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from launcher.cli import app
from launcher.doctor.probefindings import findings_of
from launcher.emulator.resources.customjobs import pools
from launcher.emulator.vms.cluster_spec import FORMS, cluster_spec
from launcher.probed import Probed, cautions, judged, network_of, newest
from tests.examples import examples
from tests.launcher.supervision.policy_run import job
from trainer.probe.surroundings import spec_shape

WHERE = Probed(
    id="probe-1",
    at=1e9,
    endpoint="https://us-central1-aiplatform.googleapis.com",
    project="p",
    region="us-central1",
    network="projects/1/global/networks/n",
)
FLEET = job(project="p", regions=["us-central1"], network=WHERE.network, fleet=2)


def report(number: int, **more: Any) -> dict[str, Any]:
    peer = {"peer": "x", "leads_to": "10.0.0.2", "failed": "", "latency": 0.001 * number}
    return {
        "attempt": number,
        "peers": [{**peer, "bandwidth": 1e9 / number}],
        "cluster_spec": {
            "given": True,
            "error": "",
            "job": "text",
            "open_ports": [3333],
            "task": ["index", "type"],
            "pools": {"workerpool0": ["h:2222"]},
            "keys": ["cluster", "environment", "job", "open_ports", "task"],
        },
        "metadata": {"answers": True, "values": {"instance/preempted": "FALSE"}},
        **more,
    }


def failing(number: int) -> dict[str, Any]:
    peer = {"peer": "x", "leads_to": "", "failed": "10.0.0.2: timed out"}
    return report(number, peers=[{**peer, "latency": None, "bandwidth": None}])


def test_of_both_directions_the_worse_counts() -> None:
    found = judged(WHERE, [report(1), report(2)])
    assert (found.reached, found.latency, found.bandwidth) == (True, 0.002, 5e8)
    assert (found.names, found.spec_read, found.spec_forms) == (True, True, [])
    assert (found.metadata, found.notice) == (True, True)
    one_way = judged(WHERE, [report(1), failing(2)])
    assert (one_way.reached, one_way.why, one_way.names) == (False, "10.0.0.2: timed out", False)


def test_what_one_of_them_has_not_told_is_not_known() -> None:
    assert judged(WHERE, []) == WHERE
    alone = judged(WHERE, [report(1), report(2, peers=[])])
    assert alone.reached is None and alone.spec_read is True


@pytest.mark.parametrize("form", [None, *FORMS])
def test_each_of_the_emulators_forms_of_cluster_spec_is_found_out(form: str | None) -> None:
    machine = {"machineSpec": {"machineType": "a2-highgpu-1g"}, "replicaCount": "1"}
    record = {"jobSpec": {"workerPoolSpecs": [{**machine, "containerSpec": {"imageUri": "i"}}]}}
    text = cluster_spec("7", pools(record), "workerpool0-0", frozenset({form} if form else ()))
    shape = spec_shape(text)
    found = judged(WHERE, [report(1, cluster_spec=shape), report(2, cluster_spec=shape)])
    assert found.spec_read is True
    assert (
        found.spec_forms
        == {
            None: [],
            "job-object": ["job is an object"],
            "no-open-ports": ["open_ports is missing"],
            "trial": ["task has a trial"],
            "chief": ["the primary is called chief"],
        }[form]
    )


def test_a_form_that_nobody_knows_is_told_with_what_is_wrong() -> None:
    shape = spec_shape('{"cluster": {}, "task": {"kind": 1}, "zone": "z"}')
    found = judged(WHERE, [report(1, cluster_spec=shape)])
    assert found.spec_read is False
    assert found.spec_forms[0].startswith("CLUSTER_SPEC is not what Vertex documents")
    assert found.spec_forms[-1] == "it also has zone"


@pytest.mark.parametrize(
    ("said", "metadata", "notice"),
    [
        ({"answers": True, "values": {"instance/preempted": None}}, True, False),
        ({"answers": False, "values": {}}, False, False),
        ({"answers": True, "values": {"instance/preempted": "FALSE"}}, True, True),
        (None, None, None),
    ],
)
def test_whether_a_notice_can_come_by_the_metadata_server(
    said: Any, metadata: bool | None, notice: bool | None
) -> None:
    found = judged(WHERE, [report(1, metadata=said), report(2, metadata=said)])
    assert (found.metadata, found.notice) == (metadata, notice)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.floats(allow_nan=False)
    | st.text(max_size=5),
    lambda it: (
        st.lists(it, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["peers", "cluster_spec", "metadata", "values", "failed", "latency", "keys"]
            )
            | st.text(max_size=5),
            it,
            max_size=4,
        )
    ),
)


@settings(max_examples=examples(30))
@given(st.lists(st.dictionaries(st.sampled_from(["peers", "cluster_spec", "metadata"]), JSON)))
def test_reports_of_any_form_are_judged(reports: Sequence[dict[str, Any]]) -> None:
    found = judged(WHERE, reports)
    assert Probed(**asdict(found)) == found
    assert next(name for name, _ in findings_of(FLEET, found, "")) == "jobs reach each other"


# --- kept, and read -------------------------------------------------------------------


def test_the_newest_of_the_same_place_counts_and_what_is_damaged_does_not(tmp_path: Path) -> None:
    others = [
        replace(WHERE, id="a", at=5.0),
        replace(WHERE, id="b", at=9e9, region="us-east4"),
        replace(WHERE, id="c", at=9e9, network=""),
        replace(WHERE, id="d", at=9e9, endpoint="http://127.0.0.1:1"),
        replace(WHERE, id="e", at=9e9, project="q"),
    ]
    for one in [WHERE, *others]:
        path = one.keep(tmp_path, [{"secret": 1}])
    assert path.stat().st_mode & 0o077 == 0
    (tmp_path / "probes" / "x.json").write_text("{")
    (tmp_path / "probes" / "y.json").write_text("[]")
    (tmp_path / "probes" / "z.json").write_text(json.dumps({**asdict(WHERE), "at": "never"}))
    found = newest(tmp_path, FLEET, WHERE.endpoint, WHERE.region)
    assert found is not None and found.id == "probe-1"
    assert newest(tmp_path, FLEET, WHERE.endpoint, "europe-west4") is None


def test_a_job_is_warned_of_what_will_not_go_well() -> None:
    apart = replace(WHERE, reached=False, why="timed out really", spec_read=False)
    assert [str(it) for it in cautions(FLEET, apart)] == [
        f"fleet: VMs of two jobs did not reach each other in us-central1, probed on {WHERE.day} "
        "(timed out really); mend the network's firewall or the attachment, then swell doctor JOB "
        "--probe [SW1034]",
        f"CLUSTER_SPEC in us-central1 is not of a form that this version reads, probed on "
        f"{WHERE.day}; update Swell, or report it with probes/probe-1.json [SW1035]",
    ]
    assert len(cautions(job(), apart)) == 1, "no fleet"
    assert cautions(FLEET, None) == cautions(FLEET, WHERE) == []
    assert network_of(job(), WHERE.endpoint) == ""
    assert network_of(job(), "local") == "process"
    apart_here = {"vm": "netns", "market": {"isolated": True}}
    assert network_of(job(local=apart_here), "local") == "netns, isolated"


@pytest.mark.parametrize("reached", [True, False, None])
def test_plan_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reached: bool | None
) -> None:
    monkeypatch.setenv("SWELL_HOME", str(tmp_path))
    monkeypatch.delenv("SWELL_VERTEX_ENDPOINT", raising=False)
    file = tmp_path / "job.yaml"
    file.write_text(json.dumps(FLEET.to_dict()))
    if reached is not None:
        found = judged(WHERE, [report(1), report(2) if reached else failing(2)])
        found.keep(tmp_path, [])
    answer = CliRunner().invoke(app, ["plan", str(file), "--format", "table"])
    assert answer.exit_code == 0, answer.output
    if reached is None:
        assert "whether jobs reach each other in us-central1 is not known" in answer.stdout
    elif reached:
        assert (
            f"probed on {WHERE.day} in us-central1: VMs of two jobs reach each other (2.00 ms, "
            "0.50 GB/s); CLUSTER_SPEC is read; the metadata server tells of a preemption"
        ) in answer.stdout
    assert ("[SW1034]" in answer.stderr) is (reached is False)
