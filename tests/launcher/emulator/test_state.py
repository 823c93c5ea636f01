"""Whose a state directory is, and how whoever works on it is found and ended."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.emulator.state import (
    LAST_CLOSED,
    StateInUse,
    Whereabouts,
    announce,
    claim,
    in_use,
    whereabouts,
)
from launcher.local import emulator as local
from tests.disks import disk, with_disks

# Works on a state, deaf to SIGTERM, and never gets so far as to serve.
HANGS = """
import signal, sys, time
from pathlib import Path
from launcher.emulator.state import claim
signal.signal(signal.SIGTERM, signal.SIG_IGN)
lock = claim(Path(sys.argv[1]))
print("up", flush=True)
time.sleep(600)
"""


def test_one_emulator_at_a_time_works_on_a_state(tmp_path: Path) -> None:
    assert not in_use(tmp_path) and whereabouts(tmp_path) is None
    lock = claim(tmp_path)
    assert in_use(tmp_path)
    with pytest.raises(StateInUse, match="is in use by another emulator"):
        claim(tmp_path)
    os.close(lock)
    assert not in_use(tmp_path)


@with_disks
def test_the_next_one_says_where_it_is_though_the_disk_is_full(tmp_path: Path) -> None:
    with disk(tmp_path / "disk") as full:
        lock = claim(full.path)
        full.fill()
        os.close(lock)
        lock = claim(full.path)
        for endpoint in ("http://a", "http://b"):
            announce(full.path, where := Whereabouts(os.getpid(), endpoint))
            assert whereabouts(full.path) == where
        assert (full.path / "emulator.json").stat().st_mode & 0o077 == 0
        assert not list(full.path.glob("*.new")), "nothing is left half written"
        os.close(lock)


def test_few_files_that_may_be_open_are_enough(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (LAST_CLOSED // 2, before[1]))
    try:
        lock = claim(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert lock == LAST_CLOSED // 2 - 1, "the last that is closed all the same"
    os.close(lock)


def test_its_user_alone_reads_where_it_serves_and_only_while_it_does(tmp_path: Path) -> None:
    lock = claim(tmp_path)
    assert whereabouts(tmp_path) == Whereabouts(os.getpid()), "it does not serve yet"
    announce(tmp_path, where := Whereabouts(os.getpid(), "http://a", "http://b"))
    assert whereabouts(tmp_path) == where
    assert (tmp_path / "emulator.json").stat().st_mode & 0o077 == 0
    os.close(lock)  # as the kernel does it for one that is killed
    assert whereabouts(tmp_path) is None


def test_what_a_killed_one_has_said_counts_no_more_once_another_has_the_state(
    tmp_path: Path,
) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as killed:
        killed.wait()
    lock = claim(tmp_path)
    announce(tmp_path, Whereabouts(killed.pid, "http://a", "http://b"))
    assert in_use(tmp_path) and whereabouts(tmp_path) is None
    os.close(lock)


def test_one_that_never_serves_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "STOP_LIMIT", 0.2)
    program = [sys.executable, "-c", HANGS, str(tmp_path)]
    with subprocess.Popen(program, stdout=subprocess.PIPE) as hung:
        assert hung.stdout and hung.stdout.readline()
        assert local.stop(tmp_path)
        assert hung.wait() == -9
    assert not local.goes_on(tmp_path)
