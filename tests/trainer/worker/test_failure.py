"""Whose fault an error of the user's code may be."""

from __future__ import annotations

import errno

import pytest
import torch

from trainer.loaders.pool import LoadersLost
from trainer.loaders.sample import SampleError
from trainer.worker.failure import kind_in_elastic, kind_of


@pytest.mark.parametrize(
    "error, kind",
    [
        (ValueError("x"), "program"),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), "machine"),
        (RuntimeError("CUDA error: CUDA-capable device(s) is/are busy or unavailable"), "machine"),
        (RuntimeError("NCCL error: unhandled system error (run with NCCL_DEBUG=INFO)"), "machine"),
        (RuntimeError("CUDA error: Xid 79, GPU has fallen off the bus"), "machine"),
        (RuntimeError("uncorrectable"), "program"),  # only what the GPU says counts
        (RuntimeError("CUDA error: unspecified launch failure"), "unsure"),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "unsure"),
        (RuntimeError("CUDA error: device-side assert triggered"), "program"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), "program"),
        (MemoryError(), "unsure"),
        (RuntimeError("DataLoader worker (pid 17) is killed by signal: Killed. "), "unsure"),
        (RuntimeError("DataLoader worker (pid(s) 17, 18) exited unexpectedly"), "unsure"),
        (RuntimeError("Caught ValueError in DataLoader worker process 0."), "program"),
        (OSError(errno.EIO, "Input/output error"), "machine"),
        (OSError(errno.ENOSPC, "No space left on device"), "unsure"),
        (FileNotFoundError(errno.ENOENT, "No such file"), "program"),
    ],
)
def test_an_error_says_whose_fault_it_may_be(error: BaseException, kind: str) -> None:
    assert kind_of(error) == kind


def test_an_error_of_a_sample_is_that_of_its_cause() -> None:
    error = SampleError("sample 5 of the data set: OSError: …")
    error.__cause__ = OSError(errno.EIO, "Input/output error")
    assert kind_of(error) == "machine"
    error.__cause__ = ValueError("no picture")
    assert kind_of(error) == "program"
    assert kind_of(LoadersLost("3 loader processes were lost")) == "unsure"


def test_an_error_of_the_accelerator_is_known_by_its_class() -> None:
    class AcceleratorError(RuntimeError):
        pass

    assert kind_of(AcceleratorError("uncorrectable NVLink error detected")) == "machine"
    assert kind_of(AcceleratorError("something else")) == "unsure"


def test_what_an_elastic_horovod_script_raises_is_not_known_to_be_the_programs() -> None:
    assert kind_in_elastic(ValueError("x")) == "raised"
    assert kind_in_elastic(MemoryError()) == "unsure", "what the machine may have done stays that"
