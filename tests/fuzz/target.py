"""A target: one decoder of something that comes from the network, the store or a file.

What its function may raise is what the decoder documents, and is caught in it. Everything else
is a finding.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st


@dataclass(frozen=True)
class Target:
    """One decoder.

    Attributes:
        inputs: what it is given.
        take_in: gives it one; raises nothing that the decoder does not document.
    """

    inputs: st.SearchStrategy[Any]
    take_in: Callable[[Any], None]


TARGETS: dict[str, Target] = {}


def target(inputs: st.SearchStrategy[Any]) -> Callable[[Callable[[Any], None]], None]:
    """Makes a target of a function, under its name."""

    def add(take_in: Callable[[Any], None]) -> None:
        TARGETS[take_in.__name__] = Target(inputs, take_in)

    return add


LOOP = asyncio.new_event_loop()
