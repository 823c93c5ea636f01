"""What is restored to all VMs is alike on all, and the newest that any of them has written."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.trainer.outputs.vms import ONE, Vms
from trainer.outputs.commits import FORMAT
from trainer.outputs.outputs import VERSIONS, newest_version
from trainer.rundir.names import JSON_LIMIT


@pytest.fixture
def vms(tmp_path: Path) -> Vms:
    return Vms(tmp_path, 2)


# --- who has written counts ---------------------------------------------------------------


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    layout=st.sampled_from(["rank{}.pt", "state/rank{}.pt"]),
    orders=st.lists(st.permutations([0, 1, 2]), min_size=2, max_size=4),
    fresh=st.booleans(),
)
def test_a_checkpoint_of_a_file_for_each_rank_is_never_of_two_steps(
    tmp_path_factory: pytest.TempPathFactory, layout: str, orders: list[list[int]], fresh: bool
) -> None:
    """All hold all files by a restore, and each overwrites its own, on whichever VM it is."""
    vms = Vms(tmp_path_factory.mktemp("vms"), 3)
    for generation, order in enumerate(orders, 1):
        vms.begin(generation, order)
        for rank, vm in enumerate(order):
            vms.write(vm, {layout.format(rank): f"{generation}"})
        assert vms.look(*order, times=5)
    if fresh:
        vms.add()
    vms.begin(len(orders) + 1, [len(vms.roots) - 1, 0])
    for vm in (0, len(vms.roots) - 1):
        assert vms.tree(vm) == {layout.format(rank): f"{len(orders)}" for rank in range(3)}


def test_what_another_vm_than_that_of_rank_0_has_written_again_is_saved(vms: Vms) -> None:
    for generation, text in enumerate(("old", "newer", "newest"), 1):
        vms.begin(generation, [0, 1])
        vms.write(1, {"model.pt": text})
        vms.look(0, 1, times=5)
    vms.write(1, {"model.pt": "the last"})
    vms.look(0, 1, final=True, whole=True)
    vms.add()
    vms.begin(4, [2])
    assert vms.tree(2) == {"model.pt": "the last"}


@pytest.mark.parametrize("vm", [0, 1])
def test_what_the_script_deletes_in_a_folder_is_deleted_for_good(vms: Vms, vm: int) -> None:
    """As one that keeps its checkpoints in a folder of the experiment does."""
    vms.begin(1, [0, 1])
    vms.write(vm, {"experiment/step-1": "1", "experiment/step-2": "2"})
    vms.look(0, 1, times=5)
    vms.begin(2, [0, 1])
    (vms.roots[vm] / "experiment/step-1").unlink()
    vms.write(vm, {"experiment/step-3": "3"})
    vms.look(0, 1, times=5)
    vms.add()
    vms.begin(3, [2])
    assert vms.tree(2) == {"experiment/step-2": "2", "experiment/step-3": "3"}


def test_a_log_that_grows_where_rank_0_is_not_is_saved_to_its_last_line(vms: Vms) -> None:
    vms.begin(1, [0, 1])
    vms.write(0, {"model.pt": "1"})
    vms.write(1, {"rank1.log": "a"})
    vms.look(0, 1, times=5)
    vms.begin(2, [0, 1])
    vms.write(1, {"rank1.log": "ab"})
    vms.look(0, 1, times=5)
    vms.look(1, 0, final=True, whole=True)
    vms.add()
    vms.begin(3, [2])
    assert vms.tree(2) == {"model.pt": "1", "rank1.log": "ab"}


def test_logs_alone_are_saved_when_the_script_has_ended(vms: Vms) -> None:
    vms.begin(1, [0, 1])
    vms.write(0, {"metrics.csv": "step,loss"})
    vms.look(1, 0, final=True, whole=True)
    assert vms.begin(2, [1]).name
    assert vms.tree(1) == {"metrics.csv": "step,loss"}


@pytest.mark.parametrize("name", ["rank{}.pt", "step-2/rank{}.pt"])
@pytest.mark.parametrize("first", [0, 1])
def test_who_was_killed_before_it_has_saved_its_part_leaves_no_half_checkpoint(
    vms: Vms, name: str, first: int
) -> None:
    """The other saved its own when it was asked to end, and ended well, while this one hung."""
    saved = {"rank0.pt": "1", "rank1.pt": "1"}
    vms.begin(1, [0, 1])
    for rank in (0, 1):
        vms.write(rank, {f"rank{rank}.pt": "1"})
    vms.look(0, 1, times=5)
    vms.write(first, {name.format(first): "2"})
    vms.outputs[first].look(final=True, whole=True)
    assert not vms.look(1 - first, times=5)
    vms.outputs[1 - first].look(final=True, whole=False)
    vms.begin(2, [1, 0])
    assert vms.tree(0) == vms.tree(1) == saved


# --- which one is the newest --------------------------------------------------------------


def by_content(path: Path) -> float:
    return os.stat(path).st_mtime_ns


def by_change(path: Path) -> float:
    return os.stat(path).st_ctime_ns


@pytest.mark.parametrize("age", [by_content, by_change])
@pytest.mark.parametrize("name", ["step-{}", "step-{}/model.pt", "deep/step-{}", "deep/step-{}/a"])
def test_every_rank_finds_the_same_newest_checkpoint_by_its_time(
    vms: Vms, name: str, age: Callable[[Path], float]
) -> None:
    """Where they are numbered without zeros, the order of their names is another one."""
    vms.begin(1, [0, 1])
    for number in (8, 9, 10, 11):
        path = name.format(number)
        vms.write(0, {path: f"{number}"})
        written = (1_000_000 + number) * 10**9
        os.utime(vms.roots[0] / path, ns=(written, written))
    vms.look(0, 1, times=5)
    vms.write(0, {name.format(12): "not committed"})
    vms.add()
    vms.begin(2, [0, 1, 2])
    for root in vms.roots:
        order = sorted([*root.glob("step-*"), *root.glob("deep/step-*")], key=age)
        assert [one.name for one in order] == ["step-8", "step-9", "step-10", "step-11"]


def test_a_version_that_says_no_times_is_restored_all_the_same(vms: Vms) -> None:
    """An older Swell has written it."""
    vms.begin(1, [0])
    vms.write(0, ONE[0])
    (version,) = vms.look(0, times=5)
    written = vms.run_dir.read_json(f"{VERSIONS}/{version.name}.json")
    del written["times"]
    vms.run_dir.write_json(f"{VERSIONS}/{version.name}.json", written)
    vms.begin(2, [1, 0])
    assert vms.tree(0) == vms.tree(1) == ONE[0]


# --- whatever lies there ------------------------------------------------------------------


def pipe(path: Path) -> None:
    os.mkfifo(path)


def listener(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(os.path.relpath(path))  # a path of 108 bytes at most


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def strange(path: Path) -> None:
    path.symlink_to("/proc/self/status")  # which says of itself that it is empty


def loop(path: Path) -> None:
    path.symlink_to(path.name)


@pytest.mark.parametrize("what", [pipe, listener, endless, strange, loop])
@pytest.mark.parametrize("where", ["thing", "checkpoint-1/thing", "thing.log"])
def test_what_is_no_file_holds_nothing_up(
    vms: Vms, monkeypatch: pytest.MonkeyPatch, what: Callable[[Path], None], where: str
) -> None:
    vms.begin(1, [0])
    vms.write(0, ONE[0])
    monkeypatch.chdir(vms.roots[0])
    what(vms.roots[0] / where)
    vms.look(0, times=2)
    vms.look(0, final=True, whole=True)
    assert vms.outputs[0].complete()
    vms.begin(2, [1, 0])
    for vm in (0, 1):
        assert (vms.roots[vm] / "checkpoint-1/a").read_text() == "a1"


@pytest.mark.parametrize("name", ["a\\b", os.fsdecode(b"\xff"), "/".join(["d" * 200] * 6)])
def test_a_name_that_cannot_be_saved_is_said_and_the_rest_is_saved(vms: Vms, name: str) -> None:
    vms.begin(1, [0])
    vms.write(0, {**ONE[0], name: "x", f"log-{name}.log": "x"})
    vms.look(0, times=5)
    assert len(vms.outputs[0].nameless) == 2
    vms.look(0, final=True, whole=True)
    assert vms.outputs[0].complete()
    vms.begin(2, [1])
    assert vms.tree(1) == ONE[0]


def test_a_checkpoint_in_which_such_a_name_turns_up_stays_as_it_was_saved(vms: Vms) -> None:
    vms.begin(1, [0, 1])
    vms.write(0, ONE[0])
    vms.look(0, 1, times=5)
    vms.write(0, {"checkpoint-1/a\\b": "x", "checkpoint-2": "x"})
    vms.look(0, 1, times=5)
    vms.begin(2, [1, 0])
    for vm in (0, 1):
        assert vms.tree(vm) == {**ONE[0], "checkpoint-2": "x"}


@pytest.mark.parametrize("before, after", [("one", "one/a"), ("one/a", "one")])
def test_a_folder_may_have_become_a_file_and_the_other_way_round(
    vms: Vms, before: str, after: str
) -> None:
    vms.begin(1, [0])
    vms.write(0, {before: "saved"})
    vms.look(0, times=5)
    (vms.roots[0] / before).unlink()
    if before != "one":
        (vms.roots[0] / "one").rmdir()
    vms.write(0, {after: "not saved"})
    vms.begin(2, [0])
    assert vms.tree(0) == {before: "saved"}


def test_a_list_of_very_many_files_is_read(vms: Vms) -> None:
    file = [1, f"{1:09d}-{0:05d}-{1:06d}-{'0' * 64}"]
    files = {f"images/{number}": file for number in range(80_000)}
    written = {"entries": {"images": files}, "logs": {}, **FORMAT.stamp()}
    vms.run_dir.write_json(f"{VERSIONS}/{1:09d}-{1:06d}.json", written)
    folder = vms.folder / "run" / VERSIONS
    assert sum(one.stat().st_size for one in folder.iterdir()) > JSON_LIMIT
    assert len(newest_version(vms.run_dir).files) == 80_000
