"""How podman is set up: from what this machine is, without running it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from launcher.emulator.vms import commands, containers, podman
from launcher.emulator.vms.netns import Host
from launcher.emulator.vms.podman import Machine, Podman
from launcher.emulator.vms.program import Program

DEBIAN = Machine(("crun", "runc"), "v2", systemd=True, files=1024, processes=4096)
SECRET = "do-not-show"


@pytest.mark.parametrize(
    ("cgroups", "runtimes", "runtime"),
    [
        ("v2", ("crun", "runc"), "crun"),
        ("v2", ("runc",), "runc"),
        ("v1", ("crun", "runc"), "runc"),  # crun does not work where both versions are mounted
        ("", ("crun", "runc"), "crun"),  # the only one that does without
        ("v2", (), None),
    ],
)
def test_the_runtime_is_the_one_that_works_with_the_cgroups(
    cgroups: str, runtimes: tuple[str, ...], runtime: str | None
) -> None:
    assert replace(DEBIAN, cgroups=cgroups, runtimes=runtimes).runtime == runtime


def test_the_configuration_asks_for_nothing_that_this_machine_refuses() -> None:
    text = replace(DEBIAN, cgroups="", systemd=False).configuration()
    assert 'default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]' in text
    assert 'cgroups = "disabled"' in text and 'cgroup_manager = "cgroupfs"' in text
    assert 'cgroup_manager = "systemd"' in DEBIAN.configuration()


def test_this_machine_s_limits_are_within_what_podman_may_set() -> None:
    here = Machine.here()
    assert 0 < here.processes <= int(Path("/proc/sys/kernel/pid_max").read_text())
    assert 0 < here.files <= 2**20


def test_what_is_missing_is_said_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert podman.missing(lambda name: None) == (
        "containers need podman: apt-get install podman runc conmon"
    )
    monkeypatch.setattr(Machine, "here", lambda: replace(DEBIAN, runtimes=()))
    assert "runtime" in (podman.missing(lambda name: name) or "")
    monkeypatch.setattr(Machine, "here", lambda: replace(DEBIAN, cgroups="", runtimes=("runc",)))
    assert "apt-get install crun" in (podman.missing(lambda name: name) or "")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert "root" in (podman.missing() or "")


def test_a_user_s_own_configuration_comes_first(tmp_path: Path) -> None:
    file = tmp_path / "containers.conf"
    assert Podman(file, {"CONTAINERS_CONF": "/mine"}).environment["CONTAINERS_CONF"] == "/mine"
    assert not file.exists()
    assert Podman(file, {}).environment["CONTAINERS_CONF"] == str(file)
    assert file.read_text() == Machine.here().configuration()


def test_no_variable_s_value_is_in_the_command_line_but_those_that_podman_itself_reads(
    tmp_path: Path,
) -> None:
    client = Podman(tmp_path / "containers.conf", {})
    place = containers.ContainerPlace(Host(7, 0, ["vm-a"]), "198.18.7.1", client, 2**30, 0)
    variables = {"SWELL_TOKEN": SECRET, "PATH": "/mine", "CONTAINERS_CONF": "/theirs"}
    argv, environment = place.command(Program("an-image", ("a", "b"), ("c",), variables))
    assert SECRET not in " ".join(argv) and environment["SWELL_TOKEN"] == SECRET
    assert environment["PATH"] == commands.SYSTEM_PATH, "podman's own"
    assert environment["CONTAINERS_CONF"] == str(tmp_path / "containers.conf")
    assert "PATH=/mine" in argv and "CONTAINERS_CONF=/theirs" in argv
    assert argv[argv.index("--entrypoint") + 1] == "a" and argv[-3:] == ["an-image", "b", "c"]
