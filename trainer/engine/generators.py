"""The random generators of a process: Python's, NumPy's and torch's, as state and by seed."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

UPDATE = -1  # in place of a unit: what is random in a step after its last backward pass
_PROBE = 0x5377656C6C  # a seed that is no program's own
_NUMPY = 2**32 - 1  # NumPy's seeds are no larger


def seed_step(seed: int, step: int, part: int) -> None:
    """Seeds all generators for one part of a step: a unit's number, or a rank's.

    So a step repeats itself, by units in any world and else in the same one, whoever was lost
    before: there is no generator's state that could be lost.
    """
    _seed(hash((seed, step, part)) & (2**63 - 1))


def seed_batch(seed: int, step: int, part: int) -> None:
    """Seeds all generators for what is random in a batch, whatever is drawn in its step besides."""
    _seed(hash((seed, step, part, 1)) & (2**63 - 1))


class Probe:
    """Tells whether any generator has given a number.

    It seeds them, and later compares the next number of each with the first one of that seed: to
    look at where they are costs more than to seed them. So they must be seeded anew after it.
    """

    def __init__(self) -> None:
        torchs = torch.Generator("cpu").manual_seed(_PROBE)
        numpys = np.random.RandomState(_PROBE & _NUMPY)
        self._drawn = torch.empty((), dtype=torch.int64, device="cpu")
        self._first = self._next(random.Random(_PROBE), numpys, torchs)
        self._gpu: torch.Tensor | None = None

    def begin(self) -> None:
        """From now on, no generator is to give a number."""
        _seed(_PROBE)
        self._gpu = _gpu_state()

    @property
    def moved(self) -> bool:
        """Whether any has given one since. To be asked once; they are to be seeded then."""
        now = _gpu_state()
        same = now is self._gpu if now is None or self._gpu is None else torch.equal(now, self._gpu)
        return not same or self._first != self._next(random, np.random, torch.default_generator)

    def _next(self, python: Any, numpy: Any, torchs: torch.Generator) -> tuple[float, float, int]:
        drawn = self._drawn.random_(generator=torchs).item()
        return python.random(), numpy.random_sample(), int(drawn)


def _seed(number: int) -> None:
    random.seed(number)
    np.random.seed(number & _NUMPY)
    # As torch.manual_seed does, but where there is no GPU that notes who asked, every time.
    torch.default_generator.manual_seed(number)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(number)


def _gpu_state() -> torch.Tensor | None:
    return torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None


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
