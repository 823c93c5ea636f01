"""A VM of another run: what it finds at the first one's addresses, and what its own token opens."""

from __future__ import annotations

import base64
import json
from typing import Any

from tests.launcher.emulator.running import Emulator
from tests.neighbours.places import exchange, listeners, running_job

SECRET = "projects/p/secrets/swell"
DATA = base64.b64encode(b"the first run's secret").decode()
TOKEN = "/computeMetadata/v1/instance/service-accounts/default/token"

# In a VM: takes its token, shows it to each metadata server that it is told of, and then to its
# own, and prints the answers to a request for the other run's secret.
SPY = """
import json, os, sys, urllib.error, urllib.request
def ask(server, path, **headers):
    request = urllib.request.Request(f"http://{server}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=2) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, None
    except OSError as error:
        return 0, None
own = os.environ["GCE_METADATA_HOST"]
flavor = {"Metadata-Flavor": "Google"}
token = ask(own, os.environ["TOKEN"], **flavor)[1]["access_token"]
for server in [*os.environ["OTHERS"].split(","), own]:
    status, _ = ask(server, os.environ["VERSION"], Authorization=f"Bearer {token}")
    print("said", status, flush=True)
"""


def metadata_servers(emulator: Emulator) -> list[str]:
    """Host and port of every metadata server: they alone know the header."""
    found = []
    for address in listeners(emulator):
        if "metadata-flavor" in exchange(address, "GET", TOKEN, ["Metadata-Flavor: Google"]):
            found.append(f"{address[0]}:{address[1]}")
    return found


def access_token(server: str) -> str:
    host, _, port = server.partition(":")
    said = exchange((host, int(port)), "GET", TOKEN, ["Metadata-Flavor: Google"])
    token: str = json.loads(said.partition("\r\n\r\n")[2])["access_token"]
    return token


def read(server: str, version: str, token: str) -> Any:
    host, _, port = server.partition(":")
    shown = [f"Authorization: Bearer {token}"]
    said = exchange((host, int(port)), "GET", f"/v1/{version}:access", shown)
    return json.loads(said.partition("\r\n\r\n")[2])


def added(emulator: Emulator) -> str:
    body = {"payload": {"data": DATA}}
    answer = emulator.http.post(f"/v1/{SECRET}:addVersion", json=body)
    version: str = answer.json()["name"]
    return version


def test_a_vm_gets_nothing_of_another_run(emulator: Emulator) -> None:
    version = added(emulator)
    idle = set(metadata_servers(emulator))
    running_job(emulator, SWELL_TOKEN_SECRET=version)
    (first,) = set(metadata_servers(emulator)) - idle
    assert read(first, version, access_token(first))["payload"]["data"] == DATA

    others = {"OTHERS": first, "VERSION": f"/v1/{version}:access", "TOKEN": TOKEN, "SPY": SPY}
    job = running_job(emulator, 'python -c "$SPY"', **others)
    said = [line for line in emulator.output(job, "workerpool0-0") if line.startswith("said")]
    # At the first run's metadata server its token opens nothing, if it gets there at all; at its
    # own, no version that its job does not name.
    assert said in (["said 401", "said 403"], ["said 0", "said 403"])
    assert (said[0] == "said 0") == (not first.startswith("127.")), "it has a network of its own"


def test_what_a_run_has_left_behind_opens_nothing_of_the_next(emulator: Emulator) -> None:
    """Who kept an old job's access token, or the name of its secret, has nothing in hand."""
    version = added(emulator)
    idle = set(metadata_servers(emulator))
    old_job = running_job(emulator, SWELL_TOKEN_SECRET=version)
    (old,) = set(metadata_servers(emulator)) - idle
    kept = access_token(old)
    assert emulator.http.post(f"/v1/{version}:destroy", json={}).status_code == 200
    assert emulator.http.delete(old_job).status_code == 200
    assert old not in metadata_servers(emulator)

    renewed = added(emulator)
    running_job(emulator, SWELL_TOKEN_SECRET=f"{SECRET}/versions/latest")
    (new,) = set(metadata_servers(emulator)) - idle
    for one in (renewed, version, f"{SECRET}/versions/latest"):
        assert read(new, one, kept)["error"]["status"] == "UNAUTHENTICATED"
    own = access_token(new)
    assert read(new, version, own)["error"]["status"] == "PERMISSION_DENIED"
    assert read(new, f"{SECRET}/versions/latest", own)["name"] == renewed
