"""The user's own prices take the place of the catalogue's estimates."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.job.machines import MACHINES, PRICES_AS_OF, Price
from launcher.job.prices import load_prices
from launcher.job.yamlfile import FileError


def test_every_price_in_the_catalogue_is_a_price() -> None:
    for machine in MACHINES.values():
        for price in (machine.spot, machine.on_demand):
            assert price is None or (isinstance(price, Price) and price.usd_per_hour > 0)


def test_without_a_file_the_catalogue_counts(tmp_path: Path) -> None:
    prices = load_prices(tmp_path, {})
    assert prices.machines == MACHINES
    assert prices.source == PRICES_AS_OF


@pytest.mark.parametrize("named", [True, False])
def test_a_file_replaces_what_it_names_and_nothing_else(tmp_path: Path, named: bool) -> None:
    path = tmp_path / ("mine.yaml" if named else "prices.yaml")
    path.write_text("a2-highgpu-8g: {spot: 12}\na3-ultragpu-8g: {spot: 1.5, on_demand: 3}\n")
    prices = load_prices(tmp_path, {"SWELL_PRICES": str(path)} if named else {})
    changed = prices.machines["a2-highgpu-8g"]
    assert changed.spot == Price(12.0, region="")
    assert changed.on_demand == MACHINES["a2-highgpu-8g"].on_demand
    assert prices.machines["a3-ultragpu-8g"].on_demand == Price(3.0, region="")
    assert prices.machines["a2-highgpu-1g"] is MACHINES["a2-highgpu-1g"]
    assert str(path) in prices.source


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a2-higpu-8g: {spot: 1}", ":1: a2-higpu-8g: 'a2-higpu-8g' is not a machine of the series"),
        ("a2-highgpu-8g: {spot: -1}", ":1: a2-highgpu-8g.spot: is -1; write at least 0"),
        ("a2-highgpu-8g: {spot: x}", ":1: a2-highgpu-8g.spot: is 'x'; write a number"),
        ("a2-highgpu-8g: {spot: .inf}", ":1: a2-highgpu-8g.spot: is inf; write a finite number"),
        ("a2-highgpu-8g:\n  sport: 1", ":2: a2-highgpu-8g.sport: is not a known field; did you"),
        ("a2-highgpu-8g: 3", ":1: a2-highgpu-8g: is 3; write a mapping"),
        ("[1]", ":1: is not a mapping; write lines of machine: {spot: PRICE, on_demand: PRICE}"),
        ("", ":1: is empty; write lines of machine: {spot: PRICE, on_demand: PRICE}"),
        ("a: [", " is not YAML"),
    ],
)
def test_a_wrong_file_is_one_line_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text(text)
    with pytest.raises(FileError) as error:
        load_prices(tmp_path, {})
    assert len(error.value.problems) == 1
    assert message in error.value.problems[0]


def test_a_file_that_is_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"none\.yaml: there is no such file"):
        load_prices(tmp_path, {"SWELL_PRICES": str(tmp_path / "none.yaml")})
