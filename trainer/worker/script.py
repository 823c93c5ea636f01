"""A user's script or module, run as Python itself would run it, as one worker of a run.

What may train in it: Horovod's API, elastic or plain (``trainer.worker.horovod_hooks``), a loop
over ``trainer.elastic.steps``, or ``trainer.fit``. The run is complete when the script ends
on rank 0; one that sums its gradients by Horovod itself, when it ends on all ranks.

A *plain* script knows nothing of elasticity: it runs in a world of fixed size, and when
a worker is lost it starts again from the top, on all ranks, in fresh processes. It goes
on from its own checkpoint if it writes one.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import runpy
import site
import sys
from pathlib import Path

from trainer.protocol.session import Program
from trainer.rundir.usererror import UserError

ENDED_ITSELF = "SW5023"  # the message about a program that ends its own process
# A script that names one of these is written for worlds that change.
_ELASTIC_NAMES = ("elastic", "trainer")


class ScriptError(UserError, RuntimeError):
    """A script that is not there, or has ended where it should not."""


def run_as_main(program: Program) -> SystemExit | None:
    """Runs a script or module as ``__main__``. Returns how it exited, if it did.

    Raises whatever else it raises, ScriptError when there is no such script, and ImportError for a
    module.
    """
    # A killed process must not take its newest lines with it.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(line_buffering=True)
    try:
        run_program(program)
    except SystemExit as ending:
        return ending
    return None


def run_program(program: Program) -> None:
    """Runs a script or module as ``__main__``; raises whatever it raises."""
    if program.script:
        _run_path(program.script, program.args)
    else:
        _run_module(program.module, program.args)


def enter_code(folder: str, installed: str) -> None:
    """Lets this process, and those that it starts, find the user's code.

    Args:
        folder: where the code is: the current folder, and the first on the path.
        installed: where its requirements are, the next on the path; "" if it has none.
    """
    os.chdir(folder)
    found = [path for path in (folder, installed) if path]
    # The first is the folder of the program, which may be one inside: see _run_path.
    sys.path[:1] = [folder, *found]
    if installed:
        site.addsitedir(installed)  # for its .pth files; on the path it is already
    path = [*found, *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(path)


def is_elastic(script: str, module: str = "") -> bool:
    """Whether a script is written for worlds that change: it names ``elastic`` or ``trainer``.

    A script that cannot be read counts as elastic; it will fail by itself.
    """
    try:
        if module:
            found = importlib.util.find_spec(module)
            path = None if found is None else found.origin
        else:
            path = script
        return names_elastic(Path(path or "").read_bytes())
    except (OSError, ImportError, SyntaxError, ValueError):
        return True


def names_elastic(source: bytes) -> bool:
    """Whether a program's source says that it is. Raises SyntaxError and ValueError as ast does."""
    tree = ast.parse(source)
    return any(name in _ELASTIC_NAMES for node in ast.walk(tree) for name in _names(node))


def _names(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Attribute):
        return [node.attr]
    if isinstance(node, ast.Import):
        return [part for alias in node.names for part in alias.name.split(".")]
    if isinstance(node, ast.ImportFrom):
        return [*(node.module or "").split("."), *(alias.name for alias in node.names)]
    return []


def _run_path(script: str, args: list[str]) -> None:
    if not Path(script).is_file():
        raise ScriptError(
            "SW5026",
            f"there is no {script} in {os.getcwd()} on this VM; send it along with code: "
            "(docs/code.md), or have it in the image",
        )
    sys.argv = [script, *args]
    # `python script.py` looks beside the script, `python -m module` in the current folder.
    sys.path[0] = str(Path(script).resolve().parent)
    runpy.run_path(script, run_name="__main__")


def _run_module(module: str, args: list[str]) -> None:
    sys.argv = [module, *args]
    sys.path[0] = os.getcwd()
    runpy.run_module(module, run_name="__main__", alter_sys=True)
