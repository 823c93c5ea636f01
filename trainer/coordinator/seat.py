"""What an agent hands to the coordinator's process that it starts."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from trainer.coordinator.limits import Limits
from trainer.protocol.credentials import Credentials
from trainer.protocol.world import MemberId
from trainer.rundir.directory import RunDirectory

LINE_LIMIT = 2**20  # bytes of one message between the two


@dataclass(frozen=True)
class Seat:
    """What a coordinator has to know before there is anything to lead.

    Attributes:
        run_dir: the run directory.
        credentials: its attempt's.
        member: whose agent hosts the coordinator.
        address: the IP address to listen on.
        expected: the slots that the run was asked for.
        limits: those of membership and of the lease.
        changes: whether how large worlds may be can be asked to change (see trainer.rundir.wanted).
    """

    run_dir: RunDirectory
    credentials: Credentials
    member: MemberId
    address: str
    expected: int
    limits: Limits
    changes: bool = False

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values, the run's secret among them."""
        return {
            "run_dir": self.run_dir.url,
            "secret": self.credentials.text,
            "member": str(self.member),
            "address": self.address,
            "expected": self.expected,
            "limits": asdict(self.limits),
            "changes": self.changes,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Seat:
        """The inverse of ``to_json``.

        Raises ValueError, KeyError or TypeError for what that never returns.
        """
        limits = value["limits"]
        return cls(
            RunDirectory(value["run_dir"]),
            Credentials.parse(value["secret"]),
            MemberId.parse(value["member"]),
            value["address"],
            value["expected"],
            Limits(**{**limits, "sizes": tuple(limits["sizes"])}),
            value["changes"],
        )
