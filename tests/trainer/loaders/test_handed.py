"""What of a data set is seen to change once loaders have it."""

from __future__ import annotations

from typing import Any

import pytest

from trainer.loaders.handed import Handed


class Transform:
    def __init__(self) -> None:
        self.strength: Any = 0.5

    def __call__(self, sample: Any) -> Any:
        return sample


class Data:
    def __init__(self) -> None:
        self.level: Any = 1
        self.transform = Transform()
        self.paths = ["a", "b"]
        self._cache = 0
        self.nothing = float("nan")
        self.kind = Transform


def change(data: Any, what: str) -> None:
    exec(f"data.{what}", {"data": data})


@pytest.mark.parametrize(
    "what, said",
    [
        ("level = 2", ".level was 1 and is 2"),
        ("level = True", ""),  # the same number
        ("transform.strength = 0.9", ".transform.strength was 0.5 and is 0.9"),
        ("transform.strength = None", ".transform.strength was 0.5 and is None"),
        ("paths.append('c')", "len(.paths) was 2 and is 3"),
        ("__dict__.pop('level')", ".level was 1 and is gone"),
        ("more = 3", ".more is new"),
        ("_cache = 5", ""),
        ("level = 1", ""),
    ],
)
def test_what_has_changed_is_named(what: str, said: str) -> None:
    data = Data()
    handed = Handed(data)
    assert handed.changed == ""
    change(data, what)
    assert handed.changed == said


@pytest.mark.parametrize("data", [None, [1, 2], {"a": 1}, range(5), "text"])
def test_data_of_any_kind_is_looked_at(data: Any) -> None:
    assert Handed(data).changed == ""


def test_a_list_that_grows_is_seen() -> None:
    data = [1]
    handed = Handed(data)
    data.append(2)
    assert handed.changed == "length was 1 and is 2"
