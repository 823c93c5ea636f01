"""A package that is missing is named before anything is tried, with the way to have it."""

from __future__ import annotations

from configparser import ConfigParser
from pathlib import Path

import pytest

from trainer.data import extras
from trainer.rundir.usererror import Unusable


def test_what_is_missing_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(extras.MODULES, "images", ("PIL", "no_such_module", "nor_this"))
    with pytest.raises(Unusable) as caught:
        extras.require("images")
    assert [one.id for one in caught.value.messages] == ["SW5209", "SW5209"]
    assert caught.value.problems[0] == (
        "no module 'no_such_module': pip install 'swell[images]', and put it into the image of the "
        "VMs (docs/images.md shows the lines)"
    )


def test_the_extras_are_those_of_the_package() -> None:
    setup, root = ConfigParser(), Path(__file__).parents[3]
    setup.read(root / "setup.cfg")
    assert extras.MODULES.keys() <= setup["options.extras_require"].keys()
    for extra in extras.MODULES:
        extras.require(extra)
        assert "## In a container" in (root / f"docs/{extra}.md").read_text()
