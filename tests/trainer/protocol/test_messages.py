"""What agent and worker say to each other comes over as it was meant, or not at all."""

from __future__ import annotations

import json
import math
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.protocol.messages import (
    Abort,
    Alive,
    Done,
    Event,
    Exit,
    Exited,
    Failed,
    Form,
    Message,
    Pause,
    Profile,
    Progress,
    Ranks,
    Ready,
    Received,
    Save,
    Saved,
    Start,
    Started,
    Steps,
    Stopped,
    Taking,
    decode,
    encode,
)

whole = st.integers(-(2**63), 2**63 - 1)
real = st.floats(allow_nan=False)
text = st.text()
metrics = st.dictionaries(text, real)
MESSAGES: dict[Any, st.SearchStrategy[Message]] = {
    Form: st.builds(
        Form,
        whole,
        st.dictionaries(text, text),
        st.lists(text, max_size=3).map(tuple),
        whole,
        st.booleans(),
    ),
    Start: st.builds(Start, whole, text, whole),
    Pause: st.builds(Pause, whole, real),
    Abort: st.builds(Abort, whole),
    Profile: st.builds(Profile, whole, whole, whole, whole, whole, st.booleans()),
    Save: st.builds(Save, whole, whole, real),
    Exit: st.just(Exit()),
    Alive: st.builds(Alive, st.booleans(), st.booleans(), whole),
    Ready: st.just(Ready()),
    Received: st.builds(Received, whole, whole),
    Started: st.builds(Started, whole, whole, whole, real | st.none(), whole, real),
    Progress: st.builds(Progress, whole, whole, real),
    Steps: st.builds(
        Steps,
        whole,
        whole,
        st.dictionaries(text, st.lists(real, max_size=3)),
        whole | st.none(),
        accounts=metrics | st.none(),
    ),
    Ranks: st.builds(
        Ranks, whole, whole, whole, real, st.lists(whole), *[st.lists(real)] * 3, metrics
    ),
    Stopped: st.builds(Stopped, whole, whole, st.booleans(), text),
    Exited: st.builds(Exited, whole, whole, whole, real, text),
    Saved: st.builds(Saved, whole),
    Done: st.builds(Done, whole, whole, whole, metrics),
    Taking: st.builds(Taking, whole, st.lists(whole, max_size=3), whole),
    Failed: st.builds(Failed, text, text),
    Event: st.builds(Event, text, st.dictionaries(text, whole | text | st.none() | metrics)),
}


def test_no_kind_is_left_out() -> None:
    assert MESSAGES.keys() == set(get_args(Message))


@given(st.one_of(*MESSAGES.values()))
def test_a_message_comes_back(message: Message) -> None:
    line = encode(message)
    assert line.endswith(b"\n") and line.count(b"\n") == 1
    assert decode(line) == message


def test_a_line_says_its_kind_and_its_fields() -> None:
    assert json.loads(encode(Received(generation=3, bytes=100))) == {
        "op": "received",
        "generation": 3,
        "bytes": 100,
    }


def test_numbers_that_a_diverged_training_has_come_over() -> None:
    done = decode(encode(Done(1, 0, 5, {"loss": math.nan, "norm": math.inf})))
    assert isinstance(done, Done)
    assert math.isnan(done.metrics["loss"]) and done.metrics["norm"] == math.inf


def line(**record: Any) -> bytes:
    return json.dumps(record).encode()


def test_what_has_a_default_may_be_missing() -> None:
    assert decode(line(op="save")) == Save(0, 1, math.inf)
    assert decode(line(op="progress", generation=1, step=2)) == Progress(1, 2, 0.0)


def test_a_whole_number_is_a_number() -> None:
    assert decode(line(op="save", until=9)) == Save(until=9.0)


def test_what_a_newer_peer_says_besides_is_passed_over() -> None:
    assert decode(line(op="sing", song="la")) is None
    assert decode(line(op="pause", generation=3, gently=True)) == Pause(3)


STARTED = {"op": "started", "generation": 1, "rank": 0, "step": 4, "idle": 0.5, "bytes": 0}


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"noise", "Expecting value"),
        (b"\xff", "can't decode"),
        (b"[]", "it has no op"),
        (b"{}", "it has no op"),
        (line(op=3), "it has no op"),
        (line(op=["pause"]), "it has no op"),
        (line(op="pause"), "pause lacks generation"),
        (line(op="pause", generation="3"), "pause has a str where"),
        (line(op="pause", generation=3.0), "pause has a float where"),
        (line(op="pause", generation=True), "pause has a bool where"),
        (line(op="pause", generation=None), "pause has a NoneType where"),
        (line(op="alive", waiting=1), "alive has a int where"),
        (line(op="form", generation=1, env={"A": 1}, addresses=[]), "form has a int where"),
        (line(op="form", generation=1, env={}, addresses="10.0.0.1"), "form has a str where"),
        (line(op="form", generation=1, env=[], addresses=[]), "form has a list where"),
        (line(**STARTED), "started lacks seconds"),
        (line(**STARTED, seconds="1"), "started has a str where"),
        (line(op="steps", generation=1, first=1, metrics={"loss": [None]}), "NoneType where"),
        (line(op="event", name="loss", fields=[]), "event has a list where"),
    ],
)
def test_what_makes_no_sense_is_refused(said: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        decode(said)
