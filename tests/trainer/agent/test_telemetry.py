"""An agent says what its machine does, and answers Prometheus where it is asked to."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from urllib.request import urlopen

import pytest

from trainer.agent.processes import free_port
from trainer.agent.telemetry import Telemetry, message_of
from trainer.coordinator.machines import figures_of
from trainer.telemetry.gauges import Endpoint, Gauges, Workers
from trainer.telemetry.machine import Gpu, Sample
from trainer.telemetry.settings import TelemetrySettings

REPLICA: Any = SimpleNamespace(name="workerpool1-0", address="127.0.0.1")


def worker(rank: int, generation: int, step: int) -> Any:
    active = SimpleNamespace(rank=rank, generation=generation, step=step, ready=True)
    return SimpleNamespace(active=active)


def first_said(telemetry: Telemetry, do: Callable[[], Any] = lambda: None) -> Any:
    """What ``do`` returns, which is called in a thread while it lives, and what it says first."""
    said: list[dict[str, Any]] = []

    async def live() -> Any:
        told = asyncio.Event()

        def say(**body: Any) -> None:
            said.append(body)
            told.set()

        slots: Any = SimpleNamespace(all=[worker(5, 3, 117), worker(-1, 0, 0)])
        generation: Any = SimpleNamespace(number=3)
        living = asyncio.create_task(telemetry.live(slots, lambda: generation, say))
        await told.wait()
        found = await asyncio.to_thread(do)
        living.cancel()
        await asyncio.gather(living, return_exceptions=True)
        return found

    return asyncio.run(live()), said


def test_it_says_what_its_machine_does() -> None:
    telemetry = Telemetry(TelemetrySettings(), REPLICA, {})
    _, (told,) = first_said(telemetry)
    assert 0 < told["machine"].memory < 1


def test_it_answers_at_its_address_as_long_as_it_lives() -> None:
    port = free_port()
    telemetry = Telemetry(TelemetrySettings(port=port), REPLICA, {"SWELL_RUN_ID": "run-1"})
    telemetry.heard({"event": "drain", "time": 1.0})

    def ask() -> str:
        with urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            text: str = answer.read().decode()
            return text

    text, _ = first_said(telemetry, ask)
    (line,) = [one for one in text.splitlines() if one.startswith("swell_worker_steps{")]
    assert 'rank="5"' in line and 'run="run-1"' in line and line.endswith(" 117.0")
    assert 'swell_events_total{event="drain"' in text and 'swell_machine{of="memory"' in text
    with pytest.raises(OSError, match="refused"):
        ask()


def test_a_port_that_is_taken_is_a_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    other = Endpoint(Gauges("r", "w", lambda: Workers(0, {}, 0)), "127.0.0.1", 0)
    try:
        with caplog.at_level(logging.WARNING, "swell.agent"):
            first_said(Telemetry(TelemetrySettings(port=other.port), REPLICA, {}))
    finally:
        other.close()
    (said,) = [one.getMessage() for one in caplog.records]
    assert said.startswith(f"Prometheus is not answered at 127.0.0.1:{other.port}: ")
    assert said.endswith("[SW6243]")


def test_a_sample_travels_with_all_that_is_in_it() -> None:
    gpu = Gpu(0.9, 0.5, 70.0, 1410.0, 390.0, True, 12, 1, 79)
    sample = Sample(0.1, 0.2, 0.3, 4.0, 5.0, 6.0, 7.0, (gpu,))
    told = message_of(sample)
    assert {name: getattr(told, name) for name in sample.values()} == sample.values()
    assert {name: getattr(told.gpus[0], name) for name in vars(gpu)} == vars(gpu)
    assert figures_of(told)["gpu0_xid"] == 79


def test_a_machine_that_refuses_to_be_sampled_ends_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    telemetry = Telemetry(TelemetrySettings(), REPLICA, {})

    def refuse() -> Sample:
        raise PermissionError("/proc/net/dev")

    telemetry._sampler.sample = refuse  # type: ignore[method-assign]

    async def live() -> bool:
        slots: Any = SimpleNamespace(all=[])
        living = asyncio.create_task(telemetry.live(slots, lambda: None, lambda **it: None))
        while not caplog.records:
            await asyncio.sleep(0.01)
        lives = not living.done()
        living.cancel()
        await asyncio.gather(living, return_exceptions=True)
        return lives

    with caplog.at_level(logging.WARNING, "swell.agent"):
        assert asyncio.run(live())
    assert "/proc/net/dev" in caplog.text
