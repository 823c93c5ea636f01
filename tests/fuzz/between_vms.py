"""What agents and coordinator say to each other, and what reaches an agent on its VM."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import threading
from dataclasses import asdict
from typing import Any

from google.protobuf.message import DecodeError
from hypothesis import strategies as st

from launcher.probed import Probed, judged
from tests.fuzz.inputs import damaged, json_of
from tests.fuzz.target import LOOP, target
from trainer.agent import preemption
from trainer.agent.agent import Agent
from trainer.agent.generation import Generation
from trainer.agent.rendezvous import Rendezvous
from trainer.agent.replica import Replica, parse_cluster_spec
from trainer.agent.settings import Settings
from trainer.agent.worker_process import WorkerProcess
from trainer.coordinator.limits import Limits
from trainer.coordinator.membership import Membership
from trainer.coordinator.preflight import Preflight
from trainer.coordinator.standstill import ANSWER, Standstill
from trainer.coordinator.stragglers import Stragglers
from trainer.protocol import messages, wire
from trainer.protocol import swell_pb2 as pb
from trainer.protocol.authority import new_secret
from trainer.protocol.channel import AgentChannel
from trainer.protocol.credentials import Credentials
from trainer.protocol.mesh import Mesh, lengthen, shorten
from trainer.protocol.secretmanager import read_secret
from trainer.protocol.session import Program
from trainer.protocol.signals import Joined, Tick
from trainer.protocol.world import MemberId, arrange
from trainer.rundir.directory import RunDirectory
from trainer.rundir.formats import PROTOCOL
from trainer.rundir.untrusted import parse_json

A, B = MemberId("workerpool0-0", "a"), MemberId("workerpool1-0", "b")
WORLD = wire.world_to_message(arrange(3, [(A, 1), (B, 1)]), {A: "10.0.0.1", B: "10.0.0.2"})
ASKED = wire.world_from_message(WORLD)
STACK = 'Thread 0x0 (most recent call first):\n  File "/a.py", line 3 in f'
SAID = [
    pb.FromAgent(
        hello=pb.Hello(
            member=str(A),
            slots=1,
            address="10.0.0.1",
            world=WORLD,
            protocol=PROTOCOL,
            shown=pb.Shown(memory=1e9, matmul=1e9),
        )
    ),
    pb.FromAgent(ready=pb.Ready()),
    pb.FromAgent(started=pb.Started(generation=1, step=5, idle=0.5)),
    pb.FromAgent(progress=pb.Progress(generation=1, step=6, quiet=0.1, received=7)),
    pb.FromAgent(stopped=pb.Stopped(generation=1, step=6, clean=True, failed="x")),
    pb.FromAgent(crashed=pb.Crashed(reason="x", spare=True)),
    pb.FromAgent(drain=pb.Drain(reason="x", deadline=15.0)),
    pb.FromAgent(done=pb.Done(generation=1, step=9, metrics={"loss": 0.5})),
    pb.FromAgent(start=pb.Start(generation=1, address="10.0.0.1", port=15001)),
    pb.FromAgent(rank_failed=pb.RankFailed(generation=1, rank=1, code=-9, seconds=1.0)),
    pb.FromAgent(task_failed=pb.TaskFailed(rank=0, step=3, reason="x")),
    pb.FromAgent(proved=pb.Proved(peer=str(B), latency=0.001, bandwidth=1e9)),
    pb.FromAgent(
        stacks=pb.Stacks(
            number=1,
            generation=1,
            stacks=[pb.Stack(rank=0, text=STACK, busy=0.5, waits_for="a lock")],
        )
    ),
    pb.FromAgent(
        ranks=pb.Ranks(
            generation=1,
            step=3,
            count=2,
            seconds=1.0,
            ranks=[0, 1],
            computed=[1.0, 3.0],
            data_wait=[0.0, 0.0],
            samples=[4, 4],
        )
    ),
    pb.FromAgent(examined=pb.Examined(generation=1, rank=1, reason="x")),
    pb.FromAgent(
        row=pb.Row(
            generation=1, scope="global", size=2, row=pb.Addresses(rank=0, addresses=b"8" * 8)
        )
    ),
]
whole = st.integers(-(2**63), 2**63 - 1) | st.sampled_from([0, 1, 2, 3])
small = st.integers(-(2**31), 2**31 - 1) | st.sampled_from([0, 1, 2, 3])
real = st.floats() | st.sampled_from([0.0, 1.0, 15.0])
name = st.sampled_from(["", "x", str(A), str(B), "#", "a#", "#b", "a#b#c", "\0#\0"]) | st.text()
numbered = st.fixed_dictionaries({"generation": small, "step": whole})
FIELDS: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "ready": st.just({}),
    "started": st.fixed_dictionaries({"generation": small, "step": whole, "idle": real}),
    "progress": st.fixed_dictionaries(
        {
            "generation": small,
            "step": whole,
            "quiet": real,
            "frozen": st.booleans(),
            "waiting": st.booleans(),
            "received": whole,
        }
    ),
    "stopped": st.fixed_dictionaries(
        {"generation": small, "step": whole, "clean": st.booleans(), "failed": st.text()}
    ),
    "crashed": st.fixed_dictionaries({"reason": st.text(), "spare": st.booleans()}),
    "drain": st.fixed_dictionaries({"reason": st.text(), "deadline": real}),
    "done": st.fixed_dictionaries(
        {"generation": small, "step": whole, "metrics": st.dictionaries(st.text(), real)}
    ),
    "proved": st.fixed_dictionaries(
        {"peer": name, "failed": st.text(), "latency": real, "bandwidth": real}
    ),
    "task_failed": st.fixed_dictionaries({"rank": small, "step": whole, "reason": st.text()}),
}


@st.composite
def _message(draw: st.DrawFn) -> bytes:
    kind = draw(st.sampled_from(sorted(FIELDS)))
    body = getattr(pb.FromAgent(), kind).__class__(**draw(FIELDS[kind]))
    return bytes(pb.FromAgent(**{kind: body}).SerializeToString())


@target(st.lists(damaged(*(m.SerializeToString() for m in SAID)) | _message(), max_size=6))
def what_agents_say(messages: list[bytes]) -> None:
    """A coordinator with a world of two hears messages of one of them."""
    machine = Membership(Limits(min_workers=1, max_workers=4), 2, 0.0)
    watch = Standstill(30.0)
    slow, preflight = Stragglers(1.5, 1), Preflight()
    watch.due(ASKED, 0.0, 0.1, 600.0, 3, 30.0)
    now = 0.0
    for member in (A, B):
        machine.step(Joined(member, 1, None), now)
        ready = wire.event_from_message(member, SAID[1])
        assert ready is not None
        machine.step(ready, now)
    for data in messages:
        now += 0.1
        try:
            message = pb.FromAgent.FromString(data)
            if message.WhichOneof("body") == "hello":
                hello = message.hello
                if wire.misfit(hello):
                    return
                world = wire.world_from_message(hello.world) if hello.HasField("world") else None
                member, slots = MemberId.parse(hello.member), wire.slots_of(hello)
                joined = Joined(member, slots, world, shown=wire.shown_in(hello))
                if preflight.judge(joined) is None:
                    machine.step(joined, now)
            elif message.WhichOneof("body") == "stacks":
                watch.take(A, message.stacks)
            elif message.WhichOneof("body") == "ranks":
                slow.take(ASKED, message.ranks, now)
            elif message.WhichOneof("body") == "examined":
                slow.explained(A, message.examined)
            else:
                event = wire.event_from_message(A, message)
                if event is not None:
                    machine.step(event, now)
        except (ValueError, DecodeError):
            continue
    machine.step(Tick(), now + 1.0)
    for one in slow.due(now + 30.0):
        assert one.figures["ratio"] > 1
    report = watch.report(30.0 + ANSWER)
    assert report is not None and report.reason.isprintable() and len(report.reason) < 2000


@target(
    damaged(
        pb.FromCoordinator(form=pb.Form(world=WORLD, gloo_timeout=30.0)).SerializeToString(),
        pb.FromCoordinator(abort=pb.Abort(generation=3)).SerializeToString(),
    )
    | st.builds(
        lambda generation, slots: pb.FromCoordinator(
            form=pb.Form(world=pb.World(generation=generation, slots=slots))
        ).SerializeToString(),
        small,
        st.lists(st.builds(pb.Slots, member=name, count=small, address=st.text()), max_size=4),
    )
)
def what_a_coordinator_says(data: bytes) -> None:
    try:
        message = pb.FromCoordinator.FromString(data)
        if message.WhichOneof("body") == "form":
            world = wire.world_from_message(message.form.world)
            wire.addresses_in(message.form.world)
            assert len(world.places) == world.size
            world.places_of(A)
    except (ValueError, DecodeError):
        return


IPV4 = (b"\x02\0" + b"\x1f\x90" + b"\x7f\0\0\1") + bytes(120) + b"\xff" * 8


@target(
    st.tuples(
        st.integers(-1, 5),
        st.lists(
            st.tuples(st.integers(-1, 5), damaged(b"8" * 8, b"8" * 28, b"8" * 16)), max_size=6
        ),
    )
)
def rows_of_a_mesh(given: tuple[int, list[tuple[int, bytes]]]) -> None:
    size, rows = given
    try:
        mesh = Mesh(size)
        for rank, row in rows:
            mesh.add(rank, row)
        if mesh.complete:
            assert len(mesh.columns()) == size
    except ValueError:
        return


@target(damaged(IPV4, IPV4 * 3, shorten(IPV4)))
def addresses_of_gloo(data: bytes) -> None:
    for decode in (shorten, lengthen):
        try:
            decode(data)
        except ValueError:
            continue


def _request(rank: int, size: int, body: bytes) -> bytes:
    head = f"POST /global/{rank}/{size} HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class _Writer:
    """The half of a connection that is written to."""

    def __init__(self) -> None:
        self.answer = b""

    def write(self, data: bytes) -> None:
        self.answer += data

    async def drain(self) -> None:
        return

    def close(self) -> None:
        return


@target(
    damaged(
        _request(0, 2, IPV4),
        _request(1, 3, IPV4 * 2),
        b"GET /rank_and_size/workerpool0-0.a:0 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PUT /global/0_1 HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
    )
)
def requests_to_the_rendezvous(data: bytes) -> None:
    async def serve() -> None:
        rendezvous = Rendezvous(arrange(1, [(A, 1), (B, 1)]), A, lambda *row: None)
        reader = asyncio.StreamReader(limit=64 * 1024)
        reader.feed_data(data)
        reader.feed_eof()
        serving = asyncio.ensure_future(rendezvous._serve(reader, _Writer()))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        rendezvous.break_off()
        await asyncio.wait_for(serving, 600)

    LOOP.run_until_complete(serve())


CREDENTIALS = Credentials.parse(new_secret())


class _Process:
    """A worker's process that only ever exits."""

    returncode = None

    async def wait(self) -> int:
        return 0


class _Worker(WorkerProcess):
    """A worker that is only ever killed."""

    def kill(self) -> None:
        pass


def records(*said: messages.Message) -> list[dict[str, Any]]:
    """The messages as JSON, for something to go wrong in them."""
    return [json.loads(messages.encode(one)) for one in said]


FORM = pb.Form(world=WORLD, gloo_timeout=30.0)
TOLD = records(
    messages.Alive(waiting=True, frozen=False, group=4711),
    messages.Ready(),
    messages.Started(generation=1, rank=0, step=4, idle=0.5, bytes=100, seconds=0.1),
    messages.Progress(generation=1, step=5, saving=0.5),
    messages.Received(generation=1, bytes=100),
    messages.Steps(generation=1, first=1, metrics={"loss": [1.0]}, total_steps=9),
    messages.Ranks(1, 5, 4, 10.0, [0, 1], [1.0, 2.0], [0.5, 0.5], [1.0, 0.0], {"computed": 1.5}),
    messages.Stopped(generation=1, step=5, clean=True, failed=""),
    messages.Exited(generation=1, rank=0, code=-9, seconds=1.0, reason="x"),
    messages.Saved(step=5),
    messages.Done(generation=1, rank=0, step=9, metrics={"loss": 0.1}),
    messages.Failed("x"),
    messages.Event("evaluated", {"step": 5, "metrics": {"loss": 0.1}}),
)


@target(st.lists(json_of(*TOLD), max_size=4))
def what_a_worker_tells_its_agent(lines: list[bytes]) -> None:
    async def listen() -> None:
        replica = Replica("workerpool0-0", "127.0.0.1", "lo", 1, 1)
        run_dir = RunDirectory("memory://fuzz-agent")
        agent = Agent(replica, run_dir, Settings(Program(task="a:B")), CREDENTIALS, {})
        agent._generation = Generation(FORM, A, lambda row: None)
        agent._slots.fill_soon = lambda: None  # type: ignore[method-assign]
        worker = _Worker(0, 1)
        worker.rank = 0
        worker._process = _Process()  # type: ignore[assignment]
        reader = asyncio.StreamReader(limit=2**20)
        reader.feed_data(b"\n".join(lines))
        reader.feed_eof()
        gone = asyncio.Event()

        async def on_exit(worker: WorkerProcess, code: int) -> None:
            gone.set()

        with contextlib.redirect_stderr(io.StringIO()):
            await worker._listen(reader, agent._heard, on_exit)
        assert gone.is_set(), "whatever a worker says, its end is noticed"

    LOOP.run_until_complete(listen())


ORDERS = records(
    messages.Form(generation=2, env={"A": "b"}, addresses=("10.0.0.1",), term=1),
    messages.Pause(generation=2),
    messages.Abort(generation=2),
    messages.Save(rank=0, size=1, until=9.0),
    messages.Profile(number=1, generation=2, rank=0, first=3, last=4),
    messages.Exit(),
)


@target(st.lists(json_of(*ORDERS), max_size=4))
def what_an_agent_tells_its_worker(lines: list[bytes]) -> None:
    read, write = os.pipe()
    into = os.open(os.devnull, os.O_WRONLY)
    os.set_blocking(write, False)
    orphaned = threading.Event()
    channel = AgentChannel(read, into, orphaned.set)
    with contextlib.suppress(BlockingIOError):  # more than a pipe holds: the rest is lost
        os.write(write, b"\n".join(lines))
    os.close(write)
    assert orphaned.wait(600), "a worker whose agent makes no sense ends"
    channel._writer.close()
    channel._reader.close()


@target(
    damaged(
        b"HTTP/1.1 200 OK\r\nMetadata-Flavor: Google\r\nETag: 1\r\n\r\nTRUE",
        b"HTTP/1.1 404 x\r\n\r\n",
    )
)
def answers_of_the_metadata_server(data: bytes) -> None:
    head, _, _ = data.partition(b"\r\n\r\n")
    assert isinstance(preemption._etag(head), str)


@target(
    json_of(
        {
            "cluster": {"workerpool0": ["a:2222"], "workerpool1": ["b:2222"]},
            "task": {"type": "workerpool1", "index": 0},
            "job": "{}",
        }
    ).map(lambda data: data.decode("utf-8", "replace"))
)
def cluster_spec(text: str) -> None:
    try:
        replica, replicas = parse_cluster_spec(text)
        assert replica and replicas >= 1
    except ValueError:
        return


SHAPE = {
    "given": True, "error": "", "job": "text", "open_ports": [3333], "task": ["index", "type"],
    "pools": {"workerpool0": ["h:2222"]}, "keys": ["cluster", "job"],
}  # fmt: skip
REPORT = {
    "attempt": 1,
    "peers": [{"leads_to": "a", "failed": "", "latency": 0.5, "bandwidth": 1e9}],
    "cluster_spec": SHAPE,
    "metadata": {"answers": True, "values": {"instance/preempted": "FALSE"}},
}


@target(json_of(REPORT))
def reports_of_a_probe(data: bytes) -> None:
    try:
        report = parse_json(data)
    except ValueError:
        return
    found = judged(Probed(id="a", at=1.0), [report, REPORT] if isinstance(report, dict) else [])
    assert Probed(**asdict(found)) == found and found.in_words().isprintable()


@target(damaged(b"a.b.c", b".".join([b"0" * 64, b"MIGHAgEAMBMGByqGSM49", b"MIIBUjCB-aADAgEC"])))
def secrets_of_a_run(data: bytes) -> None:
    text = data.decode("latin-1")
    try:
        Credentials.parse(text)
    except ValueError as error:
        assert len(text) < 20 or text not in str(error)


@target(json_of({"name": "x", "payload": {"data": "c2VjcmV0", "dataCrc32c": "123"}}))
def answers_of_secret_manager(data: bytes) -> None:
    try:
        read_secret("projects/p/secrets/s/versions/1", {}, lambda url: (200, data))
    except ValueError:
        return
