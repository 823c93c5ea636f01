"""``from launcher import ...``: the same names for people, type checkers and programs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import launcher


def test_type_checkers_see_what_programs_get() -> None:
    tree = ast.parse(Path(launcher.__file__).read_bytes())
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    shown = {
        alias.asname: f"{node.module}.{alias.name}"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    got = {name: getattr(launcher, name) for name in launcher.__all__}
    assert shown.keys() == got.keys()
    for name, thing in got.items():
        module, _, own_name = shown[name].rpartition(".")
        assert thing is getattr(sys.modules[module], own_name)


def test_a_function_is_not_hidden_by_a_module() -> None:
    program = "import launcher.cli, launcher.run; from launcher import launch; print(launch)"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert answer.stdout.startswith("<function launch at"), answer.stderr
