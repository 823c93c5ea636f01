"""Two VMs that find each other through a folder, and nobody else."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from trainer.probe import meeting as meetings
from trainer.probe.__main__ import JOBS, main, probe
from trainer.probe.meeting import GUESTS, Meeting
from trainer.rundir.directory import RunDirectory

HOST = {"name": "localhost", "addresses": {"lo": ["127.0.0.1"]}}


@pytest.fixture(autouse=True)
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meetings, "ENOUGH", 2**21)


@pytest.fixture
def folder(tmp_path: Path) -> RunDirectory:
    return RunDirectory(str(tmp_path))


def meeting(folder: RunDirectory, name: str, key: str = "key", **host: Any) -> Meeting:
    return Meeting(folder, name, key, {**HOST, **host}, "127.0.0.1")


def test_each_tells_how_it_reaches_the_other(folder: RunDirectory) -> None:
    with meeting(folder, "1-a") as one, meeting(folder, "2-a") as two:
        (found,), (back,) = one.measure(), two.measure()
    for it, peer in ((found, "2-a"), (back, "1-a")):
        assert (it["peer"], it["address"], it["failed"]) == (peer, "127.0.0.1", "")
        assert 0 < it["latency"] < 60 and it["bandwidth"] > 0
        assert it["leads_to"].startswith("127.")


def test_one_of_another_probe_gets_no_further_than_the_question(folder: RunDirectory) -> None:
    with meeting(folder, "1-a"), meeting(folder, "2-a", key="another") as two:
        (found,) = two.measure()
    assert found["failed"] == "127.0.0.1: it was closed by the other side"
    assert found["bandwidth"] is None


def test_one_that_is_not_there_is_told_of_with_every_address(folder: RunDirectory) -> None:
    card = {"name": "no such host.", "addresses": ["127.0.0.1", "256.0.0.1"], "port": 9}
    folder.write_json("cards/9-a.json", card)
    strange: list[dict[str, Any]] = [{"addresses": 5, "port": 9}, {"port": "x"}, {"addresses": []}]
    for number, one_such in enumerate(strange):
        folder.write_json(f"cards/{number + 6}-a.json", one_such)
    with meeting(folder, "1-a") as one:
        *others, gone = one.measure()
    assert [it["failed"] for it in others] == ["its card does not say where it listens"] * 3
    assert "127.0.0.1: " in gone["failed"] and "256.0.0.1: " in gone["failed"]
    assert gone["leads_to"] == ""


def test_whoever_talks_nonsense_or_comes_in_hundreds_does_no_harm(folder: RunDirectory) -> None:
    with meeting(folder, "1-a") as one, meeting(folder, "2-a") as two:
        port = one.cards()["1-a"]["port"]
        idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(2 * GUESTS)]
        idle[0].recv(32)
        idle[0].sendall(b"x" * 32)
        assert idle[0].recv(1) == b"", "it is not let in"
        for link in idle:
            link.close()
        found = two.measure()
        while found[0]["failed"]:  # until those before are gone
            found = two.measure()
    assert found[0]["bandwidth"] > 0


def environment(attempt: int) -> dict[str, str]:
    spec = {"cluster": {"workerpool0": ["h:1"]}, "task": {"type": "workerpool0", "index": 0}}
    return {
        "SWELL_ATTEMPT": str(attempt),
        "SWELL_PROBE": "the key",
        "SWELL_ADDRESS": "127.0.0.1",
        "CLUSTER_SPEC": json.dumps(spec),
        "GCE_METADATA_HOST": "127.0.0.1:9",
    }


def test_two_probes_report_all_that_they_find_and_no_secret(folder: RunDirectory) -> None:
    found: dict[int, dict[str, Any]] = {}

    def run(attempt: int) -> None:
        found[attempt] = probe(environment(attempt), folder, sleep=lambda seconds: None)

    threads = [Thread(target=run, args=(attempt,)) for attempt in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    reports = [folder.read_json(f"reports/{n}-workerpool0-0.json") for n in (1, 2)]
    assert reports == [found[1], found[2]] and len(reports) == JOBS
    assert [it["peers"][0]["peer"] for it in reports] == ["2-workerpool0-0", "1-workerpool0-0"]
    assert all(it["peers"][0]["bandwidth"] > 0 for it in reports)
    assert "the key" not in json.dumps(reports)


def test_one_that_waits_in_vain_has_reported_what_it_found(folder: RunDirectory) -> None:
    now = [0.0]

    def sleep(seconds: float) -> None:
        assert folder.read_json("reports/1-workerpool0-0.json")["peers"] == []
        now[0] += 60 * seconds

    report = probe(environment(1), folder, clock=lambda: now[0], sleep=sleep)
    assert report["peers"] == [] and now[0] >= 600


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({}, "'SWELL_RUN_DIR' is not set"),
        ({"SWELL_RUN_DIR": "{folder}", "SWELL_ATTEMPT": "1"}, "'SWELL_PROBE' is not set"),
        ({"SWELL_RUN_DIR": "{folder}", "SWELL_ATTEMPT": "x"}, "invalid literal"),
        ({"SWELL_RUN_DIR": __file__, "SWELL_ATTEMPT": "1"}, __file__),
    ],
)
def test_an_environment_that_is_none_is_said_in_a_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    env: dict[str, str],
    said: str,
) -> None:
    for name in ("SWELL_RUN_DIR", "SWELL_ATTEMPT", "SWELL_PROBE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value.format(folder=tmp_path))
    monkeypatch.setenv("GCE_METADATA_HOST", "127.0.0.1:9")
    assert main() == 1
    printed = capsys.readouterr().err
    assert said in printed and len(printed.splitlines()) == 1
