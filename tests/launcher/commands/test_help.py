"""Every command's help shows how it is used, and what it shows is right."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from docs.commands import commands
from launcher.cli import app
from launcher.commands.examples import EXAMPLES
from launcher.emulator.__main__ import _parser
from tests.commandline import refusal

NAMES = [name for name, _ in commands(app)]


def lines(name: str) -> list[str]:
    return [line for line, _ in EXAMPLES.get(name, ())]


def test_examples_are_those_of_all_commands() -> None:
    assert sorted(EXAMPLES) == sorted(NAMES), "launcher/commands/examples.py has them"


@pytest.mark.parametrize("name", [it for it in NAMES if it != "emulator"])
def test_the_help_of_a_command_shows_its_examples(name: str) -> None:
    told = CliRunner().invoke(app, [*name.split(), "--help"], env={"COLUMNS": "80"})
    assert told.exit_code == 0
    shown = [line.strip() for line in told.output.splitlines()]
    assert all(line in shown for line in lines(name)), told.output


def test_the_emulators_help_which_is_its_own_shows_them() -> None:
    assert all(line in _parser().format_help() for line in lines("emulator"))


@pytest.mark.parametrize("line", [line for name in NAMES for line in lines(name)])
def test_an_example_is_one_that_the_command_takes(line: str) -> None:
    assert refusal(line.removeprefix('eval "$(').removesuffix(')"')) == ""


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("swell lunch job.yaml", "there is no such command"),
        ("swell status --jsn", "No such option"),
        ("swell launch", "Missing parameter: job"),
        ("ls", "does not begin with swell"),
    ],
)
def test_what_the_command_does_not_take_is_not_taken_for_right(line: str, why: str) -> None:
    assert why in refusal(line)
