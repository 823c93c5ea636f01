"""Loopback addresses of VMs: each has its own."""

from __future__ import annotations

import pytest

from launcher.emulator.vms import address
from launcher.emulator.vms.address import LoopbackAddress


def test_an_address_belongs_to_one_vm_until_it_is_released() -> None:
    first, second = LoopbackAddress(), LoopbackAddress()
    assert first.address != second.address
    assert {first.address, second.address} <= set(address.CANDIDATES)
    first.release()
    third = LoopbackAddress()
    assert third.address != second.address
    second.release()
    third.release()


def test_it_is_said_when_none_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address, "CANDIDATES", [])
    with pytest.raises(OSError, match="no loopback address is free"):
        LoopbackAddress()
