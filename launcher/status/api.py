"""What the API says about a run that should still be going, beside what its directory says."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from launcher.api.apierror import ApiError
from launcher.api.reach import Unreachable
from launcher.api.retry import BRIEF, Retries
from launcher.api.transport import is_emulator
from launcher.api.vertex import console_url, jobs_of
from trainer.rundir.attempts import ENDED

AT_ONCE = 8  # CustomJobs
NOT_CREATED = "the CustomJob has not been created; swell attach RUN, if its launch is gone"


def ask_api(
    run: dict[str, Any], attempts: list[dict[str, Any]], retries: Retries | None = None
) -> list[dict[str, Any]]:
    """Asks the API about the CustomJobs of a run on Vertex AI that are not on record as ended.

    Args:
        run: run.json.
        attempts: the run's attempts, in order.
        retries: how what is transient is tried again.

    Returns ``{"attempt", "job", "state", "reason", "error", "id", "console"}`` for each, in order:
    ``error`` says why there is no answer, ``id`` is that message's (docs/messages.md), and then
    ``state`` is null. Nothing for a local run.
    """
    live = [attempt for attempt in attempts if attempt.get("state") not in ENDED]
    if run.get("target") != "vertex" or not live:
        return []
    with ThreadPoolExecutor(AT_ONCE) as asking:
        return list(asking.map(lambda attempt: _ask(run, attempt, retries), live))


def _ask(run: dict[str, Any], attempt: dict[str, Any], retries: Retries | None) -> dict[str, Any]:
    answer: dict[str, Any] = {"attempt": attempt.get("attempt")}
    answer |= dict.fromkeys(("job", "state", "reason", "error", "id", "console"))
    project = str(run.get("spec", {}).get("project") or "")
    try:
        api = jobs_of(attempt, project, retries or Retries(BRIEF))
        if attempt.get("job"):
            job = api.get(str(attempt["job"]))
        elif found := api.find(str(run["id"]), int(attempt["attempt"])):
            job = found[0]
        else:
            return {**answer, "error": NOT_CREATED, "id": "SW3020"}
    except (ApiError, Unreachable) as error:
        return {**answer, "job": attempt.get("job"), "error": str(error), "id": error.id}
    return {
        **answer,
        "job": job.name,
        "state": job.state,
        "reason": job.reason or None,
        "console": None if is_emulator(api.endpoint) else console_url(job.name),
    }
