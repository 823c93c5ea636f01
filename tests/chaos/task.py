"""The task of the chaos tests: as small as can be, and steerable from outside.

Its folder is how a test takes hold of the workers:

``pace``            seconds that each step takes at least
``busy``            while it exists, these are seconds of a processor
``hold/POINT@VM``   the VM's worker that comes to this point stays there while the file exists,
                    and says so in ``held/POINT@VM``
``late@VM``         each of the VM's batches takes so many seconds

The points are ``data`` (while it warms up), ``step`` (before its loss is computed), ``init``
(inside the formation of a world, when the others are in ``hvd.init`` or about to be) and
``transfer`` (while state is sent). The last two are put into Horovod's functions from here, so
that the trainer is tested as it is.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import horovod.torch as hvd
import torch
from horovod.torch import mpi_ops
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.utils.data import TensorDataset

from trainer.task import Task

SAMPLES = 400
BATCH = 8
STEPS_PER_EPOCH = SAMPLES // BATCH
EPOCHS = 12  # what is to happen to a run fills half of them
SEED = 11


class Steerable(Task):
    """A small network in float64: any visible difference between two runs is an error.

    Its metrics are its parameters.

    Args:
        folder: see above.
        epochs: passes over the samples.
        ballast: bytes of state beside the parameters.
    """

    global_batch = BATCH
    seed = SEED

    def __init__(self, folder: str, epochs: int = EPOCHS, ballast: int = 0) -> None:
        self.epochs = epochs
        self._folder = Path(folder)
        self._ballast = ballast
        task = json.loads(os.environ.get("CLUSTER_SPEC", "{}")).get("task", {})
        self._vm = f"{task.get('type')}-{task.get('index')}"
        generator = torch.Generator().manual_seed(SEED)
        inputs = torch.randn(SAMPLES, 6, generator=generator, dtype=torch.float64)
        targets = inputs.sin().sum(1, keepdim=True)
        self._data = TensorDataset(inputs, targets)
        # Below hvd.init, which the trainer has taken hold of before it loads a task.
        library = mpi_ops._basics.MPI_LIB_CTYPES
        library.horovod_init = self._held("init", library.horovod_init)
        hvd.broadcast_ = self._held("transfer", hvd.broadcast_)

    def dataset(self) -> TensorDataset:
        self._hold("data")
        return self._data

    def model(self) -> nn.Module:
        model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1)).to(torch.float64)
        model.register_buffer("ballast", torch.zeros(self._ballast, dtype=torch.uint8))
        return model

    def optimizer(self, model: nn.Module) -> Optimizer:
        return SGD(model.parameters(), lr=0.02, momentum=0.9)

    def batch(self, dataset: TensorDataset, indices: Tensor) -> tuple[Tensor, Tensor]:
        inputs, targets = dataset.tensors
        time.sleep(self._seconds(f"late@{self._vm}"))
        return inputs[indices], targets[indices]

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        inputs, targets = batch
        self._hold("step")
        pace = self._seconds("pace")
        if (self._folder / "busy").exists():
            until = time.thread_time() + pace
            while time.thread_time() < until:
                pass
        else:
            time.sleep(pace)
        loss: Tensor = ((model(inputs) - targets) ** 2).mean()
        return loss

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        values = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
        return {f"parameter {index:02d}": value for index, value in enumerate(values.tolist())}

    def _seconds(self, file: str) -> float:
        try:
            return float((self._folder / file).read_text() or 0.0)
        except OSError:
            return 0.0

    def _held(self, point: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def held(*args: Any, **kwargs: Any) -> Any:
            self._hold(point)
            return function(*args, **kwargs)

        return held

    def _hold(self, point: str) -> None:
        name = f"{point}@{self._vm}"
        if (self._folder / "hold" / name).exists():
            (self._folder / "held" / name).touch()
            while (self._folder / "hold" / name).exists():
                time.sleep(0.005)
