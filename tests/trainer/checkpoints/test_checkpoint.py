"""Checkpoints: whole or not there, checked when loaded, with the one before to fall back on."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save as save_tensors

from tests.trainer.checkpoints.interrupted import Interrupted, InThisThread, die, survives
from trainer.checkpoints.checkpoint import Checkpointer
from trainer.checkpoints.manifest import (
    MANIFEST,
    committed_steps,
    sha256_of,
)
from trainer.checkpoints.restore import Alone, NoneValid, load_newest
from trainer.checkpoints.shardfile import checksum
from trainer.rundir.directory import RunDirectory
from trainer.rundir.names import CHECKPOINTS
from trainer.rundir.store import Store

Report = tuple[str, dict[str, Any]]


def state(step: int) -> dict[str, Any]:
    return {
        "step": step,
        "model": {"weight": torch.full((2, 3), float(step)), "empty": torch.empty(0)},
        "optimizer": {"state": {0: {"momentum": torch.tensor(step / 7)}}, "lr": 0.1},
    }


def is_state(tree: Any, step: int) -> bool:
    expected = state(step)
    model, optimizer = expected["model"], expected["optimizer"]
    return bool(
        tree["step"] == step
        and torch.equal(tree["model"]["weight"], model["weight"])
        and tree["model"]["empty"].shape == (0,)
        and torch.equal(
            tree["optimizer"]["state"][0]["momentum"], optimizer["state"][0]["momentum"]
        )
        and tree["optimizer"]["lr"] == 0.1
    )


def newest_in(places: list[RunDirectory], report: Callable[..., None]) -> tuple[Any, int] | None:
    return load_newest(places, report, Alone(), torch.device("cpu"))


class Saved:
    """A run directory with checkpoints, and what was reported about them."""

    def __init__(self, path: Path, keep: int = 2) -> None:
        self.run_dir = RunDirectory(str(path))
        self.reports: list[Report] = []
        self.checkpointer = Checkpointer(self.run_dir, keep, self._report)

    def _report(self, event: str, **fields: Any) -> None:
        self.reports.append((event, fields))

    def save(self, *steps: int) -> None:
        for step in steps:
            assert self.checkpointer.save(state(step), step, wait=True)

    def newest(self) -> tuple[Any, int] | None:
        return newest_in([self.run_dir], self._report)

    def folder(self, step: int) -> Path:
        return Path(self.run_dir.url) / CHECKPOINTS / f"step-{step:09d}"

    def manifest(self, step: int) -> Path:
        return self.folder(step) / MANIFEST

    def shard(self, step: int) -> Path:
        (shard,) = self.folder(step).glob("*.safetensors")
        return shard

    def reported(self, event: str) -> list[int]:
        return [fields["step"] for name, fields in self.reports if name == event]

    def assert_falls_back_from(self, step: int, to: int) -> str:
        """The checkpoint of ``step`` is rejected, that of ``to`` is loaded; returns the reason."""
        self.reports.clear()
        found = self.newest()
        assert found is not None
        assert found[1] == to
        assert is_state(found[0], to)
        ((event, fields),) = self.reports
        assert (event, fields["step"]) == ("checkpoint_rejected", step)
        return str(fields["reason"])


@pytest.fixture
def saved(tmp_path: Path) -> Saved:
    return Saved(tmp_path)


def test_the_newest_comes_back(saved: Saved) -> None:
    saved.save(1, 2)
    found = saved.newest()
    assert found is not None
    tree, step = found
    assert step == 2
    assert is_state(tree, 2)
    assert saved.reported("checkpoint_committed") == [1, 2]
    assert saved.reported("checkpoint_rejected") == []


def test_a_run_may_have_checkpoints_in_several_places(tmp_path: Path) -> None:
    """Where a run has moved to, it writes; the newest that is valid counts, wherever it is."""
    first = Saved(tmp_path / "first")
    first.save(1, 2, 3)
    second = Saved(tmp_path / "second")
    places = [second.run_dir, first.run_dir]
    moved = Checkpointer(first.run_dir, 1, second._report, place=places[0])
    found = newest_in(places, second._report)
    assert found is not None and is_state(*found)
    assert found[1] == 3
    assert moved.save(state(4), 4, wait=True)
    assert committed_steps(first.run_dir) == [2, 3], "nothing is tidied but where it writes"
    assert committed_steps(second.run_dir) == [4]
    second.shard(4).unlink()
    found = newest_in(places, second._report)
    assert found is not None and found[1] == 3
    assert second.reported("checkpoint_rejected") == [4]
    first.shard(3).unlink()
    first.shard(2).unlink()
    with pytest.raises(NoneValid, match=r"none of the 3 checkpoints in .*second.* and .*first"):
        newest_in(places, second._report)


def test_in_a_new_run_there_is_none(saved: Saved) -> None:
    assert saved.newest() is None


def test_a_commit_tells_its_size(saved: Saved) -> None:
    saved.save(1)
    ((_, fields),) = saved.reports
    assert fields["bytes"] == saved.shard(1).stat().st_size
    assert fields["seconds"] >= 0


def test_what_is_saved_is_the_state_at_the_call(
    saved: Saved, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy is made before save returns; training goes on while the thread writes."""
    trained = threading.Event()
    write = Store.write

    def write_late(store: Store, name: str, data: bytes | memoryview) -> None:
        assert trained.wait(600)
        write(store, name, data)

    monkeypatch.setattr(Store, "write", write_late)
    tree = state(5)
    assert saved.checkpointer.save(tree, 5)
    assert not saved.checkpointer.save(state(6), 6), "one at a time"
    tree["model"]["weight"].zero_()
    tree["optimizer"]["lr"] = 0.0
    trained.set()
    saved.save(7)
    assert saved.reported("checkpoint_committed") == [5, 7]
    saved.manifest(7).unlink()
    found = saved.newest()
    assert found is not None and is_state(found[0], 5)


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_newest_are_kept(tmp_path: Path, keep: int) -> None:
    saved = Saved(tmp_path, keep)
    saved.save(*range(1, 6))
    kept = list(range(6 - keep, 6))
    assert committed_steps(saved.run_dir) == kept
    assert [path.name for path in sorted((tmp_path / CHECKPOINTS).iterdir())] == [
        f"step-{step:09d}" for step in kept
    ]


def test_at_least_one_is_kept(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one"):
        Saved(tmp_path, keep=0)


def test_what_is_no_checkpoint_is_not_listed(saved: Saved) -> None:
    saved.save(3)
    for name in ("step-x", "step-²", "other", "step-000000009"):
        saved.run_dir.store.write(f"{CHECKPOINTS}/{name}/leftover", b"")
    saved.run_dir.store.write(f"{CHECKPOINTS}/step-000000010", b"a file")
    assert committed_steps(saved.run_dir) == [3]


def test_a_second_save_of_a_step_leaves_the_first_alone(saved: Saved) -> None:
    """Ranks may differ in what is theirs alone, such as running means."""
    saved.save(2)
    other = state(2)
    other["model"]["weight"] += 1
    assert saved.checkpointer.save(other, 2, wait=True)
    found = saved.newest()
    assert found is not None and is_state(found[0], 2)
    assert saved.reported("checkpoint_committed") == [2]


@pytest.mark.parametrize("keep", [1, 2])
def test_a_rejected_checkpoint_does_not_push_good_ones_out(tmp_path: Path, keep: int) -> None:
    saved = Saved(tmp_path, keep)
    saved.save(10)
    saved.checkpointer = Checkpointer(saved.run_dir, 9, saved._report)
    saved.save(100)
    saved.shard(100).write_bytes(b"damaged")
    saved.assert_falls_back_from(100, to=10)
    saved.checkpointer = Checkpointer(saved.run_dir, keep, saved._report)
    saved.save(20, 30)
    saved.assert_falls_back_from(100, to=30)
    saved.save(40, 110)
    found = saved.newest()
    assert found is not None and found[1] == 110


# --- a store that fails, a process that is killed ------------------------------------------


def operations_of_a_save(path: Path) -> int:
    """How many store operations the second save of a run takes that keeps one checkpoint."""
    saved = Saved(path, keep=1)
    saved.save(1)
    store = saved.run_dir.store = Interrupted(saved.run_dir.url, -1, False, lambda: None)
    saved.save(2)
    return store.count


def assert_nothing_is_half(saved: Saved) -> int:
    """A new process finds a whole checkpoint of step 1 or 2. Returns which."""
    fresh = Saved(Path(saved.run_dir.url), keep=1)
    found = fresh.newest()
    assert found is not None, "the older checkpoint is lost"
    assert is_state(found[0], found[1])
    assert fresh.reports == [], "something half was visible"
    fresh.save(3)
    assert committed_steps(fresh.run_dir) == [3], "the next save did not clean up"
    return found[1]


def fail() -> None:
    raise OSError("the store is away")


@pytest.mark.parametrize("after", [False, True], ids=["before", "answer-lost"])
def test_a_fault_at_any_operation_leaves_a_whole_checkpoint(tmp_path: Path, after: bool) -> None:
    loaded = []
    for at in range(operations_of_a_save(tmp_path / "counted")):
        saved = Saved(tmp_path / str(at), keep=1)
        saved.save(1)
        saved.run_dir.store = Interrupted(saved.run_dir.url, at, after, fail)
        saved.save(2)
        assert saved.reported("checkpoint_failed") == [2] or after
        loaded.append(assert_nothing_is_half(saved))
    assert loaded == sorted(loaded)
    assert set(loaded) == {1, 2}


def test_an_error_that_nobody_thought_of_is_told_too(saved: Saved) -> None:
    saved.save(1)

    def strange() -> None:
        raise RuntimeError("strange")

    saved.run_dir.store = Interrupted(saved.run_dir.url, 0, False, strange)
    saved.save(2)
    saved.run_dir.store = Store(saved.run_dir.url)
    saved.save(3)
    (reason,) = (one["reason"] for event, one in saved.reports if event == "checkpoint_failed")
    assert reason == "RuntimeError('strange')"
    assert committed_steps(saved.run_dir) == [1, 3]


def write_in_this_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.checkpoints.checkpoint.ThreadPoolExecutor", InThisThread)


def test_kill_9_at_any_operation_leaves_a_whole_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_in_this_thread(monkeypatch)
    loaded = []
    for at in range(operations_of_a_save(tmp_path / "counted")):
        saved = Saved(tmp_path / str(at), keep=1)
        saved.save(1)
        saved.run_dir.store = Interrupted(saved.run_dir.url, at, False, die)
        assert not survives(lambda saved=saved: saved.save(2))  # type: ignore[misc]
        loaded.append(assert_nothing_is_half(saved))
    assert loaded == sorted(loaded)
    assert set(loaded) == {1, 2}


@pytest.mark.parametrize("call", ["fsync", "replace", "link"])
def test_kill_9_inside_a_write_leaves_the_older_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    write_in_this_thread(monkeypatch)
    saved = Saved(tmp_path, keep=1)
    saved.save(1)
    with monkeypatch.context() as patch:
        patch.setattr(os, call, lambda *args: die())
        assert not survives(lambda: saved.save(2))
    assert assert_nothing_is_half(saved) == 1


# --- damage -------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 1, 100, -1])
@pytest.mark.parametrize("what", ["shard", "manifest"])
def test_a_truncated_file_is_rejected(saved: Saved, what: str, length: int) -> None:
    saved.save(1, 2)
    path = getattr(saved, what)(2)
    path.write_bytes(path.read_bytes()[:length])
    if what == "manifest" and length == -1:  # only the newline at its end
        assert saved.newest() is not None
        return
    saved.assert_falls_back_from(2, to=1)


def test_a_longer_file_is_rejected(saved: Saved) -> None:
    saved.save(1, 2)
    with saved.shard(2).open("ab") as file:
        file.write(b"\0")
    assert "larger than" in saved.assert_falls_back_from(2, to=1)


def test_a_missing_shard_is_rejected(saved: Saved) -> None:
    saved.save(1, 2)
    saved.shard(2).unlink()
    assert "FileNotFoundError" in saved.assert_falls_back_from(2, to=1)


def test_a_shard_of_another_step_is_rejected(saved: Saved) -> None:
    saved.save(1, 2)
    saved.shard(2).write_bytes(saved.shard(1).read_bytes())
    assert "checksum" in saved.assert_falls_back_from(2, to=1)


def test_a_manifest_of_another_step_is_rejected(saved: Saved) -> None:
    saved.save(1, 2)
    saved.manifest(2).write_bytes(saved.manifest(1).read_bytes())
    assert "not one of step 2" in saved.assert_falls_back_from(2, to=1)


@pytest.mark.parametrize(
    "field", ["format", "step", "writing", "skeleton", "tensors", "shards", "about", "sha256"]
)
@pytest.mark.parametrize("how", ["changed", "missing"])
def test_no_field_of_a_manifest_can_change(saved: Saved, field: str, how: str) -> None:
    saved.save(1, 2)
    manifest = json.loads(saved.manifest(2).read_bytes())
    if how == "missing":
        del manifest[field]
    else:
        manifest[field] = {"step": 1}.get(field, "other")
    saved.manifest(2).write_text(json.dumps(manifest))
    saved.assert_falls_back_from(2, to=1)


@pytest.mark.parametrize("place", [0, 7, 8, 9, 40, -1])
def test_no_byte_of_a_shards_header_or_data_can_change(saved: Saved, place: int) -> None:
    """The length of the header, the header, and the data."""
    saved.save(1, 2)
    data = bytearray(saved.shard(2).read_bytes())
    data[place] ^= 1
    saved.shard(2).write_bytes(data)
    saved.assert_falls_back_from(2, to=1)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    saved = Saved(tmp_path_factory.mktemp("two"))
    saved.save(1, 2)
    return saved


@settings(max_examples=150)
@given(st.sampled_from(["shard", "manifest"]), st.floats(0, 1, exclude_max=True), st.integers(0, 7))
def test_a_flipped_bit_is_rejected_or_harmless(
    two: Saved, what: str, place: float, bit: int
) -> None:
    path = getattr(two, what)(2)
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[int(place * len(whole))] ^= 1 << bit
    path.write_bytes(bytes(damaged))
    two.reports.clear()
    try:
        found = two.newest()
    finally:
        path.write_bytes(whole)
    assert found is not None
    assert is_state(found[0], found[1])
    assert two.reported("checkpoint_rejected") == ([] if found[1] == 2 else [2])
    if what == "shard":
        assert found[1] == 1


FOREIGN: list[Any] = [
    {},
    {"format": 1, "step": 2},
    {"format": "99", "step": 2},
    {"format": True, "step": 2},
    {"format": 3, "step": 2},
    {"format": 3, "step": 2, "tensors": [], "shards": 5},
    {"format": 3, "step": 2, "tensors": [], "shards": ["x"]},
    {"format": 3, "step": 2, "tensors": [], "shards": [{"name": 1}]},
    {"format": 3, "step": 2, "tensors": 5, "shards": []},
    {"format": 3, "step": 2, "tensors": [{"name": "a"}], "shards": []},
    {
        "format": 3,
        "step": 2,
        "tensors": [{"name": "a", "dtype": "load", "shape": []}],
        "shards": [],
    },
    {
        "format": 3,
        "step": 2,
        "tensors": [{"name": "a", "dtype": "float32", "shape": [2**60]}],
        "shards": [],
    },
    {"format": 3, "step": 2, "tensors": [], "shards": [], "skeleton": {"__tensor__": 3}},
    {"format": 3, "step": 2, "tensors": [], "shards": [], "skeleton": {"__tuple__": 3}},
    [],
    "text",
]


@pytest.mark.parametrize("manifest", FOREIGN, ids=str)
@pytest.mark.parametrize("signed", [False, True])
def test_a_foreign_manifest_is_rejected(saved: Saved, manifest: Any, signed: bool) -> None:
    saved.save(1, 2)
    if signed and isinstance(manifest, dict) and manifest:
        manifest = {"writing": "x", "skeleton": {}, "about": {}, **manifest}
        manifest["sha256"] = sha256_of(manifest)
    saved.manifest(2).write_text(json.dumps(manifest))
    saved.assert_falls_back_from(2, to=1)


def sign(saved: Saved, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes the manifest of step 2 as somebody would who knows its form."""
    manifest = json.loads(saved.manifest(2).read_bytes())
    change(manifest)
    told = {key: value for key, value in manifest.items() if key not in ("owner", "sha256")}
    saved.manifest(2).write_text(json.dumps({**told, "sha256": sha256_of(told)}))


@pytest.mark.parametrize("data", [b"", b"no safetensors", b"\xff" * 600, save_tensors({})])
def test_a_foreign_shard_with_a_checksum_of_its_own_is_rejected(saved: Saved, data: bytes) -> None:
    saved.save(1, 2)
    data += b" " * 100

    def change(manifest: dict[str, Any]) -> None:
        (shard,) = manifest["shards"]
        shard.update(bytes=len(data), xxh3=checksum(data))

    saved.shard(2).write_bytes(data)
    sign(saved, change)
    saved.assert_falls_back_from(2, to=1)


def test_a_shard_is_looked_for_in_its_own_folder_only(saved: Saved) -> None:
    saved.save(1, 2)
    elsewhere = f"../step-000000001/{saved.shard(1).name}"
    sign(saved, lambda manifest: manifest["shards"][0].update(name=elsewhere))
    assert "is not the name of a shard" in saved.assert_falls_back_from(2, to=1)


def test_the_next_older_one_is_loaded_past_any_number_of_damaged_ones(tmp_path: Path) -> None:
    saved = Saved(tmp_path, keep=4)
    saved.save(1, 2, 3, 4)
    for step in (2, 3, 4):
        saved.shard(step).write_bytes(b"")
    found = saved.newest()
    assert found is not None and found[1] == 1
    assert saved.reported("checkpoint_rejected") == [4, 3, 2]


def test_when_none_is_valid_training_does_not_silently_start_again(saved: Saved) -> None:
    saved.save(1, 2)
    for step in (1, 2):
        saved.manifest(step).write_bytes(b"{")
    with pytest.raises(NoneValid, match=r"none of the 2 checkpoints in .* is valid") as error:
        saved.newest()
    assert error.value.id == "SW5003"
    assert saved.reported("checkpoint_rejected") == [2, 1]
