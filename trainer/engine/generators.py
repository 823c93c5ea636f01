"""The random generators of a process: Python's, NumPy's and torch's, as state and by seed."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

UPDATE = -1  # in place of a unit: what is random in a step after its last backward pass


def seed_step(seed: int, step: int, part: int) -> None:
    """Seeds all generators for one part of a step: a unit's number, or a rank's.

    So a step repeats itself, by units in any world and else in the same one, whoever was lost
    before: there is no generator's state that could be lost.
    """
    number = hash((seed, step, part)) & (2**63 - 1)
    random.seed(number)
    np.random.seed(number & (2**32 - 1))
    # As torch.manual_seed does, but where there is no GPU that notes who asked, every time.
    torch.default_generator.manual_seed(number)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(number)


class Fingerprint:
    """Where the generators are now, to be compared later."""

    def __init__(self) -> None:
        self._python, self._numpy, self._torch = _positions()

    @property
    def moved(self) -> bool:
        """Whether any of them gave a number since."""
        python, numpy, states = _positions()
        return not (
            python == self._python
            and numpy == self._numpy
            and len(states) == len(self._torch)
            and all(map(torch.equal, states, self._torch))
        )


def _positions() -> tuple[Any, bytes, list[torch.Tensor]]:
    numpy: dict[str, Any] = np.random.get_state(legacy=False)
    states = [torch.default_generator.get_state()]
    if torch.cuda.is_initialized():
        states.append(torch.cuda.get_rng_state())
    place = numpy["state"]["pos"].to_bytes(4, "little")
    return random.getstate(), numpy["state"]["key"].tobytes() + place, states


def generators_state() -> dict[str, Any]:
    """The state of all generators, as a tree of tensors and plain values."""
    version, numbers, gauss = random.getstate()
    numpy: dict[str, Any] = np.random.get_state(legacy=False)
    state: dict[str, Any] = {
        "python": [version, torch.tensor(numbers, device="cpu"), gauss],
        "numpy": {**numpy, "state": {**numpy["state"], "key": _tensor(numpy["state"]["key"])}},
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def load_generators_state(state: dict[str, Any]) -> None:
    """The inverse of ``generators_state``. A GPU's is ignored where there is none."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers.tolist()), gauss))
    numpy = state["numpy"]
    key = numpy["state"]["key"].cpu().numpy().astype(np.uint32)
    np.random.set_state({**numpy, "state": {**numpy["state"], "key": key}})
    torch.set_rng_state(state["torch"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())


def _tensor(numbers: Any) -> torch.Tensor:
    return torch.from_numpy(numbers.astype(np.int64))  # torch has few operations for uint32
