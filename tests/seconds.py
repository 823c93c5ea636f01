"""What tests cost: seconds of one processor, of all processes that they start, by file.

    python -m pytest -p tests.seconds tests/chaos

With pytest-xdist's workers each counts its own, and what it started before its first test, as its
server for forks, is in what it collected. As root, on a machine with cgroups of version 1: the
kernel counts what a cgroup's processes take, also those that have left their parents. What a test
leaves to end behind it counts for the next.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

ACCOUNTS = Path("/sys/fs/cgroup/cpuacct")


class Account:
    """The group of this process and of all that it starts from now on."""

    def __init__(self) -> None:
        self._group = ACCOUNTS / f"swell-tests-{os.getpid()}"
        try:
            self._group.mkdir()
            (self._group / "cgroup.procs").write_text(str(os.getpid()))
        except OSError as error:
            raise pytest.UsageError(
                f"-p tests.seconds: {ACCOUNTS} cannot be used: {error}"
            ) from None
        self._before = 0.0

    def since(self) -> float:
        """Seconds since the last call."""
        before, self._before = self._before, int((self._group / "cpuacct.usage").read_text()) / 1e9
        return self._before - before

    def close(self) -> None:
        """Goes back to where all processes are; the group goes once it is empty."""
        for process in (self._group / "cgroup.procs").read_text().split():
            (ACCOUNTS / "cgroup.procs").write_text(process)
        self._group.rmdir()


class Seconds:
    """Counts between tests, and tells at the end."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._by_file: dict[str, float] = defaultdict(float)

    def pytest_collection_finish(self) -> None:
        self._by_file["(collecting)"] += self._account.since()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        try:
            return (yield)
        finally:
            self._by_file[item.nodeid.partition("::")[0]] += self._account.since()

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        output = getattr(session.config, "workeroutput", None)  # of a worker of pytest-xdist
        if output is not None:
            output["seconds"] = dict(self._by_file)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        for file, seconds in getattr(node, "workeroutput", {}).get("seconds", {}).items():
            self._by_file[file] += seconds

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.section("seconds of one processor")
        for file, seconds in sorted(self._by_file.items(), key=lambda one: -one[1]):
            terminalreporter.write_line(f"{seconds:8.1f}  {file}")
        terminalreporter.write_line(f"{sum(self._by_file.values()):8.1f}  in all")

    def pytest_unconfigure(self) -> None:
        self._account.close()


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Seconds(Account()))
