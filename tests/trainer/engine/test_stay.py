"""What a worker leaves behind when it leaves a generation: nothing that reaches the next one."""

from __future__ import annotations

import threading

import pytest

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
