"""``swell doctor`` in a terminal, and as JSON for other programs.

The JSON is a list, in order, of ``{"check", "verdict", "said", "fix", "id"}``; ``verdict`` is pass,
fail or unknown, ``fix`` and ``id`` (see docs/messages.md) are empty for what passed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from launcher.doctor.checkup import Finding
from launcher.words import count
from trainer.rundir.usererror import Message

MARKS = {"pass": ("pass", "green"), "fail": ("FAIL", "bold red"), "unknown": ("  ? ", "yellow")}


def print_findings(console: Console, findings: Sequence[tuple[str, Finding]]) -> None:
    """Prints each check with its finding, and the fix below; then how many there are of which."""
    width = max(len(name) for name, _ in findings)
    for name, finding in findings:
        mark, style = MARKS[finding.verdict]
        said = finding.said if finding.verdict != "unknown" else f"could not check: {finding.said}"
        message = Message(finding.id, said)
        line = Text.assemble((mark, style), f"  {name:{width}}  {message}")
        # The terminal wraps, not we: a command stays one line, to be copied.
        console.print(line, soft_wrap=True)
        if finding.fix:
            fix = Text(f"{'':{len(mark) + 2 + width}}  → {finding.fix}", style="bold")
            console.print(fix, soft_wrap=True)
    verdicts = [finding.verdict for _, finding in findings]
    failed, unknown = verdicts.count("fail"), verdicts.count("unknown")
    if not failed and not unknown:
        console.print(f"\nAll {len(verdicts)} checks pass.")
        return
    parts = [f"{verdicts.count('pass')} of {count(len(verdicts), 'check')} pass"]
    parts += [f"{failed} {'fails' if failed == 1 else 'fail'}"] if failed else []
    parts += [f"{unknown} could not be made"] if unknown else []
    console.print(f"\n{', '.join(parts)}.")


def as_json(findings: Sequence[tuple[str, Finding]]) -> list[dict[str, Any]]:
    """Returns the findings as the module says."""
    return [
        {
            "check": name,
            "verdict": finding.verdict,
            "said": finding.said,
            "fix": finding.fix,
            "id": finding.id,
        }
        for name, finding in findings
    ]
