"""A run that goes on, in a browser: it is followed live, a VM is taken away, it is cancelled."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.command import SLOW, Swell, until
from tests.launcher.dashboard.browser import PHONE, browser, dashboard, needs_browser, opened

pytestmark = [pytest.mark.soak, needs_browser]

JOB = f"""
name: seen
task: {SLOW}
args: {{epochs: 10000, batch: 64, width: 24}}
pools: [{{machine: a2-highgpu-1g}}, {{machine: a2-highgpu-1g, replicas: 2}}]
elastic: {{min_workers: 1}}
"""


def test_a_run_is_followed_and_acted_upon_as_it_goes_on(swell: Swell, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(JOB)
    swell.start("launch", str(tmp_path / "job.yaml"), "--run-id", "seen")
    until(lambda: (swell.run_dir("seen") / "run.json").exists())
    with dashboard(swell.home) as (url, _), browser() as found:
        with opened(found, url, "going") as web:
            web.go()
            web.page.get_by_role("link", name="seen").click()
            web.wait("3 replicas")
            web.wait("● 3 active")
            step = "dt:text-is('steps') + dd"
            first = web.page.locator(step).inner_text()
            web.page.wait_for_function(
                "first => [...document.querySelectorAll('dt')].some(it => "
                "it.textContent === 'steps' && it.nextSibling.textContent !== first)",
                arg=first,
            )
            web.wait("Workers slower than the others")
            web.check("run")
            web.page.get_by_label("workerpool1-1: active").click()
            web.wait("What it printed")
            web.check("replica")
            web.page.get_by_role("link", name="Take its VM away…").click()
            web.page.get_by_label("without notice").check()
            web.check("preempt")
            web.page.get_by_role("button", name="Take workerpool1-1 away").click()
            web.wait("workerpool1-1 is taken away without notice")
            web.wait("workerpool1-1 is lost")
            web.page.get_by_label("workerpool1-1: lost").wait_for()
            web.check("lost")
            web.page.get_by_role("link", name="Cancel this run…").click()
            web.page.get_by_role("button", name="Cancel the run").click()
            web.wait("run seen is cancelled")
            web.wait("The run was cancelled")
        with opened(found, url, "over-phone", PHONE, dark=True) as web:
            web.go("runs/seen")
            web.wait("The run was cancelled")
            web.check("run")
    assert swell.status("seen")["state"] == "cancelled"
