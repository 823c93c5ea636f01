"""What a coordinator's process is told by the agent that starts it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from trainer.coordinator.limits import Limits
from trainer.protocol.credentials import Credentials

LINE_LIMIT = 2**20  # bytes of one message between the two


@dataclass(frozen=True)
class Seat:
    """What a coordinator has to know before there is anything to lead.

    Attributes:
        run_dir, member, address, expected: see trainer.coordinator.coordinator.
        secret: the run's; see trainer.protocol.credentials.
        limits: of the policy.
    """

    run_dir: str
    secret: str = field(repr=False)
    member: str
    address: str
    expected: int
    limits: dict[str, Any]

    @property
    def credentials(self) -> Credentials:
        """The run's."""
        return Credentials.parse(self.secret)

    @property
    def policy(self) -> Limits:
        """The limits of membership and of the lease."""
        return Limits(**self.limits)
