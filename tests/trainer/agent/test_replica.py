"""Which replica this is, from what Vertex puts into its environment."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.agent import replica
from trainer.agent.replica import find_checkpoint_urls, find_replica, parse_cluster_spec


def spec(type_: str = "workerpool1", index: Any = 0, **changes: Any) -> str:
    """A CLUSTER_SPEC as Vertex documents it."""
    document = {
        "cluster": {
            "workerpool0": ["cmle-training-workerpool0-ab-0:2222"],
            "workerpool1": [
                "cmle-training-workerpool1-ab-0:2222",
                "cmle-training-workerpool1-ab-1:2222",
            ],
        },
        "environment": "cloud",
        "task": {"type": type_, "index": index},
        "job": '{"scale_tier": "CUSTOM"}',
        "open_ports": [3333],
        **changes,
    }
    return json.dumps({key: value for key, value in document.items() if value is not None})


@pytest.mark.parametrize(
    "text, name",
    [
        (spec("workerpool0", 0), "workerpool0-0"),
        (spec("workerpool1", 1), "workerpool1-1"),
        (spec("workerpool1", "1"), "workerpool1-1"),
        (spec(job={"scale_tier": "CUSTOM"}), "workerpool1-0"),
        (spec(job=None, open_ports=None, environment=None), "workerpool1-0"),
        (spec(task={"type": "workerpool1", "index": 0, "trial": "7"}), "workerpool1-0"),
        (spec("chief"), "workerpool0-0"),
        (spec("master"), "workerpool0-0"),
    ],
)
def test_what_vertex_documents_as_varying_is_understood(text: str, name: str) -> None:
    assert parse_cluster_spec(text) == (name, 3)


def test_a_lone_chief_is_pool_0s_replica() -> None:
    text = spec("chief", cluster={"chief": ["cmle-training-chief-ab-0:2222"]})
    assert parse_cluster_spec(text) == ("workerpool0-0", 1)


@pytest.mark.parametrize("text", [None, ""])
def test_without_a_cluster_spec_it_is_a_world_of_its_own(text: str | None) -> None:
    assert parse_cluster_spec(text) == ("workerpool0-0", 1)


@pytest.mark.parametrize(
    "text",
    [
        "no JSON",
        "{",
        "[]",
        "3",
        "null",
        "{}",
        spec(task={}),
        spec(task="workerpool0"),
        spec(task={"type": "workerpool0"}),
        spec(index=None),
        spec(index="first"),
        spec(index=float("inf")),
        spec(cluster={}, task=None),
        spec(cluster=["a"]),
        spec(cluster={"workerpool0": 3}),
    ],
)
def test_a_malformed_cluster_spec_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="CLUSTER_SPEC is not what Vertex documents"):
        parse_cluster_spec(text)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["cluster", "task", "type", "index", "workerpool0"]), inner
            )
        ),
    )
)
def test_whatever_it_is_it_is_understood_or_refused(value: object) -> None:
    try:
        name, replicas = parse_cluster_spec(json.dumps(value))
    except ValueError:
        return
    assert "-" in name
    assert replicas >= 1


ENV = {"SWELL_ADDRESS": "127.0.0.7", "SWELL_SLOTS": "2", "CLUSTER_SPEC": spec("workerpool1", 1)}


def test_a_replica_is_found() -> None:
    found = find_replica(ENV)
    assert (found.name, found.replicas) == ("workerpool1-1", 3)
    assert (found.address, found.interface, found.slots) == ("127.0.0.7", "lo", 2)
    assert not found.is_primary
    assert find_replica({**ENV, "CLUSTER_SPEC": spec("workerpool0", 0)}).is_primary


def test_each_incarnation_is_another_member() -> None:
    found = find_replica(ENV)
    assert found.member().replica == "workerpool1-1"
    assert found.member() != found.member()


def test_an_address_of_another_machine_has_no_interface_here() -> None:
    assert find_replica({**ENV, "SWELL_ADDRESS": "192.0.2.77"}).interface == ""


def test_without_an_address_the_one_that_leads_out_is_used() -> None:
    found = find_replica({})
    assert found.address.count(".") == 3
    assert found.interface


def test_the_interface_is_the_one_that_leads_to_a_peer() -> None:
    found = find_replica({}, peer="127.0.0.9")
    assert (found.address, found.interface) == ("127.0.0.1", "lo")


@pytest.mark.parametrize("peer", ["", "nonsense", "1.2.3", "::1", "127.0.0.1:80"])
def test_what_is_no_address_leads_out(peer: str) -> None:
    assert find_replica({}, peer) == find_replica({})


@pytest.mark.parametrize(
    "address, leads_to, trap",
    [
        ("10.0.0.7", "127.0.1.1", True),
        ("10.0.0.7", None, True),
        ("10.0.0.7", "10.0.0.7", False),
        ("127.0.0.7", "127.0.1.1", False),
    ],
)
def test_a_host_name_that_leads_to_the_loopback_is_a_trap(
    monkeypatch: pytest.MonkeyPatch, address: str, leads_to: str | None, trap: bool
) -> None:
    def look_up(name: str) -> str:
        if leads_to is None:
            raise OSError("no such name")
        return leads_to

    monkeypatch.setattr("socket.gethostbyname", look_up)
    assert bool(replica.hostname_trap(address)) is trap


@pytest.mark.parametrize("slots", ["", "0", "-1", "two", "1.5", "²"])
def test_slots_must_be_a_number_of_workers(slots: str) -> None:
    with pytest.raises(ValueError, match="SWELL_SLOTS"):
        find_replica({**ENV, "SWELL_SLOTS": slots})


@pytest.mark.parametrize("visible, slots", [("0,1,2", 3), ("0", 1), ("", 1), ("GPU-1a, GPU-2b", 2)])
def test_without_slots_there_is_one_for_each_visible_gpu(
    monkeypatch: pytest.MonkeyPatch, visible: str, slots: int
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert find_replica({"SWELL_ADDRESS": "127.0.0.1"}).slots == slots


def test_a_machine_without_gpus_has_one_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica, "_gpus", lambda: 0)
    assert find_replica({"SWELL_ADDRESS": "127.0.0.1"}).slots == 1


def test_checkpoints_are_where_the_launcher_says() -> None:
    assert find_checkpoint_urls({}) == []
    told = {"SWELL_CHECKPOINTS": '["gs://here/c", "gs://there/c"]'}
    assert find_checkpoint_urls(told) == ["gs://here/c", "gs://there/c"]


@pytest.mark.parametrize("text", ["", "gs://a/b", "{}", '"gs://a/b"', "[1]", '[""]', "[" * 5000])
def test_checkpoints_in_no_list_of_urls_are_an_error_that_names_the_variable(text: str) -> None:
    with pytest.raises(ValueError, match=r"SWELL_CHECKPOINTS must be a JSON list of URLs, not"):
        find_checkpoint_urls({"SWELL_CHECKPOINTS": text})
