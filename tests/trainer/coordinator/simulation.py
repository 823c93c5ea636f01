"""Simulated agents around a real ``Membership``: they obey its commands, or come to harm.

What an agent says and what it is told travel in order, and take as long as the test
wants. After every step of the machine the simulation checks what must always hold.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from trainer.coordinator.limits import Limits
from trainer.coordinator.member import Phase
from trainer.coordinator.membership import Membership
from trainer.protocol import signals
from trainer.protocol.world import MemberId, World

BOOTING, IDLE, BUSY = "booting", "idle", "busy"
NOTHING = -1  # the step of a worker that holds no state
HEARTBEAT = 0.5
BOOT_ROUNDS = 3


@dataclass
class Agent:
    """One incarnation of a replica, with its workers."""

    id: MemberId
    slots: int
    workers: list[str] = field(default_factory=list)
    holds: list[int] = field(default_factory=list)  # by slot: the step whose state it holds
    world: World | None = None
    called: set[int] = field(default_factory=set)  # slots that boot, and then enter the world
    left: set[int] = field(default_factory=set)  # slots that left the world
    started: bool = False
    paused: bool = False
    aborted: bool = False
    boots_for: int = BOOT_ROUNDS  # rounds until a worker that boots is warm
    deadline: float | None = None
    connected: bool = False
    silent: bool = False  # frozen: says nothing, does nothing
    hangs: bool = False  # its workers are stopped by a signal, and hear nothing
    out: bool = False  # drained, and told so
    up: deque[signals.Event] = field(default_factory=deque)
    down: deque[signals.Command] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self.workers = [BOOTING] * self.slots
        self.holds = [NOTHING] * self.slots

    @property
    def lives(self) -> bool:
        """Whether it can take part in worlds."""
        return not (self.silent or self.out)

    @property
    def busy(self) -> bool:
        """Whether all its workers are in the world."""
        return all(worker == BUSY for worker in self.workers)

    @property
    def has_work(self) -> bool:
        """Whether there is something that it can do by itself."""
        if not self.lives or self.hangs:
            return False  # nothing, until its workers are killed
        return BOOTING in self.workers or (self.aborted and BUSY in self.workers)

    def work_promptly(self) -> None:
        """Does all that it can do by itself; but to boot takes time."""
        while self.aborted and BUSY in self.workers and self.lives and not self.hangs:
            self.work()
        if self.boots_for:
            self.boots_for -= 1
            return
        while self.has_work:
            self.work()

    def hang(self) -> None:
        """Its workers in the world stop, until they are killed."""
        self.hangs = BUSY in self.workers

    def introduce(self) -> None:
        """Connects, and says what a leader has to know."""
        self.connected = True
        self.up.clear()
        self.down.clear()
        self.up.append(signals.Joined(self.id, self.slots, self.world))
        if self.deadline is not None:
            self.up.append(signals.Drain(self.id, "preemption", self.deadline))
        if 0 < len(self.left) < self.slots:
            self.up.append(signals.Crashed(self.id, "some of its workers left while nobody led"))
        self.say_stopped()
        self.say_ready()

    def say_ready(self) -> None:
        if not self.out and all(worker == IDLE for worker in self.workers):
            self.up.append(signals.Ready(self.id))

    def say_stopped(self, failed: str = "") -> None:
        if self.world is not None and len(self.left) == self.slots:
            step = max(self.holds)
            stopped = signals.Stopped(
                self.id, self.world.generation, max(0, step), step >= 0, failed
            )
            self.up.append(stopped)

    def obey(self, command: signals.Command) -> None:
        """Carries out one command; Release is the simulation's."""
        current = self.world is not None and self.world == getattr(command, "world", None)
        if isinstance(command, signals.Form):
            self.world = command.world
            self.left = set()
            self.started = self.paused = self.aborted = False
            self.called = {slot for slot, it in enumerate(self.workers) if it == BOOTING}
            self.workers = [BOOTING if it == BOOTING else BUSY for it in self.workers]
        elif isinstance(command, signals.Pause) and current:
            self.paused = True
        elif isinstance(command, signals.Abort) and current:
            self.aborted = True
        elif isinstance(command, signals.Replace):
            for slot, worker in enumerate(self.workers):
                if worker == BUSY:
                    self.crash(slot, spare=False)

    def work(self) -> None:
        """One thing that it does by itself, if there is one."""
        if self.aborted and BUSY in self.workers:
            self.leave(self.workers.index(BUSY), "the generation was broken off")
        elif BOOTING in self.workers:
            slot = self.workers.index(BOOTING)
            self.workers[slot] = BUSY if slot in self.called else IDLE
            self.called.discard(slot)
            self.say_ready()

    def leave(self, slot: int, failed: str = "") -> None:
        """A worker leaves the world, with the state that it holds."""
        self.workers[slot] = IDLE
        self.left.add(slot)
        self.say_stopped(failed)
        self.say_ready()

    def leave_all(self, failed: str = "") -> None:
        """All workers leave the world."""
        for slot, worker in enumerate(self.workers):
            if worker == BUSY:
                self.leave(slot, failed)

    def crash(self, slot: int, *, spare: bool) -> None:
        """A worker dies; another takes its place, warm or not."""
        self.workers[slot] = IDLE if spare else BOOTING
        self.boots_for = BOOT_ROUNDS
        self.holds[slot] = NOTHING
        self.left.add(slot)
        self.called.discard(slot)
        self.hangs = self.hangs and BUSY in self.workers
        self.up.append(signals.Crashed(self.id, "exit code 139", spare))
        self.say_stopped("crashed")
        self.say_ready()


class Simulation:
    """A coordinator and its agents.

    Args:
        limits: of the run.
        expected: slots that the run was asked for.
    """

    def __init__(self, limits: Limits, expected: int) -> None:
        self.limits = limits
        self.expected = expected
        self.now = -60.0  # whatever the clock, only differences count
        self.machine = Membership(limits, expected, self.now)
        self.agents: list[Agent] = []
        self.emitted: list[signals.Emit] = []
        self.saves: list[signals.Save] = []
        self.finish: signals.Finish | None = None
        self.is_sound = True  # no check failed
        self.generation = 0  # the newest that was formed
        self.numbers_are_known = True  # no leader began with an old number
        self._serial = 0
        self._checkpoint = 0
        # What the machine was told, for the checks:
        self._world: World | None = None
        self._halted: set[MemberId] = set()  # of that world: those that are out of it
        self._wounded: set[MemberId] = set()  # of those with several workers, one crashed
        self._unready: set[MemberId] = set()
        self._started: set[MemberId] = set()  # in that world
        self._gone: set[MemberId] = set()
        self._new: set[MemberId] = set()  # joined since that world was formed

    def join(self, slots: int = 1, replica: str = "") -> Agent:
        """A replica starts, and connects."""
        self._serial += 1
        name = replica or f"workerpool1-{self._serial}"
        agent = Agent(MemberId(name, f"{self._serial:04x}"), slots)
        self.agents.append(agent)
        agent.introduce()
        return agent

    def deliver(self, agent: Agent) -> None:
        """The next message of an agent reaches the machine."""
        if agent.up and agent.connected and not agent.silent:
            self.step(agent.up.popleft())

    def obey(self, agent: Agent) -> None:
        """The next command reaches an agent."""
        if not agent.down or not agent.connected or agent.silent:
            return
        command = agent.down.popleft()
        if not isinstance(command, signals.Release):
            agent.obey(command)
        elif not command.rejoin:
            agent.out = True
        elif not agent.out:
            self._leave(agent, "it starts again")
            self.join(agent.slots, agent.id.replica)

    def start(self, world: World) -> None:
        """The members of ``world`` find each other, if all of them are there."""
        agents = self._agents_in(world)
        if len(agents) < len(world.members) or not all(
            agent.busy and not agent.aborted and agent.lives and not agent.hangs for agent in agents
        ):
            return
        held = max(max(agent.holds) for agent in agents)
        step = held if held >= 0 else self._checkpoint
        for agent in agents:
            if not agent.started:
                agent.started = True
                agent.holds = [step] * agent.slots
                agent.up.append(signals.Started(agent.id, world.generation, step, idle=0.1))

    def train(self, world: World) -> None:
        """The workers of ``world`` complete a step, if they are all there; and may then leave."""
        agents = self._agents_in(world)
        if len(agents) < len(world.members) or not all(
            agent.busy and agent.started and not (agent.aborted or agent.silent or agent.hangs)
            for agent in agents
        ):
            return
        paused = any(agent.paused for agent in agents)
        for agent in agents:
            agent.holds = [one + 1 for one in agent.holds]
            if paused:
                agent.leave_all()

    def crash(self, agent: Agent, slot: int, *, spare: bool) -> None:
        """A worker of ``agent`` dies."""
        if not agent.silent and agent.workers[slot] != BOOTING:
            agent.crash(slot, spare=spare)

    def drain(self, agent: Agent, deadline: float) -> None:
        """An agent is told that its VM will be taken away."""
        if agent.lives and agent.deadline is None:
            agent.deadline = deadline
            agent.up.append(signals.Drain(agent.id, "preemption", deadline))

    def lose(self, agent: Agent) -> None:
        """A VM goes away, and its connection with it."""
        self._leave(agent, "its connection broke")

    def disconnect(self, agent: Agent) -> None:
        """A connection breaks; what was on its way is lost. The VM lives on."""
        if agent.connected and not agent.silent:
            agent.connected = False
            agent.up.clear()
            agent.down.clear()
            self.step(signals.Left(agent.id, "its connection broke"))

    def connect(self, agent: Agent) -> None:
        """An agent that lost its leader finds it, or another one."""
        if not agent.connected and agent.lives:
            agent.introduce()

    def elect(self, lag: int = 0) -> None:
        """Another leader takes over; it may have read an old number of the generation."""
        if self.finish is not None:
            return
        self.numbers_are_known = self.numbers_are_known and lag == 0
        last = max(0, self.generation - lag)
        self.machine = Membership(self.limits, self.expected, self.now, last)
        self._world = None
        self._halted, self._wounded, self._unready = set(), set(), set()
        self._gone, self._new = set(), set()
        for agent in self.agents:
            agent.connected = False
            agent.up.clear()
            agent.down.clear()

    def beat(self) -> None:
        """Every agent shows that it lives."""
        for agent in self.agents:
            if agent.connected and agent.lives:
                generation = agent.world.generation if agent.world else 0
                step, busy = max(0, *agent.holds), BUSY in agent.workers
                sign = signals.Progress(
                    agent.id, generation, step, frozen=agent.hangs, waiting=busy
                )
                agent.up.append(sign)

    def tick(self, seconds: float) -> None:
        """Time passes."""
        self.now += seconds
        self.step(signals.Tick())

    def round(self, seconds: float = HEARTBEAT) -> None:
        """Everybody does at once what there is to do, and some time passes."""
        for agent in list(self.agents):
            self.connect(agent)
            while agent.down and agent.connected and not agent.silent:
                self.obey(agent)
            agent.work_promptly()
        for world in {agent.world for agent in self.agents if agent.world}:
            self.start(world)
            self.train(world)
        self.beat()
        for agent in list(self.agents):
            while agent.up and agent.connected and not agent.silent:
                self.deliver(agent)
        self.tick(seconds)

    def calm_down(self, limit: float) -> bool:
        """Rounds without harm until all is as it should be; False if it is not by ``limit``."""
        until = self.now + limit
        while self.now < until and self.finish is None:
            self.round()
            if self.is_as_it_should_be:
                return True
        return self.finish is not None

    # --- how it stands ----------------------------------------------------------------

    @property
    def is_as_it_should_be(self) -> bool:
        """Whether whoever can train does, and nothing is on its way."""
        alive = [agent for agent in self.agents if agent.lives]
        if any(agent.up or agent.down or agent.deadline is not None for agent in alive):
            return False
        if {agent.id for agent in alive} != set(self.machine.members):
            return False
        slots = [agent.slots for agent in alive]
        if not any(
            self.limits.min_workers <= one <= self.limits.max_workers for one in sums(slots)
        ):
            return self.machine.phase is Phase.WAITING
        world = self.machine.world
        if self.machine.phase is not Phase.RUNNING or world is None:
            return False
        team = self._agents_in(world)
        if len(team) < len(world.members) or not all(one.busy and one.started for one in team):
            return False
        room = self.limits.max_workers - world.size
        idle = [agent.slots for agent in alive if agent.id not in world.members]
        return all(slots > room for slots in idle)

    def events(self, name: str) -> list[signals.Emit]:
        """The events of one kind."""
        return [one for one in self.emitted if one.event == name]

    def _agents_in(self, world: World) -> list[Agent]:
        return [agent for agent in self.agents if agent.world == world]

    def _leave(self, agent: Agent, reason: str) -> None:
        self.agents.remove(agent)
        if agent.connected and not agent.silent:
            self.step(signals.Left(agent.id, reason))
        agent.connected = False

    # --- the machine, and what must always hold ---------------------------------------

    def step(self, event: signals.Event) -> None:
        """Gives one event to the machine, checks its commands, and sends them."""
        self.is_sound = False
        known = set(self.machine.members)
        self._note(event)
        commands = self.machine.step(event, self.now)
        self._check(event, commands, known)
        self.is_sound = True
        for command in commands:
            for agent in self._addressed(command):
                if agent.connected:
                    agent.down.append(command)

    def _addressed(self, command: signals.Command) -> Iterator[Agent]:
        if isinstance(command, signals.Form | signals.Pause | signals.Abort):
            members = set(command.world.members)
            yield from (agent for agent in self.agents if agent.id in members)
        elif isinstance(command, signals.Replace | signals.Save | signals.Release):
            yield from (agent for agent in self.agents if agent.id == command.member)

    def _note(self, event: signals.Event) -> None:
        if isinstance(event, signals.Joined):
            self._gone.discard(event.member)
            if event.member not in self.machine.members:
                self._new.add(event.member)
            if event.world is None or event.world != self.machine.world:
                self._halted.add(event.member)
                self._unready.add(event.member)
        elif isinstance(event, signals.Drain | signals.Left):
            self._gone.add(event.member)
        elif isinstance(event, signals.Started) and event.generation == self.generation:
            self._started.add(event.member)
        elif isinstance(event, signals.Stopped) and event.generation == self.machine.generation:
            self._halted.add(event.member)
        elif isinstance(event, signals.Crashed) and event.member in self.machine.members:
            self._wounded.add(event.member)
            self._unready.add(event.member)
            if self.machine.members[event.member].slots == 1:
                self._halted.add(event.member)
        elif isinstance(event, signals.Ready):
            self._unready.discard(event.member)
            if event.member in self._wounded:
                self._halted.add(event.member)

    def _check(
        self, event: signals.Event, commands: list[signals.Command], known: set[MemberId]
    ) -> None:
        machine = self.machine
        if self._world is None and machine.world is not None and isinstance(event, signals.Joined):
            self._world = machine.world  # adopted
            self._new -= set(machine.world.members)
            self._halted = known - {event.member}  # they came without that world
            self._unready.discard(event.member)
        for command in commands:
            if isinstance(command, signals.Emit):
                self.emitted.append(command)
                if command.event == "resumed" and machine.world is not None:
                    members = {one for one in machine.world.members if one in machine.members}
                    assert members <= self._started, "the world runs without one of its members"
            elif isinstance(command, signals.Form):
                self._check_form(command.world)
            elif isinstance(command, signals.Release):
                self._gone.add(command.member)
                own = getattr(event, "member", None)
                assert command.member in known or command.member == own, "released whom?"
                assert command.member not in machine.members
            elif isinstance(command, signals.Replace):
                assert command.member in machine.members or command.member in self._gone
                self._halted.add(command.member)
                self._unready.add(command.member)
            elif isinstance(command, signals.Save):
                assert command.member in known
                assert machine.phase is Phase.WAITING
                self.saves.append(command)
                held = [max(one.holds) for one in self.agents if one.id == command.member]
                self._checkpoint = max([self._checkpoint, *held])
            elif isinstance(command, signals.Pause):
                assert command.world == machine.world
                assert machine.phase is Phase.STOPPING
            elif isinstance(command, signals.Finish):
                self.finish = command
        if machine.phase in (Phase.FORMING, Phase.RUNNING, Phase.STOPPING):
            assert machine.world is not None
            assert machine.world.generation <= machine.generation

    def _check_form(self, world: World) -> None:
        machine = self.machine
        assert self.limits.min_workers <= world.size <= self.limits.max_workers
        assert set(world.members) <= set(machine.members), "a stranger is in the world"
        assert not set(world.members) & self._gone, "a member is in a world after it left"
        assert not set(world.members) & self._unready, "a member is in a world before it is ready"
        if self.numbers_are_known:
            assert world.generation == self.generation + 1, "generations have a gap"
        before = self._world.members if self._world is not None else ()
        if self._world is not None:
            assert world.generation > self._world.generation
            still_in = {one for one in before if one in machine.members} - self._halted - self._new
            assert not still_in, f"two generations live: {still_in} did not stop"
        place = {member: i for i, member in enumerate(before) if member not in self._new}
        survivors = [member for member in world.members if member in place]
        assert survivors == sorted(survivors, key=place.__getitem__), "survivors changed order"
        assert list(world.members[: len(survivors)]) == survivors, "a newcomer is before them"
        self.generation = world.generation
        self._world = world
        self._halted, self._wounded = set(), set()
        self._started, self._new = set(), set()


def sums(slots: list[int]) -> set[int]:
    """All numbers of slots that some of these members have together."""
    reached = {0}
    for one in slots:
        reached |= {total + one for total in reached}
    return reached
