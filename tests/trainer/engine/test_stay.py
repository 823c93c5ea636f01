"""What a worker leaves behind when it leaves a generation: nothing that reaches the next one."""

from __future__ import annotations

import threading

import pytest
from horovod.common.exceptions import HorovodInternalError

from tests.trainer.ranks import PATIENCE
from trainer.engine import stay
from trainer.engine.stay import Stay
from trainer.protocol.channel import LoneChannel
from trainer.protocol.messages import Form


def test_whoever_has_left_breaks_no_connection_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    breaking, go_on, broken = threading.Event(), threading.Event(), threading.Event()

    def break_connections(*which: object) -> int:
        breaking.set()
        assert go_on.wait(PATIENCE)
        broken.set()
        return 0

    monkeypatch.setattr(stay, "break_connections", break_connections)
    monkeypatch.setattr(stay, "horovod_shutdown", lambda: None)
    one = Stay(LoneChannel(), Form(1, {}, ()))
    one.break_off()
    assert breaking.wait(PATIENCE)
    threading.Timer(0.05, go_on.set).start()
    one.leave()
    assert broken.is_set()
    broken.clear()
    one.break_off()  # an abort that comes late
    one.leave()
    assert not broken.is_set()


def test_what_goes_wrong_in_forming_a_world_is_no_lost_peer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def raise_value_error() -> None:
        raise ValueError("nothing to train")

    monkeypatch.setattr(stay, "horovod_shutdown", lambda: None)
    one = Stay(LoneChannel(), Form(1, {}, ()))
    with pytest.raises(ValueError, match="nothing to train"):
        one.join(raise_value_error)
    one.leave()


def test_peers_that_horovod_misses_are_lost_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    def raise_value_error() -> None:
        raise ValueError("Horovod has not been initialized")

    monkeypatch.setattr(stay, "_init", raise_value_error)
    with pytest.raises(HorovodInternalError, match="not been initialized"):
        stay.horovod_init()
