"""A worker's line to its agent, over real pipes."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.trainer.ranks import PATIENCE
from trainer.protocol.channel import ENV_CONTROL, AgentChannel, LoneChannel, current_channel
from trainer.protocol.messages import (
    Abort,
    Done,
    Event,
    Exit,
    Failed,
    Form,
    FromWorker,
    Pause,
    Profile,
    Progress,
    Ready,
    Save,
    ToWorker,
    encode,
)
from trainer.rundir.usererror import UserError


class Line:
    """A worker's channel, and the agent's ends of its pipes."""

    def __init__(self) -> None:
        worker_reads, self.orders = os.pipe()
        self.messages, worker_writes = os.pipe()
        self.orphaned = threading.Event()
        self.channel = AgentChannel(worker_reads, worker_writes, self.orphaned.set)

    def send(self, order: ToWorker) -> None:
        os.write(self.orders, encode(order))

    def form(self, generation: int) -> None:
        """Has the worker join a generation; whatever was sent before has been heard then."""
        self.send(Form(generation, {"A": "1"}, ("10.0.0.1",)))
        while not isinstance(self.channel.next(), Form):
            pass  # an order to leave: whoever stands by in a world hears it, too

    def close(self) -> None:
        for end in ("orders", "messages"):
            descriptor = getattr(self, end)
            if descriptor >= 0:
                os.close(descriptor)
                setattr(self, end, -1)


@pytest.fixture
def line() -> Iterator[Line]:
    line = Line()
    yield line
    line.close()
    assert line.orphaned.wait(PATIENCE)


def test_orders_come_in_the_order_given(line: Line) -> None:
    orders: list[ToWorker] = [
        Form(3, {"A": "1"}, ("10.0.0.1", "10.0.0.2"), term=2),
        Pause(3),
        Save(rank=1, size=3, until=9.0),
        Form(4, {}, ()),
        Abort(4),
        Exit(),
    ]
    for order in orders:
        line.send(order)
    assert [line.channel.next() for _ in orders] == orders


def test_which_steps_to_profile_is_known_of_the_newest_world_and_is_no_order_to_wait_for(
    line: Line,
) -> None:
    first, second = Profile(1, 3, 0, 10, 12), Profile(2, 3, 0, 20, 22, memory=True)
    for order in (Profile(1, 2, 0, 10, 12), first, second, Exit()):
        line.send(order)
    assert line.channel.next() == Exit()
    assert line.channel.profiles() == (first, second)


def test_messages_are_json_lines(line: Line) -> None:
    line.channel.send(Progress(generation=3, step=7, saving=0.5))
    line.channel.send(Failed("a\nb é"))
    with os.fdopen(os.dup(line.messages), "rb") as reader:
        assert [json.loads(reader.readline()) for _ in range(2)] == [
            {"op": "progress", "generation": 3, "step": 7, "saving": 0.5},
            {"op": "failed", "reason": "a\nb é", "kind": "program"},
        ]


def test_messages_of_many_threads_do_not_mix(line: Line) -> None:
    def tell(number: int) -> None:
        text = str(number) * 50_000  # more than a pipe takes at once
        for _ in range(3):
            line.channel.send(Event("evaluated", {"text": text}))

    threads = [threading.Thread(target=tell, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    with os.fdopen(os.dup(line.messages), "rb") as reader:
        texts = [json.loads(reader.readline())["fields"]["text"] for _ in range(12)]
    for thread in threads:
        thread.join()
    assert sorted(texts) == sorted(str(number) * 50_000 for number in range(4) for _ in range(3))


def test_it_tells_again_and_again_that_it_lives_and_whether_it_waits(line: Line) -> None:
    line.channel.beat(every=0.001)
    with os.fdopen(os.dup(line.messages), "rb") as messages:

        def next_where(waiting: bool) -> dict[str, Any]:
            while (message := json.loads(messages.readline()))["waiting"] is not waiting:
                pass
            return dict(message)

        assert next_where(False) == {"op": "alive", "waiting": False, "frozen": False, "group": 0}
        with line.channel.collective():
            assert next_where(True) == {"op": "alive", "waiting": True, "frozen": False, "group": 0}
        assert next_where(False)


def test_a_pause_is_for_its_generation_only(line: Line) -> None:
    line.form(3)
    assert not line.channel.pause_requested()
    line.send(Pause(3))
    while not line.channel.pause_requested():
        pass
    line.form(4)
    assert not line.channel.pause_requested()


def test_a_late_pause_changes_nothing(line: Line) -> None:
    line.form(4)
    line.send(Pause(3))
    line.send(Save())
    assert line.channel.next() == Pause(3)
    assert line.channel.next() == Save()
    assert not line.channel.pause_requested()


def test_a_pause_that_comes_before_its_generation_counts(line: Line) -> None:
    line.send(Pause(5))
    line.form(5)
    assert line.channel.pause_requested()


def test_an_abort_calls_back_at_once(line: Line) -> None:
    called = threading.Event()
    line.form(3)
    line.channel.on_abort(called.set)
    line.send(Abort(3))
    assert called.wait(PATIENCE)
    assert line.channel.aborted(3)
    assert line.channel.aborted(2)
    assert not line.channel.aborted(4)


def test_an_abort_of_a_generation_that_was_left_calls_nobody(line: Line) -> None:
    called = threading.Event()
    line.form(4)
    line.channel.on_abort(called.set)
    line.send(Abort(3))
    line.send(Save())
    assert line.channel.next() == Abort(3)
    assert line.channel.next() == Save()
    assert not called.is_set()


def test_an_abort_that_comes_first_is_remembered(line: Line) -> None:
    line.send(Abort(3))
    line.form(3)
    assert line.channel.aborted(3)


def test_without_a_callback_an_abort_is_only_remembered(line: Line) -> None:
    line.form(3)
    line.channel.on_abort(lambda: pytest.fail("it was taken back"))
    line.channel.on_abort(None)
    line.send(Abort(3))
    line.send(Save())
    assert line.channel.next() == Abort(3)
    assert line.channel.next() == Save()
    assert line.channel.aborted(3)


def test_an_unknown_order_is_passed_over(line: Line) -> None:
    os.write(line.orders, b'{"op": "sing", "song": "la"}\n')
    line.send(Save())
    assert line.channel.next() == Save()


@pytest.mark.parametrize("said", [b"noise", b"{}", b'{"op": "pause", "generation": "3"}'])
def test_an_agent_that_makes_no_sense_is_as_bad_as_none(line: Line, said: bytes) -> None:
    os.write(line.orders, said + b"\n")
    assert line.orphaned.wait(PATIENCE)


def test_without_its_agent_a_worker_ends(line: Line) -> None:
    line.close()
    assert line.orphaned.wait(PATIENCE)


def test_a_message_to_an_agent_that_is_gone_ends_the_worker(line: Line) -> None:
    os.close(line.messages)
    line.messages = -1
    line.channel.send(Ready())
    assert line.orphaned.is_set()


def test_the_channel_is_found_in_the_environment_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert AgentChannel.inherited() is None
    worker_reads, orders = os.pipe()
    messages, worker_writes = os.pipe()
    for descriptor in (worker_reads, worker_writes):
        os.set_inheritable(descriptor, True)
    monkeypatch.setenv(ENV_CONTROL, f"{worker_reads},{worker_writes}")
    monkeypatch.setattr(os, "_exit", lambda code: None)  # when the pipes are closed below
    channel = AgentChannel.inherited()
    assert channel is not None
    assert ENV_CONTROL not in os.environ, "children must not think that it is theirs"
    assert not os.get_inheritable(worker_reads)
    assert not os.get_inheritable(worker_writes)
    channel.send(Ready())
    assert os.read(messages, 100) == b'{"op": "ready"}\n'
    listener = next(one for one in threading.enumerate() if one.name == "swell-channel")
    os.close(orders)
    os.close(messages)
    listener.join()


def test_a_child_that_the_worker_forks_is_no_worker(line: Line) -> None:
    """It neither speaks for the worker, nor waits for orders, nor keeps the worker's pipes."""
    with line.channel._write_lock:  # which another thread may hold when it forks
        child = os.fork()
        if not child:
            line.channel.send(Failed("the child has raised"))
            ordered = line.channel.next()
            ends = (line.channel._reader.fileno(), line.channel._writer.fileno())
            held = {os.readlink(f"/proc/self/fd/{end}") for end in ends}
            os._exit(0 if ordered == Exit() and held == {os.devnull} else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    line.channel.send(Ready())
    assert os.read(line.messages, 100) == encode(Ready()), "the child has said nothing"
    line.send(Save())
    assert line.channel.next() == Save()


def test_a_lone_process_gets_one_world_and_reports_to_whom_it_likes() -> None:
    told: list[FromWorker] = []
    channel = LoneChannel(told.append)
    assert channel.next() == Form(1, {}, ())
    assert not channel.pause_requested()
    assert not channel.aborted(1)
    channel.on_abort(lambda: None)
    done = Done(generation=1, rank=0, step=3, metrics={})
    channel.send(done)
    assert told == [done]
    assert channel.next() == Exit()
    LoneChannel().send(done)


def test_several_that_torchrun_has_started_are_not_alone_without_a_word(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(AgentChannel, "inherited", lambda: None)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "one")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="which would train by itself; write script:"):
        current_channel()
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert isinstance(current_channel(), LoneChannel)
