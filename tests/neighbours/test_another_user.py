"""Another user of this machine: no request of theirs is carried out, no file is theirs to read."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from starlette.applications import Starlette

from launcher.emulator.listener import Listener
from tests.launcher.emulator.running import PARENT, Emulator
from tests.neighbours.places import as_another_user, as_root, exchange, listeners
from trainer.rundir.directory import RunDirectory
from trainer.rundir.names import RUN

SECRET = "projects/p/secrets/s"
REUSE, SHARE = socket.SO_REUSEADDR, socket.SO_REUSEPORT
FLAVOR = "Metadata-Flavor: Google"
TOKEN = "/computeMetadata/v1/instance/service-accounts/default/token"


@as_root
def test_nothing_that_the_emulator_serves_answers_another_user(emulator: Emulator) -> None:
    """Not even with the token: a connection has an owner, or it is none of this machine's own."""
    headers = [FLAVOR, f"Authorization: Bearer {emulator.token}"]
    for address in listeners(emulator):
        for path in (TOKEN, PARENT, "/storage/v1/b"):
            said = as_another_user(partial(exchange, address, "GET", path, headers))
            assert "403 Forbidden" in said, (address, said)
            assert "Only programs of the user who started the emulator may use it." in said
    own = "".join(exchange(a, "GET", PARENT, headers) for a in listeners(emulator))
    assert '"customJobs":[{' in own, "the user's own programs are answered"


@as_root
def test_who_closes_the_connection_at_once_is_not_taken_for_root(emulator: Emulator) -> None:
    """The kernel calls it root's from then on."""
    port = int(emulator.endpoint.rpartition(":")[2])
    body = '{"payload": {"data": "AAAA"}}'
    lines = [f"POST /v1/{SECRET}:addVersion HTTP/1.1", "Host: 127.0.0.1"]
    lines += [f"Authorization: Bearer {emulator.token}", f"Content-Length: {len(body)}", "", body]

    def shoot() -> str:
        for _ in range(200):
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall("\r\n".join(lines).encode())
        return "done"

    assert as_another_user(shoot) == "done"
    answer = emulator.http.post(f"/v1/{SECRET}:addVersion", content=body)
    assert answer.json()["name"] == f"{SECRET}/versions/1", "nobody has added one before"


@as_root
def test_a_port_that_vms_keep_while_there_is_no_emulator_is_nobody_elses() -> None:
    """A VM that trains on would take its next code from whoever listens where its buckets were."""
    listener = Listener(Starlette(), "127.0.0.1")
    address = ("127.0.0.1", listener.port)
    with socket.create_connection(address), socket.socket(fileno=os.dup(listener.reserved)):
        asyncio.run(listener.stop())  # as if it was killed: a VM has the file still
        listener.socket.close()

        def squat() -> str:
            taken = []
            for options in ((), (REUSE,), (SHARE,), (REUSE, SHARE)):
                with socket.socket() as mine:
                    for option in options:
                        mine.setsockopt(socket.SOL_SOCKET, option, 1)
                    with suppress(OSError):
                        mine.bind(address)
                        mine.listen()
                        taken.append(str(options))
            return " ".join(taken)

        assert as_another_user(squat) == ""
        again = Listener(Starlette(), *address)
        with pytest.raises(OSError, match="in use"):
            Listener(Starlette(), *address)
        asyncio.run(again.stop())
        again.socket.close()


@as_root
def test_nothing_that_swell_keeps_is_another_users_to_read() -> None:
    """Of a launch all is in its run directory, or below SWELL_HOME/runs in a folder of the run."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)  # one that many use
        run = Path(folder, "a-run")
        RunDirectory(str(run)).write_json(RUN, {})
        emulator = Emulator(Path(folder, "state"), "--until-eof")
        assert emulator.stop() == 0

        def entered() -> str:
            return " ".join(one for one in ("a-run", "state") if _enters(f"{folder}/{one}"))

        assert as_another_user(entered) == ""
        run.chmod(0o755)
        assert as_another_user(entered) == "a-run", "its owner may want it so"


def _enters(folder: str) -> bool:
    try:
        os.listdir(folder)
    except PermissionError:
        return False
    return True
