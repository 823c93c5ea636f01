"""What machines cost by the hour: the catalogue's estimates, or the user's own figures.

The user's are in the file that ``SWELL_PRICES`` names, else in ``SWELL_HOME/prices.yaml`` if there
is one; USD per hour of one VM, for the machines whose prices are better known:

    a3-highgpu-8g: {spot: 31.2, on_demand: 88.5}
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, RootModel, ValidationError

from launcher.job.controller import CONTROLLER_MACHINES
from launcher.job.machines import MACHINES, PRICES_AS_OF, Machine, Price, unknown_machine
from launcher.job.model import JobModel, problems_in
from launcher.job.problem import NO_MAPPING
from launcher.job.yamlfile import FileError, located, read_file, read_yaml

Dollars = Annotated[float, Field(ge=0)]


class OwnPrices(JobModel):
    """What one machine costs, in USD per hour."""

    spot: Dollars | None = None
    on_demand: Dollars | None = None


def _any_machine(name: str) -> str:
    if name not in MACHINES and name not in CONTROLLER_MACHINES:
        raise unknown_machine(name)
    return name


_MOST = len(MACHINES) + len(CONTROLLER_MACHINES)
_Prices = RootModel[
    Annotated[
        dict[Annotated[str, AfterValidator(_any_machine)], OwnPrices], Field(max_length=_MOST)
    ]
]


@dataclass(frozen=True)
class PriceList:
    """The catalogue's machines with the prices that count.

    Attributes:
        machines: by name.
        source: where the prices come from, for people.
        controllers: what machines for controllers cost on demand, in USD per hour.
    """

    machines: Mapping[str, Machine]
    source: str
    controllers: Mapping[str, float] = field(default_factory=lambda: CONTROLLER_MACHINES)


def load_prices(home: Path, environment: Mapping[str, str] = os.environ) -> PriceList:
    """Returns the prices that count here. Raises FileError for a price file that is wrong."""
    path = price_file(home, environment)
    if path is None:
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
    controllers = {
        name: usd
        if (given := own.get(name)) is None or given.on_demand is None
        else given.on_demand
        for name, usd in CONTROLLER_MACHINES.items()
    }
    return PriceList(machines, f"{path} for {', '.join(own)}; else {PRICES_AS_OF}", controllers)


def price_file(home: Path, environment: Mapping[str, str] = os.environ) -> Path | None:
    """Returns where the user's own prices are; None where there are none."""
    named = environment.get("SWELL_PRICES")
    path = Path(named) if named else home / "prices.yaml"
    return path if named or path.is_file() else None


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
