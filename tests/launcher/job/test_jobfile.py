"""Each bad input has one clear message: where, which field, what is wrong, what would be right."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from launcher.job.job import LEAST_STALL, Job
from launcher.job.jobfile import JobFileError
from launcher.target import load_job
from trainer.agent.settings import Settings
from trainer.coordinator.limits import Limits

GOOD = """\
name: digits
task: trainer.tasks.digits:Digits
pools:
  - {machine: a2-highgpu-1g}
  - machine: a2-highgpu-1g
    replicas: 3
"""
EXAMPLES = Path(__file__).parents[3] / "examples"


def problems(tmp_path: Path, text: str | bytes, *overrides: str) -> list[str]:
    path = tmp_path / "job.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(JobFileError) as error:
        load_job(path, overrides)
    ids = [message.id for message in error.value.messages]
    assert all(re.fullmatch(r"SW1\d{3}", id) for id in ids), "pydantic's own types have ids, too"
    return [line.replace(f"{tmp_path}/", "") for line in error.value.problems]


def test_the_examples_are_valid() -> None:
    warnings: list[str] = []
    assert load_job(EXAMPLES / "digits.yaml", (), "local", warnings.append).name == "digits"
    assert load_job(EXAMPLES / "vertex.yaml", (), "vertex", warnings.append, {}).slots == 32
    assert warnings == []


def test_the_shortest_stall_is_kept() -> None:
    """Where steps are short: what is waited for before a world is broken off grows with them."""
    least = LEAST_STALL.total_seconds()
    assert Limits(stall=least).timeouts(pace=1.0).stall == least


def test_ten_lines_are_a_job(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(
        GOOD + "args: {epochs: 30, batch: 64}\nelastic: {min_workers: 2}\naudit: true\n"
    )
    job = load_job(tmp_path / "job.yaml")
    assert job.slots == 4
    assert job.replicas() == ["workerpool0-0", "workerpool1-0", "workerpool1-1", "workerpool1-2"]
    assert job.settings() == {
        "program": {
            "task": "trainer.tasks.digits:Digits",
            "task_args": {"epochs": 30, "batch": 64},
        },
        "checkpoint": {
            "every": 30.0,
            "every_steps": 0,
            "keep": 2,
            "keep_every": 0,
            "keep_best": "",
            "start_from": "",
        },
        "min_workers": 2,
        "max_workers": 4,
        "start_wait": 60.0,
        "hold_off": 1.0,
        "heartbeat": 0.3,
        "suspicion": 1.5,
        "hang": 10.0,
        "stall": 600.0,
        "lease_timeout": None,
        "balance": "even",
        "spares": 1,
        "job_sha256": job.sha256,
        "audit": True,
    }


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ("epochs: 3", "job.yaml:7: epochs: is not a known field; known are name, task, script"),
        ("chekpoint: {}", "job.yaml:7: chekpoint: is not a known field; did you mean checkpoint?"),
        ("audit: yes", "job.yaml:7: audit: is 'yes'; write true or false"),
        ("elastic: 3", "job.yaml:7: elastic: is 3; write a mapping (lines of field: value)"),
        ("elastic:", "job.yaml:7: elastic: is empty; write a mapping (lines of field: value)"),
        ("args: {x: .nan}", "job.yaml:7: args.x: is nan; write a finite number"),
        (
            "elastic:\n  min_workers: 5",
            "job.yaml:8: elastic.min_workers: is 5; the pools have 4 slots, write at most 4",
        ),
        (
            "elastic: {min_workers: 3, max_workers: 2}",
            "job.yaml:7: elastic.max_workers: is 2; write at least min_workers, 3",
        ),
        (
            "elastic: {suspicion: 2}",
            "job.yaml:7: elastic.suspicion: needs a unit; write 2s or 2min",
        ),
        (
            "local: {market: [{at: 5s, vanish: workerpool1-3}]}",
            "job.yaml:7: local.market.0.vanish: no pool has 'workerpool1-3'; "
            "did you mean workerpool1-2?",
        ),
        (
            "local: {market: [{at: 5s}]}",
            "job.yaml:7: local.market.0: needs one of preempt and vanish; "
            "write preempt: workerpool1-0",
        ),
        (
            "local: {market: [{at: 5s, vanish: workerpool1-0, notice: 5s}]}",
            "job.yaml:7: local.market.0.notice: belongs to preempt; vanish comes without notice",
        ),
        ("env: {SWELL_TOKEN: x}", "job.yaml:7: env: SWELL_TOKEN is set by Swell or Vertex AI"),
        ("env: {A B: x}", "job.yaml:7: env: 'A B' is not a variable name"),
        ("env: {A: 1}", "job.yaml:7: env.A: is 1; write text (in quotes"),
        (
            "checkpoint: {every: 0 steps}",
            "job.yaml:7: checkpoint.every: is 0 steps, which is never; write at least 1 step",
        ),
        ("checkpoint: {every: 0s}", "job.yaml:7: checkpoint.every: is 0s, which is never"),
        ("checkpoint: {keep_every: 0 steps}", "job.yaml:7: checkpoint.keep_every: is 0 steps"),
        ("fallback: standard", "job.yaml:7: fallback: is 'standard'; write a list ([a, b]"),
        (
            "elastic:\n\tmin_workers: 1",
            "job.yaml:8: is not YAML: while scanning for the next token found character that "
            "cannot start any token; indent with spaces, not with a tab",
        ),
        ("name: again", "job.yaml:7: name: is written twice; keep one"),
        ("args: &x {}", "job.yaml"),
        ("args: *x", "job.yaml:7: is not YAML: aliases (*name) are not supported; write it out"),
        ("args: !!python/name:os {}", "job.yaml:7: is not YAML"),
        ("args: !x 3", "job.yaml:7: is not YAML: tag !x is not supported"),
        ("args: [", "job.yaml:8: is not YAML: while parsing a flow node"),
        ("---\na: b", "job.yaml:7: is not YAML"),
    ],
)
def test_a_bad_field_is_named_with_its_line(tmp_path: Path, more: str, problem: str) -> None:
    if more == "args: &x {}":  # an anchor alone does no harm
        (tmp_path / "job.yaml").write_text(GOOD + more)
        load_job(tmp_path / "job.yaml")
        return
    found = problems(tmp_path, GOOD + more + "\n")
    assert len(found) == 1
    assert found[0].startswith(problem)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "job.yaml:1: is empty"),
        ("# nothing\n", "job.yaml:1: is empty"),
        ("- a\n", "job.yaml:1: is not a mapping"),
        ("hello", "job.yaml:1: is not a mapping"),
        (b"\xff\xfe\x00", "job.yaml: is not text in UTF-8"),
        (
            "name: j\n# für\n".encode("latin-1"),
            "job.yaml:2: is not in UTF-8 (byte 0xfc); save it as UTF-8",
        ),
        ("name: \x00", "job.yaml:1: is not YAML"),
        ("[" * 100_000, "job.yaml:1: is nested too deeply"),
        ("#" * (2**20 + 1), "job.yaml: is larger than 1 MiB"),
        ("{}: 1", "job.yaml:1: a field's name must be text; put it in quotes"),
    ],
)
def test_what_is_not_a_job_file_is_refused_in_one_line(
    tmp_path: Path, text: str | bytes, problem: str
) -> None:
    found = problems(tmp_path, text)
    assert len(found) == 1 and "\n" not in found[0]
    assert found[0].startswith(problem)


def test_a_path_that_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(JobFileError, match=r"there is no such file; give the path of a job file"):
        load_job(tmp_path / "none.yaml")
    with pytest.raises(JobFileError, match="is a directory"):
        load_job(tmp_path)
    with pytest.raises(JobFileError, match="cannot be read"):
        load_job("a\0b")


def test_all_problems_are_said_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = """\
name: Digits
pools:
  - {machine: a2-highgpu-1h, replicas: 2}
  - {machine: a2-highgpu-1g, replicas: 0}
  - {replcas: 3}
elastic: {min_workers: two}
"""
    assert problems(tmp_path, text) == [
        "job.yaml:1: name: is 'Digits'; write lowercase letters, digits and -, "
        "beginning with a letter, at most 40",
        "job.yaml:1: task: is missing; write task: module:Class, torchrun: FILE.py, "
        "script: FILE.py or module: NAME, or a container with a command",
        "job.yaml:3: pools.0.machine: 'a2-highgpu-1h' is not a machine of the series A2 or A3; "
        "did you mean a2-highgpu-1g?",
        "job.yaml:4: pools.1.replicas: is 0; write at least 1",
        "job.yaml:5: pools.2.machine: is missing; add it",
        "job.yaml:5: pools.2.replcas: is not a known field; did you mean replicas?",
        "job.yaml:6: elastic.min_workers: is 'two'; write a whole number",
    ]


def test_the_first_pool_has_one_replica_also_when_another_pool_is_wrong(tmp_path: Path) -> None:
    found = problems(
        tmp_path, GOOD.replace("1g}", "1g, replicas: 2}").replace("replicas: 3", "replicas: x")
    )
    assert found == [
        "job.yaml:4: pools.0.replicas: is 2; the first pool has exactly 1, "
        "put the others in a second",
        "job.yaml:6: pools.1.replicas: is 'x'; write a whole number",
    ]


def test_a_task_file_is_found_beside_the_job_file(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(GOOD.replace("trainer.tasks.digits:Digits", "mine.py:Task"))
    assert load_job(path).task == f"{tmp_path}/mine.py:Task"
    with pytest.raises(JobFileError, match=r"job.yaml:2: task: there is no file .*/mine.py"):
        load_job(path, target="local")
    (tmp_path / "mine.py").write_text("from trainer import Task\n")
    load_job(path, target="local")


@pytest.mark.parametrize("task", ["foo", "a b:C", "a:", ":C", "a.b:1", "a..b:C"])
def test_a_task_is_a_class(tmp_path: Path, task: str) -> None:
    found = problems(tmp_path, GOOD.replace("trainer.tasks.digits:Digits", f"'{task}'"))
    assert found[0].startswith("job.yaml:2: task: ")


def test_the_vertex_target_says_what_it_needs(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(GOOD)
    with pytest.raises(JobFileError) as error:
        load_job(tmp_path / "job.yaml", target="vertex")
    fields = [line.split(": ")[1] for line in error.value.problems]
    assert fields == ["project", "regions", "output", "container.image"]


class TestOverrides:
    def test_replace_and_add_fields(self, tmp_path: Path) -> None:
        (tmp_path / "job.yaml").write_text(GOOD)
        job = load_job(
            tmp_path / "job.yaml",
            ["pools.1.replicas=7", "args.lr=1e-3", "elastic.hold_off=5s", "args.tags=[a, 1]"],
        )
        assert job.pools[1].replicas == 7
        assert job.args == {"lr": 0.001, "tags": ["a", 1]}
        assert job.elastic.hold_off == timedelta(seconds=5)

    @pytest.mark.parametrize(
        ("override", "problem"),
        [
            ("pools.1.replicas=0", "pools.1.replicas: is 0; write at least 1"),
            ("elastic.min_workers=9", "elastic.min_workers: is 9; the pools have 4 slots"),
            ("pools.2.machine=x", "pools: has no entry 2; there are 2 (0 to 1)"),
            ("pools.x.machine=x", "pools: has no entry x; there are 2 (0 to 1)"),
            ("name.x=1", "name: is a single value; x cannot be set in it"),
            ("args.0", "has no value; write --set args.0=VALUE"),
            ("regions.0=us-east4", "regions: is a mapping; write a list"),
            ("=1", "is not an override"),
            ("a..b=1", "is not an override"),
            ("args=[1", "the value is not YAML"),
            ("task=", "task: is missing"),
        ],
    )
    def test_problems_name_the_override(self, tmp_path: Path, override: str, problem: str) -> None:
        found = problems(tmp_path, GOOD, override)
        assert len(found) == 1
        assert found[0].startswith(f"--set {override}: {problem}")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        (".5", 0.5),
        ("0x10", 16),
        ("010", 10),
        ("no", "no"),
        ("~", None),
        ("True", True),
        ("'7'", "7"),
        ("2026-01-01", "2026-01-01"),
        ("1:30", "1:30"),
    ],
)
def test_scalars_are_yaml_1_2(tmp_path: Path, text: str, value: object) -> None:
    (tmp_path / "job.yaml").write_text(GOOD + f"args: {{x: {text}}}\n")
    assert load_job(tmp_path / "job.yaml").args == {"x": value}


class TestShortForms:
    SHORT = """\
name: x
script: train.py
args: [--epochs, '3']
container: us-docker.pkg.dev/p/r/i
pools:
  - a2-highgpu-8g
  - 3 x a2-highgpu-8g
  - {machine: a2-highgpu-8g, accelerators: 8 x NVIDIA_TESLA_A100, disk: 1TiB, reservation: none}
scheduling: flex_start
regions: us-central1
"""

    def test_mean_what_they_look_like(self, tmp_path: Path) -> None:
        (tmp_path / "job.yaml").write_text(self.SHORT)
        job = load_job(tmp_path / "job.yaml")
        assert [pool.replicas for pool in job.pools] == [1, 3, 1]
        assert job.slots == 40
        assert job.container.image == "us-docker.pkg.dev/p/r/i"
        assert job.scheduling.strategy == "flex_start"
        assert job.regions == ["us-central1"]
        assert job.pools[2].disk and str(job.pools[2].disk.size) == "1TiB"
        program = {"script": f"{tmp_path}/train.py", "args": ["--epochs", "3"]}
        assert job.settings()["program"] == program

    def test_can_be_overridden_inside(self, tmp_path: Path) -> None:
        (tmp_path / "job.yaml").write_text(self.SHORT)
        job = load_job(
            tmp_path / "job.yaml",
            [
                "pools.1.replicas=7",
                "container.command=[swell-agent]",
                "scheduling.max_wait_duration=2h",
                "pools.2.disk.type=pd-ssd",
                "pools.0=a2-highgpu-8g",
            ],
        )
        assert job.pools[1].replicas == 7
        assert job.container.image == "us-docker.pkg.dev/p/r/i"
        assert job.scheduling.max_wait_duration == timedelta(hours=2)
        assert job.pools[2].disk and job.pools[2].disk.type == "pd-ssd"

    @pytest.mark.parametrize(
        ("override", "problem"),
        [
            ("pools.1=3 x a2-highgpu-9g", "pools.1: 'a2-highgpu-9g' is not a machine"),
            ("pools.1=two x a2-highgpu-8g", "pools.1: is 'two x a2-highgpu-8g'; write text"),
            ("pools.1=0 x a2-highgpu-8g", "pools.1: is 0; write at least 1"),
            ("pools.1=2", "pools.1: is 2; write text like 3 x a2-highgpu-1g, or a mapping"),
            ("regions=3", "regions: is 3; write a list"),
            ("container=[x]", "container: is a list; write a mapping"),
        ],
    )
    def test_what_they_get_wrong_is_said(self, tmp_path: Path, override: str, problem: str) -> None:
        found = problems(tmp_path, self.SHORT, override)
        assert found[0].startswith(f"--set {override}: {problem}")


def test_pools_may_differ_and_only_those_that_run_the_agent_have_slots(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(
        """\
name: x
module: my.train
pools:
  - a2-highgpu-1g
  - {machine: a2-highgpu-8g, replicas: 2}
  - {machine: a2-megagpu-16g, slots: 4}
  - {machine: a2-highgpu-1g, container: {image: eval, command: [python, eval.py]}}
elastic: {min_workers: 2}
"""
    )
    job = load_job(tmp_path / "job.yaml")
    assert job.slots == 1 + 2 * 8 + 4
    settings = job.settings()
    assert settings["program"] == {"module": "my.train", "args": []}
    assert (settings["min_workers"], settings["max_workers"]) == (2, 21)


@pytest.mark.parametrize(
    "program", [{"task": "m:C", "args": {"x": 1}}, {"module": "m"}, {"script": "/a.py"}]
)
def test_the_trainer_understands_the_settings(program: dict[str, Any]) -> None:
    job = Job.model_validate({"name": "x", "pools": ["a2-highgpu-2g"], **program})
    settings = Settings.of_run({"settings": json.loads(json.dumps(job.settings()))})
    assert settings.max_workers == 2
    assert str(settings.program) in program.values()
    assert settings.program.task_args == program.get("args", {})


def test_a_container_may_have_a_command_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(
        "name: x\npools: [a2-highgpu-1g]\ncontainer: {image: i, command: [python, train.py]}\n"
    )
    job = load_job(tmp_path / "job.yaml")
    assert job.slots == 0, "nobody in it runs the agent"


def test_a_file_that_is_wrong_a_thousand_times_is_told_of_a_hundred(tmp_path: Path) -> None:
    events = "    - {at: 1 steps, preempt: workerpool0-0, notcie: 5s}\n" * 1000
    found = problems(tmp_path, f"{GOOD}local:\n  market:\n{events}")
    assert len(found) == 101
    assert found[0] == (
        "job.yaml:9: local.market.0.notcie: is not a known field; did you mean notice?"
    )
    assert found[-1] == "job.yaml: there are 900 more problems; mend these first"


@pytest.mark.parametrize(
    "text",
    [
        "pools:\n" + "  - a2-highgpu-1h\n" * 20_000,
        "regions:\n" + "  - us-centra1\n" * 20_000,
        "env:\n" + "".join(f"  A{i}: x\n" for i in range(20_000)),
        "labels:\n" + "".join(f"  a{i}: x\n" for i in range(20_000)),
        "".join(f"field{i}: x\n" for i in range(20_000)),
        "pools: [9999999999 x a2-highgpu-1g]",
        "args: {x: " + "1" * 5000 + "}",
        "name: '" + "x" * 900_000 + "'",
    ],
    ids=lambda text: text[:12],
)
def test_what_is_huge_is_refused_in_short_lines(tmp_path: Path, text: str) -> None:
    text = text if "name" in text else f"name: x\n{text}"
    found = problems(tmp_path, text)
    assert len(found) <= 101
    assert all(len(line) < 600 for line in found)


def test_a_job_in_python_is_as_good_as_a_file() -> None:
    from launcher import Package, Pool, Scheduling

    short: list[Any] = ["3 x a2-highgpu-1g", {"machine": "a2-highgpu-2g"}]
    job = Job(
        name="x",
        script="train.py",
        args=["--epochs", "3"],
        pools=[Pool(machine="a2-highgpu-1g"), *short],
        package=Package(executor="i", uris=["gs://bucket-b/p.tar.gz"]),
        scheduling=Scheduling(strategy="standard"),
        timeout=timedelta(hours=3),
    )
    assert job.slots == 6
    assert Job.model_validate(job.to_dict()) == job
    with pytest.raises(ValueError, match="the first pool has exactly 1"):
        Job(name="x", task="m:C", pools=[Pool(machine="a2-highgpu-1g", replicas=2)])


def test_an_override_is_written_only_where_there_is_one() -> None:
    job = {"name": "a", "task": "m:T", "pools": [{"machine": "a2-highgpu-1g"}]}
    start = {"start_from": "gs://bucket-b/run/checkpoints/step-000000100"}
    for checkpoint, written in (
        (start, {}),
        ({**start, "override": {"lr": 1e-3, "weight_decay": 0}}, {"lr": 0.001, "weight_decay": 0}),
    ):
        found = Job.model_validate({**job, "checkpoint": checkpoint}).settings()["checkpoint"]
        assert found.get("override", {}) == written
        assert ("override" in found) == bool(written), "older images do not know it"


def test_what_is_done_about_nan_is_written_only_where_the_job_says_so() -> None:
    job = {"name": "a", "task": "m:T", "pools": [{"machine": "a2-highgpu-1g"}]}
    assert "on_nonfinite" not in Job.model_validate(job).settings(), "older images do not know it"
    for policy in ("stop", "skip", "rollback"):
        said = Job.model_validate({**job, "on_nonfinite": policy}).settings()["on_nonfinite"]
        assert said == policy


def test_checkpoints_by_time_or_by_steps() -> None:
    job = {"name": "a", "task": "m:T", "pools": [{"machine": "a2-highgpu-1g"}]}

    def settings(**checkpoint: object) -> tuple[object, ...]:
        found = Job.model_validate({**job, "checkpoint": checkpoint}).settings()["checkpoint"]
        return tuple(found[name] for name in ("every", "every_steps", "keep_every", "start_from"))

    start = "gs://bucket-b/run/checkpoints/step-000000100"
    assert settings(every="10min") == (600.0, 0, 0, "")
    assert settings(every="500 steps", keep_every="10000 steps") == (0.0, 500, 10000, "")
    for parts in ("", "#weights", "#weights,optimizer"):
        assert settings(start_from=f"{start}{parts}")[3] == f"{start}{parts}"
    for weights in ("gs://b/x.safetensors", "/gcs/b/x.pt#weights", "gs://b/gpt2#weights"):
        assert settings(start_from=weights, rename={"a.*": "*"}, fresh=["b"])[3] == weights
    for wrong, said in (
        ({"every": 30}, "needs a unit"),
        ({"keep_every": "10min"}, "is not a number of steps"),
        ({"start_from": "gs://bucket-b/run"}, "is not a checkpoint"),
        ({"start_from": f"{start}#optimizer"}, "has #optimizer; write #weights or #weights,opt"),
        ({"start_from": f"{start}#weights,"}, "has #weights,; write"),
        ({"start_from": "x.pt#optimizer"}, "has #optimizer; write #weights"),
        ({"start_from": start, "rename": {"a": "b"}}, "belongs to a start_from of weights"),
        ({"start_from": "x.pt", "override": {"lr": 0.1}}, "belongs to a start_from without #"),
        ({"override": {"lr": 0.1}}, "belongs to a start_from without #"),
        ({"start_from": f"{start}#weights", "override": {"lr": 0.1}}, "belongs to a start_from"),
    ):
        with pytest.raises(ValueError, match=said):
            settings(**wrong)
