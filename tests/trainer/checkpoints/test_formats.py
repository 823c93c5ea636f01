"""Checkpoints of other versions: older ones begin new runs, newer ones are refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.trainer.checkpoints.world import ThreadExchange, World
from trainer.checkpoints.manifest import MANIFEST, Manifest, folder_of, read_manifest, signed
from trainer.checkpoints.restore import PARTS, Alone, find_start, load_from
from trainer.rundir import formats
from trainer.rundir.directory import RunDirectory
from trainer.rundir.formats import FormatError

OLD = Path(__file__).parents[2] / "data/runs/format-1"
CPU = torch.device("cpu")
NEWER = formats.MANIFEST.number + 1


def silent(event: str, **fields: Any) -> None:
    raise AssertionError(f"{event}: {fields}")


def rewrite(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    manifest = json.loads(path.read_bytes())
    path.write_text(json.dumps(change(manifest)))


def renumbered(manifest: dict[str, Any], format: int = NEWER) -> dict[str, Any]:
    """The manifest as a newer version would have written it."""
    rest = {key: value for key, value in manifest.items() if key not in ("owner", "sha256")}
    return signed({**rest, "format": format, "swell": "7.1", "novelty": []})


def before_terms(manifest: dict[str, Any], **about: Any) -> dict[str, Any]:
    rest = {key: value for key, value in manifest.items() if key not in ("owner", "sha256")}
    return signed({**rest, "about": {**rest["about"], **about}})


@pytest.fixture
def two(tmp_path: Path) -> World:
    """A world of two ranks with checkpoints of steps 1 and 2."""
    world = World(str(tmp_path), 2)
    for step in (1, 2):
        world.save(step)
    return world


def manifest_of(world: World, step: int) -> Path:
    return Path(world.run_dirs[0].url) / folder_of(step) / MANIFEST


def test_a_new_run_begins_from_a_checkpoint_of_an_older_one(tmp_path: Path) -> None:
    new = RunDirectory(str(tmp_path))
    found = find_start([new], f"{OLD}/checkpoints/step-000000092", silent, Alone(), CPU)
    assert found is not None
    tree, step = found
    assert step == 92
    assert tree["parts"]["model"]["0.weight"].isfinite().all()
    assert tree["parts"]["optimizer"]["param_groups"]


def test_a_new_run_begins_from_the_weights_of_an_older_one() -> None:
    tree, step = load_from(f"{OLD}/checkpoints/step-000000080#weights", silent, Alone(), CPU)
    assert step == 0 and tree[PARTS] == ["weights"]


def test_a_manifest_of_before_leaders_had_terms_is_read(two: World) -> None:
    rewrite(manifest_of(two, 2), lambda manifest: before_terms(manifest, leader_epoch=3))
    about = read_manifest(two.run_dirs[0], 2).about
    assert about["leader_term"] == 3 and "leader_epoch" not in about
    assert two.loaded() == (2, 2000.0)


def test_a_manifest_says_its_format_and_who_wrote_it(two: World) -> None:
    manifest = json.loads(manifest_of(two, 2).read_bytes())
    assert {key: manifest[key] for key in ("format", "swell")} == formats.MANIFEST.stamp()


def test_a_newer_checkpoint_is_no_reason_to_go_back_to_the_one_before(two: World) -> None:
    """It is refused by all ranks alike: nobody trains on without what a newer image has done."""
    rewrite(manifest_of(two, 2), renumbered)
    exchange = ThreadExchange(2)
    with ThreadPoolExecutor(2) as pool:
        loads = [pool.submit(two.load_as, exchange.of(rank)) for rank in range(2)]
    for load in loads:
        with pytest.raises(FormatError, match=r"step-000000002/manifest\.json is of format 5, wri"):
            load.result()
    assert two.told("checkpoint_rejected") == []


def test_a_newer_checkpoint_before_the_newest_is_nobodys_trouble(two: World) -> None:
    rewrite(manifest_of(two, 1), renumbered)
    assert two.loaded() == (2, 2000.0)


def test_what_is_damaged_is_not_taken_for_newer(two: World) -> None:
    rewrite(manifest_of(two, 2), lambda manifest: {**manifest, "format": NEWER})
    assert two.loaded() == (1, 1000.0)
    assert two.told("checkpoint_rejected") == [2]


def test_a_new_run_does_not_begin_from_a_newer_checkpoint(two: World) -> None:
    path = manifest_of(two, 2)
    rewrite(path, renumbered)
    with pytest.raises(FormatError, match="is of format 5"):
        load_from(str(path.parent), silent, Alone(), CPU)


@given(st.integers(NEWER, 2**63))
def test_any_newer_manifest_is_refused_by_name(format: int) -> None:
    manifest = renumbered(Manifest(7, "1-1-w1", {}, [], []).to_json(), format)
    with pytest.raises(FormatError, match=rf"is of format {format}, written by Swell 7\.1; "):
        Manifest.from_json(manifest, 7)
