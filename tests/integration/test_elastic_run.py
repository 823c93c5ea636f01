"""The main job with the real trainer: worlds that shrink and grow, and nothing is lost.

Each run trains on the digits with real agents, workers and Horovod, through `swell launch`
and the emulator, and is held against an undisturbed run of one process.
"""

from __future__ import annotations

import json
import os
import signal
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from launcher.emulator.vms import netns
from tests.integration.command import SLOW, Swell, until
from tests.trainer.ranks import alone
from trainer.loop import fit
from trainer.protocol.channel import LoneChannel
from trainer.protocol.messages import FromWorker, Steps
from trainer.protocol.nursery import WORKER
from trainer.rundir.directory import RunDirectory
from trainer.rundir.events import read_events
from trainer.tasks.digits import Digits

EPOCHS = 8
STEPS_PER_EPOCH = 23  # 1,437 images, 64 a step
TURNING_POINTS = ("generation_formed", "waiting", "checkpoint_committed")
JOB = """
name: digits
task: {task}
args: {{epochs: {epochs}, batch: 64, width: 8, dtype: float64}}
pools: [{{machine: a2-highgpu-1g}}, {{machine: a2-highgpu-1g, replicas: {others}}}]
elastic: {{min_workers: {min_workers}, spares: {spares}, suspicion: 5s}}
audit: true
local: {{market: {market}}}
"""


def _losses_of_one() -> list[float]:
    losses: list[float] = []

    def report(message: FromWorker) -> None:
        if isinstance(message, Steps):
            losses.extend(message.metrics["loss"])

    fit(Digits(epochs=EPOCHS, batch=64, width=8, dtype="float64"), LoneChannel(report))
    return losses


@pytest.fixture(scope="module")
def undisturbed() -> list[float]:
    """The loss of each step of one process that nobody disturbs."""
    losses: list[float] = alone(_losses_of_one)
    assert len(losses) == EPOCHS * STEPS_PER_EPOCH
    return losses


def write_job(
    swell: Swell,
    market: list[dict[str, str]] | None = None,
    *,
    others: int = 2,
    min_workers: int = 1,
    spares: int = 0,
) -> str:
    path = swell.folder / "digits.yaml"
    path.write_text(
        JOB.format(
            task=SLOW,  # the market sees how far it is
            epochs=EPOCHS,
            others=others,
            min_workers=min_workers,
            spares=spares,
            market=json.dumps(market or []),
        )
    )
    return str(path)


def losses_of(run_dir: Path) -> dict[int, float]:
    """The loss of every step that the events tell, by step."""
    losses: dict[int, float] = {}
    for event in read_events(RunDirectory(str(run_dir))):
        if event["event"] == "steps":
            for offset, loss in enumerate(event["metrics"]["loss"]):
                losses[event["first"] + offset] = loss
    return losses


def by_step(losses: list[float]) -> dict[int, float]:
    return dict(enumerate(losses, start=1))


def check_nothing_lost(
    swell: Swell, run: str, undisturbed: list[float], gaps: bool = False
) -> dict[str, Any]:
    """Returns its status; ``gaps``: a leader may be lost that has announced a world, no more."""
    status = swell.status(run)
    assert status["state"] == "succeeded", status["reason"]
    assert status["step"] == EPOCHS * STEPS_PER_EPOCH
    assert (status["steps_lost"], status["samples_repeated"], status["samples_skipped"]) == (
        0,
        0,
        0,
    )
    assert [epoch["exactly_once"] for epoch in status["epochs"]] == [True] * EPOCHS
    assert losses_of(swell.run_dir(run)) == pytest.approx(by_step(undisturbed), rel=1e-6)
    numbers = [generation["generation"] for generation in status["generations"]]
    assert numbers == (sorted({*numbers}) if gaps else list(range(1, len(numbers) + 1)))
    until(swell.nothing_is_left)
    return status


def test_a_preempted_and_a_vanished_vm_cost_no_step(swell: Swell, undisturbed: list[float]) -> None:
    market = [
        # Far apart, and back late: a busy machine must not turn a drain into a loss.
        {"at": "20 steps", "preempt": "workerpool1-0", "notice": "15s", "back": "60s"},
        {"at": "110 steps", "vanish": "workerpool1-1", "back": "60s"},
    ]
    launch = swell("launch", write_job(swell, market), "--run-id", "market")
    assert launch.returncode == 0, launch.stdout + launch.stderr
    status = check_nothing_lost(swell, "market", undisturbed)
    assert (status["drains"], status["losses"]) == (1, 1)
    shrinking = [(g["world_size"], g["cause"]) for g in status["generations"][:3]]
    assert shrinking == [(3, "start"), (2, "drain"), (1, "loss")]
    assert {pause["cause"] for pause in status["pauses"]} >= {"drain", "loss"}


@pytest.mark.soak
def test_a_killed_worker_is_replaced_by_its_warm_spare(
    swell: Swell, undisturbed: list[float]
) -> None:
    launch = swell.start("launch", write_job(swell, others=1, spares=1), "--run-id", "crash")
    until(lambda: launch.poll() is not None or step_of(swell, "crash") > 20)
    os.kill(worker_of(swell, "workerpool1-0"), signal.SIGKILL)
    output, _ = launch.communicate()
    assert launch.returncode == 0, output
    status = check_nothing_lost(swell, "crash", undisturbed)
    assert status["losses"] == 1
    assert all(generation["world_size"] in (1, 2) for generation in status["generations"])


def test_below_min_workers_the_survivors_wait_with_a_checkpoint(
    swell: Swell, undisturbed: list[float]
) -> None:
    """The link of a VM with a network of its own is cut; where there is none, the VM is stopped."""
    market = [{"at": "40 steps", "vanish": "workerpool1-0", "back": "8s"}]
    job = write_job(swell, market, others=1, min_workers=2)
    kind = "process" if netns.missing() else "netns"
    launch = swell("launch", job, "--run-id", "waits", "--vm", kind)
    assert launch.returncode == 0, launch.stdout + launch.stderr
    status = check_nothing_lost(swell, "waits", undisturbed)
    assert [generation["world_size"] for generation in status["generations"]] == [2, 2]
    events = read_events(RunDirectory(str(swell.run_dir("waits"))))
    told = [event for event in events if event["event"] in TURNING_POINTS]
    stopped_at = status["generations"][1]["step"]
    assert [(event["event"], event.get("step")) for event in told[:4]] == [
        ("generation_formed", 0),
        ("waiting", None),
        ("checkpoint_committed", stopped_at),
        ("generation_formed", stopped_at),
    ]


def test_a_task_that_raises_ends_the_run_with_its_traceback_once(swell: Swell) -> None:
    task = swell.folder / "broken.py"
    task.write_text(
        "from trainer.tasks.digits import Digits\n"
        "class Broken(Digits):\n"
        "    seen = []\n"
        "    def loss(self, model, batch):\n"
        "        self.seen.append(batch)\n"
        "        if len(self.seen) > 12:\n"
        "            raise RuntimeError('the user divided by pear')\n"
        "        return super().loss(model, batch)\n"
    )
    job = swell.folder / "broken.yaml"
    job.write_text(
        f"name: broken\ntask: {task}:Broken\n"
        "pools: [{machine: a2-highgpu-2g}]\n"  # both ranks on one VM
    )
    launch = swell("launch", str(job), "--run-id", "broken")
    assert launch.returncode == 1
    told = launch.stdout + launch.stderr
    assert told.count("Traceback (most recent call last)") == 1, "at the end"
    assert told.count("RuntimeError: the user divided by pear") == 2, "when it happened, too"
    status = swell.status("broken")
    assert status["state"] == "failed"
    assert "rank" in status["reason"] and "step 12" in status["reason"]
    until(swell.nothing_is_left)


def test_ctrl_c_in_the_middle_of_training_leaves_nothing(swell: Swell) -> None:
    launch = swell.start("launch", write_job(swell, others=1, spares=1), "--run-id", "stopped")
    until(lambda: launch.poll() is not None or step_of(swell, "stopped") > 5)
    addresses = {one.get("SWELL_ADDRESS") for one in swell.environments().values()} - {None}
    ours = {one for address in addresses for one in listening(address)}
    assert ours
    launch.send_signal(signal.SIGINT)
    output, _ = launch.communicate()
    assert launch.returncode == 3, output
    assert swell.status("stopped")["state"] == "cancelled"
    assert swell.nothing_is_left()
    # Another run may have the addresses by now, with sockets of its own.
    assert not any(ours.intersection(listening(address)) for address in addresses)


def step_of(swell: Swell, run: str) -> int:
    """Steps completed, read directly: the command takes longer than many steps."""
    events = read_events(RunDirectory(str(swell.run_dir(run))))
    told = [event for event in events if event["event"] == "steps"]
    return max((one["first"] + len(one["metrics"]["loss"]) - 1 for one in told), default=0)


def worker_of(swell: Swell, replica: str) -> int:
    """The process id of the oldest worker of a replica."""
    found = []
    for process, environment in swell.environments().items():
        where = json.loads(environment.get("CLUSTER_SPEC", "{}")).get("task", {})
        if f"{where.get('type')}-{where.get('index')}" == replica:
            with suppress(OSError):  # it has gone
                if Path(f"/proc/{process}/comm").read_text().strip() == WORKER:
                    found.append(process)
    return min(found)


def listening(address: str | None) -> list[str]:
    """The inodes of the sockets that listen on an IPv4 address, from the kernel's own table."""
    assert address is not None
    packed = socket.inet_aton(address)[::-1].hex().upper()
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [line[9] for line in lines if line[1].startswith(packed) and line[3] == "0A"]
