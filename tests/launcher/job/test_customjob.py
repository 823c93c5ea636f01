from __future__ import annotations

import json

from launcher.job import customjob
from launcher.job.job import Job
from launcher.job.pool import Container, Pool

JOB = Job(
    name="digits",
    task="tasks:Digits",
    container=Container(image="europe-docker.pkg.dev/p/r/swell:1"),
    env={"A": "1", "B": "job"},
    pools=[
        Pool(machine="a2-highgpu-1g"),
        Pool(machine="a3-highgpu-8g", replicas=3, slots=4, env={"B": "pool"}),
    ],
)


def build(job: Job = JOB) -> customjob.CustomJob:
    return customjob.build(
        job, run_id="digits-1", run_dir="gs://bucket/digits-1", token="hidden", attempt=2
    )


def test_replicas_are_told_of_checkpoints_in_several_places() -> None:
    urls = ["gs://east/digits-1", "gs://bucket/digits-1"]
    request = customjob.build(
        JOB, run_id="d", run_dir="gs://bucket/d", token="t", attempt=2, checkpoints=urls
    )
    (pool, _) = request["jobSpec"]["workerPoolSpecs"]
    env = {one["name"]: one["value"] for one in pool["containerSpec"]["env"]}
    assert json.loads(env["SWELL_CHECKPOINTS"]) == urls


def test_a_request_is_what_the_rest_api_takes() -> None:
    env = [
        {"name": "SWELL_RUN_DIR", "value": "gs://bucket/digits-1"},
        {"name": "SWELL_RUN_ID", "value": "digits-1"},
        {"name": "SWELL_ATTEMPT", "value": "2"},
        {"name": "SWELL_TOKEN", "value": "hidden"},
    ]
    image = {"imageUri": "europe-docker.pkg.dev/p/r/swell:1"}
    a = {"name": "A", "value": "1"}
    assert build() == {
        "displayName": "digits-1",
        "labels": {"swell-run": "digits-1", "swell-attempt": "2"},
        "jobSpec": {
            "workerPoolSpecs": [
                {
                    "machineSpec": {
                        "machineType": "a2-highgpu-1g",
                        "acceleratorType": "NVIDIA_TESLA_A100",
                        "acceleratorCount": 1,
                    },
                    "replicaCount": "1",
                    "containerSpec": {**image, "env": [a, {"name": "B", "value": "job"}, *env]},
                },
                {
                    "machineSpec": {
                        "machineType": "a3-highgpu-8g",
                        "acceleratorType": "NVIDIA_H100_80GB",
                        "acceleratorCount": 8,
                    },
                    "replicaCount": "3",
                    "containerSpec": {
                        **image,
                        "env": [
                            a,
                            {"name": "B", "value": "pool"},
                            *env,
                            {"name": "SWELL_SLOTS", "value": "4"},
                        ],
                    },
                },
            ],
            "scheduling": {"strategy": "SPOT", "restartJobOnWorkerRestart": False},
            "baseOutputDirectory": {"outputUriPrefix": "gs://bucket/digits-1"},
        },
    }


def test_the_token_is_not_shown() -> None:
    request = build()
    shown = customjob.redacted(request)
    assert "hidden" not in json.dumps(shown)
    assert "hidden" in json.dumps(request), "what is sent stays as it is"


def test_googles_types_take_it() -> None:
    from google.cloud.aiplatform_v1.types import CustomJob
    from google.cloud.aiplatform_v1.types.custom_job import Scheduling

    message = CustomJob.from_json(json.dumps(build()))
    assert message.job_spec.scheduling.strategy == Scheduling.Strategy.SPOT
    assert [pool.replica_count for pool in message.job_spec.worker_pool_specs] == [1, 3]


def test_a_run_directory_is_not_expanded_by_vertex() -> None:
    request = customjob.build(JOB, run_id="x", run_dir="/tmp/$(HOME)", token="", attempt=1)
    env = request["jobSpec"]["workerPoolSpecs"][0]["containerSpec"]["env"]
    assert {"name": "SWELL_RUN_DIR", "value": "/tmp/$$(HOME)"} in env
