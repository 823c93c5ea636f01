"""Two VMs that find each other through a store, and try how they reach each other.

Each puts a card into the folder, ``cards/1-workerpool0-0.json``, with the address and port at which
it listens, and connects to all whose cards are there. Whoever connects shows first that it has the
secret of the probe, by an HMAC of what it was asked: nobody else gets more than that question. What
is sent then has no content.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
import socket
import threading
import time
from typing import Any

from trainer.probe.surroundings import resolved
from trainer.rundir.directory import RunDirectory
from trainer.rundir.names import REPORTS

CARDS = "cards"
LIMIT = 10.0  # seconds for anything to come
PINGS = 20  # the quickest is the latency
LOAD = 2.0  # seconds for which as much is sent as can be, to measure the bandwidth
ENOUGH = 2**28  # bytes that are enough for it
MOST = 2**31  # bytes that are taken of anybody
GUESTS = 8  # connections at a time
MOST_ADDRESSES = 8  # of a VM that are tried
CHUNK = b"\0" * 2**20
_NONCE = 32  # bytes


class Meeting:
    """One VM's part in it, for as long as the context lasts.

    Args:
        folder: of the probe.
        name: of this VM there.
        key: the secret that all have.
        host: what the others are told of this VM: its name and addresses.
        address: at which it listens. Without one at all that it has, for which of them others
            reach is what is to be found out.

    Raises OSError where it cannot listen.
    """

    def __init__(
        self, folder: RunDirectory, name: str, key: str, host: dict[str, Any], address: str = ""
    ) -> None:
        self._folder, self._name, self._key = folder, name, key.encode()
        self._host, self._address = host, address
        self._listener = socket.create_server((address, 0))
        self._guests = threading.BoundedSemaphore(GUESTS)

    def __enter__(self) -> Meeting:
        threading.Thread(target=self._listen, daemon=True).start()
        every = [one for them in self._host["addresses"].values() for one in them]
        outside = [one for one in every if not one.startswith("127.")]
        card = {
            "name": self._host["name"],
            "addresses": [self._address] if self._address else outside or every,
            "port": self._listener.getsockname()[1],
        }
        self._folder.write_json(f"{CARDS}/{self._name}.json", card)
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def cards(self) -> dict[str, dict[str, Any]]:
        """Returns the cards that are there, this VM's among them. Raises OSError."""
        names = [name for name in self._folder.store.names(CARDS) if name.endswith(".json")]
        found = {}
        for name in names:
            if (card := self._folder.find_json(f"{CARDS}/{name}")) is not None:
                found[name.removesuffix(".json")] = card
        return found

    def measure(self) -> list[dict[str, Any]]:
        """Tries all others: ``[{peer, name, leads_to, address, latency, bandwidth, failed}]``.

        Latency is in seconds, there and back, bandwidth in bytes per second, of one connection;
        ``failed`` has why there is none, at each address.
        """
        found = []
        for peer, card in sorted(self.cards().items()):
            if peer != self._name:
                found.append({"peer": peer, **self._tried(card)})
        return found

    def others_are_done(self) -> bool:
        """Whether all others that have a card have told how they reach this VM. Raises OSError."""
        for peer in self.cards():
            report = self._folder.find_json(f"{REPORTS}/{peer}.json")
            if peer != self._name and not (report and report.get("peers")):
                return False
        return True

    def _tried(self, card: dict[str, Any]) -> dict[str, Any]:
        name = str(card.get("name", ""))[:80]
        tried: dict[str, Any] = {"name": name, "leads_to": resolved(name), "address": ""}
        tried |= {"latency": None, "bandwidth": None, "failed": ""}
        addresses, port = card.get("addresses"), card.get("port")
        if not isinstance(addresses, list) or type(port) is not int or not 0 < port < 2**16:
            return {**tried, "failed": "its card does not say where it listens"}
        failures = [] if addresses else ["it has no address"]
        for address in (str(one)[:80] for one in addresses[:MOST_ADDRESSES]):
            try:
                reachable = str(ipaddress.ip_address(address))  # nobody's name is looked up
                latency, bandwidth = self._measured(reachable, port)
            except (OSError, ValueError) as error:
                failures.append(f"{address}: {error or type(error).__name__}")
                continue
            return {**tried, "address": address, "latency": latency, "bandwidth": bandwidth}
        return {**tried, "failed": "; ".join(failures)}

    def _measured(self, address: str, port: int) -> tuple[float, float]:
        with socket.create_connection((address, port), timeout=LIMIT) as link:
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            link.sendall(hmac.digest(self._key, _exactly(link, _NONCE), "sha256"))
            if _exactly(link, 1) != b"+":
                raise ConnectionError("it is of another probe")
            latency = min(self._ping(link) for _ in range(PINGS))
            began, sent = time.monotonic(), 0
            link.sendall(b"!")
            while time.monotonic() - began < LOAD and sent < ENOUGH:
                link.sendall(CHUNK)
                sent += len(CHUNK)
            link.shutdown(socket.SHUT_WR)
            taken = int.from_bytes(_exactly(link, 8), "big")
            if taken != sent:
                raise ConnectionError(f"of {sent} bytes {taken} arrived")
            return latency, sent / max(time.monotonic() - began, 1e-9)

    @staticmethod
    def _ping(link: socket.socket) -> float:
        began = time.monotonic()
        link.sendall(b"?")
        _exactly(link, 1)
        return time.monotonic() - began

    def _listen(self) -> None:
        while True:
            try:
                guest, _ = self._listener.accept()
            except OSError:  # it is over
                return
            if self._guests.acquire(blocking=False):
                threading.Thread(target=self._answer, args=(guest,), daemon=True).start()
            else:
                guest.close()

    def _answer(self, guest: socket.socket) -> None:
        try:
            with guest:
                guest.settimeout(LIMIT)
                guest.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                nonce = secrets.token_bytes(_NONCE)
                guest.sendall(nonce)
                shown = _exactly(guest, _NONCE)
                if not hmac.compare_digest(shown, hmac.digest(self._key, nonce, "sha256")):
                    return
                guest.sendall(b"+")
                for _ in range(10 * PINGS):
                    if _exactly(guest, 1) == b"!":
                        guest.sendall(_count(guest).to_bytes(8, "big"))
                        return
                    guest.sendall(b"?")
        except OSError:
            pass  # whoever it was has gone, and says itself why
        finally:
            self._guests.release()


def _exactly(link: socket.socket, count: int) -> bytes:
    """Returns so many bytes. Raises ConnectionError when fewer come."""
    found = b""
    while len(found) < count:
        more = link.recv(count - len(found))
        if not more:
            raise ConnectionError("it was closed by the other side")
        found += more
    return found


def _count(link: socket.socket) -> int:
    """Returns how many bytes come until the end; after MOST nobody counts."""
    taken, room = 0, bytearray(len(CHUNK))
    while (more := link.recv_into(room)) and taken < MOST:
        taken += more
    return taken
