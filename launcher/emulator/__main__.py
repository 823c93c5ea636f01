"""``swell emulator``: serves until it is told to stop, and leaves nothing behind."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from launcher.emulator.api.secretmanager import Secrets, access_route
from launcher.emulator.api.server import Api
from launcher.emulator.jobs.machines import VmOptions
from launcher.emulator.jobs.registry import Registry
from launcher.emulator.listener import Listener
from launcher.emulator.storage.objects import Objects
from launcher.emulator.storage.server import Storage
from launcher.emulator.token import keep_token
from launcher.emulator.vms.cluster_spec import FORMS
from launcher.emulator.vms.places import KINDS, missing
from launcher.emulator.vms.processes import adopt_orphans, kill_children
from launcher.job.marketfile import Market
from launcher.job.problem import NO_VM
from launcher.job.sizes import parse_size
from trainer.rundir.private import make_private
from trainer.rundir.usererror import UserError, shown

ADDRESS = "127.0.0.1"  # never another: the API runs commands


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
        description="Emulates Vertex AI custom training on this machine. Prints one JSON line "
        'with its "endpoint", and that of its Cloud Storage as "storage", as soon as it listens.',
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
    make_private(options.state)  # it will hold secrets
    buckets = Storage(Objects(options.buckets or options.state / "buckets"))
    secrets = Secrets(options.state / "secrets.json")
    token = keep_token(options.state)
    vms = VmOptions(
        options.vm,
        options.memory,
        buckets,
        frozenset(options.cluster_spec_form),
        token,
        lambda bearer, named: [access_route(secrets, bearer, named)],
    )
    registry = Registry(options.state, market, vms=vms)
    listener = _listen(Api(registry, secrets, None if options.open else token), options.port)
    storage = Listener(buckets.app(), ADDRESS)
    storage.start()
    # VMs find their buckets by it: it is passed on to them.
    os.environ["STORAGE_EMULATOR_HOST"] = f"http://{storage.authority}"
    # This process reads runs' events there, too; it need not look for a metadata server first.
    os.environ["NO_GCE_CHECK"] = "true"
    registry.resume()
    listener.start()
    try:
        said = {
            "endpoint": f"http://{listener.authority}",
            "storage": f"http://{storage.authority}",
        }
        _publish(options.state, {**said, "pid": os.getpid(), "token": token.text})
        print(json.dumps(said), flush=True)
        await stop.wait()
    finally:
        await listener.stop()  # first, so that no job is created any more
        await registry.close()
        while kill_children():  # what had left its VM
            await asyncio.sleep(0.01)
        await storage.stop()  # last: VMs that go write what they know
    return 0


def _publish(state: Path, said: Mapping[str, object]) -> None:
    """Lets this user's other programs find this emulator."""
    aside = state / "emulator.json.new"
    aside.unlink(missing_ok=True)
    handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as file:
        json.dump(said, file)
    aside.replace(state / "emulator.json")


def _listen(api: Api, port: int) -> Listener:
    try:
        return Listener(api.app(), ADDRESS, port)
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
