"""The digits run from Python: ``python examples/api.py``."""

from launcher import Elastic, Job, Pool, launch

job = Job(
    name="digits",
    task="trainer.tasks.digits:Digits",
    args={"epochs": 30, "batch": 64},
    pools=[Pool(machine="a2-highgpu-1g"), Pool(machine="a2-highgpu-1g", replicas=3)],
    elastic=Elastic(min_workers=2),
)

# Left early, by an exception or Ctrl-C, the block cancels the run and waits until it is gone.
with launch(job, target="local") as run:
    outcome = run.wait()

print(f"run {run.id} {outcome.state}: {outcome.metrics}")
print(f"world sizes: {[g['world_size'] for g in run.status()['generations']]}")
