"""`python -m trainer.worker`, as an agent starts it: a worker, or the nursery of its workers."""

from __future__ import annotations

import os
import sys

from trainer.protocol.ends import EXIT_AGAIN
from trainer.worker import nursery
from trainer.worker.worker import main

if __name__ == "__main__":
    if (agent := nursery.inherited()) is not None:
        nursery.serve(agent)  # returns in the workers that are forked of it
    code = main()
    if code == EXIT_AGAIN:
        os._exit(code)  # what an orderly exit would wait for may never come
    sys.exit(code)
