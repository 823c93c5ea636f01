"""At any moment a VM or the store may be gone: there is a whole version, and never half of one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.trainer.checkpoints.interrupted import Interrupted
from tests.trainer.outputs.vms import ONE, TWO, WHOLE_ONE, WHOLE_TWO, Vms
from trainer.outputs.outputs import QUIET
from trainer.rundir.directory import RunDirectory


class Unplugged(Exception):
    """The VM is gone."""


def _unplug() -> None:
    raise Unplugged


def _story(vms: Vms, dies: int, *, rotates: bool = False) -> None:
    """Two checkpoints in a generation, until one VM is gone; the other goes on for a while.

    Args:
        vms: on which.
        dies: which VM may be unplugged.
        rotates: whether the script removes the first checkpoint as soon as it has written another.
    """

    def on(vm: int, act: Callable[[], Any]) -> None:
        try:
            act()
        except Unplugged:
            if vm == dies:
                gone.add(vm)

    gone: set[int] = set()
    on(0, lambda: vms.begin(1, [0, 1]))
    for parts in (ONE, TWO):
        for vm in {0, 1} - gone:
            vms.write(vm, parts[vm])
            if rotates and parts is TWO:
                vms.remove(vm, "checkpoint-1")
        for _ in range(5):
            vms.now += QUIET + 1
            for vm in (0, 1):
                if vm not in gone:
                    on(vm, vms.outputs[vm].look)


@pytest.mark.parametrize("rotates", [False, True], ids=["keeps all", "keeps one"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("dies", [0, 1])
def test_at_whichever_store_operation_a_vm_is_unplugged_the_newest_version_is_a_whole_one(
    tmp_path: Path, dies: int, after: bool, rotates: bool
) -> None:
    two = {**TWO[0], **TWO[1]}
    last = two if rotates else WHOLE_TWO
    at, found = 0, []
    while True:
        store = Interrupted(str(tmp_path / f"{at}/run"), at, after, _unplug)
        vms = Vms(tmp_path / f"{at}", 2, {dies: store})
        _story(vms, dies, rotates=rotates)
        vms.add()
        vms.begin(2, [1 - dies, 2])
        assert vms.tree(2) == vms.tree(1 - dies)
        assert vms.tree(2) in ({}, WHOLE_ONE, last), "never half of one"
        found.append(vms.tree(2))
        if store.count <= at:
            break
        at += 1
    assert at > 20
    assert found[-1] == last, "nothing was unplugged"
    assert [found.index(one) for one in ({}, WHOLE_ONE, last)] == sorted(
        found.index(one) for one in ({}, WHOLE_ONE, last)
    ), "the later, the more"
    assert {} not in found[found.index(WHOLE_ONE) :], "what was committed once is there"


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_restore_that_is_interrupted_leaves_the_version_whole(
    tmp_path: Path, after: bool
) -> None:
    at = 0
    while True:
        vms = Vms(tmp_path / f"{at}", 2)
        _story(vms, dies=-1)
        vms.write(0, {"checkpoint-3/a": "a3"})
        for one in vms.outputs:
            one.look(final=True, whole=True)
        store = Interrupted(vms.run_dir.url, at, after, _unplug)
        run_dir = RunDirectory(vms.run_dir.url)
        run_dir.store = store
        vms.add(run_dir)
        with suppress(Unplugged):
            vms.begin(2, [2])
        vms.add()
        vms.begin(3, [3])
        assert vms.tree(3) == {**WHOLE_TWO, "checkpoint-3/a": "a3"}
        if store.count <= at:
            break
        at += 1
    assert at > 10


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 90), after=st.booleans(), vm=st.integers(0, 1))
def test_a_store_that_fails_once_is_asked_again(
    tmp_path_factory: pytest.TempPathFactory, at: int, after: bool, vm: int
) -> None:
    def fail() -> None:
        raise OSError("away")

    folder = tmp_path_factory.mktemp("run")
    vms = Vms(folder, 2)
    vms.begin(1, [0, 1])
    store = Interrupted(str(folder / "run"), at, after, fail)
    vms.outputs[vm]._run_dir.store = store
    for parts in (ONE, TWO):
        for one in (0, 1):
            vms.write(one, parts[one])
        for _ in range(7):
            vms.now += QUIET + 1
            for one in (0, 1):
                try:
                    vms.outputs[one].look()
                except OSError:
                    assert one == vm
    vms.add()
    vms.begin(2, [2])
    assert vms.tree(2) == WHOLE_TWO
