"""A script's output folder on several VMs: what of it outlives them, and that it is whole."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.trainer.outputs.vms import ONE, TWO, WHOLE_ONE, Tree, Vms
from trainer.agent.output_watch import LOOK_EVERY
from trainer.outputs import folder as folder_module
from trainer.outputs.outputs import QUIET, VERSIONS
from trainer.rundir.store import Store


@pytest.fixture
def vms(tmp_path: Path) -> Vms:
    return Vms(tmp_path, 2)


def test_a_checkpoint_is_what_all_vms_hold_of_it_together(vms: Vms) -> None:
    vms.begin(1, [0, 1])
    vms.write(0, ONE[0])
    vms.write(1, ONE[1])
    (version,) = vms.look(0, 1, times=5)
    assert {path for path in version.files} == set(WHOLE_ONE)
    vms.add()
    vms.begin(2, [0, 2])
    assert vms.tree(0) == vms.tree(2) == WHOLE_ONE


def test_one_is_not_committed_while_any_vm_still_writes_of_it(vms: Vms) -> None:
    vms.begin(1, [0, 1])
    vms.write(0, ONE[0])
    for text in ("b", "b1", "b1 and more", "b1"):
        vms.write(1, {"checkpoint-1/b": text})
        vms.now += 1
        for one in vms.outputs:
            one.look()
    assert vms.run_dir.store.names(VERSIONS) == []
    assert vms.look(0, 1, times=5)


def test_a_vm_that_begins_to_write_after_the_others_have_ended_is_waited_for(vms: Vms) -> None:
    """Its last receipt knows nothing of the checkpoint; so it is asked for another one."""
    vms.begin(1, [0, 1])
    vms.look(0, 1)
    vms.write(0, ONE[0])
    vms.look(0)
    vms.look(0)
    vms.write(1, ONE[1])
    assert vms.outputs[1].look() is None, "it writes"
    assert vms.outputs[0].look() is None
    versions = vms.look(0, 1, times=5)
    assert [set(one.files) for one in versions] == [set(WHOLE_ONE)]


def test_checkpoints_that_come_faster_than_they_are_asked_for_are_committed(vms: Vms) -> None:
    """There is never a moment in which nobody writes."""
    vms.begin(1, [0, 1])
    versions = []
    for number in range(8):
        for vm in (0, 1):
            vms.write(vm, {f"checkpoint-{number}/{vm}": "x"})
        versions += vms.look(0, 1)
    assert len(versions) >= 5
    for version in versions:
        for name, files in version.entries.items():
            assert set(files) == {f"{name}/0", f"{name}/1"}, "whole"


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), count=st.integers(1, 4))
def test_a_finished_checkpoint_is_committed_within_seconds_whenever_vms_look(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, count: int
) -> None:
    """So what a silent loss costs beyond the script's own interval is bounded (docs)."""
    vms = Vms(tmp_path_factory.mktemp("run"), count)
    vms.begin(1, [*range(count)])
    phases = st.integers(0, 63).map(lambda part: part / 64 * LOOK_EVERY)  # exact, as floats
    firsts = [data.draw(phases) for _ in range(count)]
    looks = sorted(
        (first + n * LOOK_EVERY, vm) for vm, first in enumerate(firsts) for n in range(9)
    )
    writers = data.draw(st.sets(st.integers(0, count - 1), min_size=1))
    for vm in writers:
        vms.write(vm, {f"checkpoint-1/{vm}": "whole"})
    for vms.now, vm in looks:
        if vms.outputs[vm].look():
            break
    assert vms.outputs[0].newest().entries.keys() == {"checkpoint-1"}
    assert vms.now < QUIET + 3 * LOOK_EVERY


def test_survivors_go_back_to_what_is_committed_and_keep_the_rest_aside(vms: Vms) -> None:
    vms.begin(1, [0, 1])
    vms.write(0, ONE[0])
    vms.write(1, ONE[1])
    vms.look(0, 1, times=5)
    vms.write(0, {**TWO[0], "checkpoint-1/a": "changed"})
    vms.begin(2, [0])
    assert vms.tree(0) == WHOLE_ONE
    aside = vms.roots[0].with_name("output.aside")
    assert (aside / "checkpoint-2/a").read_text() == "a2"
    assert (aside / "checkpoint-1/a").read_text() == "changed"


def test_what_the_script_deletes_is_deleted_for_good(vms: Vms) -> None:
    vms.begin(1, [0, 1])
    vms.write(0, {**ONE[0], **TWO[0]})
    vms.look(0, 1, times=5)
    vms.begin(2, [0, 1])
    vms.remove(0, "checkpoint-1")
    (version,) = vms.look(0, 1, times=5)
    assert set(version.entries) == {"checkpoint-2"}, "the other VM holds it still, by a restore"
    vms.begin(3, [1, 0])
    assert vms.tree(1) == TWO[0]


def test_the_only_checkpoint_stays_until_the_one_that_replaces_it_is_whole(vms: Vms) -> None:
    """A script may remove it long before the next one is copied, or settled."""
    vms.begin(1, [0, 1])
    vms.write(0, {**ONE[0], "config.json": "{}"})
    vms.write(1, ONE[1])
    vms.look(0, 1, times=5)
    for number in range(2, 7):  # another one within the 3 seconds, always
        vms.remove(0, f"checkpoint-{number - 1}")
        vms.remove(1, f"checkpoint-{number - 1}")
        vms.write(0, {f"checkpoint-{number}/a": "a", f"vocabulary-{number}": "x"})
        vms.write(1, {f"checkpoint-{number}/b": "b"})
        for _ in range(3):
            vms.now += QUIET / 4
            for one in vms.outputs:
                one.look()
        version = vms.outputs[0].newest()
        assert {name for name in version.entries if "checkpoint" in name} == {"checkpoint-1"}
    vms.look(0, 1, times=5)
    assert set(vms.begin(2, [0, 1]).files) >= {"checkpoint-6/a", "checkpoint-6/b"}
    assert not (vms.roots[0] / "checkpoint-1").exists()


def test_a_whole_end_is_committed_at_once_by_whoever_begins_the_next_generation(vms: Vms) -> None:
    vms.begin(1, [0, 1])
    vms.write(0, ONE[0])
    vms.write(1, ONE[1])
    for one in vms.outputs:
        one.look(final=True, whole=True)
    assert vms.outputs[0].complete()
    vms.add()
    vms.begin(2, [2])
    assert vms.tree(2) == WHOLE_ONE


def test_an_end_of_which_one_vm_says_nothing_is_not_committed(vms: Vms) -> None:
    vms.begin(1, [0, 1])
    vms.write(0, ONE[0])
    vms.outputs[0].look(final=True, whole=True)
    assert not vms.outputs[0].complete()
    vms.begin(2, [0])
    assert vms.tree(0) == {}, "the other VM may have held a part of it"


def test_a_process_that_was_killed_may_have_left_half_a_file(vms: Vms) -> None:
    vms.begin(1, [0])
    vms.write(0, ONE[0])
    vms.outputs[0].look(final=True)
    vms.begin(2, [0])
    assert vms.tree(0) == {}


@pytest.mark.parametrize(
    ("half", "rest"),
    [
        ({"step-1/__0_0.distcp": "x"}, {"step-1/.metadata": "pickle"}),
        (
            {"checkpoint-5/training_args.bin": "x", "checkpoint-5/optimizer.pt": "x"},
            {"checkpoint-5/trainer_state.json": "{}"},
        ),
    ],
)
def test_what_a_library_writes_last_is_waited_for(vms: Vms, half: Tree, rest: Tree) -> None:
    vms.begin(1, [0, 1])
    vms.write(1, half)
    assert vms.look(0, 1, times=5) == []
    vms.write(0, rest)
    assert len(vms.look(0, 1, times=5)) == 1


def test_a_script_of_ones_own_may_call_its_files_as_trainer_does(vms: Vms) -> None:
    vms.begin(1, [0])
    vms.write(0, {"checkpoint-5/model.pt": "x", "checkpoint-5/optimizer.pt": "x"})
    assert len(vms.look(0, times=5)) == 1


def test_a_file_that_is_open_to_write_is_not_finished_however_quiet(vms: Vms) -> None:
    vms.begin(1, [0])
    vms.write(0, {"last.pt": "half"})
    vms.opened = {vms.roots[0]: {"last.pt"}}
    assert vms.look(0, times=9) == []
    vms.write(0, {"last.pt": "whole"})
    vms.opened = {}
    vms.look(0, times=5)
    vms.begin(2, [1])
    assert vms.tree(1) == {"last.pt": "whole"}


def test_loose_files_that_belong_together_are_taken_together(vms: Vms) -> None:
    vms.begin(1, [0])
    vms.write(0, {"model.pt": "1", "optimizer.pt": "1"})
    vms.look(0, times=5)
    for number in range(2, 9):
        vms.write(0, {"model.pt": f"{number}"})
        vms.look(0)
        vms.write(0, {"optimizer.pt": f"{number}"})
        for _ in range(number):
            vms.now += QUIET / 3
            vms.outputs[0].look()
        there = {path: file.parts for path, file in vms.outputs[0].newest().files.items()}
        texts = [vms.outputs[0]._fetch(name) for parts in there.values() for name in parts]
        assert len(set(texts)) == 1, "never the one without the other"
    vms.look(0, times=5)
    assert vms.begin(2, [1]) and vms.tree(1) == {"model.pt": "8", "optimizer.pt": "8"}


def test_a_file_that_names_the_newest_checkpoint_names_one_that_is_there(vms: Vms) -> None:
    """As DeepSpeed's `latest` and Megatron's latest_checkpointed_iteration.txt do; or a link."""
    vms.begin(1, [0, 1])
    for number in range(1, 6):
        vms.write(0, {f"step-{number}/a": "a"})
        vms.write(0, {"latest": f"{number}", "latest_iteration.txt": f"{number}"})
        link = vms.roots[0] / "link"
        link.unlink(missing_ok=True)
        link.symlink_to(vms.roots[0] / f"step-{number}")  # by its whole path, as scripts do
        if number > 1:
            vms.remove(0, f"step-{number - 1}")
        for part in range(number):
            vms.write(1, {f"step-{number}/b": "b" * part})
            for vm in (0, 1):
                vms.look(vm)
            vms.add()
            root = vms.roots[-1]
            vms.outputs[-1].begin(0, 1, 2, vms.outputs[0].newest())
            if vms.tree(len(vms.roots) - 1):
                newest = (root / "latest").read_text()
                assert (root / f"step-{newest}").is_dir()
                assert (root / "latest_iteration.txt").read_text() == newest
                assert os.readlink(root / "link") == f"step-{newest}"
    vms.look(0, 1, times=5)
    vms.begin(2, [1, 0])
    assert vms.tree(1)["latest"] == "5" and (vms.roots[1] / "link/b").read_text() == "bbbb"


def test_a_link_to_what_is_not_in_the_folder_is_not_followed(vms: Vms) -> None:
    (vms.folder / "data").mkdir()
    (vms.folder / "data/big").write_text("x")
    vms.begin(1, [0])
    vms.write(0, ONE[0])
    (vms.roots[0] / "data").symlink_to(vms.folder / "data")
    (vms.roots[0] / "nothing").symlink_to("nowhere")
    vms.look(0, times=5)
    vms.begin(2, [1])
    assert vms.tree(1) == ONE[0]


def test_a_file_that_changes_all_the_time_holds_nothing_up(vms: Vms) -> None:
    vms.begin(1, [0])
    vms.write(0, {"model.pt": "1"})
    for number in range(20):
        vms.write(0, {"state.json": f"{number}"})
        vms.now += QUIET - 1
        vms.outputs[0].look()
    vms.begin(2, [1])
    assert vms.tree(1)["model.pt"] == "1"


def test_logs_grow_and_hold_nothing_up_and_are_not_taken_back(vms: Vms) -> None:
    vms.begin(1, [0])
    vms.write(0, {**ONE[0], "train.log": "1\n"})
    for number in range(4):
        vms.write(0, {"train.log": "1\n" * (2 + number)})
        vms.look(0)
    vms.begin(2, [0])
    assert vms.tree(0) == {**ONE[0], "train.log": "1\n" * 5}
    vms.add()
    vms.begin(3, [1])
    assert vms.tree(1)["train.log"].startswith("1\n"), "another VM has a beginning of it"


def test_a_file_that_is_called_as_logs_are_makes_no_half_checkpoint(vms: Vms) -> None:
    """A tokenizer's vocab.txt, or the note that a checkpoint is incomplete."""
    vms.begin(1, [0])
    logs = {"logs/out.txt": "1", "runs/a/events.out.tfevents.1": "1"}
    vms.write(0, {"checkpoint-1/a": "a", "checkpoint-1/vocab.txt": "v", **logs})
    vms.look(0, times=5)
    vms.write(0, {"checkpoint-2/a": "half", "checkpoint-2/vocab.txt": "v"})
    vms.write(0, {"checkpoint-3/checkpoint-is-incomplete.txt": "v", "last/vocab.txt": "v"})
    vms.write(0, {"last/model": "half", "another": "file"})
    vms.outputs[0].look()
    vms.now += 1
    vms.outputs[0].look(final=True)
    version = vms.begin(2, [0])
    vms.outputs[1].begin(2, 1, 2, version)
    whole = {"checkpoint-1/a": "a", "checkpoint-1/vocab.txt": "v", **logs}
    assert vms.tree(0) == vms.tree(1) == whole


def test_nothing_is_uploaded_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []

    class Counting(Store):
        def write(self, name: str, data: bytes | memoryview) -> None:
            written.append(name)
            super().write(name, data)

    monkeypatch.setattr(folder_module, "PART", 4)
    vms = Vms(tmp_path, 1, {0: Counting(str(tmp_path / "run"))})
    vms.begin(1, [0])
    vms.write(0, {"checkpoint-1/a": "123456789"})
    vms.look(0, times=9)
    vms.begin(2, [0])
    vms.look(0, times=5)
    vms.write(0, {"checkpoint-2/a": "x"})
    vms.look(0, times=5)
    assert len([name for name in written if "/parts/" in name]) == 3 + 1


def test_versions_that_are_not_kept_take_their_parts_along(vms: Vms) -> None:
    vms.begin(1, [0])
    for number in range(9):
        vms.write(0, {"last.pt": f"state {number}"})
        vms.look(0, times=4)
    assert len(vms.run_dir.store.names(VERSIONS)) == 3
    assert len(vms.run_dir.store.names("output/parts")) == 3
    vms.begin(2, [0])
    assert vms.tree(0) == {"last.pt": "state 8"}


def test_a_part_that_is_damaged_is_not_taken_for_a_checkpoint(vms: Vms) -> None:
    vms.begin(1, [0])
    vms.write(0, ONE[0])
    vms.look(0, times=5)
    (part,) = vms.run_dir.store.names("output/parts")
    vms.run_dir.store.write(f"output/parts/{part}", b"zz")
    with pytest.raises(OSError, match="damaged"):
        vms.begin(2, [1])
    assert vms.tree(1) == {}


def test_a_damaged_manifest_is_none_and_the_one_before_counts(vms: Vms) -> None:
    vms.begin(1, [0])
    vms.write(0, ONE[0])
    vms.look(0, times=5)
    vms.write(0, TWO[0])
    vms.look(0, times=5)
    newest = vms.run_dir.store.names(VERSIONS)[-1]
    vms.run_dir.store.write(f"{VERSIONS}/{newest}", b'{"format": 1, "entries": {"a": {"b/c": [')
    vms.begin(2, [1])
    assert vms.tree(1) == ONE[0]
