"""CustomJob JSON: what is taken, in which forms, and what is refused with which words."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.emulator.resources import customjobs
from launcher.emulator.resources.customjobs import JobState, Package, Pool, Scheduling
from launcher.emulator.resources.errors import ApiError
from launcher.emulator.resources.wire import Enumeration, Field, Integer, Message, Repeated

CONTAINER = {
    "machineSpec": {
        "machineType": "a2-highgpu-2g",
        "acceleratorType": "NVIDIA_TESLA_A100",
        "acceleratorCount": 2,
    },
    "replicaCount": "3",
    "containerSpec": {
        "imageUri": "an-image",
        "command": ["python"],
        "args": ["-V"],
        "env": [{"name": "A", "value": "1"}, {"name": "EMPTY"}],
    },
}
PRIMARY = {**CONTAINER, "replicaCount": "1"}
BY_NAME: dict[str, Any] = {
    "displayName": "a job",
    "labels": {"team": "red"},
    "jobSpec": {
        "workerPoolSpecs": [PRIMARY, {}, CONTAINER],
        "scheduling": {"strategy": "SPOT", "timeout": "3600s", "restartJobOnWorkerRestart": False},
        "baseOutputDirectory": {"outputUriPrefix": "gs://bucket/run/"},
    },
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """The job above with one field changed, or removed by ``...``."""
    job: dict[str, Any] = json.loads(json.dumps(BY_NAME))  # nothing in it is shared
    *way, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    inside: Any = job
    for part in way:
        inside = inside[part]
    if value is ...:
        del inside[last]
    else:
        inside[last] = value
    return job


def test_names_and_numbers_of_enums_mean_the_same() -> None:
    by_number = changed("jobSpec.scheduling.strategy", 4)
    for spec in by_number["jobSpec"]["workerPoolSpecs"]:
        if spec:
            spec["machineSpec"]["acceleratorType"] = 8
    assert customjobs.parse(by_number) == customjobs.parse(BY_NAME) == BY_NAME
    assert customjobs.encode(customjobs.parse(BY_NAME), enums_as_integers=True) == by_number


def test_counts_may_be_strings_or_numbers_and_names_in_either_case() -> None:
    assert customjobs.parse(changed("jobSpec.workerPoolSpecs.2.replicaCount", 3)) == BY_NAME
    snake = {"display_name": "a job", "labels": {"team": "red"}, "job_spec": BY_NAME["jobSpec"]}
    assert customjobs.parse(snake) == BY_NAME


def test_what_only_the_service_sets_is_ignored_in_a_request() -> None:
    assert customjobs.parse({**BY_NAME, "name": "mine", "state": 4, "error": None}) == BY_NAME


def test_the_pools_to_run() -> None:
    job = customjobs.parse(BY_NAME)
    env = (("A", "1"), ("EMPTY", ""))
    assert customjobs.pools(job) == [
        Pool(0, "a2-highgpu-2g", 1, 2, "an-image", ("python",), ("-V",), env),
        Pool(2, "a2-highgpu-2g", 3, 2, "an-image", ("python",), ("-V",), env),
    ]
    assert customjobs.pools(job)[1].replica_names() == [f"workerpool2-{n}" for n in range(3)]
    assert customjobs.output_directory(job) == "gs://bucket/run"


BOARD = "projects/p/locations/us-central1/tensorboards/1"


def test_a_tensorboard_needs_a_service_account() -> None:
    with pytest.raises(ApiError, match=r"serviceAccount is required when jobSpec\.tensorboard"):
        customjobs.parse(changed("jobSpec.tensorboard", BOARD))
    with pytest.raises(ApiError, match=r"jobSpec\.tensorboard must be projects/PROJECT"):
        customjobs.parse(changed("jobSpec.tensorboard", "my-board"))
    job = changed("jobSpec.tensorboard", BOARD)
    job["jobSpec"]["serviceAccount"] = "a@p.iam.gserviceaccount.com"
    assert customjobs.parse(job) == job


def test_a_persistent_resource_is_not_served() -> None:
    with pytest.raises(ApiError, match="persistent resources") as refused:
        customjobs.parse(changed("jobSpec.persistentResourceId", "mine"))
    assert (refused.value.code, refused.value.status) == (501, "UNIMPLEMENTED")


POOLS = "jobSpec.workerPoolSpecs"


@pytest.mark.parametrize(
    "path, value, says",
    [
        ("displayName", ..., "displayName must have 1 to 128 characters."),
        ("displayName", "x" * 129, "displayName must have 1 to 128 characters."),
        ("displayName", 7, "displayName must be a string, got 7."),
        ("labels", {"a": 1}, "labels['a'] must be a string, got 1."),
        ("jobSpec", ..., f"{POOLS} must hold at least one worker pool."),
        (POOLS, [], f"{POOLS} must hold at least one worker pool."),
        (POOLS, [{}, {}], f"{POOLS} must hold at least one worker pool."),
        (POOLS, {}, f"{POOLS} must be a list, got {{}}."),
        (POOLS, [PRIMARY] * 5, f"{POOLS} has 5 pools; at most 4 are allowed."),
        (f"{POOLS}.0.replicaCount", "2", f"{POOLS}[0].replicaCount must be 1, got 2: "),
        (f"{POOLS}.0", {}, f"{POOLS}[0].replicaCount must be 1, got 0: "),
        (f"{POOLS}.2.replicaCount", "0", f"{POOLS}[2].replicaCount must be at least 1, got 0."),
        (f"{POOLS}.2.replicaCount", ..., f"{POOLS}[2].replicaCount must be at least 1, got 0."),
        (f"{POOLS}.2.replicaCount", "many", f"{POOLS}[2].replicaCount must be an integer, got"),
        (f"{POOLS}.2.replicaCount", 1.5, f"{POOLS}[2].replicaCount must be an integer, got"),
        (f"{POOLS}.2.replicaCount", True, f"{POOLS}[2].replicaCount must be an integer, got"),
        (f"{POOLS}.2.replicaCount", "9" * 19, f"{POOLS}[2].replicaCount must be an integer, got"),
        (f"{POOLS}.2.replicaCount", 1000, f"{POOLS} ask for more than 250 replicas."),
        (f"{POOLS}.2.machineSpec", ..., f"{POOLS}[2].machineSpec.machineType is required."),
        (
            f"{POOLS}.2.machineSpec.acceleratorType",
            "A100",
            f"{POOLS}[2].machineSpec.acceleratorType must be one of ACCELERATOR_TYPE_UNSPECIFIED",
        ),
        (f"{POOLS}.2.containerSpec", ..., f"{POOLS}[2] must have either containerSpec or python"),
        (f"{POOLS}.2.pythonPackageSpec", {}, f"{POOLS}[2] must have either containerSpec or pyt"),
        (f"{POOLS}.2.containerSpec.imageUri", "", f"{POOLS}[2].containerSpec.imageUri is required"),
        (f"{POOLS}.2.containerSpec.args.0", 1, f"{POOLS}[2].containerSpec.args[0] must be a strin"),
        (
            f"{POOLS}.2.containerSpec.args.0",
            "a\0b",
            f"{POOLS}[2].containerSpec.args must not hold NUL characters.",
        ),
        (
            f"{POOLS}.2.containerSpec.env.0.name",
            "1A",
            f"{POOLS}[2].containerSpec.env[0].name must be a C identifier, got '1A'.",
        ),
        (
            f"{POOLS}.2.containerSpec.env",
            [{"name": "A", "value": "1"}] * 101,
            f"{POOLS}[2].containerSpec.env has 101 variables; at most 100 are allowed.",
        ),
        ("jobSpec.scheduling.timeout", "1h", "jobSpec.scheduling.timeout must be a duration"),
        ("jobSpec.scheduling.strategy", 99, "jobSpec.scheduling.strategy must be one of"),
        (
            "jobSpec.scheduling.spot",
            True,
            'Invalid JSON payload received. Unknown name "spot" at \'custom_job.job_spec.schedul',
        ),
        (
            "jobspec",
            {},
            "Invalid JSON payload received. Unknown name \"jobspec\" at 'custom_job': Cannot find",
        ),
        ("jobSpec.scheduling.timeout", "-1s", "jobSpec.scheduling.timeout must not be negative."),
        (
            "jobSpec.scheduling.maxWaitDuration",
            "60s",
            "jobSpec.scheduling.maxWaitDuration needs the strategy FLEX_START.",
        ),
        ("labels", {f"k{n}": "" for n in range(65)}, "labels: 65 are given; at most 64 are."),
        ("labels", {"Team": "red"}, "labels['Team']: 'Team' must have at most 64 lowercase"),
        ("labels", {"team": "Red"}, "labels['team']: 'Red' must have at most 64 lowercase"),
        ("labels", {"1team": "red"}, "labels['1team']: '1team' must have at most 64 lowercase"),
        ("labels", {"team": "x" * 65}, "labels['team']: 'xxxx"),
        (
            f"{POOLS}.2.machineSpec.acceleratorCount",
            4,
            f"{POOLS}[2].machineSpec: a2-highgpu-2g has 2 NVIDIA_TESLA_A100, not 4 NVIDIA_TESLA_A1",
        ),
        (
            f"{POOLS}.2.machineSpec.machineType",
            "n1-standard-4",
            f"{POOLS}[2].machineSpec.machineType: 'n1-standard-4' cannot be a Spot VM; A2 and A3",
        ),
        (
            f"{POOLS}.2.diskSpec",
            {"bootDiskType": "floppy"},
            f"{POOLS}[2].diskSpec.bootDiskType must be one of pd-ssd, pd-standard, hyperdisk-bal",
        ),
        (
            f"{POOLS}.2.diskSpec",
            {"bootDiskSizeGb": 99},
            f"{POOLS}[2].diskSpec.bootDiskSizeGb must be from 100 to 64000.",
        ),
    ],
)
def test_what_is_wrong_is_refused_by_the_name_of_the_field(
    path: str, value: Any, says: str
) -> None:
    with pytest.raises(ApiError) as refused:
        customjobs.parse(changed(path, value))
    assert refused.value.message.startswith(says)
    assert (refused.value.code, refused.value.status) == (400, "INVALID_ARGUMENT")


PACKAGE: dict[str, Any] = {
    "executorImageUri": "a-prebuilt-image",
    "packageUris": ["gs://bucket/trainer-0.1.tar.gz", "/a/file.whl", "file:///another/file.whl"],
    "pythonModule": "trainer.task",
    "args": ["--epochs=1"],
    "env": [{"name": "A", "value": "1"}],
}


def with_package(**changes: Any) -> dict[str, Any]:
    job = changed(f"{POOLS}.2.containerSpec", ...)
    package = {name: value for name, value in {**PACKAGE, **changes}.items() if value is not ...}
    job["jobSpec"]["workerPoolSpecs"][2]["pythonPackageSpec"] = package
    return job


def test_a_pool_with_a_python_package() -> None:
    (_, pool) = customjobs.pools(customjobs.parse(with_package()))
    assert pool.package == Package(tuple(PACKAGE["packageUris"]), "trainer.task")
    assert (pool.command, pool.args, pool.env) == ((), ("--epochs=1",), (("A", "1"),))


@pytest.mark.parametrize(
    "field, value, says",
    [
        ("executorImageUri", ..., "executorImageUri is required."),
        ("pythonModule", ..., "pythonModule is required."),
        ("pythonModule", "-c", "pythonModule must be a module's name."),
        ("packageUris", ..., "packageUris must hold 1 to 100 packages, got 0."),
        ("packageUris", ["/p"] * 101, "packageUris must hold 1 to 100 packages, got 101."),
        ("packageUris", ["p.whl"], "packageUris[0] must be gs://BUCKET/FILE, or file:///FILE"),
        ("packageUris", ["https://a/p.whl"], "packageUris[0] must be gs://BUCKET/FILE, or file"),
        ("args", ["a\0b"], "args must not hold NUL characters."),
        ("env", [{"name": "1A"}], "env[0].name must be a C identifier, got '1A'."),
    ],
)
def test_a_wrong_python_package(field: str, value: Any, says: str) -> None:
    with pytest.raises(ApiError) as refused:
        customjobs.parse(with_package(**{field: value}))
    assert refused.value.message.startswith(f"{POOLS}[2].pythonPackageSpec.{says}")


def test_how_a_job_is_scheduled() -> None:
    spot = customjobs.scheduling(customjobs.parse(BY_NAME))
    assert (spot.spot, spot.flex_start, spot.timeout) == (True, False, timedelta(hours=1))
    plain = changed("jobSpec.scheduling", ...)
    default = customjobs.scheduling(customjobs.parse(plain))
    assert default == Scheduling(False, False, timedelta(days=7), None, False, False)
    for wish, waits in (({}, timedelta(days=1)), ({"maxWaitDuration": "0s"}, None)):
        flex = changed("jobSpec.scheduling", {"strategy": "FLEX_START", **wish})
        assert customjobs.scheduling(customjobs.parse(flex)).max_wait == waits


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inside: (
        st.lists(inside)
        | st.dictionaries(
            st.sampled_from(["displayName", "jobSpec", "workerPoolSpecs", "replicaCount", "env"])
            | st.text(),
            inside,
        )
    ),
)


@given(JSON)
def test_any_json_is_taken_or_refused_but_never_an_accident(value: Any) -> None:
    with pytest.raises(ApiError):
        customjobs.parse(value)


def test_every_message_and_enum_is_that_of_googles_own_client() -> None:
    types = pytest.importorskip("google.cloud.aiplatform_v1").types

    def compare(field: Field, theirs: Any, at: str) -> None:
        if isinstance(field, Repeated):
            assert theirs.repeated, at
            field = field.item
        if isinstance(field, Enumeration):
            assert field.numbers == {member.name: int(member) for member in theirs.enum}, at
        elif isinstance(field, Integer):
            assert theirs.proto_type == {32: 5, 64: 3}[field.bits], at
        elif isinstance(field, Message):
            compare_message(field, theirs.message, at)

    def compare_message(message: Message, theirs: Any, at: str) -> None:
        mine = {**message.fields, **message.output}
        names = {camel_case(name): field for name, field in theirs.meta.fields.items()}
        assert mine.keys() == names.keys(), at
        for name, field in mine.items():
            compare(field, names[name], f"{at}.{name}")

    def camel_case(name: str) -> str:
        first, *rest = name.split("_")
        return first + "".join(part.capitalize() for part in rest)

    compare_message(customjobs.CUSTOM_JOB, types.CustomJob, "CustomJob")


def test_what_googles_client_sends_comes_back_unharmed() -> None:
    types = pytest.importorskip("google.cloud.aiplatform_v1").types
    sent = types.CustomJob.from_json(json.dumps(BY_NAME))
    wire = json.loads(types.CustomJob.to_json(sent, always_print_fields_with_no_presence=False))
    for as_integers in (True, False):
        answer = customjobs.encode(customjobs.parse(wire), as_integers)
        assert types.CustomJob.from_json(json.dumps(answer)) == sent


def test_terminal_states() -> None:
    assert {state.name for state in JobState if state.terminal} == {
        "SUCCEEDED",
        "FAILED",
        "CANCELLED",
        "EXPIRED",
        "PARTIALLY_SUCCEEDED",
    }
