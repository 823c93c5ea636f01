"""VMs that are containers: the image that Vertex AI would run, in a namespace of ``netns``.

podman runs the container in a network namespace that is there already. So a container has what
a ``netns`` VM has (an address, a host name, a link that can be cut, a metadata server), without
podman's own networks, their firewall rules and their name server. It shares no files with this
machine: programs come from the image, everything else from ``gs://``.

podman's client is the VM's process: it hands signals on and ends with the container's exit
code. Everything in the container is killed through its namespace, whatever podman does.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

from launcher.emulator.vms import netns, podman
from launcher.emulator.vms.host_places import HostPlace, HostSite
from launcher.emulator.vms.netns import FILES, NAMESPACES, Host
from launcher.emulator.vms.podman import Podman
from launcher.emulator.vms.processes import signal_session
from launcher.emulator.vms.program import Program

LABEL = "swell-vm"
# podman's own variables: a container gets its own beside them, in the command line.
CLIENTS_OWN = ("PATH", "HOME", "TMPDIR", "XDG_", "CONTAINER", "STORAGE_", "LD_", "_")


def missing() -> str | None:
    """Why container VMs cannot be had here, with what to do about it; None when they can."""
    return podman.missing() or netns.missing()


class ContainerPlace(HostPlace):
    """A ``container`` VM.

    Args:
        host: its namespace.
        gateway: this machine's address in its network.
        client: podman.
        memory: the most memory that it may use, in bytes; None for any amount.
        held, used: see HostPlace.
    """

    keeps_orphans = False  # podman's own processes see to the container's end

    def __init__(
        self,
        host: Host,
        gateway: str,
        client: Podman,
        memory: int | None,
        held: int,
        used: bool = False,
    ) -> None:
        super().__init__(host, gateway, held, used)
        self._client = client
        self._memory = memory

    def command(self, program: Program) -> tuple[list[str], dict[str, str]]:
        """The command that runs the program here, and the environment of the command.

        A variable's value reaches podman through its environment, never through its arguments,
        which everybody on the machine can read.
        """
        environment = dict(self._client.environment)
        variables: list[str] = []
        for name, value in program.environment.items():
            if name.startswith(CLIENTS_OWN):
                variables += ["--env", f"{name}={value}"]
            else:
                environment[name] = value
                variables += ["--env", name]
        files = FILES / self._host.name
        memory = self._memory if self._client.limits_memory else None
        entry = ["--entrypoint", program.command[0]] if program.command else []
        argv = self._client.command(
            *("run", "--rm", "--pull=never", "--name", self._host.name, "--label", LABEL),
            *("--network", f"ns:{NAMESPACES / self._host.name}", "--hostname", self._host.hostname),
            *("--no-hosts", "--volume", f"{files / 'hosts'}:/etc/hosts:ro"),
            *("--volume", f"{files / 'resolv.conf'}:/etc/resolv.conf:ro"),
            *("--log-driver", "none", "--security-opt", "no-new-privileges"),
            *(["--memory", str(memory), "--memory-swap", str(memory)] if memory else []),
            *variables,
            *entry,
            program.image,
            *program.command[1:],
            *program.args,
        )
        return argv, environment

    def renew(self) -> None:
        """Makes this the place of a new VM."""
        self._client.remove([self._host.name])
        super().renew()

    def signal(self, session: int | None, number: int) -> int:
        """Signals everything in the container, or podman itself while there is nothing yet.

        podman removes the container when what is in it has ended, so it is left to do that.
        """
        return self._host.signal(number) or (signal_session(session, number) if session else 0)


class ContainerSite(HostSite):
    """The places of ``container`` VMs: one network.

    Args:
        hostnames: by replica.
        images: what the VMs run.
        memory: the most memory of a VM by replica, in bytes.
        folder: for podman's configuration.
        inherit: the number of the network in which some of them live, if there is one.

    Raises OSError when it cannot be made, an image that is not here among the reasons.
    """

    def __init__(
        self,
        hostnames: Mapping[str, str],
        images: Sequence[str],
        memory: Mapping[str, int],
        folder: Path,
        inherit: int | None = None,
    ) -> None:
        self._client = Podman(folder / "containers.conf")
        for image in dict.fromkeys(images):
            if not self._client.has_image(image):
                raise FileNotFoundError(no_image(image))
        super().__init__(hostnames, inherit)
        self._memory = memory
        try:
            if not self._inherited:
                _remove_abandoned(self._client, self._network.number)
        except BaseException:
            self._network.close()
            raise

    def place(self, replica: str, inherit: str | None = None) -> ContainerPlace:
        """The place of one replica."""
        host, memory = self._hosts[replica], self._memory.get(replica)
        held = self._network.held
        return ContainerPlace(host, self.gateway, self._client, memory, held, self._inherited)

    def close(self) -> None:
        """Kills and removes all containers, then the network."""
        try:
            for host in self._hosts.values():
                host.signal(signal.SIGKILL)
            self._client.remove([host.name for host in self._hosts.values()])
        finally:
            self._network.close()


def no_image(image: str) -> str:
    """What to say when an image is not there."""
    return f"there is no image {image} on this machine: make image builds ours, podman pull others"


def _remove_abandoned(client: Podman, own: int) -> None:
    """Removes the containers of emulators that are gone; what ran in them was killed already.

    Args:
        client: podman.
        own: the number of a network that is ours now, and has no containers yet.
    """
    for name in client.containers(LABEL):
        number = netns.number_of(name)
        if number == own:
            client.remove([name])
        elif number is not None and (held := netns.claim(number)):
            with held:
                client.remove([name])
