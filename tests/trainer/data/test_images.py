"""Pictures are read from folders of classes, and augmented alike wherever that happens."""

from __future__ import annotations

import importlib
import pickle
import random
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.trainer.tasks import pictures
from trainer.data.images import Augment, Pictures, middle, pixels
from trainer.loaders.sample import SampleError
from trainer.rundir.store import Store
from trainer.rundir.usererror import Unusable


def test_classes_are_folders_and_samples_their_pictures(tmp_path: Path) -> None:
    found = Pictures(pictures.make(tmp_path / "p", 2))
    (tmp_path / "p/left/notes.txt").write_text("no picture")
    assert found.classes == list(pictures.CLASSES)
    assert found.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert found.path(3) == f"{tmp_path}/p/left/001.png"
    shades, label = found[3]
    assert (shades.shape, shades.dtype, label) == ((3, 24, 24), torch.uint8, 1)
    assert torch.equal(shades, pixels(Image.open(tmp_path / "p/left/001.png")))
    assert len(Pictures(str(tmp_path / "p"))) == 8
    part = found.part(torch.tensor([3, 6]))
    assert (part.path(0), part.labels.tolist(), part.classes) == (
        found.path(3),
        [1, 3],
        found.classes,
    )


def test_the_public_names_are_there() -> None:
    data = importlib.import_module("trainer.data")
    assert {name: getattr(data, name).__module__ for name in ("Augment", "Pictures")} == {
        "Augment": "trainer.data.images",
        "Pictures": "trainer.data.images",
    }


def test_pictures_in_a_bucket_are_those_of_a_folder(tmp_path: Path, store: Store) -> None:
    """In each kind of store; a loader that is handed the data set opens the store anew."""
    local = Pictures(pictures.make(tmp_path / "p", 2))
    for one in (tmp_path / "p").rglob("*.*"):
        store.write(one.relative_to(tmp_path / "p").as_posix(), one.read_bytes())
    remote = Pictures.__new__(Pictures)
    remote.__dict__.update(vars(local), _url=store.url, _opened=store)
    for index in range(len(local)):
        assert torch.equal(remote[index][0], local[index][0])
    assert pickle.loads(pickle.dumps(local))[0][1] == 0
    assert "_opened" in vars(remote) and pickle.loads(pickle.dumps(remote))._opened is None


def test_a_batch_is_the_same_from_a_folder_of_any_order(tmp_path: Path) -> None:
    found = Pictures(pictures.make(tmp_path / "p", 3))
    augment = Augment(16, area=0.3, jitter=0.4, seed=5)

    def batch(indices: list[int], epoch: int) -> Any:
        return found.batch(torch.tensor(indices), lambda image, n: augment(image, epoch, n))

    together, labels = batch([4, 0, 7], 2)
    assert (together.shape, together.dtype, labels.tolist()) == (
        (3, 3, 16, 16),
        torch.uint8,
        [1, 0, 2],
    )
    for place, index in enumerate([4, 0, 7]):
        assert torch.equal(batch([index], 2)[0][0], together[place])
    other, _ = batch([4, 0, 7], 3)
    assert not any(torch.equal(a, b) for a, b in zip(together, other, strict=True))


def test_augmentation_is_of_its_seed_epoch_and_sample_alone() -> None:
    image = Image.fromarray(np.random.RandomState(0).randint(0, 255, (40, 60, 3), np.uint8))
    seen = [
        Augment(8, seed=seed)(image, epoch, sample)
        for seed in (0, 1)
        for epoch in (0, 1)
        for sample in (0, 1)
    ]
    assert sum(torch.equal(a, b) for a in seen for b in seen) == len(seen), "each equals itself"
    torch.manual_seed(3)
    assert torch.equal(Augment(8)(image, 0, 0), seen[0]), "other generators do not matter"


def test_parts_are_within_the_picture_and_as_large_as_asked() -> None:
    augment = Augment(8, area=0.25, ratio=2.0)
    image = Image.new("RGB", (50, 30))
    areas = []
    for sample in range(300):
        left, top, right, bottom = augment._part(image, random.Random(sample))
        assert 0 <= left < right <= 50 and 0 <= top < bottom <= 30
        areas.append((right - left) * (bottom - top) / 1500)
        assert min(right - left, bottom - top) >= 8 * min(image.size) / augment.least - 1e-9
    assert min(areas) < 0.3 and max(areas) > 0.9 and 0.5 < sum(areas) / len(areas) < 0.7


def test_mirrors_are_as_frequent_as_asked() -> None:
    image = Image.fromarray(
        np.tile(np.arange(0, 240, 10).astype(np.uint8)[None, :, None], (24, 1, 3))
    )
    for flip, low, high in ((0.0, 0, 0), (1.0, 200, 200), (0.5, 70, 130)):
        augment = Augment(4, flip=flip)
        shades = [augment(image, 0, sample)[0] for sample in range(200)]
        mirrored = sum(bool(one[0, 0] > one[0, -1]) for one in shades)
        assert low <= mirrored <= high


def test_a_jpeg_is_decoded_no_larger_than_needed(tmp_path: Path) -> None:
    (tmp_path / "p/a").mkdir(parents=True)
    Image.new("RGB", (800, 1600), (200, 30, 30)).save(tmp_path / "p/a/x.jpg")
    found = Pictures(str(tmp_path / "p"))
    assert found.open(0).size == (800, 1600)
    assert found.open(0, least=100).size == (100, 200)
    assert found.open(0, least=101).size == (200, 400)
    assert middle(found.open(0, least=100), 64).float().mean((1, 2)).tolist() == pytest.approx(
        [200, 30, 30], abs=4
    )


def test_a_picture_lies_as_its_camera_was_held(tmp_path: Path) -> None:
    (tmp_path / "p/a").mkdir(parents=True)
    about = Image.Exif()
    about[0x0112] = 6  # to be turned
    Image.new("RGB", (40, 20)).save(tmp_path / "p/a/x.jpg", exif=about)
    assert Pictures(str(tmp_path / "p")).open(0).size == (20, 40)


def broken(path: Path, kind: str) -> None:
    """Makes of a picture what is none."""
    data = path.read_bytes()
    if kind == "gone":
        path.unlink()
    elif kind == "a program":
        path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n")
    elif kind == "a trap":
        header = b"IHDR" + (10**5).to_bytes(4, "big") * 2 + bytes([1, 0, 0, 0, 0])
        check = zlib.crc32(header).to_bytes(4, "big")
        path.write_bytes(
            b"\x89PNG\r\n\x1a\n" + (13).to_bytes(4, "big") + header + check + data[33:]
        )
    else:
        path.write_bytes({"cut": data[: len(data) // 2], "empty": b"", "text": b"no picture"}[kind])


@pytest.mark.parametrize("kind", ["cut", "empty", "text", "gone", "a program", "a trap"])
def test_a_picture_that_cannot_be_read_is_named_with_its_path(tmp_path: Path, kind: str) -> None:
    found = Pictures(pictures.make(tmp_path / "p", 2))
    path = Path(found.path(2))
    broken(path, kind)
    with pytest.raises(Unusable, match=str(path)) as caught:
        found.open(2)
    assert caught.value.id == "SW5206"
    augment = Augment(8)
    with pytest.raises(SampleError) as told:
        found.batch(torch.tensor([1, 2]), lambda image, n: augment(image, 0, n))
    assert str(told.value).startswith(f"sample 2 of the data set: {path} ")


@pytest.mark.parametrize("kind", ["cut", "text", "a program", "a trap"])
def test_what_is_no_picture_from_the_start_is_named_when_it_is_read(
    tmp_path: Path, kind: str
) -> None:
    path = Path(Pictures(pictures.make(tmp_path / "p", 2)).path(2))
    broken(path, kind)
    with pytest.raises(Unusable, match=f"{path} cannot be read as a picture: ") as caught:
        Pictures(str(tmp_path / "p"))[2]
    assert caught.value.id == "SW5206"


def test_a_picture_that_changes_while_it_is_trained_on_is_found(tmp_path: Path) -> None:
    found = Pictures(pictures.make(tmp_path / "p", 2))
    Image.new("RGB", (300, 200), (3, 40, 9)).save(found.path(2))
    with pytest.raises(Unusable, match=r"has changed since it was listed: it had [0-9]+ bytes"):
        found[2]


def test_empty_files_are_refused_at_once_and_others_said(tmp_path: Path) -> None:
    folder = pictures.make(tmp_path / "p", 2)
    (tmp_path / "p/left/notes.txt").write_text("no picture")
    assert Pictures(folder).left_out == ["left/notes.txt"]
    for name in "abcde":
        (tmp_path / f"p/left/{name}.png").touch()
    with pytest.raises(Unusable, match=r"of 0 bytes: left/a.png, .*, left/d.png and 1 more") as e:
        Pictures(folder)
    assert e.value.id == "SW5206"


def test_parts_of_a_data_set_are_no_classes(tmp_path: Path) -> None:
    for part in ("train", "Val"):
        pictures.make(tmp_path / "p" / part, 1)
    with pytest.raises(Unusable, match=rf"\(Val, train\), .* name one: {tmp_path}/p/Val$") as e:
        Pictures(str(tmp_path / "p"))
    assert e.value.id == "SW5205"


def test_the_same_pictures_have_the_same_identity(tmp_path: Path) -> None:
    one, other = (Pictures(pictures.make(tmp_path / name, 2)) for name in "pq")
    assert one.samples_identity == other.samples_identity
    assert one.part(torch.tensor([0, 1])).samples_identity != one.samples_identity
    Path(other.path(3)).rename(tmp_path / "q/left/zzz.png")
    assert Pictures(str(tmp_path / "q")).samples_identity != one.samples_identity


def test_a_folder_without_pictures_or_with_another_class_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "p/x.png")
    for url in (tmp_path / "p", tmp_path / "none"):
        with pytest.raises(Unusable, match="has no pictures in folders of classes") as caught:
            Pictures(str(url))
        assert caught.value.id == "SW5205"
    pictures.make(tmp_path / "q", 1)
    with pytest.raises(Unusable, match=r"has a class 'bottom', and .* they have left, right$"):
        Pictures(str(tmp_path / "q"), ["left", "right"])
