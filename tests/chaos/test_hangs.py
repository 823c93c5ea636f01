"""A world that comes to no step, although all its workers live: who hangs is named, and how.

Real agents, workers and Horovod. Each kind of hang is found while the world is left alone, so one
world tells of several: what hangs is let go again, and the last is ended with the run.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from launcher.emulator.vms import netns
from launcher.status.history import History
from launcher.words import line_of
from tests.chaos.cluster import Cluster
from tests.chaos.run import LIMIT, Run
from trainer.rundir.events import Event, EventReader

HERE = Path(__file__).parent
KIND = "process" if netns.missing() else "netns"
SETTINGS: dict[str, Any] = {
    "min_workers": 2,
    "max_workers": 3,
    "start_wait": 60.0,
    "hold_off": 0.5,
    "spares": 0,
    "standstill": 1.0,
    "stall": 600.0,
    # A busy machine may keep anybody waiting, and nothing here is to be found by silence.
    "suspicion": 60.0,
    "hang": 120.0,
}


def at(file: str, code: str) -> str:
    """Where the line of a script is that has this code, as the line of a standstill says it."""
    lines = (HERE / file).read_text().splitlines()
    (number,) = (number for number, line in enumerate(lines, 1) if code in line)
    return f"({file}:{number})"


SUM, HANGS = "hvd.allreduce(parameter", "# here it hangs"


class Script:
    """A script on three VMs, and what is known of its run.

    Args:
        folder: where everything of it is kept.
        settings: of the run.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.wishes = folder / "wishes"
        self.wishes.mkdir()
        program = {**settings["program"], "args": [str(self.wishes)]}
        whole = {**SETTINGS, **settings, "program": program}
        self.cluster = Cluster(KIND, folder, 3, 3, whole)
        self._reader = EventReader(self.cluster.run_dir)
        self.events: list[Event] = []
        self.history = History()

    def look(self) -> History:
        for event in self._reader.read_new():
            self.events.append(event)
            self.history.add(event)
        return self.history

    def until(self, condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + LIMIT
        while not condition():
            said = "\n".join(vm.log[-1500:] for vm in self.cluster.vms.values())
            assert time.monotonic() < deadline, f"not {what}\n{self.events[-20:]}\n{said}"
            time.sleep(0.05)
            self.look()

    def until_steps(self, count: int) -> None:
        goal = self.look().step + count
        self.until(lambda: self.history.step >= goal, f"step {goal}")

    def hang(self, kind: str, rank: int) -> Event:
        """Has a rank hang, and returns what is told of it first."""
        self.until_steps(30)  # what is usual is known again
        before = len(self.told)
        wish = self.wishes / f"{kind}@{rank}"
        wish.touch()
        self.until(lambda: len(self.told) > before, f"{kind} is told of")
        return self.told[before]

    def let_go(self, kind: str, rank: int) -> None:
        (self.wishes / f"{kind}@{rank}").unlink()

    @property
    def told(self) -> list[Event]:
        self.look()
        return [one for one in self.events if one["event"] == "standstill"]

    def stacks(self, told: Event) -> str:
        return self.cluster.run_dir.store.read(told["stacks"]).decode()


@contextmanager
def running(folder: Path, **settings: Any) -> Iterator[Script]:
    script = Script(folder, settings)
    try:
        for vm in script.cluster.vms.values():
            vm.start()
        yield script
    finally:
        script.cluster.close()
    assert script.cluster.processes() == [], "an orphan"


@pytest.mark.timeout(900)
def test_each_way_to_hang_is_told_apart(folder: Path) -> None:
    with running(folder, program={"script": str(HERE / "hanging.py")}) as script:
        peers = f"wait in hvd.allreduce {at('hanging.py', SUM)}"
        told = script.hang("deadlock", 2)
        here = f"in deadlock {at('hanging.py', HANGS)}"
        assert told["reason"] == (
            f"ranks 0-1 {peers}; rank 2 waits for a lock or another thread {here}"
        )
        # Whoever tells of steps may write later than the leader.
        script.until(lambda: script.history.step >= told["step"], "its newest step is told of")
        assert told["step"] == script.history.step
        stacks = script.stacks(told)
        assert re.search(r"== ranks 0-1 \(workerpool0-0, workerpool1-0\): waits in", stacks)
        assert re.search(r'File ".*/hanging.py", line \d+ in deadlock', stacks)
        assert "in let_go" in stacks, "the stacks of all threads are there"
        shown = line_of(told) or ""
        assert "rank 2 waits for a lock" in shown and told["stacks"] in shown
        script.let_go("deadlock", 2)

        told = script.hang("loop", 0)
        loops, _, rank_0 = told["reason"].partition("; ")
        assert loops == f"ranks 1-2 {peers}"
        assert re.fullmatch(r"rank 0 computes in (loop|wanted) \(hanging.py:\d+\)", rank_0)
        script.let_go("loop", 0)

        told = script.hang("leave", 1)
        others, _, rank_1 = told["reason"].partition("; ")
        assert others == f"ranks 0, 2 {peers}"
        assert re.fullmatch(r"rank 1 waits for time to pass in leave \(hanging.py:\d+\)", rank_1)
        script.let_go("leave", 1)

        told = script.hang("other", 1)
        assert told["reason"] == (
            f"ranks 0, 2 {peers}; rank 1 waits in hvd.broadcast "
            f"{at('hanging.py', 'hvd.broadcast(')}: "
            "these are different collectives, and none of them can end"
        )
        assert len({one["generation"] for one in script.told}) == 1, "no world was left for it"


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_the_process_of_a_torchrun_script_is_looked_at(folder: Path) -> None:
    program, torchrun = {"script": str(HERE / "hanging_ddp.py")}, {"max_restarts": 0}
    with running(folder, program=program, torchrun=torchrun) as script:
        told = script.hang("deadlock", 1)
        backward, hangs = at("hanging_ddp.py", "backward()"), at("hanging_ddp.py", HANGS)
        assert told["reason"] == (
            f"ranks 0, 2 wait in backward() {backward}; "
            f"rank 1 waits for a lock or another thread in deadlock {hangs}"
        )
        assert "in deadlock" in script.stacks(told)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_a_task_is_looked_at(folder: Path) -> None:
    run = Run(KIND, folder, settings={"standstill": 1.0})
    try:
        run.start()
        run.until_steps(30)
        before, vm = run.generation, run.rank(2)
        run.hold("step", vm)
        run.until(lambda _: run.count("standstill"), "it is told where the ranks are")
        told = next(one for one in run.events if one["event"] == "standstill")
        assert told["reason"].startswith("ranks 0-1 wait in the sum of the gradients; rank 2 ")
        assert " in _hold (task.py:" in told["reason"]
        run.let_go("step", vm)
        run.until_steps(1)
        assert run.history.held_up is None and run.generation == before, "nobody has left for it"
    finally:
        run.close()
