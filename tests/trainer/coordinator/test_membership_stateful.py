"""Membership under any order of joins, drains, losses, crashes, delays and leaders.

``Simulation`` checks after every step what must always hold; at the end, when nothing
bad happens any more, whoever can train must.
"""

from __future__ import annotations

import random

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from tests.examples import examples
from tests.trainer.coordinator.simulation import Agent, Simulation
from trainer.coordinator.limits import Limits
from trainer.coordinator.member import Phase

# Seconds of simulated time in which everything must have come right: the only holder of the state
# is missed no sooner than after the shortest stall that there is.
PATIENCE = 700.0
ANYBODY = st.integers(0, 7)
SLOT = st.integers(0, 3)


class Churn(RuleBasedStateMachine):
    """Agents join, obey late, and come to harm."""

    simulation: Simulation

    @initialize(
        least=st.integers(1, 4),
        room=st.integers(0, 6),
        slots=st.lists(st.integers(1, 3), min_size=1, max_size=5),
        quiet_rounds=st.integers(0, 30),
    )
    def begin(self, least: int, room: int, slots: list[int], quiet_rounds: int) -> None:
        limits = Limits(
            min_workers=least,
            max_workers=least + room,
            start_wait=5.0,
            admission_interval=2.0,
            forming=20.0,
            stall=30.0,
            setback_limit=1000,
        )
        self.simulation = Simulation(limits, expected=sum(slots))
        for count in slots:
            self.simulation.join(count)
        self._rounds(quiet_rounds)

    def _agent(self, index: int) -> Agent:
        return self.simulation.agents[index % len(self.simulation.agents)]

    def _rounds(self, count: int) -> None:
        for _ in range(count):
            self.simulation.round()

    # --- in any order -------------------------------------------------------------

    @rule(count=st.integers(1, 12))
    def all_obey_for_a_while(self, count: int) -> None:
        self._rounds(count)

    @rule(slots=st.integers(1, 3))
    def join(self, slots: int) -> None:
        if len(self.simulation.agents) < 8:
            self.simulation.join(slots)

    @precondition(lambda self: self.simulation.agents)
    @rule(who=ANYBODY)
    def deliver(self, who: int) -> None:
        self.simulation.deliver(self._agent(who))

    @precondition(lambda self: self.simulation.agents)
    @rule(who=ANYBODY)
    def obey(self, who: int) -> None:
        self.simulation.obey(self._agent(who))

    @precondition(lambda self: self.simulation.agents)
    @rule(who=ANYBODY)
    def work(self, who: int) -> None:
        agent = self._agent(who)
        if agent.has_work:
            agent.work()

    @precondition(lambda self: self.simulation.agents)
    @rule(who=ANYBODY)
    def start_or_train(self, who: int) -> None:
        world = self._agent(who).world
        if world is not None:
            self.simulation.start(world)
            self.simulation.train(world)

    @rule(seconds=st.sampled_from([0.1, 0.5, 1.0, 3.0, 12.0]), beat=st.booleans())
    def time_passes(self, seconds: float, beat: bool) -> None:
        if beat:
            self.simulation.beat()
        self.simulation.tick(seconds)

    # --- harm ---------------------------------------------------------------------

    @precondition(lambda self: self.simulation.agents)
    @rule(who=ANYBODY, slot=SLOT, spare=st.booleans())
    def crash(self, who: int, slot: int, spare: bool) -> None:
        agent = self._agent(who)
        self.simulation.crash(agent, slot % agent.slots, spare=spare)

    @precondition(lambda self: self.simulation.agents)
    @rule(who=ANYBODY)
    def collective_fails(self, who: int) -> None:
        """While the world forms, or in a step."""
        agent = self._agent(who)
        if agent.lives and not agent.hangs:
            agent.leave_all("connection reset by peer")

    @precondition(lambda self: self.simulation.agents)
    @rule(who=ANYBODY, deadline=st.sampled_from([0.0, 1.0, 30.0]))
    def drain(self, who: int, deadline: float) -> None:
        self.simulation.drain(self._agent(who), deadline)

    @precondition(lambda self: self.simulation.agents)
    @rule(who=ANYBODY)
    def lose(self, who: int) -> None:
        self.simulation.lose(self._agent(who))

    @precondition(lambda self: self.simulation.agents)
    @rule(who=ANYBODY)
    def freeze_or_thaw(self, who: int) -> None:
        agent = self._agent(who)
        agent.silent = not agent.silent

    @precondition(lambda self: self.simulation.agents)
    @rule(who=ANYBODY)
    def disconnect_or_connect(self, who: int) -> None:
        agent = self._agent(who)
        if agent.connected:
            self.simulation.disconnect(agent)
        else:
            self.simulation.connect(agent)

    @precondition(lambda self: self.simulation.agents)
    @rule(who=ANYBODY)
    def a_worker_hangs(self, who: int) -> None:
        """Until it is killed."""
        self._agent(who).hang()

    @rule(lag=st.integers(0, 1))
    def elect(self, lag: int) -> None:
        self.simulation.elect(lag)

    # --- and then -----------------------------------------------------------------

    def teardown(self) -> None:
        if not hasattr(self, "simulation") or not self.simulation.is_sound:
            return  # it has failed before
        assert self.simulation.calm_down(PATIENCE), self._report()
        assert self.simulation.finish is None

    def _report(self) -> str:
        machine = self.simulation.machine
        lines = [f"{machine.phase} of {machine.world}", *map(str, machine.members.values())]
        return "\n".join([*lines, *map(str, self.simulation.agents)])


TestChurn = Churn.TestCase
TestChurn.settings = settings(
    max_examples=examples(500),
    stateful_step_count=40,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow],
)


def test_who_leaves_without_any_time_is_not_waited_for_until_it_has_saved() -> None:
    churn = Churn()
    churn.begin(least=1, room=0, slots=[1, 1], quiet_rounds=0)
    churn.all_obey_for_a_while(count=4)
    churn.drain(deadline=0.0, who=0)
    churn.teardown()
    assert churn.simulation.saves == []


def test_a_thousand_agents_through_churn() -> None:
    chance = random.Random(7)
    limits = Limits(min_workers=500, max_workers=4000, setback_limit=1000)
    simulation = Simulation(limits, expected=2000)
    for _ in range(1000):
        simulation.join(slots=2)
    assert simulation.calm_down(PATIENCE)
    assert simulation.machine.world is not None
    assert simulation.machine.world.size == 2000
    for _ in range(5):
        for agent in chance.sample(simulation.agents, 30):
            harm = chance.randrange(4)
            if harm == 0:
                simulation.drain(agent, 30.0)
            elif harm == 1:
                simulation.lose(agent)
                simulation.join(agent.slots, agent.id.replica)
            elif harm == 2:
                agent.silent = True
            else:
                simulation.crash(agent, 0, spare=chance.random() < 0.5)
        for _ in range(chance.randrange(1, 4)):
            simulation.round()
    assert simulation.calm_down(PATIENCE)
    assert simulation.machine.phase is Phase.RUNNING
    assert simulation.machine.steps > 0
