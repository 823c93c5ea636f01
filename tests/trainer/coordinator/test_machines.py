"""What machines do is gathered in few objects, however many they are."""

from __future__ import annotations

import gzip
import json
from typing import Any

from trainer.coordinator.machines import GATHERED, MOST, Gathered, Machines
from trainer.protocol import swell_pb2 as pb
from trainer.telemetry.machine import EVERY

EIGHT = [pb.Gpu(used=0.97123, memory=0.8, temperature=71, clock=1410, power=390)] * 8


def lines(gathered: Gathered | None) -> list[dict[str, Any]]:
    assert gathered is not None
    return [json.loads(line) for line in gzip.decompress(gathered.encode()).splitlines()]


def test_each_machine_is_a_line_with_a_list_for_each_figure() -> None:
    machines = Machines(7, 0.0)
    for at in range(3):
        machines.take("workerpool1-0", pb.Machine(cpu=0.1 * at), 100.0 + at)
    machines.take("workerpool0-0", pb.Machine(cpu=1 / 3), 100.0)
    gathered = machines.gathered(10.0)
    assert gathered is not None and gathered.name == "machines/000007-000001.jsonl.gz"
    first, second = lines(gathered)
    assert (first["member"], first["cpu"]) == ("workerpool0-0", [0.3333])
    assert (second["time"], second["cpu"]) == ([100.0, 101.0, 102.0], [0.0, 0.1, 0.2])
    assert machines.gathered(20.0) is None


def test_what_comes_and_goes_has_a_value_at_every_time() -> None:
    machines = Machines(1, 0.0)
    machines.take("a", pb.Machine(), 1.0)
    machines.take("a", pb.Machine(gpus=[pb.Gpu(used=0.5)]), 2.0)
    machines.take("a", pb.Machine(), 3.0)
    (line,) = lines(machines.gathered(3.0))
    assert line["gpu0_used"] == [0.0, 0.5, 0.0]


def test_a_thousand_machines_write_twelve_objects_an_hour() -> None:
    machines, files, now = Machines(1, 0.0), 0, 0.0
    while now < 3600:
        now += EVERY
        for number in range(3):  # of a thousand: it depends on the time alone
            machines.take(f"workerpool1-{number}", pb.Machine(cpu=0.5), now)
        if machines.due(now):
            files += machines.gathered(now) is not None
    assert files == 3600 / GATHERED == 12


def test_a_thousand_machines_with_eight_gpus_are_a_file_of_a_few_megabytes() -> None:
    machines = Machines(1, 0.0)
    for sample in range(2):
        for number in range(1000):
            told = pb.Machine(cpu=number / 999, memory=sample / 3, read=number * 7919.0, gpus=EIGHT)
            machines.take(f"workerpool1-{number}", told, EVERY * sample)
    gathered = machines.gathered(GATHERED)
    assert gathered is not None
    assert len(gathered.encode()) * (GATHERED / EVERY) / 2 < 8 * 2**20


def test_one_that_says_more_than_it_should_is_not_all_kept() -> None:
    machines = Machines(1, 0.0)
    for number in range(2 * MOST):
        machines.take("a", pb.Machine(cpu=float("nan")), float(number))
    (line,) = lines(machines.gathered(1.0))
    assert len(line["time"]) == len(line["cpu"]) == MOST and set(line["cpu"]) == {0.0}
