"""The metadata server of a VM, asked as programs on a VM ask it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import httpx
import pytest

from launcher.emulator.vms.metadata import Identity, Metadata

ROOT = "http://metadata/computeMetadata/v1/"
FLAVOR = {"Metadata-Flavor": "Google"}
IDENTITY = Identity("my-project", "us-central1", "cmle-training-workerpool1-ab-0", "127.0.0.9")
Scenario = Callable[[Metadata, httpx.AsyncClient], Awaitable[None]]


def play(scenario: Scenario, tells: bool = True) -> None:
    """Runs a scenario against the application of one VM."""

    async def run() -> None:
        metadata = Metadata(IDENTITY, "the token", tells=tells)
        transport = httpx.ASGITransport(app=metadata.app())
        async with httpx.AsyncClient(transport=transport, headers=FLAVOR) as client:
            await asyncio.wait_for(scenario(metadata, client), 60)

    asyncio.run(run())


async def settle() -> None:
    """Lets everything else run until it waits for something."""
    for _ in range(50):
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    "path, value",
    [
        ("project/project-id", "my-project"),
        ("instance/zone", "projects/{number}/zones/us-central1-a"),
        ("instance/hostname", "cmle-training-workerpool1-ab-0.c.my-project.internal"),
        ("instance/name", "cmle-training-workerpool1-ab-0"),
        ("instance/network-interfaces/0/ip", "127.0.0.9"),
        ("instance/preempted", "FALSE"),
    ],
)
def test_what_a_vm_can_ask(path: str, value: str) -> None:
    async def scenario(metadata: Metadata, client: httpx.AsyncClient) -> None:
        number = (await client.get(ROOT + "project/numeric-project-id")).text
        answer = await client.get(ROOT + path)
        assert answer.text == value.format(number=number)
        assert answer.headers["Metadata-Flavor"] == "Google"

    play(scenario)


def test_one_that_tells_of_no_preemption_serves_all_else() -> None:
    async def scenario(metadata: Metadata, client: httpx.AsyncClient) -> None:
        metadata.preempt()
        answer = await client.get(ROOT + "instance/preempted?wait_for_change=true")
        assert answer.status_code == 404
        assert (await client.get(ROOT + "instance/name")).text == IDENTITY.hostname

    play(scenario, tells=False)


def test_who_forgets_the_header_is_refused_except_at_the_root() -> None:
    async def scenario(metadata: Metadata, client: httpx.AsyncClient) -> None:
        del client.headers["Metadata-Flavor"]
        assert (await client.get(ROOT + "project/project-id")).status_code == 403
        assert (await client.get(ROOT + "instance/preempted")).status_code == 403
        root = await client.get("http://metadata/")
        assert (root.status_code, root.headers["Metadata-Flavor"]) == (200, "Google")

    play(scenario)


def test_what_came_through_a_proxy_is_refused() -> None:
    async def scenario(metadata: Metadata, client: httpx.AsyncClient) -> None:
        client.headers["X-Forwarded-For"] = "192.0.2.1"
        for path in ("instance/service-accounts/default/token", "project/project-id"):
            answer = await client.get(ROOT + path)
            assert (answer.status_code, answer.text) == (403, "X-Forwarded-For is not allowed\n")

    play(scenario)


def test_what_is_not_there_is_not_found() -> None:
    async def scenario(metadata: Metadata, client: httpx.AsyncClient) -> None:
        assert (await client.get(ROOT + "instance/tags")).status_code == 404

    play(scenario)


def test_a_token_and_its_account() -> None:
    async def scenario(metadata: Metadata, client: httpx.AsyncClient) -> None:
        account = ROOT + "instance/service-accounts/default/"
        token = (await client.get(account + "token?scopes=x")).json()
        assert (token["token_type"], token["access_token"]) == ("Bearer", "the token")
        assert token["expires_in"] > 0
        details = (await client.get(account + "?recursive=true")).json()
        assert details["email"] == (await client.get(account + "email")).text

    play(scenario)


def test_who_waits_for_the_notice_hears_it_at_once() -> None:
    async def scenario(metadata: Metadata, client: httpx.AsyncClient) -> None:
        waiting = asyncio.create_task(
            client.get(ROOT + "instance/preempted?wait_for_change=true&timeout_sec=3600")
        )
        await settle()
        assert not waiting.done()
        metadata.preempt()
        assert (await waiting).text == "TRUE"
        # It never changes again: who comes late is not left waiting.
        late = await client.get(ROOT + "instance/preempted?wait_for_change=true")
        assert late.text == "TRUE"

    play(scenario)


def test_a_wait_ends_after_its_timeout_or_when_the_etag_is_old() -> None:
    async def scenario(metadata: Metadata, client: httpx.AsyncClient) -> None:
        waited = await client.get(ROOT + "instance/preempted?wait_for_change=true&timeout_sec=0.01")
        assert waited.text == "FALSE"
        old = await client.get(ROOT + "instance/preempted?wait_for_change=true&last_etag=0")
        assert old.text == "FALSE"
        assert old.headers["ETag"] == waited.headers["ETag"] != "0"
        wrong = await client.get(ROOT + "instance/preempted?wait_for_change=true&timeout_sec=soon")
        assert wrong.status_code == 400

    play(scenario)


def test_a_vanished_vm_hears_nothing_and_the_next_one_starts_anew() -> None:
    async def scenario(metadata: Metadata, client: httpx.AsyncClient) -> None:
        waiting = asyncio.create_task(client.get(ROOT + "instance/preempted?wait_for_change=true"))
        await settle()
        metadata.silence()
        metadata.preempt()
        asking = asyncio.create_task(client.get(ROOT + "project/project-id"))
        await settle()
        assert not waiting.done() and not asking.done()
        metadata.reset()
        await asyncio.gather(waiting, asking)
        assert (await client.get(ROOT + "instance/preempted")).text == "FALSE"

    play(scenario)
