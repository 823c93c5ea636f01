"""The training image, really built and really run, and VMs that are containers of it.

``make test-container`` builds the images and runs these; without one they are skipped.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher.emulator.vms import netns
from launcher.local.buckets import LocalBuckets
from tests.integration.command import Swell
from tests.trainer.ranks import forking
from tests.trainer.tasks import pictures, tiny

IMAGE = os.environ.get("SWELL_TEST_IMAGE", "")
TASKS = os.environ.get("SWELL_TEST_TASKS_IMAGE", "")  # that image with what tasks need
ROOT = Path(__file__).parents[2]
LIMIT = 900.0  # seconds; only a hang takes as long
RUN_LIMIT = 800.0  # the same for a run: what it said is told then

pytestmark = [
    pytest.mark.skipif(not IMAGE, reason="no image to test: make test-container builds one"),
    pytest.mark.timeout(LIMIT),
]

# A user's script: it trains for a moment in whatever world there is, and tells where it may write.
SCRIPT = """
import os, sys
import horovod.torch as hvd
import torch

hvd.init()
total = hvd.allreduce(torch.ones(1), op=hvd.Sum).item()
writable = []
for place in ("/", "/app", "/opt/swell", "/home/swell", "/tmp", os.environ["XDG_CACHE_HOME"]):
    try:
        open(os.path.join(place, "probe"), "w").close()
        writable.append(place)
    except OSError:
        pass
print("uid", os.getuid(), "sum", total, "args", *sys.argv[1:], "writable", *writable)
"""
SLEEPS = "import time\nprint('up', flush=True)\ntime.sleep(600)\n"


def podman(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["podman", *arguments], capture_output=True, text=True, timeout=LIMIT, **options
    )


def inspected() -> dict[str, Any]:
    """What podman says of the image."""
    (found,) = json.loads(podman("image", "inspect", IMAGE).stdout)
    return dict(found)


def wait_for(look: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 120.0
    while not (seen := look()):
        assert time.monotonic() < deadline, "still waiting"
        time.sleep(0.1)
    return seen


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """No container, network, volume or namespace outlives a test."""

    def there() -> set[str]:
        lists = (["ps", "--all", "--quiet"], ["network", "ls", "-q"], ["volume", "ls", "-q"])
        return {line for each in lists for line in podman(*each).stdout.split()}

    before, names = there(), netns.names()
    yield
    wait_for(lambda: not there() - before)
    # Namespaces of others on this machine may have come meanwhile; those of ours are ownerless.
    for number in {netns.number_of(name) for name in netns.names() - names}:
        assert number is not None
        held = netns.claim(number)
        assert held is None, f"network {number} was left behind"


@pytest.fixture
def user_image(tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """Builds a user's image of three lines around a script."""
    built: list[str] = []

    def build(script: str) -> str:
        (tmp_path / "train.py").write_text(script)
        (tmp_path / "Dockerfile").write_text(
            f'FROM {IMAGE}\nCOPY train.py /app/\nCMD ["train.py", "--epochs", "3"]\n'
        )
        built.append(f"localhost/swell-test-{len(built)}")
        done = podman("build", "--pull=never", "--tag", built[-1], str(tmp_path))
        assert done.returncode == 0, done.stderr
        return built[-1]

    yield build
    podman("rmi", "--force", *built)


def test_a_user_s_image_of_three_lines_trains_as_nobody_on_a_file_system_it_cannot_write_to(
    user_image: Callable[[str], str],
) -> None:
    done = podman(
        *("run", "--rm", "--network", "none", "--read-only", "--read-only-tmpfs=false"),
        *("--tmpfs", "/tmp:mode=1777", "--tmpfs", "/var/cache/swell:mode=1777"),
        *("--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
        user_image(SCRIPT),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    uid, _, gid = inspected()["User"].partition(":")
    assert uid == gid != "0", "by number, so that a cluster can see that it is not root"
    assert f"uid {uid} sum 1.0 args --epochs 3 writable /tmp /var/cache/swell\n" in done.stdout


def test_sigterm_reaches_the_agent_behind_process_one(user_image: Callable[[str], str]) -> None:
    image = user_image(SLEEPS)
    started = podman("run", "--detach", "--network", "none", "--name", "swell-test-term", image)
    assert started.returncode == 0, started.stderr
    try:
        wait_for(lambda: "up\n" in podman("logs", "swell-test-term").stdout)
        processes = podman("top", "swell-test-term", "pid", "args").stdout
        assert "1           tini -- swell-agent" in processes or " tini --" in processes
        podman("kill", "--signal", "TERM", "swell-test-term")
        wait_for(lambda: "SIGTERM: leaving at the next" in podman("logs", "swell-test-term").stdout)
    finally:
        podman("rm", "--force", "--time", "0", "swell-test-term")


def test_the_image_says_what_it_is_and_carries_its_bill_of_materials() -> None:
    labels = inspected()["Labels"]
    assert labels["org.opencontainers.image.title"] == "swell-trainer"
    assert f"version = {labels['org.opencontainers.image.version']}\n" in (
        (ROOT / "setup.cfg").read_text()
    )
    materials = podman(
        *("run", "--rm", "--network", "none", "--entrypoint", "cat"),
        *(IMAGE, "/opt/swell/share/swell/packages.json"),
    )
    names = {
        package["metadata"]["name"].lower() for package in json.loads(materials.stdout)["installed"]
    }
    assert {"swell", "torch", "horovod", "gcsfs"} <= names


def test_help_explains_the_entry_point() -> None:
    told = podman("run", "--rm", "--network", "none", IMAGE, "--help")
    assert told.returncode == 0 and "-m MODULE" in told.stdout


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., dict[str, Any]]]:
    """Launches a job on containers, and returns its status when it has ended."""
    swell = Swell(tmp_path)

    def run(job: str, *options: str) -> dict[str, Any]:
        (tmp_path / "job.yaml").write_text(job)
        told = tmp_path / "told"
        with told.open("w") as file:
            done = subprocess.Popen(
                [
                    *(sys.executable, "-m", "launcher.cli", "launch", str(tmp_path / "job.yaml")),
                    *("--target", "local", "--vm", "container", "--json", *options),
                ],
                env=swell.environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
            )
            swell.launches.append(done)
            try:
                said = done.communicate(timeout=RUN_LIMIT)[0]
            finally:
                print(told.read_text())  # the run's story, for whoever reads a failure
                for log in tmp_path.glob("home/runs/*/local/**/*.log"):
                    print(f"--- {log.name}:", *log.read_text().splitlines()[-30:], sep="\n")
        status: dict[str, Any] = json.loads(said)
        return status

    yield run
    swell.close()


def test_the_digits_survive_a_preemption_and_a_silent_loss_on_three_containers(
    launch: Callable[..., dict[str, Any]],
) -> None:
    status = launch(
        f"""
name: digits
task: trainer.tasks.digits:Digits
args: {{epochs: 44, batch: 64, width: 24, dtype: float64}}
container: {TASKS}
pools:
  - {{machine: a2-highgpu-1g}}
  - {{machine: a2-highgpu-1g, replicas: 2}}
elastic: {{min_workers: 2, suspicion: 5s}}
local:
  memory: 3GiB
  market:
    - {{at: 100 steps, preempt: workerpool1-0, notice: 5s, back: 160 steps}}
    - {{at: 260 steps, vanish: workerpool1-1, back: 280 steps}}
"""
    )
    assert status["state"] == "succeeded", status
    causes = [one["cause"] for one in status["generations"]]
    assert causes[0] == "start" and {"drain", "grow"} <= set(causes), causes
    assert {"loss", "leader"} & set(causes), causes  # who vanished may have been the leader
    assert status["generations"][-1]["world_size"] == 3, "both came back"


# What each of them trains on is made on the spot, and read from a bucket.
TRAINED = {
    "lm": "trainer.tasks.lm:LM\n"
    "args: {steps: 6, warmup: 2, length: 32, global_batch: 4, held_out: 0.0005}",
    "tabular": "trainer.tasks.tabular:Tumours",
    "images": "trainer.tasks.images:Images\n"
    "args: {data: gs://data/photos, save: gs://data/classifier, model: resnet18, width: 4, "
    "size: 16, batch: 16, epochs: 1, workers: 1}",
    "finetune": "trainer.tasks.finetune:Finetune\n"
    "args: {model: gs://data/model, data: gs://data/chats.jsonl, save: gs://data/tuned, rank: 4, "
    "length: 96, batch: 4, epochs: 1}",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, chats, and a language model."""
    folder = tmp_path_factory.mktemp("data")
    pictures.make(folder / "photos", each=8, side=16)
    tiny.write(folder / "chats.jsonl", [{"messages": chat} for chat in tiny.CHATS])
    forking(tiny.make, folder / "model")
    return folder


@pytest.mark.parametrize("task", TRAINED)
def test_a_task_that_comes_with_swell_trains_in_a_container(
    launch: Callable[..., dict[str, Any]], tmp_path: Path, data: Path, task: str
) -> None:
    buckets = LocalBuckets(tmp_path / "home" / "buckets")
    for file in data.rglob("*.*"):
        buckets.pipe_file(f"data/{file.relative_to(data)}", file.read_bytes())
    status = launch(
        f"name: {task}\ntask: {TRAINED[task]}\ncontainer: {TASKS}\npools: [a2-highgpu-1g]\n"
        "local: {memory: 3GiB}\n"
    )
    assert status["state"] == "succeeded", status
    assert math.isfinite(status["metrics"]["loss"])
    saved = {"images": "classifier", "finetune": "tuned"}.get(task)
    assert saved is None or buckets.find(f"data/{saved}")


def test_an_image_that_is_not_there_ends_the_run_with_the_remedy(
    launch: Callable[..., dict[str, Any]],
) -> None:
    status = launch(
        "name: none\ntask: trainer.tasks.digits:Digits\ncontainer: localhost/not-there\n"
        "pools: [a2-highgpu-1g]\n"
    )
    assert status["state"] == "failed"
    assert "no image localhost/not-there on this machine" in str(status["reason"])
