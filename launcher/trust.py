"""What a controller is entrusted with, to act for whoever launched the run.

All of it is secret, or in the company of secrets: the run's key, of which the secrets of attempts
are made; the webhook's URL; and, as costs are to be the same whoever counts them, the prices that
the launch went by. It travels as the run's secret does (docs/security.md).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launcher import home
from launcher.job.prices import price_file, read_prices
from trainer.rundir.private import make_private, write_private
from trainer.rundir.untrusted import parse_json

LIMIT = 64 * 1024  # bytes; as much as Secret Manager takes


@dataclass(frozen=True)
class Trust:
    """What a controller has. Its ``repr`` shows nothing.

    Attributes:
        run_key: of which the run's authorities are made; see trainer.protocol.authority.
        webhook_url: empty when the job has no webhook.
        prices: the user's own, as in a price file.
    """

    run_key: str = field(repr=False)
    webhook_url: str = field(default="", repr=False)
    prices: dict[str, dict[str, float]] = field(default_factory=dict, repr=False)

    @classmethod
    def parse(cls, text: str) -> Trust:
        """The inverse of ``text``. Raises ValueError, which shows nothing of it."""
        if len(text) > LIMIT:
            raise ValueError("it is too long")
        try:
            known: Any = parse_json(text.encode())
        except ValueError:
            raise ValueError("it is not JSON") from None
        if not isinstance(known, dict):
            raise ValueError("it is not an object")
        key, url, prices = (known.get(name) for name in ("run_key", "webhook_url", "prices"))
        if not (isinstance(key, str) and key and isinstance(url, str) and isinstance(prices, dict)):
            raise ValueError("a part of it is missing")
        return cls(key, url, prices)

    @property
    def text(self) -> str:
        """All of it as one text, in ASCII."""
        return json.dumps(
            {"run_key": self.run_key, "webhook_url": self.webhook_url, "prices": self.prices}
        )

    def keep(self, run_id: str) -> None:
        """Puts key and prices where this machine looks for them. Raises OSError."""
        home.keep_key(run_id, self.run_key)
        if self.prices:
            make_private(home.folder())
            write_private(home.folder() / "prices.yaml", json.dumps(self.prices))


def trust_of(run_id: str, webhook_url: str) -> Trust | None:
    """Returns what a run's controllers are entrusted with; None where this machine has no key.

    Args:
        run_id: the run.
        webhook_url: where its news goes.

    Raises FileError for a wrong price file.
    """
    key = home.kept_key(run_id)
    return None if key is None else Trust(key, webhook_url, _own_prices(home.folder()))


def _own_prices(folder: Path) -> dict[str, dict[str, float]]:
    path = price_file(folder)
    if path is None:
        return {}
    return {name: own.model_dump(exclude_none=True) for name, own in read_prices(str(path)).items()}
