"""An index is looked at before it is believed."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.data.shards.failure import ShardError
from trainer.data.shards.index import Index

SHARD = {
    "column_encodings": ["str", "int"],
    "column_names": ["t", "n"],
    "column_sizes": [None, 8],
    "compression": None,
    "format": "mds",
    "hashes": ["sha1"],
    "raw_data": {"basename": "shard.00000.mds", "bytes": 100, "hashes": {"sha1": "ab"}},
    "samples": 3,
    "size_limit": 67108864,
    "version": 2,
    "zip_data": None,
}
Change = Callable[[dict[str, Any]], object]


def parsed(change: Change = lambda index: None) -> Index:
    index = {"shards": [copy.deepcopy(SHARD), copy.deepcopy(SHARD)], "version": 2}
    change(index)
    return Index.parse(json.dumps(index).encode(), "gs://b/index.json")


def test_what_it_says_of_its_shards() -> None:
    found = parsed()
    assert [(one.name, one.size, one.samples, one.hash) for one in found.shards] == [
        ("shard.00000.mds", 100, 3, ("sha1", "ab"))
    ] * 2
    assert [(one.name, one.encoding, one.size) for one in found.columns] == [
        ("t", "str", None),
        ("n", "int", 8),
    ]
    assert found.digest == parsed().digest
    assert found.digest != parsed(lambda index: index["shards"][0].update(samples=4)).digest


def test_the_fastest_checksum_that_is_known_is_taken() -> None:
    def hashes(*names: str) -> Change:
        known = dict.fromkeys(names, "00")
        return lambda index: index["shards"][0]["raw_data"].update(hashes=known)

    assert parsed(hashes("sha1", "xxh64")).shards[0].hash == ("xxh64", "00")
    assert parsed(hashes("none of ours")).shards[0].hash is None
    assert parsed(hashes()).shards[0].hash is None


def first(**changes: Any) -> Change:
    return lambda index: index["shards"][0].update(changes)


def raw(**changes: Any) -> Change:
    return lambda index: index["shards"][0]["raw_data"].update(changes)


PKL = "column 'n' is pickled, and what is unpickled can do anything; write it with another"


@pytest.mark.parametrize(
    "change, error",
    [
        (lambda index: index.pop("shards"), "it is no index of shards in the format MDS"),
        (lambda index: index.update(version=1), "version is 1, and 2 can be read"),
        (lambda index: index.update(shards=[]), "it has no sample"),
        (lambda index: index.update(shards=[3]), "shards.0: format is None"),
        (first(format="csv"), "shards.0: it is not in the format MDS, version 2"),
        (first(compression="zstd"), "shards.0: it is compressed; write the shards without"),
        (first(samples=True), "shards.0: samples is True"),
        (first(samples=100), "shards.0: 100 samples in 100 bytes"),
        (raw(bytes=2**32), "shards.0: 3 samples in 4294967296 bytes"),
        (raw(bytes="1"), "shards.0: bytes is '1'"),
        (raw(basename="../other"), "shards.0: basename is '../other', none in the folder"),
        (raw(basename="/etc/passwd"), "shards.0: basename is '/etc/passwd', none in the folder"),
        (first(column_encodings=["str", "pkl"], column_sizes=[None, None]), PKL),
        (first(column_encodings=["str", "who"], column_sizes=[None, 8]), "shards.1: its columns"),
        (first(column_sizes=[None, 4]), "column 'n': int does not have 4 bytes"),
        (first(column_sizes=[None, None]), "column 'n': int does not have None bytes"),
        (first(column_sizes=[None, -1]), "column 'n': int does not have -1 bytes"),
        (first(column_names=["t"]), "shards.0: columns without name, encoding or size"),
        (first(column_names=["t", 3]), "shards.0: a column 3 of 'int'"),
    ],
)
def test_what_is_wrong_is_named(change: Change, error: str) -> None:
    with pytest.raises(ShardError) as raised:
        parsed(change)
    assert raised.value.id == "SW5174"
    assert str(raised.value).startswith(f"gs://b/index.json: {error}")


def test_an_encoding_that_nobody_knows_is_named() -> None:
    def change(index: dict[str, Any]) -> None:
        for one in index["shards"]:
            one.update(column_encodings=["who", "int"])

    with pytest.raises(ShardError, match=r"column 't': the encoding 'who' cannot be read; known"):
        parsed(change)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)
PLACES = st.sampled_from([*SHARD, *SHARD["raw_data"]])  # type: ignore[misc]


@given(PLACES, JSON)
def test_whatever_stands_in_it_is_an_index_or_an_error(place: str, value: Any) -> None:
    def change(index: dict[str, Any]) -> None:
        one = index["shards"][0]
        (one["raw_data"] if place in one["raw_data"] else one)[place] = value

    try:
        assert parsed(change).shards[1].samples == 3
    except ShardError as error:
        assert error.id == "SW5174"


@given(st.binary(max_size=50))
def test_bytes_of_anything_are_an_error(data: bytes) -> None:
    with pytest.raises(ShardError, match=r"^gs://b/index.json: "):
        Index.parse(data, "gs://b/index.json")
