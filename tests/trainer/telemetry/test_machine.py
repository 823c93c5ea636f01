"""Samples of this machine, and of GPUs that are a fake after NVML's documentation."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from trainer.telemetry.machine import Gpu, Sampler, nvml, plain


class NvmlError(Exception):
    """What NVML raises."""


class Nvml:
    """NVML with two GPUs; the second answers little."""

    NVML_TEMPERATURE_GPU, NVML_CLOCK_SM, NVML_NVLINK_MAX_LINKS = 0, 1, 4
    nvmlEventTypeXidCriticalError = 8

    def __init__(self) -> None:
        self.xids: list[tuple[int, int]] = []

    def nvmlInit(self) -> None: ...

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetIndex(self, handle: int) -> int:
        return handle

    def nvmlEventSetCreate(self) -> str:
        return "set"

    def nvmlDeviceRegisterEvents(self, handle: int, kind: int, events: str) -> None:
        assert kind == 8 and events == "set"

    def nvmlEventSetWait_v2(self, events: str, timeout: int) -> Any:
        assert timeout == 0
        if not self.xids:
            raise NvmlError("timeout")
        device, xid = self.xids.pop(0)
        return SimpleNamespace(device=device, eventData=xid)

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        return SimpleNamespace(used=20, total=80)

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:
        return SimpleNamespace(gpu=97)

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: int) -> int:
        return 0x40 if handle == 0 else 0x1

    def nvmlDeviceGetTemperature(self, handle: int, sensor: int) -> int:
        return self._first(handle, 81)

    def nvmlDeviceGetClockInfo(self, handle: int, kind: int) -> int:
        return self._first(handle, 1410)

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:
        return self._first(handle, 390_000)

    def nvmlDeviceGetNvLinkState(self, handle: int, link: int) -> int:
        return self._first(handle, [1, 1, 0][link]) if link < 3 else self._first(1, 0)

    def _first(self, handle: int, value: int) -> int:
        if handle:
            raise NvmlError("not supported")
        return value


def test_this_machine_is_sampled() -> None:
    now = iter([0.0, 10.0])
    sampler = Sampler(lambda: next(now), lambda: ())
    first, second = sampler.sample(), sampler.sample()
    assert first.read == first.sent == 0.0, "there is no rate of one moment"
    for sample in (first, second):
        assert 0 <= sample.cpu <= 1 and 0 < sample.memory < 1 and 0 < sample.disk <= 1
        assert min(sample.values().values()) >= 0 and sample.gpus == ()


def test_a_gpu_says_what_it_can() -> None:
    library = Nvml()
    ask = nvml(library)
    assert ask() == (
        Gpu(0.97, 0.25, 81.0, 1410.0, 390.0, True, 2, 1, 0),
        Gpu(used=0.97, memory=0.25),
    )
    library.xids = [(1, 48), (1, 79)]
    assert [gpu.xid for gpu in ask()] == [0, 79], "the newest counts"
    assert [gpu.xid for gpu in ask()] == [0, 79], "and stays"


def test_a_machine_without_a_driver_has_no_gpus() -> None:
    class None_:
        def nvmlInit(self) -> None:
            raise NvmlError("driver not loaded")

    assert nvml(None_())() == ()


@pytest.mark.parametrize("value, told", [(0.123456, 0.1235), (float("nan"), 0.0), (1e12, 1e12)])
def test_figures_have_few_digits(value: float, told: float) -> None:
    assert plain(value) == told
