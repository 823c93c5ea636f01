"""Jobs whose replicas run a small script in place of the trainer: no torch is needed."""

from __future__ import annotations

import json
from pathlib import Path

from tests.integration.command import Swell

REPLICA = """
import json, os, signal, sys, time
from trainer.rundir.events import EventWriter
from trainer.rundir.directory import RunDirectory

ending = sys.argv[1]
task = json.loads(os.environ["CLUSTER_SPEC"])["task"]
name = f"{task['type']}-{task['index']}"
run = RunDirectory(os.environ["SWELL_RUN_DIR"])
print("replica", name, "is up", flush=True)
if ending == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    open(os.environ["SWELL_RUN_DIR"] + "/up-" + name, "w").close()
    while True:
        time.sleep(1)
if name == "workerpool0-0":
    events = EventWriter(run, name)
    members = ["workerpool0-0", "workerpool1-0"]
    events.emit("generation_formed", generation=1, world_size=2, cause="start", members=members)
    events.emit("resumed", generation=1, world_size=2, cause="start", step=0, lost_steps=0)
    events.emit("steps", generation=1, first=1, metrics={"loss": [2.0, 1.0, 0.5]})
    events.flush()
    if ending == "fail":
        run.end("failed", "the task raised in rank 0\\nTraceback:\\nZeroDivisionError: 1/0")
    elif ending == "succeed":
        run.end("succeeded", "training is complete", metrics={"test_accuracy": 0.97})
while run.outcome() is None:
    open(os.environ["SWELL_RUN_DIR"] + "/up-" + name, "w").close()
    time.sleep(0.05)
if run.outcome()["state"] == "cancelled":
    signal.pause()  # whoever cancelled the run ends it
sys.exit(1 if run.outcome()["state"] == "failed" else 0)
"""


class ScriptedSwell(Swell):
    """The command, and jobs whose replicas run the script."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.script = folder / "replica.py"
        self.script.write_text(REPLICA)

    def job(self, ending: str) -> str:
        path = self.folder / f"{ending}.yaml"
        path.write_text(
            f"name: {ending}\n"
            f"container: {{command: [python, {json.dumps(str(self.script))}, {ending}]}}\n"
            "pools: [{machine: a2-highgpu-1g}, {machine: a2-highgpu-1g}]\n"
        )
        return str(path)

    def is_up(self, run: str) -> bool:
        return len(list(self.run_dir(run).glob("up-*"))) == 2
