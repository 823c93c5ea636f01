"""What ends a step that could only be trained wrongly.

============  ==========================================================  =========================
raised        when                                                        what follows
============  ==========================================================  =========================
Mistake       what the program does cannot be trained rightly             the run ends, and says why
StandsAlone   this worker's state is another one than that of all others  another process replaces
                                                                          this one
============  ==========================================================  =========================

Both come before the model changes, so the newest checkpoint, and the state of all others, are what
they were. What a lost peer raises is neither: that is Horovod's own
``HorovodInternalError``, and the step is taken again.
"""

from __future__ import annotations

from trainer.rundir.usererror import UserError

# Ids of messages that several files have.
UNPORTABLE = "SW5113"
NOT_ALIKE = "SW5124"


class Mistake(UserError, RuntimeError):
    """What the program does cannot be trained rightly; raised before the model changes."""


class StandsAlone(Exception):
    """This worker holds another state than all others; another process must take its place."""
