"""The checks for Vertex AI, with Google's clients against a server that answers as Google does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from launcher.cli import app
from launcher.doctor.checkup import Finding, examine
from launcher.doctor.cloud import Cloud
from launcher.doctor.controllerchecks import controller_checks
from launcher.doctor.vertexchecks import credentials, vertex_checks
from launcher.job.job import Job
from tests.launcher.doctor.google import ACCOUNT, METRIC, Google, error
from tests.storage import StorageServer, storage_server

pytest.importorskip("google.cloud.aiplatform_v1")

IMAGE = "us-docker.pkg.dev/images/repo/trainer:1"
FIELDS: dict[str, Any] = {
    "name": "llama",
    "task": "m:C",
    "project": "p",
    "regions": ["us-central1"],
    "output": "gs://bucket/runs",
    "container": {"image": IMAGE},
    "pools": [{"machine": "a2-highgpu-8g"}, {"machine": "a2-highgpu-8g"}],
}


@pytest.fixture
def google() -> Iterator[Google]:
    with Google() as google:
        yield google


def findings(google: Google, limit: float = 60.0, **fields: Any) -> dict[str, Finding]:
    job = Job.model_validate({**FIELDS, **fields})
    cloud = Cloud("p", google.endpoints, emulated=True)
    return dict(examine(list(vertex_checks(job, cloud, google.url)), limit))


def found(google: Google, name: str, **fields: Any) -> Finding:
    return findings(google, **fields)[name]


def test_all_is_well(google: Google) -> None:
    account = "trainer@p.iam.gserviceaccount.com"
    all_of_them = findings(google, service_account=account)
    assert {name: finding.verdict for name, finding in all_of_them.items()} == dict.fromkeys(
        [
            "credentials",
            "Vertex AI in us-central1",
            "permissions",
            "bucket",
            "bucket is writable",
            "replicas may use the bucket",
            "service account",
            "image",
            "replicas may pull the image",
            "quota in us-central1",
        ],
        "pass",
    )
    assert all_of_them["quota in us-central1"].said == (
        f"{METRIC} is 16, the job needs 16 (others' use is not counted)"
    )
    made = [one for one in google.requests if "/.swell-doctor-" in one]
    assert [one.split()[0] for one in made] == ["DELETE"], "nothing is left in the bucket"
    assert "HEAD /v2/images/repo/trainer/manifests/1" in google.requests


def test_replicas_without_an_account_are_vertex_ais_own(google: Google) -> None:
    assert found(google, "replicas may pull the image").said == ACCOUNT
    tuples = [body["accessTuple"] for body in google.asked if "accessTuple" in body]
    assert {
        "principal": ACCOUNT,
        "fullResourceName": "//artifactregistry.googleapis.com/"
        "projects/images/locations/us/repositories/repo",
        "permission": "artifactregistry.repositories.downloadArtifacts",
    } in tuples


DISABLED = error(403, "Vertex AI API has not been used", reason="SERVICE_DISABLED", metadata={})
JOBS = "GET /v1/projects/p/locations/us-central1/customJobs"
TROUBLESHOOT = "POST /v1/iam:troubleshoot"
PULL, QUOTA = "replicas may pull the image", "quota in us-central1"
BUCKET = "GET /storage/v1/b/bucket"


@pytest.mark.parametrize(
    ("request_", "answer", "check", "said"),
    [
        (JOBS, DISABLED, "Vertex AI in us-central1", "run: gcloud services enable aiplatform"),
        (
            "POST /v1/projects/p:testIamPermissions",
            (200, {"permissions": ["aiplatform.customJobs.get", "aiplatform.customJobs.list"]}),
            "permissions",
            "not allowed: aiplatform.customJobs.cancel, aiplatform.customJobs.create",
        ),
        (
            BUCKET,
            error(404, "no"),
            "bucket",
            "run: gcloud storage buckets create gs://bucket --location=us-central1",
        ),
        (
            BUCKET,
            (200, {"location": "US", "locationType": "multi-region"}),
            "bucket",
            "gs://bucket is a multi-region (US); training needs a regional one",
        ),
        (
            BUCKET,
            (200, {"location": "EUROPE-WEST4", "locationType": "region"}),
            "bucket",
            "write regions: [europe-west4], or make a bucket",
        ),
        (
            "POST /upload/storage/v1/b/bucket/o",
            error(403, "denied"),
            "bucket is writable",
            "403 denied",
        ),
        (
            "DELETE /storage/v1/b/bucket/o",
            error(403, "denied"),
            "bucket is writable",
            "by hand",
        ),
        (
            "POST /v1/projects/-/serviceAccounts/",
            (200, {}),
            "service account",
            "--role=roles/iam.serviceAccountUser",
        ),
        (
            "POST /v1/projects/-/serviceAccounts/",
            error(404, "no"),
            "service account",
            "run: gcloud iam service-accounts create trainer --project p",
        ),
        (
            "POST /v1/iam:troubleshoot",
            (200, {"access": "NOT_GRANTED"}),
            "replicas may pull the image",
            "may not read repo",
        ),
        (
            "POST /v1/iam:troubleshoot",
            (200, {"access": "NOT_GRANTED"}),
            "replicas may use the bucket",
            "--role=roles/storage.objectAdmin",
        ),
        ("HEAD /v2/", error(404, "no"), "image", f"there is no {IMAGE}"),
        (
            "GET /v1beta1/projects/p/services/aiplatform.googleapis.com/consumerQuotaMetrics/",
            (200, {"consumerQuotaLimits": [{"quotaBuckets": [{"effectiveLimit": "8"}]}]}),
            "quota in us-central1",
            f"{METRIC} is 8, the job needs 16",
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_fix(
    google: Google, request_: str, answer: tuple[int, Any], check: str, said: str
) -> None:
    google.wrong[request_] = answer
    finding = found(google, check, service_account="trainer@p.iam.gserviceaccount.com")
    assert finding.verdict == "fail"
    assert said in f"{finding.said}; {finding.fix}"
    assert finding.fix or "; " in finding.said


@pytest.mark.parametrize(
    ("request_", "answer", "check"),
    [
        (TROUBLESHOOT, (200, {"access": "UNKNOWN_INFO_DENIED"}), PULL),
        (TROUBLESHOOT, (200, {"access": ["GRANTED"]}), PULL),
        ("GET /v1beta1/", (200, {}), QUOTA),
        ("GET /v1beta1/", (200, {"consumerQuotaLimits": [{"quotaBuckets": [{}]}]}), QUOTA),
        ("GET /v1beta1/", (200, {"consumerQuotaLimits": 7}), QUOTA),
        ("GET /v1beta1/", error(404, "no such metric"), QUOTA),
        ("GET /v1beta1/", error(503, "later"), QUOTA),
        ("GET /storage/", error(500, "broken"), "bucket"),
        ("GET /storage/", error(403, "you may not look"), "bucket"),
        ("HEAD /v2/", error(403, "you may not look"), "image"),
        (TROUBLESHOOT, error(403, "it is disabled", reason="SERVICE_DISABLED"), PULL),
    ],
)
def test_what_cannot_be_known_is_neither_well_nor_wrong(
    google: Google, request_: str, answer: tuple[int, Any], check: str
) -> None:
    google.wrong[request_] = answer
    assert found(google, check).verdict == "unknown"


def test_without_credentials_one_line_says_so(
    google: Google, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))

    def no_session(endpoint: str) -> Any:
        import google.auth

        google.auth.default()

    cloud = Cloud("p", google.endpoints, open_session=no_session)
    job = Job.model_validate(FIELDS)
    found = dict(examine(list(vertex_checks(job, cloud, google.url))))
    assert found["bucket"].said == "there are no credentials that work"
    assert found["bucket"].verdict == "unknown"
    login = credentials("https://us-central1-aiplatform.googleapis.com")
    assert login.verdict == "fail" and login.fix.startswith("run: gcloud auth")


def test_images_elsewhere_are_not_asked_for(google: Google) -> None:
    all_of_them = findings(google, container={"image": "user/image:1"})
    assert all_of_them["image"].said == "user/image:1 is at docker.io, which is not asked"
    assert all_of_them["replicas may pull the image"].verdict == "unknown"
    assert not [one for one in google.requests if one.startswith("HEAD")]


def test_an_api_that_hangs_holds_up_no_other(google: Google) -> None:
    google.hangs = True
    all_of_them = findings(google, limit=1.0)
    assert {finding.verdict for finding in all_of_them.values()} == {"pass", "unknown"}
    assert all_of_them["bucket"].said == "no answer within 1 s"


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[StorageServer]:
    with storage_server(tmp_path / "buckets") as storage:
        yield storage


def test_the_command_against_the_emulators_apis(
    google: Google, storage: StorageServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWELL_VERTEX_ENDPOINT", google.url)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", storage.endpoint)
    job = tmp_path / "job.yaml"
    job.write_text(json.dumps(FIELDS))
    ask = ["doctor", str(job), "--target", "vertex"]
    answer = CliRunner().invoke(app, [*ask, "--json"])
    verdicts = {one["check"]: one["verdict"] for one in json.loads(answer.stdout)}
    assert verdicts["bucket"] == "fail" and answer.exit_code == 1, "there is no bucket yet"
    storage.objects.create_bucket("bucket", "US-CENTRAL1")
    answer = CliRunner().invoke(app, ask)
    assert answer.exit_code == 0, answer.stdout
    assert "gs://bucket is in us-central1" in answer.stdout
    assert "an object was made and removed" in answer.stdout
    assert "could not check: Service Usage: an emulator does not have it" in answer.stdout
    assert storage.objects.list("bucket").objects == []


CONTROLLED: dict[str, Any] = {
    "controller": {"image": "us-docker.pkg.dev/images/repo/controller:1"},
    "service_account": "trainer@p.iam.gserviceaccount.com",
    "token_secret": "projects/p/secrets/swell",
}


def of_controller(google: Google, **fields: Any) -> dict[str, Finding]:
    job = Job.model_validate({**FIELDS, **fields})
    cloud = Cloud("p", google.endpoints, emulated=True)
    return dict(examine(list(controller_checks(job, cloud)), 60.0))


def test_a_controller_is_asked_about_as_its_own_account(google: Google) -> None:
    assert of_controller(google) == {}, "the job has none"
    found = of_controller(google, **CONTROLLED)
    assert {name: finding.verdict for name, finding in found.items()} == dict.fromkeys(
        [
            "controller's image",
            "controller's image may be pulled",
            "controller may submit jobs",
            "controller may use the service account",
            "controller may use the secret",
        ],
        "pass",
    )
    asked = [body["accessTuple"] for body in google.asked if "accessTuple" in body]
    assert {one["principal"] for one in asked} == {CONTROLLED["service_account"]}
    project = "//cloudresourcemanager.googleapis.com/projects/p"
    verbs = {one["permission"] for one in asked if one["fullResourceName"] == project}
    assert verbs == {
        f"aiplatform.customJobs.{verb}" for verb in ("create", "get", "list", "cancel")
    }


def test_what_a_controller_may_not_do_is_said_with_the_command(google: Google) -> None:
    google.wrong[TROUBLESHOOT] = (200, {"access": "NOT_GRANTED"})
    found = of_controller(google, **CONTROLLED)
    account = f"serviceAccount:{CONTROLLED['service_account']}"
    run = {name: finding.fix for name, finding in found.items() if finding.verdict == "fail"}
    ids = {name: finding.id for name, finding in found.items()}
    submits, acts = "controller may submit jobs", "controller may use the service account"
    assert f"--member={account} --role=roles/aiplatform.user" in str(run[submits])
    assert f"--member={account} --role=roles/iam.serviceAccountUser" in str(run[acts])
    assert (ids[submits], ids[acts]) == ("SW2038", "SW2039")
    secret = str(run["controller may use the secret"])
    assert "role=roles/secretmanager.secretVersionManager" in secret
    assert "role=roles/secretmanager.secretAccessor" in secret
