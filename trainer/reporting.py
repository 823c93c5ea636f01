"""``report``: how a torchrun script says how far it is. It works anywhere, and needs no torch.

    from trainer import report

    report(step=120, loss=0.31)

Under Swell, rank 0's reports are shown by `swell status` and the view, and steps that are made
again after a loss are counted. Elsewhere, and on other ranks, nothing happens.
"""

from __future__ import annotations

import json
import os

ENV_REPORT = "SWELL_REPORT"  # the descriptor that reports are written to
LINE_LIMIT = 4096  # bytes: no other process's line comes in between (pipe(7), PIPE_BUF)


def report(step: int, **metrics: float) -> None:
    """Says that so many steps are completed.

    Args:
        step: the number of steps completed, counted from the script's very first.
        metrics: numbers of this step, such as ``loss``.

    Raises TypeError or ValueError for what is no number.
    """
    values = {name: float(value) for name, value in metrics.items()}
    line = json.dumps({"step": int(step), "metrics": values}).encode() + b"\n"
    if len(line) > LINE_LIMIT:
        raise ValueError(f"a report has at most {LINE_LIMIT} bytes, and this one {len(line)}")
    descriptor = os.environ.get(ENV_REPORT, "")
    if descriptor.isdecimal():
        try:
            os.write(int(descriptor), line)
        except OSError:
            return  # whoever listened is gone
