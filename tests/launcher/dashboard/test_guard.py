"""Who may use the dashboard: its own pages, at its own address, and nobody else's."""

from __future__ import annotations

import pytest
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from launcher.dashboard.guard import Guard, new_token, refusal

HERE = "127.0.0.1:4000"


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("GET", {"host": HERE}),
        ("GET", {"host": "localhost:4000"}),
        ("GET", {"host": "LOCALHOST:4000", "sec-fetch-site": "none"}),
        ("GET", {"host": HERE, "origin": f"http://{HERE}", "sec-fetch-site": "same-origin"}),
        ("POST", {"host": HERE, "origin": f"http://{HERE}", "sec-fetch-site": "same-origin"}),
        ("POST", {"host": HERE, "origin": f"http://{HERE}"}),
    ],
)
def test_the_dashboards_own_pages_may_ask(method: str, headers: dict[str, str]) -> None:
    assert refusal(method, headers) is None


@pytest.mark.parametrize(
    ("method", "headers", "why"),
    [
        ("GET", {}, "no other name"),
        ("GET", {"host": "evil.example:4000"}, "no other name"),
        ("GET", {"host": "127.0.0.1.evil.example"}, "no other name"),
        ("GET", {"host": "10.0.0.1:4000"}, "no other name"),
        ("GET", {"host": HERE, "origin": "http://evil.example"}, "other sites"),
        ("GET", {"host": HERE, "origin": "http://127.0.0.1:4001"}, "other sites"),
        ("GET", {"host": HERE, "origin": f"https://{HERE}"}, "other sites"),
        ("GET", {"host": HERE, "origin": "null"}, "other sites"),
        ("GET", {"host": HERE, "sec-fetch-site": "cross-site"}, "other sites"),
        ("GET", {"host": HERE, "sec-fetch-site": "same-site"}, "other sites"),
        ("POST", {"host": HERE}, "own pages"),
        ("POST", {"host": HERE, "origin": "null"}, "other sites"),
        ("POST", {"host": HERE, "origin": f"http://{HERE}", "sec-fetch-site": "none"}, "other"),
        ("DELETE", {"host": HERE}, "own pages"),
    ],
)
def test_nobody_else_may(method: str, headers: dict[str, str], why: str) -> None:
    assert why in (refusal(method, headers) or "")


@pytest.fixture
def guarded() -> TestClient:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse(f"{scope['path']}")(scope, receive, send)

    return TestClient(Guard(app, "secret"), base_url=f"http://{HERE}")


def test_a_path_begins_with_the_token_which_the_application_does_not_see(
    guarded: TestClient,
) -> None:
    assert guarded.get("/secret/").text == "/"
    assert guarded.get("/secret").text == "/"
    assert guarded.get("/secret/runs/one").text == "/runs/one"


@pytest.mark.parametrize("path", ["/", "/other/", "/secre/", "/secrets/", "/runs/secret/", "//"])
def test_without_the_token_nothing_is_there(guarded: TestClient, path: str) -> None:
    answer = guarded.get(path)
    assert answer.status_code == 403
    assert answer.text == (
        "swell: this is not the address that swell dashboard has printed; copy all of it [SW6292]\n"
    )


def test_pages_load_and_run_only_what_is_the_dashboards_own(guarded: TestClient) -> None:
    for path in ("/secret/", "/nothing/"):
        headers = guarded.get(path).headers
        policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
        assert policy["default-src"] == "'none'" and policy["script-src"] == "'self'"
        assert policy["frame-ancestors"] == "'none'" and policy["form-action"] == "'self'"
        assert headers["referrer-policy"] == "same-origin"
        assert headers["cache-control"] == "no-store"
        assert headers["x-content-type-options"] == "nosniff"


def test_every_token_is_another_one() -> None:
    tokens = {new_token() for _ in range(100)}
    assert len(tokens) == 100 and all(len(token) >= 43 for token in tokens)
