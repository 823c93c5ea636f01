"""Values of all kinds, as MosaicML Streaming writes them, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from trainer.data import Shards
from trainer.data.shards.columns import KNOWN, SCALARS, decoder, encoded, encoding_of, size_of

WRITTEN = Path(__file__).parents[3] / "data" / "mds"  # by MosaicML Streaming 0.13.0
TYPES = st.sampled_from(SCALARS)


def back(value: Any) -> Any:
    """A value as it is read when it was written."""
    encoding = encoding_of(value)
    data = encoded(encoding, value)
    assert size_of(encoding) in (None, len(data))
    return decoder(encoding)(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.binary()
    | st.text()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.lists(JSON)
    | st.dictionaries(st.text(), JSON, max_size=3)
)
def test_a_plain_value_comes_back(value: Any) -> None:
    assert back(value) == value


@given(TYPES.flatmap(lambda t: arrays.arrays(t, arrays.array_shapes(max_dims=4, max_side=4))))
def test_an_array_comes_back_and_can_be_written_to(value: Any) -> None:
    found = back(value)
    assert found.dtype == value.dtype and found.shape == value.shape
    assert found.tobytes() == value.tobytes()
    found[...] = 0


@given(TYPES.flatmap(lambda t: arrays.from_dtype(np.dtype(t))))
def test_a_scalar_comes_back_in_its_type(value: Any) -> None:
    found = back(value)
    assert type(found) is type(value)
    assert found.tobytes() == value.tobytes()


@pytest.mark.parametrize("shape", [(300,), (2, 70_000), (1, 1, 256), (255, 2)])
def test_a_long_array_comes_back(shape: tuple[int, ...]) -> None:
    value = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    assert np.array_equal(back(value), value)


def test_a_tensor_is_an_array_and_a_truth_a_number() -> None:
    assert back(torch.arange(6).view(2, 3)).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert back(torch.tensor(1.5)) == 1.5
    assert back(True) == 1


@pytest.mark.parametrize(
    "value, error",
    [
        (None, "a NoneType"),
        ({1, 2}, "a set"),
        (np.array([1j]), "an array of complex128; known are uint8, uint16"),
        (torch.zeros(1).bool(), "an array of bool; known are uint8"),
    ],
)
def test_what_cannot_be_written_says_so(value: Any, error: str) -> None:
    with pytest.raises(TypeError, match=error):
        encoding_of(value)


@pytest.mark.parametrize(
    "encoding, value, error",
    [
        ("int", "one", "str, and it was int before"),
        ("str", 1, "int, and it was str before"),
        ("ndarray", np.zeros((0, 2)), "an array without elements"),
        ("int", 2**63, "int too big"),
    ],
)
def test_a_column_has_values_of_one_kind(encoding: str, value: Any, error: str) -> None:
    with pytest.raises((TypeError, ValueError, OverflowError), match=error):
        encoded(encoding, value)


@pytest.mark.parametrize("encoding", ["pkl", "list[jpeg]", "ndarray:object", "int:8", "other"])
def test_an_encoding_that_is_not_known_is_refused(encoding: str) -> None:
    with pytest.raises(ValueError, match="cannot be read; known are"):
        decoder(encoding)
    assert encoding not in KNOWN


def test_what_mosaicml_streaming_has_written_is_read() -> None:
    data = Shards(WRITTEN)
    assert [len(data), *data.shard_sizes] == [20, 13, 7]
    for number in range(20):
        found = data[number]
        assert found["a_bytes"] == bytes([number]) * number
        assert found["b_str"] == "ü" * number
        assert found["c_int"] == -number
        assert found["d_any"].tolist() == list(range(number + 1))
        assert found["d_any"].dtype == np.uint64
        assert found["e_typed"].tolist() == [[number, number]] * (number + 1)
        assert found["f_fixed"].tolist() == [[number] * 3] * 2
        assert found["g_scalar"] == number / 2
        assert found["h_json"] == {"i": number}
        assert found["i_png"].tobytes() == bytes([number] * 6)
        assert found["j_digits"] == 10**number
    data.close()
