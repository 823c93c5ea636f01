"""What ends a step that could only be trained wrongly."""

from __future__ import annotations

from trainer.rundir.usererror import UserError


class Mistake(UserError, RuntimeError):
    """What the program does cannot be trained rightly; raised before the model changes."""


class StandsAlone(Exception):
    """This worker holds another state than all others; another process must take its place."""
