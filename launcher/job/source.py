"""What the source of a job's program says: whether its class is there, and takes the arguments.

The source is read and never run: it may import what only the VMs have. Where it cannot tell,
nothing is said: what a decorator, a base of another module or ``import *`` may bring is theirs.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from launcher.job.job import Job
from launcher.job.problem import MISSING, Problem
from trainer.worker.script import names_elastic

NO_CLASS = "SW1025"
NO_ARGUMENT = "SW1026"
NO_PYTHON = "SW1027"
_OWN_BASES = {"trainer", "trainer.task"}  # the modules of Task, which takes no arguments
_NO_TASKS = {"object", "torch.nn.Module", "nn.Module"}  # a model is taken for its task at times
_OPEN = {"exec", "eval", "globals", "vars", "setattr", "__import__"}  # may make any name


@dataclass
class Arguments:
    """What a class takes by name.

    Attributes:
        line: where that is written.
        names: all of them.
        needed: those without a default.
        anything: whether it takes others, too.
    """

    line: int
    names: list[str] = field(default_factory=list)
    needed: list[str] = field(default_factory=list)
    anything: bool = False

    def add(self, name: str, needed: bool) -> None:
        """Adds an argument."""
        self.names.append(name)
        if needed:
            self.needed.append(name)


class _Unknown(Exception):
    """What the source alone does not tell."""


def disagreements(job: Job) -> list[Problem]:
    """Returns what the source of ``job``'s program, if it is on this machine, does not go with."""
    return [problem for name, file in _sources(job) for problem in _in_file(job, name, file)]


def changes_worlds(job: Job) -> bool | None:
    """Whether a job's program takes it that its world changes; None where that is not known here.

    Tasks do, and scripts and modules that are written for it (trainer.worker.script). Those of
    torchrun begin anew in every world, from what they have saved last.
    """
    if job.task:
        return True
    if job.torchrun:
        return False
    for file in _of_program(job):
        try:
            return names_elastic(file.read_bytes())
        except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
            return None
    return None


def _of_program(job: Job) -> Iterator[Path]:
    """Yields the source of a script, or of a module of the code folder, if it is here."""
    if job.script:
        yield Path(job.script)
    elif job.module and job.code:
        package = Path(job.code.folder, *job.module.split("."))
        yield from filter(Path.is_file, (package.with_suffix(".py"), package / "__main__.py"))


def _sources(job: Job) -> Iterator[tuple[str, Path]]:
    """Yields the field of each program that has a source here, and the source."""
    for name, file in job.files():
        yield name, Path(file)
    where = (job.task or "").rpartition(":")[0]
    if where.startswith("trainer.tasks."):
        yield "task", Path(__file__).parents[2].joinpath(*where.split(".")).with_suffix(".py")
    elif where and not where.endswith(".py") and job.code:
        package = Path(job.code.folder, *where.split(".")) / "__init__.py"
        yield "task", package if package.is_file() else package.parent.with_suffix(".py")


def _in_file(job: Job, name: str, file: Path) -> Iterator[Problem]:
    try:
        data = file.read_bytes()
    except OSError:
        return  # that it is not there is said elsewhere
    try:
        tree = ast.parse(data, file.name)
    except SyntaxError as error:
        yield (name,), NO_PYTHON, f"{file.name}:{error.lineno or 1}: is not Python: {error.msg}"
        return
    except (ValueError, RecursionError, MemoryError) as error:
        yield (name,), NO_PYTHON, f"{file.name}: is not Python: {error}"
        return
    if name == "task":
        yield from _of_class(job, tree, file.name)


def _of_class(job: Job, tree: ast.Module, file: str) -> Iterator[Problem]:
    class_name = (job.task or "").rpartition(":")[2]
    source = _Source(tree)
    made = source.classes.get(class_name)
    if made is None:
        if not source.may_have(class_name):
            near = get_close_matches(class_name, source.classes, n=1, cutoff=0.4)
            known = ", ".join(list(source.classes)[:5])
            remedy = f"did you mean {near[0]}?" if near else f"it has {known or 'no class at all'}"
            yield ("task",), NO_CLASS, f"there is no class {class_name} in {file}; {remedy}"
        return
    if source.is_no_task(made):
        what = f"{class_name} is no trainer.Task ({file}:{made.lineno}); name a class that is one"
        yield ("task",), NO_CLASS, what
        return
    try:
        takes = source.arguments(made)
    except _Unknown:
        return
    given = job.args if isinstance(job.args, dict) else {}
    for name in given:
        if name not in takes.names and not takes.anything:
            near = get_close_matches(name, takes.names, n=1)
            known = f"it takes {', '.join(takes.names)}" if takes.names else "it takes none"
            remedy = f"did you mean {near[0]}?" if near else known
            what = f"{class_name} takes no {name[:60]} ({file}:{takes.line}); {remedy}"
            yield ("args", name), NO_ARGUMENT, what
    for name in takes.needed:
        if name not in given:
            what = f"is missing; {class_name} needs it ({file}:{takes.line})"
            yield ("args", name), MISSING, what


class _Source:
    """A module's names, as far as its text tells them."""

    def __init__(self, tree: ast.Module) -> None:
        self.classes: dict[str, ast.ClassDef] = {}
        self._bound: set[str] = set()
        self._imported: dict[str, str] = {}  # names, and the module that each is from
        self._anything = False
        for node in ast.walk(tree):
            if isinstance(node, ast.Name):
                self._anything |= node.id in _OPEN
            elif isinstance(node, ast.alias):
                self._anything |= node.name == "*"
            elif isinstance(node, ast.FunctionDef):
                self._anything |= node.name == "__getattr__"
            elif isinstance(node, ast.ImportFrom) and not node.level:
                from_ = {alias.asname or alias.name: node.module or "" for alias in node.names}
                self._imported.update(from_)
        self._body(tree.body)

    def may_have(self, name: str) -> bool:
        """Whether the module may have ``name`` by other means than a class of its own."""
        return self._anything or name in self._bound

    def arguments(self, made: ast.ClassDef, below: Sequence[str] = ()) -> Arguments:
        """Returns what a class takes. Raises _Unknown."""
        if made.keywords or made.name in below:
            raise _Unknown
        decorators = [_name(node) for node in made.decorator_list]
        if decorators:
            plain = decorators in (["dataclass"], ["dataclasses.dataclass"])
            if not plain or "init" in ast.unparse(made.decorator_list[0]):
                raise _Unknown
            return self._fields(made)
        functions = {node.name: node for node in made.body if isinstance(node, ast.FunctionDef)}
        if "__new__" in functions:
            raise _Unknown
        if own := functions.get("__init__"):
            if own.decorator_list:
                raise _Unknown
            return _signature(own)
        bound = {name for node in ast.walk(made) for name in _names_bound(node)}
        if "__init__" in bound:
            raise _Unknown
        for base in made.bases:
            name = _name(base)
            if len(made.bases) > 1:
                raise _Unknown
            if name in self.classes:
                return self.arguments(self.classes[name], (*below, made.name))
            if not self._is_own(name):
                raise _Unknown
        return Arguments(made.lineno)

    def is_no_task(self, made: ast.ClassDef, below: Sequence[str] = ()) -> bool:
        """Whether all that a class derives from is known, and none of it is a Task."""
        if made.keywords or made.decorator_list or made.name in below:
            return False
        return all(self._is_no_task(_name(base), (*below, made.name)) for base in made.bases)

    def _is_no_task(self, name: str, below: Sequence[str]) -> bool:
        if name in self.classes:
            return self.is_no_task(self.classes[name], below)
        module = self._imported.get(name)
        return (f"{module}.{name}" if module else name) in _NO_TASKS

    def _is_own(self, name: str) -> bool:
        if name == "object":
            return True
        module, _, last = name.rpartition(".")
        return last == "Task" and (module or self._imported.get(name)) in _OWN_BASES

    def _fields(self, made: ast.ClassDef) -> Arguments:
        """What a plain dataclass takes: its fields, if it has no base with fields of its own."""
        if not all(self._is_own(_name(base)) for base in made.bases):
            raise _Unknown
        found = Arguments(made.lineno)
        for node in made.body:
            if isinstance(node, ast.FunctionDef) and node.name in ("__init__", "__new__"):
                raise _Unknown
            if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
                continue
            kind = ast.unparse(node.annotation)
            if "ClassVar" in kind:
                continue
            if "InitVar" in kind or "KW_ONLY" in kind or isinstance(node.value, ast.Call):
                raise _Unknown  # field(…) has a meaning of its own
            found.add(node.target.id, needed=node.value is None)
        return found

    def _body(self, body: Sequence[ast.stmt]) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef):
                # Which of two of one name it is, the text does not tell.
                taken = self.classes.pop(node.name, None) or node.name in self._bound
                self._bound.add(node.name)
                if not taken:
                    self.classes[node.name] = node
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                self._bind(node.name)
            else:  # what is under a condition may be there, and may not
                for inner in ast.walk(node):
                    for name in _names_bound(inner):
                        self._bind(name)

    def _bind(self, name: str) -> None:
        self._bound.add(name)
        self.classes.pop(name, None)


def _signature(function: ast.FunctionDef) -> Arguments:
    args = function.args
    found = Arguments(function.lineno, anything=args.kwarg is not None)
    if len(args.posonlyargs) > 1:
        raise _Unknown
    named = args.args if args.posonlyargs else args.args[1:]
    first = len(named) - len(args.defaults)
    for index, arg in enumerate(named):
        found.add(arg.arg, needed=index < first)
    for arg, default in zip(args.kwonlyargs, args.kw_defaults, strict=True):
        found.add(arg.arg, needed=default is None)
    return found


def _names_bound(node: ast.AST) -> Iterator[str]:
    """Yields the names that a node may bind where it stands."""
    if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
        yield node.id
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.alias):
        yield node.asname or node.name.partition(".")[0]


def _name(node: ast.expr) -> str:
    try:
        return ast.unparse(node.func if isinstance(node, ast.Call) else node)
    except RecursionError:
        raise _Unknown from None
