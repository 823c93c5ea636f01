"""How many examples a property is tried with, where that is not the profile's number.

Some take long and want fewer, and some need more to get anywhere. ``@settings(max_examples=40)``
would say so for every profile alike: ``make quick`` would try as many as ``make test``, and
``--hypothesis-profile=explore`` no more.
"""

from __future__ import annotations

from hypothesis import settings

USUAL = 100  # of the profile "repeatable", for which a test names its number
LEAST = 3


def examples(number: int) -> int:
    """Returns how many examples the profile in use wants of a test that wants so many.

    Args:
        number: what ``make test`` is to try. ``make quick`` tries a tenth of it, and exploring
            ten times as many.
    """
    share = settings().max_examples / USUAL
    return max(LEAST, round(number * share))
