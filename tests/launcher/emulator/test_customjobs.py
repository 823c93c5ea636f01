"""CustomJob JSON: what is taken, in which forms, and what is refused with which words."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.emulator import customjobs
from launcher.emulator.customjobs import JobState, Pool
from launcher.emulator.errors import ApiError
from launcher.emulator.wire import Enumeration, Field, Integer, Message, Repeated

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
        Pool(0, 1, 2, ("python",), ("-V",), env),
        Pool(2, 3, 2, ("python",), ("-V",), env),
    ]
    assert customjobs.pools(job)[1].replica_names() == [f"workerpool2-{n}" for n in range(3)]
    assert customjobs.output_directory(job) == "gs://bucket/run"


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
        ("jobSpec.scheduling.spot", True, 'Unknown name "spot" at jobSpec.scheduling.'),
        ("jobspec", {}, 'Unknown name "jobspec" at the CustomJob.'),
    ],
)
def test_what_is_wrong_is_refused_by_the_name_of_the_field(
    path: str, value: Any, says: str
) -> None:
    with pytest.raises(ApiError) as refused:
        customjobs.parse(changed(path, value))
    assert refused.value.message.startswith(says)
    assert (refused.value.code, refused.value.status) == (400, "INVALID_ARGUMENT")


def test_a_python_package_is_refused_as_not_emulated_yet() -> None:
    job = changed(f"{POOLS}.2.containerSpec", ...)
    job["jobSpec"]["workerPoolSpecs"][2]["pythonPackageSpec"] = {"pythonModule": "trainer.task"}
    with pytest.raises(ApiError, match="pythonPackageSpec is not emulated yet"):
        customjobs.parse(job)


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
