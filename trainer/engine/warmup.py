"""What a process does once, before a world needs it."""

from __future__ import annotations

import torch


def warm_up() -> None:
    """Takes an optimizer step: torch imports seconds' worth of modules at a process's first."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.0)
    parameter.sum().backward()
    optimizer.step()
