"""Why an attempt ended, in one word, purely: what everything that follows is decided by.

===========  ===============================================================================
verdict      an attempt that
===========  ===============================================================================
succeeded    did what it should
stockout     got no machines, or lost them all and got none back
quota        asked for more than the project may have
preempted    lost its machines, or the service that ran it, through nobody's fault
expired      waited for machines for as long as it was told to: flex_start's, or any
unreachable  was given up: its machines and those that train do not reach each other
internal     failed inside Vertex AI, or could not be sent because that did not answer
crash        ended with SIGABRT or SIGSEGV (6, 134, 11, 139), which may be transient, or with
             the agent's own 134: only a fresh attempt can help
unknown      failed for a reason that nothing here recognises
timeout      ran for longer than its own timeout
user_error   ended because of the user's program: a Python error, out of memory
rejected     was refused: permissions, credentials, a request that is wrong
gone         was deleted, or its API fell silent for good
cancelled    was cancelled by somebody
replaced     was not wanted any more
unsent       was on record, and never sent
===========  ===============================================================================

Vertex AI documents few of its messages, and says the same thing in several ways; a stockout that
is not recognised is the fault that users of other launchers complain of most. So the state and the
error's code (google.rpc.Code) are looked at first where they say enough, then the wording, the
most telling ones first. ``outcome.json`` counts before all of this: see policy.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Literal

from launcher.supervision.attempt import UNREACHABLE, UNSENT, Attempt
from trainer.rundir.attempts import LOST, REFUSED, REPLACED

Verdict = Literal[
    "succeeded",
    "stockout",
    "quota",
    "preempted",
    "expired",
    "unreachable",
    "internal",
    "crash",
    "unknown",
    "timeout",
    "user_error",
    "rejected",
    "gone",
    "cancelled",
    "replaced",
    "unsent",
]

# google.rpc.Code
CANCELLED, INVALID_ARGUMENT, DEADLINE_EXCEEDED, NOT_FOUND = 1, 3, 4, 5
PERMISSION_DENIED, RESOURCE_EXHAUSTED, FAILED_PRECONDITION = 7, 8, 9
ABORTED, INTERNAL, UNAVAILABLE, UNAUTHENTICATED = 10, 13, 14, 16

_TRANSIENT_EXITS = frozenset({6, 134, 11, 139})
_TERMINATED = 143  # SIGTERM: the machine was taken away

_EXIT = re.compile(
    r"(?i)(?:exit(?:ed|s)?(?: with)?(?: a)?(?: non-?zero)?(?: exit)? (?:status|code)(?: of)?"
    r"|exit[ _-]?(?:code|status))[:= ]*(\d{1,3})\b"
)
_SIGNAL = re.compile(r"(?i)\bsignal[: ]+(\d{1,2})\b|\b(SIG[A-Z]{3,6})\b")
_SIGNALS = {"SIGABRT": 6, "SIGSEGV": 11, "SIGKILL": 9, "SIGTERM": 15}
_MEMORY = re.compile(r"(?i)out of memory|\bOOM\b|oom-?kill")
_QUOTA = re.compile(r"(?i)\bquotas?\b|quota_?exceeded|custom_model_training_[a-z0-9_]+")
_PREEMPTED = re.compile(r"(?i)preempt|spot vms? (?:was|were) (?:reclaimed|stopped|taken)")
_STOCKOUT = re.compile(
    r"(?ix) stock[ _-]?out | resource_pool_exhausted | zone_resource_pool"
    r"| (?:resources?|capacity)\ (?:is|are)\ (?:currently\ )?(?:insufficient|exhausted|unavailable)"
    r"| insufficient\ (?:\w+\ )?(?:resources?|capacity)"
    r"| (?:not|n't)\ (?:currently\ )?(?:have\ )?(?:enough|sufficient)\ (?:\w+\ )?"
    r"(?:resources?|capacity)"
    r"| (?:out\ of|no|lack\ of)\ (?:\w+\ )?(?:capacity|resources)\b"
    r"| (?:resources?|capacity|machines?|vms?|gpus?|accelerators?)\ (?:\S+\ ){0,6}"
    r"(?:(?:is|are)\ (?:currently\ )?(?:un|not\ )available|could\ not\ be\ (?:found|provisioned))"
    r"| try\ (?:again\ in\ )?a(?:nother|\ different)\ (?:region|zone)"
)
_INTERNAL = re.compile(r"(?i)internal error|backend error|service (?:is )?unavailable")
_TIMEOUT = re.compile(
    r"(?i)deadline exceeded|timed? ?out\b|longer than its timeout|exceeded .*time"
)

_DENIALS = frozenset({PERMISSION_DENIED, UNAUTHENTICATED, NOT_FOUND, FAILED_PRECONDITION})


def verdict_of(attempt: Attempt) -> Verdict:
    """Returns why ``attempt``, which is over, ended."""
    state = attempt.state
    if attempt.kind == REPLACED:
        return "replaced"
    if state == "SUCCEEDED":
        return "succeeded"
    if attempt.kind == UNREACHABLE:
        return "unreachable"
    if state == "CANCELLED" and attempt.left:
        return "expired"
    if state == "CANCELLED":
        # Vertex AI says so as well when a machine is preempted while the job is being stopped.
        return "cancelled"
    if state == "EXPIRED":
        return "expired"
    if state == LOST:
        return "gone"
    if state == REFUSED:
        return _refusal(attempt)
    return _failure(attempt.code, attempt.reason)


def _refusal(attempt: Attempt) -> Verdict:
    if attempt.kind == UNSENT:
        return "unsent"
    if attempt.kind == "quota":
        return "quota"
    if attempt.code not in (400, 401, 403, 404) and _STOCKOUT.search(attempt.reason):
        return "stockout"
    transient = attempt.kind in ("other", "silent") and (
        attempt.code in (0, 408, 429) or attempt.code >= 500
    )
    return "internal" if transient else "rejected"


@lru_cache(maxsize=1024)  # asked anew of every attempt at every decision
def _failure(code: int, message: str) -> Verdict:
    if _MEMORY.search(message):
        return "user_error"
    if (status := _exit_status(message)) is not None:
        return _exit(status)
    if _QUOTA.search(message):
        return "quota"
    if _STOCKOUT.search(message):
        return "stockout"
    if _PREEMPTED.search(message):
        return "preempted"
    if code == RESOURCE_EXHAUSTED:
        return "stockout"
    if code == DEADLINE_EXCEEDED or _TIMEOUT.search(message):
        return "timeout"
    if code in (UNAVAILABLE, ABORTED):
        return "preempted"
    if code == INTERNAL or _INTERNAL.search(message):
        return "internal"
    if code in _DENIALS:
        return "rejected"
    if code == CANCELLED:
        return "cancelled"
    return "user_error" if code == INVALID_ARGUMENT else "unknown"


def _exit_status(message: str) -> int | None:
    """The exit status that a message tells of, as a shell writes it."""
    if match := _EXIT.search(message):
        return int(match.group(1))
    if match := _SIGNAL.search(message):
        number = int(match.group(1)) if match.group(1) else _SIGNALS.get(match.group(2))
        return None if number is None else 128 + number
    return None


def _exit(status: int) -> Verdict:
    if status in _TRANSIENT_EXITS:
        return "crash"
    return "preempted" if status == _TERMINATED else "user_error"
