"""What a run is asked to be, as its directory has it: read before every decision."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from launcher.supervision.policy import Terms
from trainer.rundir.directory import RunDirectory
from trainer.rundir.wanted import Wanted, create_wanted, newest_wanted


class Asked:
    """The terms of a run, which others may change while it goes on.

    Args:
        run_dir: the run.
        terms: those it was launched with.
        launched: what it is while nobody has asked for anything; None for one that nobody can ask.
        terms_of: makes the terms of a version. Raises ValueError for what the run cannot be.

    Attributes:
        terms: those that count, as of the last ``read``.
    """

    def __init__(
        self,
        run_dir: RunDirectory,
        terms: Terms,
        launched: Wanted | None = None,
        terms_of: Callable[[Wanted], Terms] | None = None,
    ) -> None:
        self.terms = terms
        self._run_dir = run_dir
        self._wanted = launched
        self._terms_of = terms_of

    def read(self) -> None:
        """Takes in what has been asked since. Raises OSError when the store does not say."""
        if self._wanted is None or self._terms_of is None:
            return
        found = newest_wanted(self._run_dir, self._wanted)
        if found is not None and found != self._wanted:
            self._wanted = found
            with suppress(ValueError):  # nobody asks for such; the terms stay what they are
                self.terms = self._terms_of(found)

    def add(self, more: Wanted, live: frozenset[int]) -> bool:
        """Asks for what ``more`` says of attempts, unless somebody asks for something just now.

        Args:
            more: those to renew, those that are dear, and those that are to leave.
            live: those that are alive: of others that is not said any more.

        Returns whether this call did it.
        """
        assert self._wanted is not None
        known = self._wanted
        renew, dear, leave = (
            tuple(sorted({*new, *(live & {*old})}))
            for new, old in (
                (more.renew, known.renew),
                (more.dear, known.dear),
                (more.leave, known.leave),
            )
        )
        wanted = replace(known, version=known.version + 1, renew=renew, dear=dear, leave=leave)
        return create_wanted(self._run_dir, wanted)
