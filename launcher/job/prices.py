"""What machines cost by the hour: the catalogue's estimates, or the user's own figures.

The user's are in the file that ``SWELL_PRICES`` names, else in ``SWELL_HOME/prices.yaml`` if there
is one; USD per hour of one VM, for the machines whose prices are better known:

    a3-highgpu-8g: {spot: 31.2, on_demand: 88.5}
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from pydantic import Field, RootModel, ValidationError

from launcher.job.machines import MACHINES, PRICES_AS_OF, Machine, Price
from launcher.job.model import JobModel, problems_in
from launcher.job.pool import MachineName
from launcher.job.problem import NO_MAPPING
from launcher.job.yamlfile import FileError, located, read_file, read_yaml

Dollars = Annotated[float, Field(ge=0)]


class OwnPrices(JobModel):
    """What one machine costs, in USD per hour."""

    spot: Dollars | None = None
    on_demand: Dollars | None = None


_Prices = RootModel[Annotated[dict[MachineName, OwnPrices], Field(max_length=len(MACHINES))]]


@dataclass(frozen=True)
class PriceList:
    """The catalogue's machines with the prices that count.

    Attributes:
        machines: by name.
        source: where the prices come from, for people.
    """

    machines: Mapping[str, Machine]
    source: str


def load_prices(home: Path, environment: Mapping[str, str] = os.environ) -> PriceList:
    """Returns the prices that count here. Raises FileError for a price file that is wrong."""
    named = environment.get("SWELL_PRICES")
    path = Path(named) if named else home / "prices.yaml"
    if not named and not path.is_file():
        return PriceList(MACHINES, PRICES_AS_OF)
    own = read_prices(str(path))
    machines = {
        name: replace(
            machine,
            spot=_price(own[name].spot, machine.spot),
            on_demand=_price(own[name].on_demand, machine.on_demand),
        )
        if name in own
        else machine
        for name, machine in MACHINES.items()
    }
    return PriceList(machines, f"{path} for {', '.join(own)}; else {PRICES_AS_OF}")


def read_prices(file: str) -> dict[str, OwnPrices]:
    """Returns the prices in ``file``, by machine type. Raises FileError."""
    tree, places = read_yaml(read_file(file, "a file of prices"), file)
    if not isinstance(tree, dict):
        what = "is empty" if tree is None else "is not a mapping"
        form = "machine: {spot: PRICE, on_demand: PRICE}"
        raise FileError(NO_MAPPING, f"{file}:1: {what}; write lines of {form}")
    try:
        return _Prices.model_validate(tree).root
    except ValidationError as error:
        found = [
            (tuple(part for part in loc if part != "[key]"), id, what)
            for loc, id, what in problems_in(error)
        ]
        raise FileError.of(located(found, places, file)) from None


def _price(own: float | None, estimate: Price | None) -> Price | None:
    return estimate if own is None else Price(own, region="")
