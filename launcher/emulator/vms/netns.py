"""Network namespaces as VMs: own address, own host name, and a link that can be cut.

    with Network(["vm-a", "vm-b"]) as network:
        a, b = network.hosts
        process = subprocess.Popen(a.command(["python", "train.py"]))
        a.cut()     # to b, a is gone without a trace; to a, everybody else is
        a.heal()

Every network has a number that nobody else on this machine uses, and everything it makes
is named after it::

    swell7           this machine's own interface into it, 198.18.7.1, and the switch: a
                     namespace with a bridge, so that no firewall of this machine filters it; also
                     the way to networks that this one is linked to, at 198.18.7.254
    swell7-0, -1, …  the hosts: namespaces with an eth0, 198.18.7.2 and on, their files in
                     /etc/netns, and a cgroup (version 2, where there is one) that kills or
                     stops everything in them at once, whatever session it is in

Its owner claims it by an abstract socket, which goes with its process however that ends. Who uses
it without being its owner, as a VM's keeper does, has ``held`` open: a lock on the switch's folder
in /etc/netns. Another owner may inherit a network that is in use; one that is neither owned nor
used is removed by the next owner who makes a network. 198.18.0.0/15 is
meant for tests and routed nowhere (RFC 2544). Hosts reach each other, this machine, and the hosts
of networks that theirs is linked to (``link``), nothing else, and no name server: look-ups of
unknown names fail at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import ipaddress
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from launcher.emulator.vms import commands

MAX_HOSTS = 252
ROUTER = 254  # the last part of a switch's address
RANGE = "198.18.0.0/15"
NUMBERS = range(512)  # the /24 networks of 198.18.0.0/15
NAME = re.compile(r"swell(\d{1,3})(-\d+)?")
NAMESPACES = Path("/run/netns")
FILES = Path("/etc/netns")
TOOLS = {"ip": "iproute2", "unshare": "util-linux", "hostname": "hostname", "sh": "dash"}
RECHECK_SECONDS = 0.005
CLAIM_SECONDS = 10.0

JOIN = 'echo $$ > "$0" && exec "$@"'  # a cgroup
FORWARD = "echo 1 > /proc/sys/net/ipv4/ip_forward"
RENAME = '"$0" "$1" && shift && exec "$@"'  # with the command hostname


def missing() -> str | None:
    """Why networks cannot be made here, with what to do about it; None when they can."""
    if os.geteuid() != 0:
        return "network namespaces need root: run this as root"
    for tool, package in TOOLS.items():
        if not commands.find(tool):
            return f"network namespaces need the command {tool}: apt-get install {package}"
    try:
        _run("unshare", "--net", "--mount", "--uts", "true")
    except OSError as error:
        return f"network namespaces are not permitted here, in a container perhaps: {error}"
    return None


class Host:
    """One namespace: a VM without hardware.

    Attributes:
        name: of the namespace.
        hostname: what programs in it see; its peers resolve it.
        address: its IPv4 address.
        network: its network's name.
    """

    def __init__(self, number: int, index: int, hostnames: Sequence[str]) -> None:
        own = index + 2
        self.name = f"swell{number}-{index}"
        self.hostname = hostnames[index]
        self.address = _address(number, own)
        self.network = self._switch = f"swell{number}"
        self._port = f"port{index}"
        self._cgroup = _cgroup(self.name)
        peers = [last for last in range(1, len(hostnames) + 2) if last != own]
        self._table = ["127.0.0.1 localhost"]
        self._table += [f"{_address(number, i + 2)} {name}" for i, name in enumerate(hostnames)]
        self._setup = [
            "link set lo up",
            f"link set eth0 address {_mac(number, own)} up",
            f"addr add {self.address}/24 dev eth0",
            # A cloud's network answers for a VM that has vanished as for one that lives.
            *(_neighbour(number, last, "eth0") for last in [*peers, ROUTER]),
            f"route add {RANGE} via {_address(number, ROUTER)}",
        ]

    def command(self, argv: Sequence[str]) -> list[str]:
        """Returns the command that runs ``argv`` in this host, in the same process.

        It becomes ``argv`` by exec: its process id, its signals and its exit code are those
        of the command. 127 stands for a command that is not there.
        """
        renamed = [_tool("sh"), "-c", RENAME, _tool("hostname"), self.hostname, *argv]
        entered = [_tool("ip"), "netns", "exec", self.name, _tool("unshare"), "--uts", *renamed]
        if self._cgroup is None:
            return entered
        # Before the namespace is entered: that hides the cgroups.
        return [_tool("sh"), "-c", JOIN, str(self._cgroup / "cgroup.procs"), *entered]

    def cut(self) -> None:
        """Cuts the link: from now on nothing comes in or goes out, and nobody is told."""
        _ip("-n", self._switch, "link", "set", self._port, "down")

    def heal(self) -> None:
        """Makes a cut link work again, at once."""
        _ip("-n", self._switch, "link", "set", self._port, "up")

    def freeze(self) -> None:
        """Stops everything in the host, as a hypervisor does; the kernel still answers for it."""
        if self._cgroup:
            (self._cgroup / "cgroup.freeze").write_text("1")
        else:
            self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Lets a frozen host go on."""
        if self._cgroup:
            (self._cgroup / "cgroup.freeze").write_text("0")
        else:
            self.signal(signal.SIGCONT)

    def processes(self) -> list[int]:
        """The ids of the living processes in the host."""
        return list(_inhabitants(self.name, self._cgroup))

    def signal(self, number: int) -> int:
        """Sends a signal to everything in the host. Returns how many processes it found."""
        return _signal(self.name, self._cgroup, number)

    def kill(self) -> None:
        """Kills everything in the host, and returns when nothing of it lives.

        What it was connected to is told so by the kernel, unless the link is cut.
        """
        _kill(self.name, self._cgroup)

    def renew(self) -> None:
        """Kills the host, and makes a new one that has its name and address."""
        self._remove()
        self._make()

    def _make(self) -> None:
        files = FILES / self.name
        files.mkdir(parents=True)
        (files / "hosts").write_text("\n".join(self._table) + "\n")
        if Path("/etc/resolv.conf").exists():
            (files / "resolv.conf").write_text("")
        _ip("netns", "add", self.name)
        if self._cgroup:
            self._cgroup.mkdir()
        _batch(
            self._switch,
            f"link add {self._port} type veth peer name eth0 netns {self.name}",
            f"link set {self._port} master bridge up",
        )
        _batch(self.name, *self._setup)

    def _remove(self) -> None:
        with contextlib.suppress(OSError):
            self.cut()  # first: a VM that is gone does not say goodbye
        self.kill()
        with contextlib.suppress(OSError):  # at once, not when the kernel gets round to it
            _ip("-n", self._switch, "link", "del", self._port)
        _remove(self.name)


class Network:
    """Hosts that reach each other and this machine.

    Args:
        hostnames: a host is made for each, in this order.
        inherit: the number of a network for these, which is in use and has no owner; None to make
            a new one.

    Attributes:
        number: what tells it from every other network on this machine.
        name: made of the number; also this machine's interface into the network.
        gateway: this machine's address in it.
        hosts: the hosts.
        held: an open file: while any process has it open, nobody takes the network for abandoned.

    Raises OSError when it cannot be made or inherited; ``missing`` tells the usual causes
    beforehand.
    """

    def __init__(self, hostnames: Sequence[str], inherit: int | None = None) -> None:
        if len(hostnames) > MAX_HOSTS:
            raise OSError(f"{len(hostnames)} hosts do not fit into a network of {MAX_HOSTS}")
        if why := missing():
            raise OSError(why)
        if inherit is None:
            collect()
            self._claim, self.number = _claim_free()
            _sweep(self.number)  # of an owner that died since the line before
        else:
            self._claim, self.number = _claim_used(inherit), inherit
        self.name = f"swell{self.number}"
        self.gateway = _address(self.number, 1)
        self.hosts = [Host(self.number, i, hostnames) for i in range(len(hostnames))]
        folder = FILES / self.name
        folder.mkdir(parents=True, exist_ok=True)
        self.held = _locked(folder, fcntl.LOCK_SH)
        try:
            if inherit is None:
                self._make()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Kills and removes everything."""
        _sweep(self.number)
        os.close(self.held)
        self._claim.close()

    def __enter__(self) -> Network:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _make(self) -> None:
        _ip("netns", "add", self.name)
        _batch(
            self.name,
            "link set lo up",
            f"link add bridge address {_mac(self.number, ROUTER)} type bridge",
            "link set bridge up",
            f"addr add {_address(self.number, ROUTER)}/24 dev bridge",
            *(_neighbour(self.number, index + 2, "bridge") for index in range(len(self.hosts))),
        )
        _ip("netns", "exec", self.name, _tool("sh"), "-c", FORWARD)
        _batch(
            None,
            f"link add {self.name} address {_mac(self.number, 1)} type veth"
            f" peer name uplink netns {self.name}",
            f"link set {self.name} up",
            f"addr add {self.gateway}/24 dev {self.name}",
            *(_neighbour(self.number, index + 2, self.name) for index in range(len(self.hosts))),
        )
        _batch(self.name, "link set uplink master bridge up")
        for host in self.hosts:
            host._make()


def link(one: int, other: int) -> None:
    """Lets the hosts of two networks reach each other, for as long as both are there.

    Raises OSError when that cannot be done.
    """
    with contextlib.suppress(OSError):
        _ip("-n", f"swell{one}", "link", "show", f"to{other}")
        return  # an earlier owner has done it
    _batch(
        f"swell{one}",
        f"link add to{other} type veth peer name to{one} netns swell{other}",
        f"link set to{other} up",
        f"route add {_address(other, 0)}/24 via {_address(other, ROUTER)} dev to{other} onlink",
    )
    _batch(
        f"swell{other}",
        f"link set to{one} up",
        f"route add {_address(one, 0)}/24 via {_address(one, ROUTER)} dev to{one} onlink",
    )


def collect() -> None:
    """Removes the networks that are neither owned nor used; without root there are none."""
    if os.geteuid() != 0:
        return
    for number in {number for number in map(number_of, names()) if number is not None}:
        if held := claim(number):
            with held:
                _sweep(number)


def _sweep(number: int) -> None:
    own = [name for name in names() if number_of(name) == number]
    for name in own:
        _kill(name, _cgroup(name))
    with contextlib.suppress(OSError):  # its other end goes with it
        _ip("link", "del", f"swell{number}")
    for name in own:
        _remove(name)


def _kill(name: str, cgroup: Path | None) -> None:
    while _signal(name, cgroup, signal.SIGKILL):
        time.sleep(RECHECK_SECONDS)


def _signal(name: str, cgroup: Path | None, number: int) -> int:
    if number == signal.SIGKILL and cgroup and (cgroup / "cgroup.kill").exists():  # Linux 5.14
        (cgroup / "cgroup.kill").write_text("1")  # all at once: nobody can fork meanwhile
    inhabitants = list(_inhabitants(name, cgroup))
    for process in inhabitants:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)
    return len(inhabitants)


def _remove(name: str) -> None:
    cgroup = _cgroup(name)
    while cgroup and cgroup.exists():
        with contextlib.suppress(OSError):  # its last process is not quite gone yet
            cgroup.rmdir()
            break
        time.sleep(RECHECK_SECONDS)
    if (NAMESPACES / name).exists():
        _ip("netns", "del", name)
    shutil.rmtree(FILES / name, ignore_errors=True)


def _inhabitants(name: str, cgroup: Path | None) -> Iterator[int]:
    """Living processes that use the namespace or are in the cgroup."""
    joined = set()
    if cgroup:
        with contextlib.suppress(OSError):
            joined = set((cgroup / "cgroup.procs").read_text().split())
    try:
        namespace = (NAMESPACES / name).stat().st_ino
    except OSError:
        namespace = -1
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):  # gone, or dead and not reaped: it has none
            if os.stat(f"/proc/{entry.name}/ns/net").st_ino == namespace or entry.name in joined:
                yield int(entry.name)


def names() -> set[str]:
    """Everything on this machine that is named like a part of a network."""
    places = [NAMESPACES, FILES, Path("/sys/class/net"), *filter(None, [cgroup_root()])]
    return {
        entry.name
        for place in places
        if place.is_dir()
        for entry in place.iterdir()
        if number_of(entry.name) is not None
    }


def number_of(name: str) -> int | None:
    """The number of the network that something on this machine is named after, if it is one."""
    found = NAME.fullmatch(name)
    return int(found[1]) if found and int(found[1]) in NUMBERS else None


def claim(number: int) -> socket.socket | None:
    """Makes the number this process's own, until the socket is closed or the process ends.

    None when it has an owner, or is in use.
    """
    owned = _owned(number)
    if owned and _used(number):
        owned.close()
        return None
    return owned


def _owned(number: int) -> socket.socket | None:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        made.bind(f"\0swell-network-{number}")
    except OSError:
        made.close()
        return None
    return made


def _used(number: int) -> bool:
    """Whether any process has ``held`` of the network open."""
    try:
        os.close(_locked(FILES / f"swell{number}", fcntl.LOCK_EX))
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _locked(folder: Path, how: int) -> int:
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, how | fcntl.LOCK_NB)
    except BaseException:
        os.close(handle)
        raise
    return handle


def _claim_used(number: int) -> socket.socket:
    deadline = time.monotonic() + CLAIM_SECONDS
    while (owned := _owned(number)) is None:  # somebody may just be looking whether it is used
        if time.monotonic() > deadline:
            raise OSError(f"the network swell{number} is another's")
        time.sleep(RECHECK_SECONDS)
    if not _used(number):
        owned.close()
        raise OSError(f"nothing lives in the network swell{number} any more")
    return owned


def _claim_free() -> tuple[socket.socket, int]:
    routes = json.loads(_ip("-j", "-4", "route", "show", "table", "all"))
    taken = [
        ipaddress.ip_network(route["dst"], strict=False)
        for route in routes
        if route["dst"] != "default"
    ]
    for number in NUMBERS:
        own = ipaddress.ip_network(f"{_address(number, 0)}/24")
        if not any(own.overlaps(network) for network in taken) and (held := claim(number)):
            return held, number
    raise OSError("no address range is free: too many networks were made on this machine")


def _address(number: int, last: int) -> str:
    return f"198.{18 + number // 256}.{number % 256}.{last}"


def _mac(number: int, last: int) -> str:
    return f"02:c6:{number // 256:02x}:{number % 256:02x}:00:{last:02x}"  # locally administered


def _neighbour(number: int, last: int, device: str) -> str:
    return f"neigh replace {_address(number, last)} lladdr {_mac(number, last)} dev {device}"


def _cgroup(name: str) -> Path | None:
    root = cgroup_root()
    return root / name if root else None


@functools.cache
def cgroup_root() -> Path | None:
    """Where cgroups of version 2 can be made, if they can."""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, place, kind, options, *_ = line.split()
        if kind == "cgroup2" and "rw" in options.split(","):
            return Path(place)
    return None


def _ip(*arguments: str) -> str:
    return _run("ip", *arguments)


def _batch(namespace: str | None, *lines: str) -> None:
    within = ["-n", namespace] if namespace else []
    _run("ip", *within, "-batch", "-", said="\n".join(lines) + "\n")


def _run(tool: str, *arguments: str, said: str = "") -> str:
    command = [_tool(tool), *arguments]
    result = subprocess.run(
        command,
        input=said,
        capture_output=True,
        text=True,
        env={"PATH": commands.SYSTEM_PATH, "LC_ALL": "C"},
    )
    if result.returncode:
        why = result.stderr.strip().replace("\n", "; ") or f"exit code {result.returncode}"
        raise OSError(f"{tool} {' '.join(arguments)}: {why}")
    return result.stdout


def _tool(name: str) -> str:
    return commands.find(name) or name
