"""What the API says about a run that should still be going, beside what its directory says."""

from __future__ import annotations

from typing import Any

from launcher.api.apierror import ApiError
from launcher.api.reach import Unreachable
from launcher.api.retry import BRIEF, Retries
from launcher.api.transport import is_emulator
from launcher.api.vertex import console_url, jobs_of
from trainer.rundir.attempts import ENDED


def ask_api(
    run: dict[str, Any], attempts: list[dict[str, Any]], retries: Retries | None = None
) -> dict[str, Any] | None:
    """Asks the API about the last CustomJob of a run on Vertex AI.

    Args:
        run: run.json.
        attempts: the run's attempts, in order.
        retries: how what is transient is tried again.

    Returns ``{"job", "state", "reason", "error", "id", "console"}``: ``error`` says why there is
    no answer, ``id`` is that message's (docs/messages.md), and then ``state`` is null. None when
    there is nothing to ask: for a local run, and for an attempt that is on record as ended.
    """
    if run.get("target") != "vertex" or not attempts or attempts[-1].get("state") in ENDED:
        return None
    last = attempts[-1]
    answer: dict[str, Any] = dict.fromkeys(("job", "state", "reason", "error", "id", "console"))
    project = str(run.get("spec", {}).get("project") or "")
    try:
        api = jobs_of(last, project, retries or Retries(BRIEF))
        if last.get("job"):
            job = api.get(str(last["job"]))
        elif found := api.find(str(run["id"]), int(last["attempt"])):
            job = found[0]
        else:
            return {**answer, "error": "the CustomJob has not been created", "id": "SW3020"}
    except (ApiError, Unreachable) as error:
        return {**answer, "job": last.get("job"), "error": str(error), "id": error.id}
    return {
        **answer,
        "job": job.name,
        "state": job.state,
        "reason": job.reason or None,
        "console": None if is_emulator(api.endpoint) else console_url(job.name),
    }
