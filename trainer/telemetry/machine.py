"""What a machine does at a moment: processors, memory, disk, network, and its GPUs.

GPUs are asked through NVML, by NVIDIA's own binding (docs.nvidia.com/deploy/nvml-api). Nobody has
run that on a machine with a GPU yet: it is tested with a fake, after that documentation.
"""

from __future__ import annotations

import importlib
import math
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

EVERY = 10.0  # seconds between two samples
# Of NVML's reasons for lower clocks: hardware, heat as software and as hardware sees it, power.
HELD_BACK = 0x8 | 0x20 | 0x40 | 0x80


@dataclass(frozen=True)
class Gpu:
    """One GPU.

    Attributes:
        used: part of the time in which it computed, from 0 to 1.
        memory: part of its memory that is taken.
        temperature: degrees Celsius.
        clock: MHz of its processors.
        power: watts.
        held_back: whether heat, or its power supply, lowers its clocks.
        links: NVLinks that are up; links_down: those that are not.
        xid: the newest critical error's number; 0 for none.
    """

    used: float = 0.0
    memory: float = 0.0
    temperature: float = 0.0
    clock: float = 0.0
    power: float = 0.0
    held_back: bool = False
    links: int = 0
    links_down: int = 0
    xid: int = 0


@dataclass(frozen=True)
class Sample:
    """One moment of a machine; rates are means since the sample before.

    Attributes:
        cpu: part of its processors' time that was used, from 0 to 1.
        memory: part of its memory that is taken.
        disk: part of the disk with temporary files that is taken.
        read, written: bytes a second, of all disks.
        received, sent: bytes a second, of all networks but the loopback.
        gpus: each.
    """

    cpu: float = 0.0
    memory: float = 0.0
    disk: float = 0.0
    read: float = 0.0
    written: float = 0.0
    received: float = 0.0
    sent: float = 0.0
    gpus: tuple[Gpu, ...] = ()

    def values(self) -> dict[str, float]:
        """All but the GPUs, by name."""
        return {name: value for name, value in vars(self).items() if name != "gpus"}


@dataclass
class Sampler:
    """Samples this machine.

    Args:
        clock: monotonic seconds.
        gpus: what samples its GPUs; by default NVML, where there is one.
    """

    clock: Callable[[], float]
    gpus: Callable[[], tuple[Gpu, ...]] | None = None
    _before: tuple[float, Mapping[str, float]] | None = field(default=None, init=False)

    def sample(self) -> Sample:
        """A sample. What cannot be read is 0."""
        import psutil

        if self.gpus is None:
            self.gpus = nvml()
        now, counters = self.clock(), _counters()
        then, before = self._before or (now, counters)
        self._before = now, counters
        took = max(now - then, 1e-9)
        rates = {name: max(0.0, counters[name] - before[name]) / took for name in counters}
        disk = shutil.disk_usage(tempfile.gettempdir())
        return Sample(
            cpu=psutil.cpu_percent() / 100,
            memory=psutil.virtual_memory().percent / 100,
            disk=disk.used / max(disk.total, 1),
            **rates,
            gpus=self.gpus(),
        )


def _counters() -> dict[str, float]:
    import psutil

    disk = psutil.disk_io_counters()
    networks = {k: v for k, v in psutil.net_io_counters(pernic=True).items() if k != "lo"}
    return {
        "read": float(disk.read_bytes if disk else 0),
        "written": float(disk.write_bytes if disk else 0),
        "received": float(sum(one.bytes_recv for one in networks.values())),
        "sent": float(sum(one.bytes_sent for one in networks.values())),
    }


def nvml(library: Any = None) -> Callable[[], tuple[Gpu, ...]]:
    """What samples the GPUs of this machine; of one without, or without NVML, there are none.

    Args:
        library: in place of pynvml.
    """
    try:
        library = library or importlib.import_module("pynvml")
        library.nvmlInit()
        count = library.nvmlDeviceGetCount()
        handles = [library.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
    except Exception:  # no package, no driver, no GPU: NVML has an error of its own for each
        return lambda: ()
    errors = _Xids(library, handles)
    return lambda: tuple(
        _gpu(library, handle, errors.newest(index)) for index, handle in enumerate(handles)
    )


class _Xids:
    """The newest critical error of each GPU."""

    def __init__(self, library: Any, handles: list[Any]) -> None:
        self._library = library
        self._newest = [0] * len(handles)
        self._set: Any = None
        with suppress(Exception):
            self._set = library.nvmlEventSetCreate()
            for handle in handles:
                kind = library.nvmlEventTypeXidCriticalError
                library.nvmlDeviceRegisterEvents(handle, kind, self._set)

    def newest(self, index: int) -> int:
        library = self._library
        with suppress(Exception):  # nothing has happened within no time
            while self._set is not None:
                found = library.nvmlEventSetWait_v2(self._set, 0)
                self._newest[library.nvmlDeviceGetIndex(found.device)] = int(found.eventData)
        return self._newest[index]


def _gpu(library: Any, handle: Any, xid: int) -> Gpu:
    def asked(what: Callable[[], Any], default: Any = 0) -> Any:
        try:  # not every GPU answers everything
            return what()
        except Exception:
            return default

    memory = asked(lambda: library.nvmlDeviceGetMemoryInfo(handle), None)
    rates = asked(lambda: library.nvmlDeviceGetUtilizationRates(handle), None)
    reasons = asked(lambda: library.nvmlDeviceGetCurrentClocksThrottleReasons(handle))
    links = [
        asked(partial(library.nvmlDeviceGetNvLinkState, handle, link), None)
        for link in range(library.NVML_NVLINK_MAX_LINKS)
    ]
    return Gpu(
        used=rates.gpu / 100 if rates else 0.0,
        memory=memory.used / max(memory.total, 1) if memory else 0.0,
        temperature=float(
            asked(lambda: library.nvmlDeviceGetTemperature(handle, library.NVML_TEMPERATURE_GPU))
        ),
        clock=float(asked(lambda: library.nvmlDeviceGetClockInfo(handle, library.NVML_CLOCK_SM))),
        power=asked(lambda: library.nvmlDeviceGetPowerUsage(handle)) / 1000,
        held_back=bool(reasons & HELD_BACK),
        links=links.count(1),
        links_down=links.count(0),
        xid=xid,
    )


def plain(value: float) -> float:
    """A value in few digits; 0 for what is no number."""
    return float(f"{value:.4g}") if math.isfinite(value) else 0.0
