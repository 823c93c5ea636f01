"""Which requests a listener hands on; tests/neighbours asks from where the neighbours are."""

from __future__ import annotations

import asyncio
import os
import re
import socket
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from launcher.emulator.listener import Listener, is_page, may_ask
from launcher.emulator.peer import LOOPBACK, Address

NAMES = {"127.0.0.1", "localhost"}


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},  # a page in a frame that is sandboxed
        {"origin": "http://127.0.0.1:8080"},  # another program's page on this machine
        {"sec-fetch-site": "cross-site"},  # a picture, say: it has no Origin
        {"sec-fetch-site": "same-origin"},
        {"sec-fetch-site": "none"},  # its reader has followed a link
        {"host": "evil.example"},  # a name that was given this machine's address
        {"host": "127.0.0.1.evil.example:80"},
        {"host": "127.0.0.2"},
        {"host": ""},
    ],
)
def test_web_pages_are_told_by_what_they_cannot_hide(headers: dict[str, str]) -> None:
    assert is_page({"host": "127.0.0.1:80", **headers}, NAMES)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:80", "localhost:80", "LocalHost"])
def test_programs_say_the_address(host: str) -> None:
    assert not is_page({"host": host, "accept": "*/*", "sec-fetch-mode": "cors"}, NAMES)
    assert is_page({}, NAMES), "HTTP/1.0 may say none"


@pytest.mark.parametrize("near", ["127.0.0.1", "127.0.0.9", "198.18.7.1"])
@pytest.mark.parametrize("far", ["127.0.0.1", "127.0.0.9", "198.18.7.1", "203.0.113.1"])
def test_programs_of_this_user_and_root_may_ask(near: str, far: str) -> None:
    ends = (near, 80), (far, 50000)
    for uid, may in ((os.geteuid(), True), (0, True), (65534, False), (None, False)):
        assert may_ask(*ends, lambda *_, uid=uid: uid) == may


def test_the_vms_of_a_network_may_ask_at_this_machines_end_of_it() -> None:
    def of_nobody(near: Address, far: Address) -> None:
        return None

    here = ("198.18.7.1", 80)
    assert may_ask(here, ("198.18.7.2", 50000), of_nobody)
    assert may_ask(here, ("198.18.7.254", 50000), of_nobody)
    assert not may_ask(here, ("198.18.8.2", 50000), of_nobody), "another run's"


def test_there_is_no_listening_at_an_interface_that_there_is_not() -> None:
    with pytest.raises(OSError):
        Listener(Starlette(), "127.0.0.1", device="no-such-device")


def test_what_is_served_is_served_at_the_interface_alone() -> None:
    async def hello(request: Request) -> PlainTextResponse:
        return PlainTextResponse("hello")

    async def scenario() -> None:
        listener = Listener(Starlette(routes=[Route("/", hello)]), "127.0.0.1")
        device = listener.socket.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16)
        assert device.rstrip(b"\0").decode() == LOOPBACK
        listener.start()
        try:
            async with httpx.AsyncClient(base_url=f"http://{listener.authority}") as client:
                assert (await client.get("/")).text == "hello"
                answer = await client.get("/", headers={"Origin": "https://evil.example"})
                assert answer.status_code == 403
                assert answer.json()["error"]["status"] == "PERMISSION_DENIED"
        finally:
            await listener.stop()

    asyncio.run(scenario())


def test_nothing_of_the_emulators_listens_but_through_here() -> None:
    folder = Path(__file__).parents[3] / "launcher/emulator"
    opens = re.compile(r"\.listen\(|create_server\(|start_server\(|import uvicorn|http\.server")
    found = [path.name for path in folder.rglob("*.py") if opens.search(path.read_text())]
    assert found == ["listener.py"]
