"""Whatever happens to a job, in whatever order: it ends as documented, and leaves nothing."""

from __future__ import annotations

import json
from collections import deque
from datetime import timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from launcher.emulator.jobs.lifecycle import (
    LIVING,
    Command,
    Freeze,
    Kill,
    Lifecycle,
    Notify,
    Refused,
    ReplicaState,
    Rules,
    Start,
    Stop,
    StopAll,
    Survivors,
)
from launcher.emulator.resources.customjobs import TERMINAL, JobState

NAMES = ("workerpool0-0", "workerpool1-0", "workerpool1-1")
NAME = st.sampled_from(NAMES)
CODES = st.sampled_from([0, 0, 1, 6, 134, 137, 139, 143, -6, -9, -9, -11, -15])
NOTICES = st.sampled_from([None, timedelta(seconds=5)])

# What each state of a job may turn into.
MOVES = {
    JobState.QUEUED: {JobState.PENDING, JobState.CANCELLING, JobState.FAILED, JobState.EXPIRED},
    JobState.PENDING: {JobState.RUNNING, JobState.CANCELLING, JobState.FAILED},
    JobState.RUNNING: {
        JobState.PENDING,  # all of it starts anew
        JobState.CANCELLING,
        JobState.SUCCEEDED,
        JobState.FAILED,
    },
    JobState.CANCELLING: {JobState.CANCELLED},
}


class VM:
    """A replica's VM: carries out the commands for it one after the other, late or soon."""

    def __init__(self) -> None:
        self.todo: deque[Command] = deque()
        self.living: int | None = None
        self.begun: int | None = None  # the newest incarnation that there was
        self.code = 0  # with which it ended
        self.frozen = False
        self.closed = False


class Job(RuleBasedStateMachine):
    """A lifecycle with VMs that take their time, and a market."""

    @initialize(
        survivors=st.sampled_from(Survivors), restart_job=st.booleans(), disable=st.booleans()
    )
    def create(self, survivors: Survivors, restart_job: bool, disable: bool) -> None:
        self.said = Rules("here", restart_job, disable, survivors)
        self.life = Lifecycle(NAMES, self.said)
        self.vms = {name: VM() for name in NAMES}
        self.notices: list[Notify] = []
        self.stopping = False
        self.primary_done = False
        self.last = self.life.state

    def obey(self, commands: list[Command]) -> None:
        for command in commands:
            assert not self.stopping, "nothing is ordered once the end is decided"
            if isinstance(command, StopAll):
                self.stopping = True
                for vm in self.vms.values():
                    vm.todo.append(command)
            elif isinstance(command, Notify):
                self.notices.append(command)
            else:
                assert isinstance(command, Start | Kill | Stop | Freeze)
                self.vms[command.replica].todo.append(command)
        self.watch()

    def watch(self) -> None:
        state = self.life.state
        if state is not self.last:
            assert state in MOVES[self.last], f"{self.last} became {state}"
            self.last = state
        if state is JobState.SUCCEEDED:
            assert self.primary_done

    def die(self, name: str, code: int) -> None:
        vm = self.vms[name]
        assert vm.living is not None
        incarnation = vm.living
        self.fall(name, code)
        self.obey(self.life.exited(name, incarnation, code))

    def fall(self, name: str, code: int) -> None:
        vm = self.vms[name]
        vm.living, vm.frozen, vm.code = None, False, code
        if name == NAMES[0] and code == 0:
            self.primary_done = True

    @rule(name=NAME)
    def carry_out(self, name: str) -> None:
        """The VM does the next thing it was told."""
        vm = self.vms[name]
        if not vm.todo:
            return
        command = vm.todo.popleft()
        if not isinstance(command, Freeze) and vm.living is not None:
            self.die(name, -9)  # also a new incarnation begins with the end of the old one
        if isinstance(command, Freeze):
            vm.frozen = vm.living is not None
        elif isinstance(command, Start):
            assert vm.living is None, "two incarnations at once"
            assert not vm.closed
            assert command.incarnation != vm.begun, "an incarnation starts once"
            vm.living = vm.begun = command.incarnation
            self.obey(self.life.started(name, command.incarnation))
        elif isinstance(command, StopAll):
            vm.closed = True
            if all(other.closed for other in self.vms.values()):
                self.obey(self.life.stopped())

    @rule(name=NAME, code=CODES)
    def exit(self, name: str, code: int) -> None:
        """A VM's command ends by itself."""
        if self.vms[name].living is not None and not self.vms[name].frozen:
            self.die(name, code)

    @precondition(lambda self: not self.life.state.terminal)
    @rule(ends=st.dictionaries(NAME, CODES))
    def killed(self, ends: dict[str, int]) -> None:
        """The emulator is killed, and another goes on; some VMs end before it does.

        What the first one had yet to do it has not done.
        """
        kept = json.loads(json.dumps(self.life.kept()))
        for name, vm in self.vms.items():
            vm.todo.clear()
            vm.closed = False
            if name in ends and vm.living is not None and not vm.frozen:
                self.fall(name, ends[name])
        self.stopping = False
        self.life = Lifecycle(NAMES, self.said)
        begun = {name: vm.begun for name, vm in self.vms.items() if vm.begun is not None}
        self.obey(self.life.resume(kept, begun))
        for name, incarnation in begun.items():
            if self.vms[name].living is None:  # which it may have told before
                self.obey(self.life.exited(name, incarnation, self.vms[name].code))
        for name, replica in self.life.replicas.items():
            if replica.state is ReplicaState.NOTICED:
                self.notices.append(Notify(name, replica.incarnation, timedelta()))

    @rule(name=NAME)
    def grant_one(self, name: str) -> None:
        """The market has a VM."""
        wanted = self.life.wanted
        if wanted.replicas and not wanted.together and name in wanted.replicas:
            self.obey(self.life.granted([name]))

    @rule()
    def grant_all(self) -> None:
        """The market has VMs for all that is wanted."""
        self.obey(self.life.granted(self.life.wanted.replicas))

    @rule(name=NAME, notice=NOTICES)
    def take(self, name: str, notice: timedelta | None) -> None:
        """The market takes a VM."""
        self.obey(self.life.taken(name, notice))

    @rule(name=NAME, notice=NOTICES)
    def preempt(self, name: str, notice: timedelta | None) -> None:
        """Somebody orders that a VM be taken."""
        try:
            self.obey(self.life.preempt(name, notice))
        except Refused:
            assert self.life.replicas[name].state is not ReplicaState.RUNNING or (
                self.life.state is not JobState.RUNNING or self.life.ending
            )

    @rule(name=NAME)
    def restore(self, name: str) -> None:
        """Somebody gives a VM back."""
        try:
            self.obey(self.life.restore(name))
        except Refused:
            assert self.life.ending or not self.life.replicas[name].withheld

    @precondition(lambda self: self.notices)
    @rule(data=st.data())
    def notice_over(self, data: st.DataObject) -> None:
        """The time of one of the notices is over; some of them are for VMs that are gone."""
        notice = self.notices.pop(data.draw(st.integers(0, len(self.notices) - 1)))
        self.obey(self.life.notice_over(notice.replica, notice.incarnation))

    @rule()
    def refuse(self) -> None:
        """A restart finds no VM."""
        self.obey(self.life.refused())

    @rule(what=st.sampled_from(["cancel", "fail", "expire", "nothing", "nothing", "nothing"]))
    def interfere(self, what: str) -> None:
        """Somebody outside wants the end."""
        if what == "cancel":
            try:
                self.obey(self.life.cancel())
            except Refused:
                assert self.life.state in TERMINAL
        elif what == "fail":
            self.obey(self.life.fail(13, "a reason"))
        elif what == "expire":
            self.obey(self.life.expire("too late"))

    @invariant()
    def books_and_vms_agree(self) -> None:
        for name, replica in self.life.replicas.items():
            vm = self.vms[name]
            settled = not vm.todo and not self.life.ending
            assert not settled or replica.state is not ReplicaState.STARTING
            if settled and replica.state in LIVING:
                early = self.life.state is JobState.PENDING  # ended, and not yet decided upon
                assert vm.living == replica.incarnation or early
            if settled and replica.state in (ReplicaState.WAITING, ReplicaState.PREEMPTED):
                assert vm.living is None
            if settled and vm.living is not None:
                assert vm.living == replica.incarnation

    @invariant()
    def restarts_are_bounded(self) -> None:
        assert all(replica.restarts <= 5 for replica in self.life.replicas.values())
        if self.life.state is JobState.RUNNING and not self.life.ending:
            assert all(it.state is not ReplicaState.WAITING for it in self.life.replicas.values())

    def teardown(self) -> None:
        """From wherever it is, a job comes to its end once its user wants that."""
        if not hasattr(self, "life"):
            return
        if not self.life.state.terminal:
            self.obey(self.life.cancel())
        for _ in range(1000):
            if not any(vm.todo for vm in self.vms.values()):
                break
            for name in NAMES:
                self.carry_out(name)
        assert self.life.state.terminal
        assert all(vm.living is None and vm.closed for vm in self.vms.values())
        assert (self.life.error is None) == (self.life.state is JobState.SUCCEEDED)


Job.TestCase.settings = settings(max_examples=150, stateful_step_count=40)
TestJob = Job.TestCase
