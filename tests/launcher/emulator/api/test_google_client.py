"""Google's own clients, unmodified, against the emulator."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from tests.launcher.emulator.running import Emulator, pool, wait_for

aiplatform = pytest.importorskip("google.cloud.aiplatform_v1")
exceptions = pytest.importorskip("google.api_core.exceptions")
credentials = pytest.importorskip("google.oauth2.credentials")

PROJECT = "projects/local/locations/us-central1"
JobState = aiplatform.JobState


@pytest.fixture
def client(emulator: Emulator) -> Any:
    return aiplatform.JobServiceClient(
        credentials=credentials.Credentials(emulator.token),
        transport="rest",
        client_options={"api_endpoint": emulator.endpoint},
    )


def job(script: str, name: str = "a job", replicas: int = 2) -> Any:
    def machines(script: str, count: int) -> Any:
        return aiplatform.WorkerPoolSpec(
            machine_spec=aiplatform.MachineSpec(
                machine_type="a2-highgpu-1g",
                accelerator_type=aiplatform.AcceleratorType.NVIDIA_TESLA_A100,
                accelerator_count=1,
            ),
            replica_count=count,
            container_spec=aiplatform.ContainerSpec(
                image_uri="an-image", command=["sh", "-c"], args=[script]
            ),
        )

    return aiplatform.CustomJob(
        display_name=name,
        labels={"team": "red"},
        job_spec=aiplatform.CustomJobSpec(
            worker_pool_specs=[
                machines(script, 1),
                aiplatform.WorkerPoolSpec(),
                machines("exec sleep 1000", replicas),
            ],
            scheduling=aiplatform.Scheduling(strategy=aiplatform.Scheduling.Strategy.SPOT),
        ),
    )


def test_submit_wait_list_and_delete(emulator: Emulator, client: Any) -> None:
    created = client.create_custom_job(parent=PROJECT, custom_job=job("echo hello"))
    assert created.state in (JobState.JOB_STATE_QUEUED, JobState.JOB_STATE_PENDING)
    ended = wait_for(
        lambda: client.get_custom_job(name=created.name),
        lambda seen: seen.state == JobState.JOB_STATE_SUCCEEDED,
    )
    assert ended.job_spec == created.job_spec == job("echo hello").job_spec
    assert created.create_time <= ended.start_time <= ended.end_time
    other = client.create_custom_job(parent=PROJECT, custom_job=job("exit 1", "another"))
    failed = wait_for(
        lambda: client.get_custom_job(name=other.name),
        lambda seen: seen.state == JobState.JOB_STATE_FAILED,
    )
    assert failed.error.code == 3 and "status 1" in failed.error.message

    pages = client.list_custom_jobs(request={"parent": PROJECT, "page_size": 1})
    assert [seen.name for seen in pages] == [other.name, created.name]
    wanted = {"parent": PROJECT, "filter": 'state="JOB_STATE_SUCCEEDED" AND labels.team="red"'}
    assert [seen.name for seen in client.list_custom_jobs(request=wanted)] == [created.name]

    client.delete_custom_job(name=created.name).result(timeout=600)
    with pytest.raises(exceptions.NotFound):
        client.get_custom_job(name=created.name)


def test_anonymous_credentials_need_an_emulator_that_is_open(
    start: Callable[..., Emulator],
) -> None:
    anonymous = pytest.importorskip("google.auth.credentials").AnonymousCredentials()

    def listed(emulator: Emulator) -> list[Any]:
        client = aiplatform.JobServiceClient(
            credentials=anonymous,
            transport="rest",
            client_options={"api_endpoint": emulator.endpoint},
        )
        return list(client.list_custom_jobs(parent=PROJECT))

    closed = start()
    with pytest.raises(Exception, match="Anonymous credentials cannot be refreshed"):
        listed(closed)
    closed.stop()
    assert listed(start("--open")) == []


def test_cancel(emulator: Emulator, client: Any) -> None:
    created = client.create_custom_job(parent=PROJECT, custom_job=job("exec sleep 1000"))
    client.cancel_custom_job(name=created.name)
    wait_for(
        lambda: client.get_custom_job(name=created.name),
        lambda seen: seen.state == JobState.JOB_STATE_CANCELLED,
    )
    with pytest.raises(exceptions.BadRequest, match="final state JOB_STATE_CANCELLED"):
        client.cancel_custom_job(name=created.name)


def test_a_wrong_job_is_refused_with_the_services_words(emulator: Emulator, client: Any) -> None:
    with pytest.raises(exceptions.BadRequest, match=r"\[2\].replicaCount must be at least 1"):
        client.create_custom_job(parent=PROJECT, custom_job=job("true", replicas=0))


def test_the_client_of_a_program_on_a_vm_finds_its_credentials(emulator: Emulator) -> None:
    program = (
        "import google.auth, google.auth.transport.requests as transport\n"
        "credentials, project = google.auth.default()\n"
        "credentials.refresh(transport.Request())\n"
        "print(project, bool(credentials.token))\n"
    )
    spec = pool("", command=["python", "-c", program], args=[])
    # So that no credentials of whoever runs the tests are found before those of the VM.
    spec["containerSpec"]["env"] = [
        {"name": "CLOUDSDK_CONFIG", "value": os.devnull},
        {"name": "HOME", "value": os.devnull},
    ]
    created = emulator.create(spec)
    emulator.until(created, "SUCCEEDED", "FAILED")
    assert emulator.output(created, "workerpool0-0")[-1] == "local True"
