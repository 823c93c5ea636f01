"""Whatever a job says, the request says it, and Google's types take it without loss."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings

from launcher.job import customjob
from launcher.job.job import Job
from launcher.job.machines import MACHINES
from tests.launcher.job.job_fields import RUNTIMES, Fields, jobs


def request_of(job: Job) -> customjob.CustomJob:
    return customjob.build(
        job, run_id="run-1", run_dir="gs://bucket-b/run-1", token="hidden", attempt=1
    )


def through_googles_types(request: customjob.CustomJob) -> Any:
    from google.cloud.aiplatform_v1.types import CustomJob

    message = CustomJob.from_json(customjob.serialise(request))
    return json.loads(
        CustomJob.to_json(
            message, use_integers_for_enums=False, always_print_fields_with_no_presence=False
        )
    )


def without_defaults(value: Any) -> Any:
    """What protobuf's JSON keeps: not what is false, empty or nought."""
    if isinstance(value, list):
        return [without_defaults(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    inner = {name: without_defaults(entry) for name, entry in value.items()}
    return {name: entry for name, entry in inner.items() if entry not in (False, "", [])}


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("machine", MACHINES)
def test_every_machine_and_runtime_goes_through_googles_types(machine: str, runtime: str) -> None:
    @settings(max_examples=3)
    @given(jobs(machine=machine, runtime=runtime))
    def goes_through(fields: Fields) -> None:
        request = request_of(Job.model_validate(fields))
        assert through_googles_types(request) == without_defaults(request)
        pool = request["jobSpec"]["workerPoolSpecs"][0]
        assert pool["machineSpec"]["machineType"] == machine

    goes_through()


@given(jobs())
def test_every_job_goes_through_googles_types(fields: Fields) -> None:
    request = request_of(Job.model_validate(fields))
    assert through_googles_types(request) == without_defaults(request)


@given(jobs())
def test_a_job_survives_being_written_down(fields: Fields) -> None:
    job = Job.model_validate(fields)
    again = Job.model_validate(json.loads(json.dumps(job.to_dict())))
    assert again == job
    assert request_of(again) == request_of(job)


@given(jobs())
def test_short_forms_mean_their_long_ones(fields: Fields) -> None:
    assert Job.model_validate(Job.written_out(fields)) == Job.model_validate(fields)


@given(jobs())
def test_the_slots_are_those_of_the_requests_machines(fields: Fields) -> None:
    job = Job.model_validate(fields)
    slots = 0
    for pool in request_of(job)["jobSpec"]["workerPoolSpecs"]:
        env = (pool.get("containerSpec") or pool["pythonPackageSpec"])["env"]
        told = {variable["name"]: variable["value"] for variable in env}
        gpus = pool["machineSpec"]["acceleratorCount"]
        slots += int(pool["replicaCount"]) * int(told.get("SWELL_SLOTS", gpus))
    assert job.settings()["max_workers"] == job.slots == slots
    assert len(job.replicas()) == sum(pool.replicas for pool in job.pools)


@given(jobs())
def test_only_the_token_is_redacted(fields: Fields) -> None:
    request = request_of(Job.model_validate(fields))
    shown = customjob.serialise(customjob.redacted(request))
    assert "hidden" not in shown
    assert shown.replace(f'"{customjob.REDACTED}"', '"hidden"') == customjob.serialise(request)
