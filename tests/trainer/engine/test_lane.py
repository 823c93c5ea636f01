"""A batch on its way to the device: what is asked of a GPU, and in which order.

No GPU is here. What stands in for torch.cuda notes what it is asked for; that a GPU then computes
with what was copied is not shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from trainer.engine.lane import Beside, Direct, lane_to

CPU = torch.device("cpu")


class Cuda:
    """Notes, in ``asked``, what would be asked of torch.cuda."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.inside = False

    def Stream(self, device: torch.device) -> Cuda:
        return self

    @contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        self.inside = True
        yield
        self.inside = False

    def record_event(self) -> str:
        self.asked.append(f"record, inside: {self.inside}")
        return "copied"

    def current_stream(self, device: torch.device) -> Cuda:
        return self

    def wait_event(self, event: str) -> None:
        self.asked.append(f"wait for {event}")

    def pin(self, one: Tensor) -> Tensor:
        self.asked.append(f"pin, inside: {self.inside}")
        return Moved(one.clone(), self)


class Moved(Tensor):
    """A tensor that notes that it is moved, and used by a stream."""

    @staticmethod
    def __new__(cls, data: Tensor, cuda: Cuda) -> Moved:
        return data.as_subclass(cls)

    def __init__(self, data: Tensor, cuda: Cuda) -> None:
        self.cuda_ = cuda

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        self.cuda_.asked.append(f"copy, inside: {self.cuda_.inside}, {kwargs['non_blocking']}")
        return self

    def record_stream(self, stream: Any) -> None:
        self.cuda_.asked.append("keep")


def test_to_a_gpu_it_is_pinned_copied_on_a_stream_of_its_own_and_waited_for_where_it_is_used() -> (
    None
):
    cuda = Cuda()
    lane = Beside(CPU, False, cuda, cuda.pin)
    sent = lane.send({"x": torch.ones(2), "name": "a"})
    before = [*cuda.asked]
    batch = lane.arrive(sent)
    assert before == ["pin, inside: False", "copy, inside: True, True", "record, inside: True"]
    assert cuda.asked[3:] == ["wait for copied", "keep"]
    assert batch["x"].tolist() == [1.0, 1.0] and batch["name"] == "a"


def test_what_is_on_the_cpu_stays_where_it_is() -> None:
    lane = lane_to(CPU)
    x = torch.ones(2)
    assert isinstance(lane, Direct)
    assert lane.arrive(lane.send([x, (x, 1)]))[1][0] is x


def test_images_have_their_channels_last_when_that_is_asked_for() -> None:
    lane = lane_to(CPU, channels_last=True)
    images, labels = lane.arrive(lane.send((torch.ones(2, 3, 4, 4), torch.ones(2))))
    assert images.is_contiguous(memory_format=torch.channels_last) and labels.ndim == 1
