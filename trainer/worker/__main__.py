"""`python -m trainer.worker`, as an agent starts it."""

from __future__ import annotations

import os
import sys

from trainer.worker.worker import EXIT_AGAIN, main

if __name__ == "__main__":
    code = main()
    if code == EXIT_AGAIN:
        os._exit(code)  # what an orderly exit would wait for may never come
    sys.exit(code)
