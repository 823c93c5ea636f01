"""NCCL's settings for fast networks: which are used, and that each says where it comes from."""

from __future__ import annotations

import pytest

from launcher.job.machines import MACHINES
from trainer.agent.networks import FastNetwork, between_jobs, fast_networks, settings_here

ALL_NICS = [f"eth{n}" for n in range(9)]
PLUGGED = [one for one in fast_networks() if one.library]


def here(
    network: FastNetwork, nics: list[str] = ALL_NICS, **environ: str
) -> tuple[dict[str, str], str]:
    return settings_here(environ, lambda path: path == network.library, lambda: nics)


def test_every_setting_names_its_source_and_every_large_machine_is_known() -> None:
    machines = [machine for one in fast_networks() for machine in one.machines]
    assert len(machines) == len(set(machines)), "one network a machine type"
    assert set(machines) <= set(MACHINES)
    large = {m for m in MACHINES if m.startswith("a2-") or m.endswith("8g")}
    assert large <= set(machines)
    for one in fast_networks():
        assert one.settings.keys() == one.sources.keys() and all(one.sources.values())
        assert all(name.startswith("NCCL_") and value for name, value in one.settings.items())


def test_without_a_library_nothing_is_set() -> None:
    assert settings_here({}, lambda path: False, lambda: ALL_NICS) == ({}, "")


@pytest.mark.parametrize("network", PLUGGED, ids=lambda one: one.name)
def test_where_the_library_is_its_settings_are_used_and_untested_ones_say_so(
    network: FastNetwork,
) -> None:
    added, why = here(network)
    assert network.library
    folder = network.library.rpartition("/")[0]
    assert added == {**network.settings, "LD_LIBRARY_PATH": folder}
    assert network.name in why and ("never tried" in why) is not network.tested


@pytest.mark.parametrize("network", PLUGGED, ids=lambda one: one.name)
def test_what_the_user_has_set_stays(network: FastNetwork) -> None:
    added, _ = here(network, LD_LIBRARY_PATH="/mine", NCCL_CROSS_NIC="1")
    assert "NCCL_CROSS_NIC" not in added
    assert added["LD_LIBRARY_PATH"].endswith(":/mine")


def test_without_its_interfaces_a_network_is_not_used_and_that_is_said() -> None:
    network = next(one for one in PLUGGED if one.interfaces())
    assert here(network, ["lo", "eth0"])[0] == {}
    assert "no interface eth1" in here(network, ["lo", "eth0"])[1]


def test_between_jobs_all_use_sockets_on_the_interface_that_they_reach_each_other_by() -> None:
    added, why = between_jobs({"NCCL_DEBUG": "INFO"}, "eth0")
    assert added["NCCL_NET"] == "Socket" and added["NCCL_NET_PLUGIN"] == "none"
    assert added["NCCL_SOCKET_IFNAME"] == "=eth0" and "eth0" in why
    assert between_jobs(added, "eth0")[0] == {}, "what is set stays"
