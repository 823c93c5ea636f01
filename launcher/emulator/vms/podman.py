"""podman, as this machine lets it work: which runtime, which cgroups, which limits.

podman's own defaults fail on a machine without systemd, with the cgroups of both versions
mounted, or where the hard limits of processes cannot be raised. What it needs is found out and
written into a configuration file, unless the user has one in CONTAINERS_CONF. Where images are
kept is podman's business (CONTAINERS_STORAGE_CONF).

Tried with podman 4.3 of Debian 12.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher.emulator.vms import commands
from launcher.emulator.vms.commands import SYSTEM_PATH, last_line

ENGINES = ("podman", "docker")
HELPERS = ("/usr/lib/podman", "/usr/libexec/podman", "/usr/local/libexec/podman")
INSTALL = "apt-get install podman runc conmon"
LIMIT = 60.0  # seconds for a command that only asks or removes


@dataclass(frozen=True)
class Machine:
    """What decides how podman must be set up.

    Attributes:
        runtimes: those of crun and runc that are installed.
        cgroups: "v2", "v1" (also where both are mounted), or "" where none can be made.
        systemd: whether systemd runs, and makes the cgroups.
        files, processes: hard limits that a container may be given.
        netavark: whether podman has netavark for its own networks; else its default.
    """

    runtimes: tuple[str, ...]
    cgroups: str
    systemd: bool
    files: int
    processes: int
    netavark: bool = True

    @classmethod
    def here(cls) -> Machine:
        """This machine."""
        # podman lowers its own limit to the highest process id, and cannot go above it then.
        most = int(Path("/proc/sys/kernel/pid_max").read_text())
        return cls(
            runtimes=tuple(name for name in ("crun", "runc") if commands.find(name)),
            cgroups=_cgroups(Path("/sys/fs/cgroup")),
            systemd=Path("/run/systemd/system").is_dir(),
            files=_hard_limit(resource.RLIMIT_NOFILE, 2**20),
            processes=_hard_limit(resource.RLIMIT_NPROC, most),
            netavark=any(Path(folder, "netavark").exists() for folder in HELPERS),
        )

    @property
    def runtime(self) -> str | None:
        """The runtime that works here: crun knows version 2 alone, or no cgroups at all."""
        order = ("runc", "crun") if self.cgroups == "v1" else ("crun", "runc")
        return next((name for name in order if name in self.runtimes), None)

    def configuration(self) -> str:
        """The text of a containers.conf for this machine."""
        limits = json.dumps(
            [f"nofile={self.files}:{self.files}", f"nproc={self.processes}:{self.processes}"]
        )
        return (
            "[containers]\n"
            f"default_ulimits = {limits}\n"
            f"cgroups = {json.dumps('enabled' if self.cgroups else 'disabled')}\n"
            "[engine]\n"
            f"runtime = {json.dumps(self.runtime)}\n"
            f"cgroup_manager = {json.dumps('systemd' if self.systemd else 'cgroupfs')}\n"
            'events_logger = "none"\n'
            + ('[network]\nnetwork_backend = "netavark"\n' if self.netavark else "")
        )


def find_engine() -> str | None:
    """The container engine that is on the user's PATH: podman, else docker, if any."""
    return next(filter(None, map(shutil.which, ENGINES)), None)


def configure(configuration: Path, environ: Mapping[str, str]) -> str:
    """Returns the configuration file for podman: the user's own if there is one in ``environ``,
    else ``configuration``, which is written for this machine."""
    own = environ.get("CONTAINERS_CONF")
    if own is None:
        configuration.write_text(Machine.here().configuration())
    return own or str(configuration)


def missing(find: Callable[[str], str | None] = commands.find) -> str | None:
    """Why containers cannot be run here, with what to do about it; None when they can."""
    if os.geteuid() != 0:
        return "containers with a network of their own need root: run this as root"
    if not find("podman"):
        return f"containers need podman: {INSTALL}"
    machine = Machine.here()
    if machine.runtime is None:
        return f"podman needs a runtime, runc or crun: {INSTALL}"
    if not machine.cgroups and machine.runtime == "runc":
        return "no cgroups can be made here, and runc needs them: apt-get install crun"
    return None


class Podman:
    """podman on this machine.

    Args:
        configuration: a file to write its configuration to; the user's own, if there is one,
            comes before it.
        environ: this process's environment.
    """

    def __init__(self, configuration: Path, environ: Mapping[str, str] = os.environ) -> None:
        self.limits_memory = bool(Machine.here().cgroups)
        self._program = commands.find("podman") or "podman"
        self.environment = {
            "PATH": SYSTEM_PATH,
            "HOME": environ.get("HOME", "/root"),
            "CONTAINERS_CONF": configure(configuration, environ),
        }
        for name in ("CONTAINERS_STORAGE_CONF", "CONTAINERS_REGISTRIES_CONF"):
            if name in environ:
                self.environment[name] = environ[name]

    def command(self, *arguments: str) -> list[str]:
        """The command line of one call; it is to be run in ``environment``."""
        return [self._program, *arguments]

    def has_image(self, image: str) -> bool:
        """Whether the image is on this machine."""
        return self._run("image", "exists", image).returncode == 0

    def remove(self, names: Sequence[str]) -> None:
        """Kills and removes containers, those that there are. Raises OSError."""
        if names:
            done = self._run("rm", "--force", "--ignore", "--time", "0", *names)
            if done.returncode:
                raise OSError(f"podman could not remove {', '.join(names)}: {last_line(done)}")

    def containers(self, label: str) -> list[str]:
        """The names of all containers with the label, running or not. Raises OSError."""
        done = self._run("ps", "--all", "--filter", f"label={label}", "--format", "{{.Names}}")
        if done.returncode:
            raise OSError(f"podman does not work here: {last_line(done)}")
        return done.stdout.split()

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return commands.run(self.command(*arguments), self.environment, LIMIT)


def _cgroups(root: Path) -> str:
    if (root / "cgroup.controllers").exists():
        return "v2" if os.access(root, os.W_OK) else ""
    return "v1" if os.access(root / "memory", os.W_OK) else ""


def _hard_limit(what: int, most: int) -> int:
    _, hard = resource.getrlimit(what)
    return most if hard == resource.RLIM_INFINITY else min(hard, most)


if __name__ == "__main__":  # for containers/build.sh
    print(Machine.here().configuration(), end="")
