"""A run with controllers: a launch that looks on, and controllers that Vertex AI starts again.

Nothing runs by itself here: whoever lives takes a turn, one after the other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from launcher.job.customjob import CONTROLLER_LABEL, RUN_LABEL, CustomJob
from launcher.supervision.attendance import Attendance, Attendant, Relieved
from launcher.supervision.controllers import read_controllers
from launcher.supervision.duty import Duty
from launcher.supervision.entrusted import Entrusted
from launcher.supervision.staff import Staff, Wish
from launcher.supervision.supervisor import Supervisor
from launcher.target import Target
from tests.launcher.supervision.supervised import Fixture, Wrap
from trainer.rundir.events import EventWriter
from trainer.rundir.names import OUTCOME

MOST_TURNS = 4000
MOST_LIVES = 6  # Vertex AI starts a replica again five times
SETTLE = 60.0  # well within the time for which a controller lives


class Killed(BaseException):
    """SIGKILL: nothing that follows in the process runs."""


@dataclass
class Process:
    """One that looks after the run.

    Attributes:
        name: ``launch``, or a controller's CustomJob.
        turn: lets it do what it does next. Returns whether it is done.
    """

    name: str
    turn: Callable[[], bool]


class Controlled:
    """A run, and all who look after it.

    Args:
        fixture: the run directory, Vertex AI and the run's terms.
        wrap: makes of a region's API what they use.
        timeout: seconds that a controller may run.
        acts: whether the launch looks after the run itself, beside the controllers.
    """

    def __init__(
        self,
        fixture: Fixture,
        wrap: Wrap = lambda region: region,
        timeout: float = 1e6,
        acts: bool = False,
    ) -> None:
        self.fixture = fixture
        self.wrap, self.timeout = wrap, timeout
        self.processes: list[Process] = []
        self.acts = acts
        self.order: list[str] = []  # which controller acted, one after the other
        self.lives = 0
        self._deaths: Counter[str] = Counter()
        self._still: list[str] = []  # who stands still, each while the next one goes on
        self._now = ""  # whose turn it is
        self.deserted = False  # whether nobody looked after the run, though it had a controller
        self._launch()

    def target(self) -> Target:
        vertex = self.fixture.vertex
        return Target(
            lambda region: self.wrap(vertex.region(region)), poll=10.0, settle=SETTLE, beat=20.0
        )

    def _staff(self, own: int, attendance: Attendance) -> Staff:
        def request(number: int, endpoint: str) -> CustomJob:
            return {"labels": {RUN_LABEL: "run-1", CONTROLLER_LABEL: str(number)}}

        run_dir, clock = self.fixture.run_dir, self.fixture.clock
        self.lives += 1
        return Staff(
            run_dir,
            Wish("run-1", ("us-central1",), "e2-standard-4", 0.134, self.timeout),
            self.target(),
            request,
            attendance,
            EventWriter(run_dir, f"staff-{self.lives}", clock),
            clock,
            clock,
            own,
        )

    def _parts(self, own: int) -> tuple[Staff, Duty]:
        clock = self.fixture.clock
        attendant = Attendant("me@here", own, every=20.0)
        attendance = Attendance(self.fixture.run_dir, attendant, clock, clock)
        staff = self._staff(own, attendance)
        duty = Duty(attendance, staff, is_controller=own > 0, every=20.0, wait=10.0, ticks=clock)
        return staff, duty

    def _launch(self) -> None:
        staff, duty = self._parts(0)
        supervisor = self.fixture.supervisor(
            wrap=self.wrap, stop_grace=60.0, duty=duty, settle=SETTLE
        )
        looking = Entrusted(
            self.fixture.run_dir, staff, supervisor, self.target(), lambda: None, lambda s: None
        )

        def turn() -> bool:
            if not self.acts and self.fixture.run_dir.outcome() is None:
                assert looking.look_on(until=lambda: True), staff.trouble
                self.fixture.clock.sleep(10.0)
                return False
            return a_turn(supervisor)

        self.processes.append(Process("launch", turn))

    def _controller(self, name: str, number: int) -> Process:
        _, duty = self._parts(number)
        supervisor = self.fixture.supervisor(
            wrap=self.wrap, stop_grace=60.0, duty=duty, settle=SETTLE
        )
        waited: list[float] = []
        asked = duty.turn

        def listened(run_has_ended: bool) -> float:
            waited[:] = [asked(run_has_ended)]
            return waited[0]

        duty.turn = listened  # type: ignore[method-assign]

        def turn() -> bool:
            done = a_turn(supervisor)
            if waited == [0.0]:
                self.order.append(name)
            if done:
                duty.close()
                duty.end()
            return done

        return Process(name, turn)

    def _boot(self) -> None:
        """Vertex AI starts what its controllers' VMs run, again if it was killed."""
        known = {it.name for it in self.processes}
        for name, job in self.fixture.vertex.controllers.items():
            if job.state.state == "PENDING":
                self.fixture.vertex.look(name)
            elif job.state.state == "RUNNING" and name not in known:
                number = int(job.state.labels[CONTROLLER_LABEL])
                self.processes.append(self._controller(name, number))
        self.processes = [
            it
            for it in self.processes
            if it.name == "launch" or not self.fixture.vertex.controllers[it.name].state.ended
        ]

    def take_turns(self, until: Callable[[], bool] = lambda: False) -> None:
        """Lets everybody do what is to be done, until nobody has more to do."""
        for _ in range(MOST_TURNS):
            self._boot()
            if until() or (not self.processes and self.is_over):
                return
            if not self.processes and not any(
                not job.state.ended for job in self.fixture.vertex.controllers.values()
            ):
                self.deserted |= bool(self.fixture.vertex.controllers)
                self._launch()
            self._everybody()
        raise AssertionError("it does not come to an end")

    def stand_still(self, seconds: float) -> None:
        """Whoever has its turn does nothing for so long, while the others go on."""
        name = self._now
        self._still.append(name)
        until = self.fixture.clock() + seconds
        while self.fixture.clock() < until:
            self._boot()
            self._everybody()
            self.fixture.clock.sleep(10.0)
        self._still.remove(name)
        self._now = name
        controller = self.fixture.vertex.controllers.get(name)
        if controller is not None and controller.state.ended:
            raise Killed  # as its CustomJob was

    def _everybody(self) -> None:
        for process in [*self.processes]:
            if process.name not in self._still:
                self._take_turn(process)

    @property
    def is_over(self) -> bool:
        """Whether nothing of the run is left."""
        jobs = [*self.fixture.vertex.jobs.values(), *self.fixture.vertex.controllers.values()]
        # (Looked at past the store: this is nobody's who may be killed.)
        has_ended = Path(self.fixture.run_dir.url, OUTCOME).exists()
        return has_ended and all(it.state.ended for it in jobs)

    def _take_turn(self, process: Process) -> None:
        vertex = self.fixture.vertex
        if process.name in vertex.controllers and vertex.controllers[process.name].state.ended:
            return  # it was cancelled meanwhile
        self._now = process.name
        try:
            if not process.turn():
                return
            ended = "SUCCEEDED"
        except Relieved:
            ended = "SUCCEEDED"
        except Killed:
            if process in self.processes:  # else its CustomJob is over
                self._died(process)
            return
        self.processes.remove(process)
        if process.name != "launch":
            vertex.end(process.name, ended)

    def _died(self, process: Process) -> None:
        """A controller is started again, unless that was too often."""
        self.processes.remove(process)
        self._deaths[process.name] += 1
        if process.name != "launch" and self._deaths[process.name] == MOST_LIVES:
            self.fixture.vertex.end(process.name, "FAILED: it was started too often")

    def kill(self, name: str = "launch") -> None:
        self.processes = [it for it in self.processes if it.name != name]

    @property
    def numbers(self) -> list[int]:
        return [it.number for it in read_controllers(self.fixture.run_dir)]


def a_turn(supervisor: Supervisor) -> bool:
    """One turn of a supervisor's loop. Returns whether it is done."""
    if not supervisor._attempts:
        supervisor._read_attempts()
    with suppress(FileNotFoundError):
        return supervisor._turn() is not None
    return False
