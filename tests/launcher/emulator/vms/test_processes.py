"""What a VM's processes have started is stopped with them, whatever session it is in."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

from launcher.emulator.vms.processes import stop_session

SCRIPT = "setsid sh -c 'sleep 1000 & echo $!; wait' & echo $!; wait"


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_what_is_in_a_session_of_its_own_is_stopped_too() -> None:
    leader = subprocess.Popen(
        ["sh", "-c", SCRIPT], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert leader.stdout is not None
    others = [int(leader.stdout.readline()) for _ in range(2)]
    try:
        assert any(os.getsid(pid) != leader.pid for pid in others)
        stop_session(leader.pid)
        for pid in (leader.pid, *others):
            while state_of(pid) != "T":  # a signal is under way for a moment
                time.sleep(0.01)
    finally:
        for pid in (*others, leader.pid):
            os.kill(pid, signal.SIGKILL)
        leader.wait()
        leader.stdout.close()
