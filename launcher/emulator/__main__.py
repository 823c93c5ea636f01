"""``swell emulator``: serves until it is told to stop, and leaves nothing behind.

One that is killed leaves its VMs running, and the next one on the same state goes on with them.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import Protocol

from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from launcher.emulator.api.secretmanager import Secrets, access_route
from launcher.emulator.api.server import Api
from launcher.emulator.jobs.machines import VmOptions
from launcher.emulator.jobs.registry import Registry
from launcher.emulator.listener import Listener
from launcher.emulator.resources import customjobs
from launcher.emulator.resources.customjobs import Json
from launcher.emulator.state import Whereabouts, announce, claim, withdraw
from launcher.emulator.storage.objects import Objects
from launcher.emulator.storage.server import Storage
from launcher.emulator.token import Token, keep_token
from launcher.emulator.vms.cluster_spec import FORMS
from launcher.emulator.vms.links import Links
from launcher.emulator.vms.places import KINDS, missing
from launcher.emulator.vms.processes import adopt_orphans, kill_children
from launcher.job.durations import parse_duration
from launcher.job.marketfile import Market
from launcher.job.problem import NO_VM
from launcher.job.sizes import parse_size
from trainer.rundir.private import make_private, write_private
from trainer.rundir.usererror import UserError, shown

ADDRESS = "127.0.0.1"  # never another: the API runs commands
IDLE_POLL = 1.0  # seconds


def main(arguments: list[str] | None = None) -> int:
    """Runs the emulator. Returns the process's exit code: 2 when it was started wrongly."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    try:
        market = _market(options.market)
        if why := missing(options.vm):
            raise UserError(NO_VM, f"--vm {options.vm}: {why}")
        return asyncio.run(_serve(options, market))
    except (UserError, ValueError, OSError) as error:
        for line in shown(error, "SW2208").splitlines():
            print(f"swell emulator: {line}", file=sys.stderr)
        return 2


def _market(file: Path | None) -> Market:
    if file is None:
        return Market()
    from launcher.job.jobfile import load_market  # what job files are made of takes a while

    return load_market(str(file))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="swell emulator",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Emulates Vertex AI custom training on this machine. Prints one JSON line\n"
        'with its "endpoint", and that of its Cloud Storage as "storage", as soon as it\nlistens.',
        epilog="Examples:\n"
        "  swell emulator --state emulated\n"
        "  swell emulator stop --state emulated",
    )
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1; 0 for any free one")
    parser.add_argument(
        "--state", type=Path, required=True, metavar="DIR", help="where jobs and logs are kept"
    )
    parser.add_argument(
        "--buckets", type=Path, metavar="DIR", help="where gs:// buckets are kept (in --state)"
    )
    parser.add_argument(
        "--market", type=Path, metavar="FILE", help="what the Spot market does, in YAML or JSON"
    )
    parser.add_argument(
        "--cluster-spec-form",
        action="append",
        default=[],
        choices=sorted(FORMS),
        help="how CLUSTER_SPEC differs from the documented form; may be given several times: "
        + "; ".join(f"{name}: {what}" for name, what in FORMS.items()),
    )
    parser.add_argument(
        "--without-preempted",
        action="store_true",
        help="do not tell VMs by their metadata servers (instance/preempted) that they will be "
        "taken away; SIGTERM does",
    )
    parser.add_argument(
        "--vm",
        choices=KINDS,
        default=KINDS[0],
        help="what a VM is; netns needs root, container podman, too",
    )
    parser.add_argument(
        "--memory", type=_size, metavar="SIZE", help="the most that a container uses, 8GiB say"
    )
    parser.add_argument(
        "--open",
        action="store_true",
        help="answer the API's requests without the token that is in --state; for clients that "
        "cannot show it, such as Google's with anonymous credentials",
    )
    parser.add_argument(
        "--idle",
        type=_seconds,
        metavar="DURATION",
        help="stop when nothing has run, and nobody has asked for anything, for so long",
    )
    parser.add_argument(
        "--until-eof", action="store_true", help="stop when standard input is closed"
    )
    return parser


async def _serve(options: argparse.Namespace, market: Market) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    if options.until_eof:
        _watch_input(stop)
    adopt_orphans()
    state: Path = options.state
    make_private(state)  # it will hold secrets
    lock = claim(state)
    buckets = Storage(Objects(options.buckets or state / "buckets"))
    secrets = Secrets(state / "secrets.json")
    token = keep_token(state)
    ports = _ports(state)
    storage = _listen(buckets.app(), 0, ports.get("storage", 0))

    def beside_metadata(bearer: str, record: Json) -> list[Route]:
        named = {value for pool in customjobs.pools(record) for _, value in pool.env}
        found = [access_route(secrets, bearer, named)]
        if customjobs.is_controller(record):  # as a service account may, whose token it has
            found += Api(registry, secrets, Token(bearer)).routes()
        return found

    vms = VmOptions(
        options.vm,
        options.memory,
        buckets,
        frozenset(options.cluster_spec_form),
        token,
        beside_metadata,
        [storage.reserved],
        Links(market.isolated),
        not options.without_preempted,
    )
    registry = Registry(state, market, vms=vms)
    used = Used(Api(registry, secrets, None if options.open else token).app())
    listener = _listen(used, options.port, ports.get("api", 0))
    ports = {"api": listener.port, "storage": storage.port}
    if ports != _ports(state):  # a disk that is full by now keeps no emulator from starting
        write_private(state / "ports.json", json.dumps(ports))
    storage.start()
    # VMs find their buckets by it: it is passed on to them.
    os.environ["STORAGE_EMULATOR_HOST"] = f"http://{storage.authority}"
    # This process reads runs' events there, too; it need not look for a metadata server first.
    os.environ["NO_GCE_CHECK"] = "true"
    await registry.resume()
    listener.start()
    where = Whereabouts(os.getpid(), f"http://{listener.authority}", f"http://{storage.authority}")
    announce(state, where)
    _say({"endpoint": where.endpoint, "storage": where.storage})
    if options.idle is not None:
        idle = asyncio.create_task(until_idle(registry, used, options.idle))
        idle.add_done_callback(lambda task: stop.set())
    await stop.wait()
    # Only who was told to stop takes the VMs along: after an error they go on without it.
    withdraw(state)
    await listener.stop()  # first, so that no job is created any more
    await registry.close()
    while kill_children():  # what had left its VM
        await asyncio.sleep(0.01)
    await storage.stop()  # last: VMs that go write what they know
    os.close(lock)
    return 0


def _say(where: dict[str, str]) -> None:
    try:
        print(json.dumps(where), flush=True)
    except BrokenPipeError:  # whoever started this was killed meanwhile
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


class Used:
    """An application that knows when it was asked last, by the monotonic clock."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.at = time.monotonic()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        self.at = time.monotonic()
        await self._app(scope, receive, send)


class Jobs(Protocol):
    """What ``until_idle`` asks of the registry."""

    @property
    def busy(self) -> bool:
        """Whether any job has not ended."""


async def until_idle(jobs: Jobs, used: Used, seconds: float) -> None:
    """Returns when no job has run, and nobody has asked for anything, for so many seconds."""
    while (left := used.at + seconds - time.monotonic()) > 0:
        await asyncio.sleep(min(left, IDLE_POLL))
        if jobs.busy:
            used.at = time.monotonic()


def _ports(state: Path) -> dict[str, int]:
    """The ports that an earlier emulator had: VMs and launchers that it has left know them."""
    try:
        return dict(json.loads((state / "ports.json").read_text()))
    except (OSError, ValueError):
        return {}


def _listen(app: ASGIApp, port: int, earlier: int) -> Listener:
    if earlier and not port:
        with contextlib.suppress(OSError):
            return Listener(app, ADDRESS, earlier)
    try:
        return Listener(app, ADDRESS, port)
    except (OSError, OverflowError) as error:
        raise UserError(
            "SW2206",
            f"cannot listen on {ADDRESS}:{port} ({error}); choose another --port, or 0 for any",
        ) from None


def _size(text: str) -> int:
    try:
        return parse_size(text).bytes
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _seconds(text: str) -> float:
    try:
        return parse_duration(text).total_seconds()
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _watch_input(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()

    def read() -> None:
        if not os.read(0, 65536):
            loop.remove_reader(0)
            stop.set()

    try:
        loop.add_reader(0, read)
    except PermissionError:  # a file or /dev/null, which can be read to its end at once
        stop.set()


if __name__ == "__main__":
    sys.exit(main())
