"""Why attempts end, in the words of Vertex AI, Compute Engine, and the emulator."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.supervision.attempt import UNREACHABLE, UNSENT, Attempt
from launcher.supervision.verdict import Verdict, verdict_of
from trainer.rundir.attempts import LOST, REFUSED


def failed(message: str, code: int = 0) -> Verdict:
    return verdict_of(Attempt(1, state="FAILED", reason=message, code=code))


@pytest.mark.parametrize(
    "message",
    [
        "Resources are insufficient in region: us-central1. Try a different region or use a "
        "different accelerator.",
        "Resources are insufficient in region: europe-west4",
        "STOCKOUT",
        "The job failed with stockout: no VM could be had.",
        "ZONE_RESOURCE_POOL_EXHAUSTED: The zone does not have enough resources",
        "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS",
        "The zone 'projects/p/zones/us-central1-a' does not have enough resources available to "
        "fulfill the request.",
        "The zone does not currently have sufficient capacity for the requested resources.",
        "A a3-highgpu-8g VM instance is currently unavailable in the us-east4-b zone. Try a "
        "different zone.",
        "There is not enough capacity in the region.",
        "The region is out of capacity.",
        "Insufficient GPU capacity in us-east5.",
        "Insufficient resources.",
        "We currently don't have enough resources for the request; try again later.",
        "GPUs of the type NVIDIA_H100_80GB are not available in this region",
        "Machines for this request could not be provisioned.",
    ],
)
def test_a_stockout_has_many_names(message: str) -> None:
    assert failed(message) == "stockout"


@pytest.mark.parametrize(
    ("message", "code", "verdict"),
    [
        ("Replica workerpool0-0 exited with status 1; its log says more.", 3, "user_error"),
        ("The replica workerpool0-0 exited with a non-zero status of 1. See", 3, "user_error"),
        ("The replica workerpool0-0 exited with a non-zero status of 134.", 3, "crash"),
        ("Replica workerpool1-0 was ended by signal 6; its log says more.", 3, "crash"),
        ("Replica workerpool1-0 was ended by signal 11; its log says more.", 3, "crash"),
        ("exit code: 139", 0, "crash"),
        ("The container was killed with SIGSEGV", 0, "crash"),
        ("The replica exited with a non-zero status of 143", 0, "preempted"),
        ("Replica workerpool0-0 ran out of memory and exited with status 137.", 3, "user_error"),
        ("The replica workerpool0-0 exited with a non-zero status of 137.", 3, "user_error"),
        ("The following quotas are exceeded: CustomModelTrainingPreemptibleH100", 8, "quota"),
        ("custom_model_training_preemptible_nvidia_h100_gpus exceeded", 8, "quota"),
        ("QUOTA_EXCEEDED", 0, "quota"),
        ("something is short", 8, "stockout"),
        ("The Spot VM was preempted.", 0, "preempted"),
        ("The emulator that ran this job was stopped, and its VMs with it.", 14, "preempted"),
        ("", 10, "preempted"),
        ("Internal error occurred for the current attempt.", 13, "internal"),
        ("Internal error occurred for the current attempt.", 0, "internal"),
        ("The job has run for longer than its timeout of 3600 s.", 4, "timeout"),
        ("The job timed out", 0, "timeout"),
        ("Permission denied on the bucket", 7, "rejected"),
        ("The image was not found", 5, "rejected"),
        ("The job was cancelled by its user.", 1, "cancelled"),
        ("The arguments are wrong", 3, "user_error"),
        ("", 0, "unknown"),
        ("A word that nobody has heard", 0, "unknown"),
    ],
)
def test_a_failure(message: str, code: int, verdict: Verdict) -> None:
    assert failed(message, code) == verdict


def test_a_program_that_speaks_of_capacity_is_no_stockout() -> None:
    assert failed("exited with status 1: not enough resources in the user's pool") == "user_error"


@pytest.mark.parametrize(
    ("state", "verdict"),
    [
        ("SUCCEEDED", "succeeded"),
        ("CANCELLED", "cancelled"),
        ("EXPIRED", "expired"),
        ("PARTIALLY_SUCCEEDED", "unknown"),
        (LOST, "gone"),
    ],
)
def test_the_state_says_enough(state: str, verdict: Verdict) -> None:
    assert verdict_of(Attempt(1, state=state)) == verdict


@pytest.mark.parametrize("state", ["CANCELLED", "FAILED", LOST])
def test_one_that_was_given_up_as_unreachable_is_that_however_it_ends(state: str) -> None:
    attempt = Attempt(
        1, state=state, kind=UNREACHABLE, left="no way", reason="exited with status 1"
    )
    assert verdict_of(attempt) == "unreachable"


@pytest.mark.parametrize(
    ("kind", "code", "reason", "verdict"),
    [
        (UNSENT, 0, "it was never sent", "unsent"),
        ("quota", 429, "Vertex AI: 429 custom_model_training_… exceeded", "quota"),
        ("silent", 0, "no answer", "internal"),
        ("other", 503, "Vertex AI: 503 try again later", "internal"),
        ("other", 429, "Vertex AI: 429 too many requests", "internal"),
        ("other", 503, "Vertex AI: 503 Resources are insufficient in region: x", "stockout"),
        ("other", 400, "Vertex AI: 400 the request is wrong", "rejected"),
        ("credentials", 401, "log in", "rejected"),
        ("permission", 403, "no", "rejected"),
        ("region", 400, "unsupported region", "rejected"),
    ],
)
def test_a_refusal(kind: str, code: int, reason: str, verdict: Verdict) -> None:
    attempt = Attempt(1, state=REFUSED, kind=kind, code=code, reason=reason)
    assert verdict_of(attempt) == verdict


@given(st.text(max_size=300), st.integers(-1, 20))
def test_every_message_has_a_verdict(message: str, code: int) -> None:
    assert failed(message, code)
