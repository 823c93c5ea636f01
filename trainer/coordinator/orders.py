"""What membership orders in one step, gathered in order."""

from __future__ import annotations

from typing import Any

from trainer.coordinator.member import Member
from trainer.protocol.signals import Command, Record


class Orders(list[Command]):
    """Commands, among them records of what happened (see trainer.rundir.events)."""

    def record(self, event: str, **fields: Any) -> None:
        """Has an event written; fields that are None are left out."""
        known = {key: value for key, value in fields.items() if value is not None}
        self.append(Record(event, known))

    def report(self, event: str, member: Member, reason: str, **fields: Any) -> None:
        """Has it written what happened to a member."""
        self.record(event, member=member.id.replica, reason=reason, **fields)
