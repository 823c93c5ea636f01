"""What the user reads when an API refuses: each message names the fix."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Any

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from launcher.api.apierror import ApiError, Service, read_answer, refusal
from launcher.api.transport import translated

VERTEX = Service(
    "Vertex AI",
    "aiplatform.googleapis.com",
    "roles/aiplatform.user",
    "my-project",
    "https://us-central1-aiplatform.googleapis.com",
    "us-central1",
)
INFO = "type.googleapis.com/google.rpc.ErrorInfo"
NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)


def error(code: int, message: str, reason: str = "", asked: str = "", **info: str) -> ApiError:
    details = [{"@type": INFO, "reason": reason, "metadata": info}] if reason else []
    body = {"error": {"code": code, "message": message, "status": "X", "details": details}}
    return refusal(read_answer(code, json.dumps(body), {}), VERTEX, asked)


@pytest.mark.parametrize(
    ("found", "kind", "fix"),
    [
        (error(401, "Invalid token."), "credentials", "gcloud auth application-default login"),
        (
            error(403, "Vertex AI API has not been used.", "SERVICE_DISABLED"),
            "disabled",
            "gcloud services enable aiplatform.googleapis.com --project my-project",
        ),
        (
            error(403, "Has not been used in project 1 before or it is disabled. Enable it."),
            "disabled",
            "gcloud services enable aiplatform.googleapis.com --project my-project",
        ),
        (
            error(403, "Off.", "SERVICE_DISABLED", consumer="projects/764086051850"),
            "disabled",
            "gcloud auth application-default set-quota-project my-project",
        ),
        (
            error(403, "This API needs billing.", "BILLING_DISABLED"),
            "disabled",
            "gcloud billing projects link my-project",
        ),
        (
            error(403, "Permission 'aiplatform.customJobs.create' denied.", "IAM_PERMISSION"),
            "permission",
            "gcloud projects add-iam-policy-binding my-project --member=user:YOU "
            "--role=roles/aiplatform.user",
        ),
        (
            error(403, "Project 'my-project' not found or deleted.", "CONSUMER_INVALID"),
            "permission",
            "gcloud projects list",
        ),
        (
            error(403, "Insufficient scopes.", "ACCESS_TOKEN_SCOPE_INSUFFICIENT"),
            "credentials",
            "--scopes=https://www.googleapis.com/auth/cloud-platform",
        ),
        (
            error(400, "You may not act as service_account: t@p.iam.gserviceaccount.com."),
            "permission",
            "gcloud iam service-accounts add-iam-policy-binding t@p.iam.gserviceaccount.com",
        ),
        (
            error(429, "The quota aiplatform.googleapis.com/"
                  "custom_model_training_preemptible_nvidia_a100_gpus is exceeded."),
            "quota",
            "custom_model_training_preemptible_nvidia_a100_gpus in us-central1 at "
            "https://console.cloud.google.com/iam-admin/quotas?project=my-project",
        ),
        (
            error(404, "Gone.", asked="projects/1/locations/us-central1/customJobs/5"),
            "not_found",
            "gcloud ai custom-jobs list --project=my-project --region=us-central1",
        ),
        (error(404, "No such parent."), "not_found", "gcloud projects list"),
        (error(400, "unsupported region for Vertex AI."), "region", "regions in the job file"),
    ],
)  # fmt: skip
def test_each_refusal_names_its_fix(found: ApiError, kind: str, fix: str) -> None:
    assert found.kind == kind
    assert fix in str(found)
    assert str(found).startswith("Vertex AI in us-central1: ")
    assert not found.transient


@pytest.mark.parametrize("code", [408, 429, 500, 502, 503, 504])
def test_what_may_pass_is_transient(code: int) -> None:
    assert error(code, "Later.").transient


def test_too_many_requests_a_minute_is_not_too_many_gpus() -> None:
    assert error(429, "Quota 'requests per minute' is exceeded.", "RATE_LIMIT_EXCEEDED").transient


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        (" 7\x1d", 7.0),
        ("Thu, 01 Jan 2026 12:01:00 GMT", 60.0),
        ("Thu, 01 Jan 2026 11:00:00 GMT", 0.0),
        ("soon", None),
        ("-1", None),
        ("9" * 400, None),
    ],
)
def test_retry_after(header: str, seconds: float | None) -> None:
    assert read_answer(503, "{}", {"Retry-After": header}, NOON).retry_after == seconds


def test_a_page_of_a_proxy_becomes_its_words() -> None:
    page = "<html><style>p {}</style><title>Not found</title>\n<p>No <b>such</b>\x1b[31m host"
    assert read_answer(404, page, {}).message == "Not found No such [31m host"


@given(
    st.integers(400, 599),
    st.one_of(
        st.text(),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(),
            lambda inner: (
                st.lists(inner)
                | st.dictionaries(
                    st.sampled_from(["error", "message", "details", "status", "@type"]), inner
                )
            ),
            max_leaves=6,
        ).map(json.dumps),
    ),
    st.dictionaries(st.just("Retry-After"), st.text()),
)
def test_any_answer_becomes_one_line(code: int, body: str, headers: dict[str, str]) -> None:
    said = str(refusal(read_answer(code, body, headers, NOON), VERTEX))
    assert len(said.splitlines()) == 1 and said.isprintable()
    assert len(said) < 1000


@pytest.mark.parametrize(
    ("raised", "transient", "said"),
    [
        (requests.exceptions.SSLError("self-signed"), False, "REQUESTS_CA_BUNDLE"),
        (requests.exceptions.ProxyError("no tunnel"), True, "HTTPS_PROXY"),
        (requests.exceptions.ReadTimeout("x"), True, "does not answer in time"),
        (requests.exceptions.ConnectionError("reset by peer"), True, "reset by peer"),
        (
            requests.exceptions.ConnectionError("NameResolutionError(…)"),
            True,
            "us-central1-aiplatform.googleapis.com cannot be found; check the network",
        ),
        (ImportError("No module named 'google'"), False, "pip install 'swell[vertex]'"),
        (AttributeError("'int' object has no attribute 'get'"), False, "not understood"),
    ],
)
def test_why_there_was_no_answer(raised: Exception, transient: bool, said: str) -> None:
    found = translated(raised, VERTEX)
    assert said in str(found)
    assert found.transient is transient


def test_a_region_that_does_not_exist_is_recognised_by_its_host() -> None:
    wrong: dict[str, Any] = {**vars(VERTEX), "region": "us-centrall1"}
    lost = requests.exceptions.ConnectionError("[Errno -2] Name or service not known")
    assert "did you mean us-central1?" in str(translated(lost, Service(**wrong)))
