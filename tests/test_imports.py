"""Who may import whom. Each rule says why; docs/architecture.md has the picture."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from docs.texts import modules

ROOT = Path(__file__).parents[1]

# A package, what it may import of Swell besides itself, and why not more.
RULES = {
    "trainer.rundir": ([], "both sides stand on it, and the launcher installs without torch"),
    "trainer.protocol": (["trainer.rundir"], "what processes say does not depend on who says it"),
    "trainer.checkpoints": (
        ["trainer.rundir", "trainer.protocol"],
        "checkpoints outlive every world; the launcher reads them without one",
    ),
    "trainer.outputs": (
        ["trainer.rundir"],
        "files outlive the VMs whoever wrote them, and what they hold is never read",
    ),
    "trainer.telemetry": (["trainer.rundir"], "it knows a run by its events alone"),
    "trainer.coordinator": (
        ["trainer.rundir", "trainer.protocol", "trainer.telemetry"],
        "it decides for workers of any kind, and starts in a second: without torch",
    ),
    "trainer.loaders": (["trainer.rundir"], "they make what they are asked for, and know no steps"),
    "trainer.data": (
        ["trainer.rundir", "trainer.loaders", "trainer.engine"],
        "a data set knows how it is ordered, and nothing of who trains with it",
    ),
    "trainer.engine": (
        ["trainer.rundir", "trainer.protocol", "trainer.checkpoints", "trainer.loaders"],
        "it trains in any world; who forms worlds is nothing to it",
    ),
    "trainer.training": (
        ["trainer.rundir", "trainer.protocol", "trainer.engine", "trainer.loaders"],
        "what a task asks for is the same for every task; what a task is, they need not know",
    ),
    "trainer.check": (
        [
            "trainer.rundir",
            "trainer.protocol",
            "trainer.checkpoints",
            "trainer.data",
            "trainer.engine",
            "trainer.training",
            "trainer.worker",
            "trainer.loop",
            "trainer.task",
            "trainer.agent.rendezvous",
            "trainer.agent.environment",
        ],
        "it tries a task as a worker would train it; nothing else knows of it",
    ),
    "trainer.worker": (
        [
            "trainer.rundir",
            "trainer.protocol",
            "trainer.checkpoints",
            "trainer.engine",
            "trainer.elastic",
            "trainer.loop",
            "trainer.task",
            "trainer.reporting",
            "trainer.loaders.sample",
        ],
        "it knows its agent by what they say to each other alone",
    ),
    "trainer.agent": (
        [
            "trainer.rundir",
            "trainer.protocol",
            "trainer.outputs",
            "trainer.coordinator",
            "trainer.telemetry",
            "trainer.worker.script",
        ],
        "an agent outlives its workers, and does without torch",
    ),
    "trainer.probe": (
        ["trainer.rundir", "trainer.agent.replica"],
        "it looks around on a machine of which nothing is known yet",
    ),
    "launcher": (
        [
            "trainer.rundir",
            "trainer.protocol.authority",
            "trainer.protocol.credentials",
            "trainer.protocol.secretmanager",
            "trainer.checkpoints.manifest",
            "trainer.checkpoints.restore",
            "trainer.checkpoints.retention",
            "trainer.checkpoints.tree",
            "trainer.outputs",
            "trainer.telemetry.gauges",
            "trainer.worker.script",
        ],
        "a laptop has no torch, and what runs there does not change with the trainer",
    ),
    "launcher.job": (
        ["trainer.rundir.names", "trainer.rundir.usererror", "trainer.worker.script"],
        "what a user may write does not depend on who reads it",
    ),
    "launcher.api": (["launcher.job", "trainer"], "the API's client knows jobs, not runs"),
    "launcher.emulator": (
        ["launcher.job", "trainer"],
        "it stands in for Vertex AI, which does not know who asks",
    ),
    "launcher.emulator.storage": (
        ["launcher.job.durations", "launcher.job.place"],
        "it stands in for Cloud Storage, and may become a package of its own",
    ),
}
# These are imported where torch is not installed, or takes too long.
WITHOUT_TORCH = (
    "launcher.cli",
    "launcher.run",
    "launcher.emulator.__main__",
    "trainer.agent.startup",
    "trainer.agent.command",
    "trainer.coordinator.__main__",
    "trainer.probe.__main__",
)


HAVE_STATEMENTS = (ast.stmt, ast.excepthandler, ast.match_case)


def _modules() -> dict[str, Path]:
    found = {}
    for root in ("trainer", "launcher"):
        for path in (ROOT / root).rglob("*.py"):
            found[".".join(path.relative_to(ROOT).with_suffix("").parts)] = path
    return {name.removesuffix(".__init__"): path for name, path in found.items()}


MODULES = _modules()


def _imports(path: Path) -> Iterator[str]:
    """What a module imports, wherever in it; not what it names for type checkers alone."""
    todo: list[ast.AST] = [modules()[path.relative_to(ROOT).as_posix()][0]]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else str(node.module)
        elif not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            todo += (it for it in ast.iter_child_nodes(node) if isinstance(it, HAVE_STATEMENTS))


def _inside(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


@cache
def imports() -> dict[str, set[str]]:
    """What each module imports; read by the tests that ask, and not while they are collected."""
    return {name: set(_imports(path)) for name, path in MODULES.items()}


@pytest.mark.parametrize("package", RULES)
def test_a_package_imports_what_it_may(package: str) -> None:
    allowed, why = RULES[package]
    found = [
        f"{name} imports {other}"
        for name, others in imports().items()
        if _inside(name, package)
        for other in others & MODULES.keys()
        if other not in ("trainer", "launcher")
        and not any(_inside(other, one) for one in [package, *allowed])
    ]
    assert not found, f"{package}: {why}"


def test_no_modules_import_each_other() -> None:
    _assert_no_circle({name: others & MODULES.keys() for name, others in imports().items()})


def test_no_folders_import_each_other() -> None:
    """What lies directly in a package, or in the emulator, is a room by itself."""
    halls = {ROOT / "trainer", ROOT / "launcher", ROOT / "launcher/emulator"}

    def room(name: str) -> str:
        path = MODULES[name]
        return name if path.parent in halls else ".".join(path.relative_to(ROOT).parent.parts)

    arrows: dict[str, set[str]] = {room(name): set() for name in MODULES}
    for name, others in imports().items():
        arrows[room(name)] |= {room(other) for other in others & MODULES.keys()} - {room(name)}
    _assert_no_circle(arrows)


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_neither_launcher_nor_agent_nor_coordinator_needs_torch(module: str) -> None:
    program = (
        f"import sys, {module}; print([one for one in ('torch', 'horovod') if one in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert answer.stdout == "[]\n"


def _assert_no_circle(arrows: dict[str, set[str]]) -> None:
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))
