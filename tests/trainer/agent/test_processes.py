"""What the processes of a torchrun script start with."""

from __future__ import annotations

import random
import socket
from collections.abc import Mapping
from types import MappingProxyType

import pytest

from tests.trainer.ranks import world_of
from trainer.agent import processes
from trainer.agent.processes import free_port, torchrun_environment
from trainer.protocol.world import World

WORLD = world_of(2, 1, 2, generation=4)


def environment(
    rank: int, world: World = WORLD, env: Mapping[str, str] = MappingProxyType({})
) -> dict[str, str]:
    place = world.places[rank]
    return torchrun_environment(
        place, world, run_id="run-1", max_restarts=3, interface="eth0", env=env
    )


def test_a_process_is_told_its_place_as_torchrun_would() -> None:
    found = environment(rank=4)
    assert {name: value for name, value in found.items() if "TORCH" not in name} == {
        "RANK": "4",
        "WORLD_SIZE": "5",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "2",
        "GROUP_RANK": "2",
        "GROUP_WORLD_SIZE": "3",
        "ROLE_RANK": "4",
        "ROLE_WORLD_SIZE": "5",
        "ROLE_NAME": "default",
        "GLOO_SOCKET_IFNAME": "eth0",
        "OMP_NUM_THREADS": "1",
    }


def test_every_generation_after_the_first_is_a_restart() -> None:
    assert environment(0)["TORCHELASTIC_RESTART_COUNT"] == "3"
    assert environment(0, world_of(1))["TORCHELASTIC_RESTART_COUNT"] == "0"
    assert environment(0)["TORCHELASTIC_MAX_RESTARTS"] == "3"
    assert environment(0)["TORCHELASTIC_RUN_ID"] == "run-1"


def test_what_the_job_has_set_itself_stays() -> None:
    for name in ("OMP_NUM_THREADS", "GLOO_SOCKET_IFNAME"):
        assert name not in environment(0, env={name: "mine"})
    kept = environment(0, env={"TORCH_NCCL_ASYNC_ERROR_HANDLING": "0"})
    assert kept["TORCH_NCCL_ASYNC_ERROR_HANDLING"] == "0"


def test_alone_on_its_machine_a_process_computes_with_all_processors() -> None:
    assert "OMP_NUM_THREADS" not in environment(rank=2)


def test_a_free_port_is_none_that_the_kernel_gives_away_by_itself() -> None:
    first = processes._first_for_connections()
    for _ in range(50):
        assert processes.LOWEST_PORT <= free_port() < first


def test_a_port_that_is_taken_on_any_address_is_not_free() -> None:
    port = free_port()
    for other in ("127.0.0.2", ""):
        with socket.create_server((other, port)):
            assert processes._bound(port) is None
    assert processes._bound(port) == port


def test_the_port_of_the_last_generation_is_not_taken_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    last = free_port()
    monkeypatch.setattr(random, "randrange", lambda low, high: last)
    assert free_port() == last
    with pytest.raises(OSError, match="no port"):
        free_port(but=last)
