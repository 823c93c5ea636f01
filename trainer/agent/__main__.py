"""`python -m trainer.agent`: the same as `swell-agent`."""

from __future__ import annotations

import sys

from trainer.agent.command import main

if __name__ == "__main__":
    sys.exit(main())
