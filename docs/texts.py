"""Writes the page of all messages, as they stand in the sources.

    python docs/texts.py > docs/texts.md

A text is found by its id: in a call, or a pair, of which that is a part. What is put in at run time
stands in braces. tests/test_docs.py checks that the page is current.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
ID = re.compile(r"SW\d{4}")
DEPTH = 4  # names that are looked up one in another
# Of these lines none has an id: they say what happens, not what is wrong.
NEWS = (
    ("What happens, as a launch shows it", "launcher/words.py"),
    ("What a run waits for", "trainer/coordinator/explanation.py"),
    ("What it waits for before anybody leads", "launcher/status/waits.py"),
)
INTRODUCTION = """\
# All messages, as they stand in the sources

<!-- Written by docs/texts.py from the sources: change those, and run it again. -->

[messages.md](messages.md) explains each id. What is put in at run time stands in braces.
"""


@cache
def modules() -> dict[str, list[ast.AST]]:
    """The modules of both packages by file, each with all its nodes, itself the first.

    They are 440,000: whoever looks at all of them takes them from here.
    """
    paths = sorted(it for name in ("launcher", "trainer") for it in (ROOT / name).rglob("*.py"))
    return {
        it.relative_to(ROOT).as_posix(): list(ast.walk(ast.parse(it.read_bytes()))) for it in paths
    }


class Names:
    """What the names of a function stand for, at each of its lines.

    Args:
        nodes: those of the function, or of the module.
    """

    def __init__(self, nodes: Sequence[ast.AST]) -> None:
        self._found: dict[str, list[ast.expr]] = defaultdict(list)
        for node in nodes:
            match node:
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    self._found[name].append(value)
                case ast.Assign(targets=[ast.Tuple(elts=names)], value=ast.Tuple(elts=values)):
                    for one, value in zip(names, values, strict=False):
                        if isinstance(one, ast.Name):
                            self._found[one.id].append(value)

    def items(self) -> Iterator[tuple[str, ast.expr]]:
        """Each name with what it stands for, the last where that changes."""
        yield from ((name, values[-1]) for name, values in self._found.items())

    def at(self, node: ast.Name) -> ast.expr | None:
        """What a name stands for where it is used: what was written last above that."""
        values = sorted(self._found.get(node.id, []), key=lambda it: it.lineno)
        return next((it for it in reversed(values) if it.lineno < node.lineno), None)


def rendered(node: ast.expr, names: Names, depth: int = DEPTH) -> str | None:
    """The text that an expression makes; None for what makes none."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(_part(part, names, depth) for part in parts)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            both = rendered(left, names, depth), rendered(right, names, depth)
            return None if None in both else "".join(map(str, both))
        case ast.IfExp(body=one, orelse=other):
            found = [rendered(it, names, depth) for it in (one, other)]
            return " | ".join(it for it in found if it) or None
        case ast.Name() if depth and (value := names.at(node)) is not None:
            return rendered(value, names, depth - 1)
    return None


def _part(node: ast.expr, names: Names, depth: int) -> str:
    if not isinstance(node, ast.FormattedValue):
        return rendered(node, names, depth) or ""
    text = rendered(node.value, names, depth) if isinstance(node.value, ast.Name) else None
    return text or "{" + ast.unparse(node.value) + "}"


def _functions(module: Sequence[ast.AST]) -> Iterator[list[ast.AST]]:
    """The parts of a module in which names have a meaning of their own, each with its nodes."""
    for node in module:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield list(ast.walk(node))


class Sources:
    """The modules of both packages, and which of their names are ids.

    Attributes:
        all: every id.
    """

    def __init__(self) -> None:
        self._ids: dict[str, dict[str, str]] = {}  # by file and name
        for file, nodes in modules().items():
            self._ids[file] = {
                name: str(value.value)
                for name, value in Names(nodes).items()
                if isinstance(value, ast.Constant) and ID.fullmatch(str(value.value))
            }
        self.all = {
            str(node.value)
            for nodes in modules().values()
            for node in nodes
            if isinstance(node, ast.Constant) and ID.fullmatch(str(node.value))
        }

    def texts(self) -> dict[str, dict[str, str]]:
        """By id, its texts, each with the file that has it."""
        found: dict[str, dict[str, str]] = defaultdict(dict)
        usual = self._usual()
        for file, nodes in modules().items():
            known = {**self._imported(nodes), **self._ids[file], **usual}
            seen: set[ast.AST] = set()
            for part in [*_functions(nodes), nodes]:
                names = Names(part)
                for node in part:
                    if node not in seen:
                        seen.add(node)
                        for id, text in _in(node, names, known):
                            found[id].setdefault(text, file)
        return found

    def _usual(self) -> dict[str, str]:
        """The ids of calls that name none: those that a function takes else, by its name."""
        found: dict[str, str] = {}
        for nodes in modules().values():
            for node in nodes:
                if isinstance(node, ast.FunctionDef):
                    ids = [id for it in node.args.defaults for id in _ids_of(it, {})]
                    found |= {f"{node.name}()": id for id in ids}
        return found

    def _imported(self, module: Sequence[ast.AST]) -> dict[str, str]:
        """The ids that a module imports, by their names; of a module's own, as ``home.NAME``."""
        found: dict[str, str] = {}
        for node in module:
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    own = self._ids.get(f"{str(node.module).replace('.', '/')}.py", {})
                    whole = f"{node.module}.{alias.name}".replace(".", "/")
                    if alias.name in own:
                        found[alias.asname or alias.name] = own[alias.name]
                    inner = self._ids.get(f"{whole}.py", {})
                    found |= {f"{alias.name}.{name}": id for name, id in inner.items()}
        return found


def _in(node: ast.AST, names: Names, known: dict[str, str]) -> Iterator[tuple[str, str]]:
    """The ids in a call or a pair, each with the text beside it."""
    if isinstance(node, ast.Call):
        values = [*node.args, *(it.value for it in node.keywords)]
    elif isinstance(node, ast.Tuple):
        values = node.elts
    else:
        return
    ids = [id for value in values for id in _ids_of(value, known)]
    if not ids and isinstance(node, ast.Call) and (name := f"{ast.unparse(node.func)}()") in known:
        ids = [known[name]]
    others = [it for it in values if not _ids_of(it, known)]
    said = [text for it in others if (text := rendered(it, names)) and " " in text]
    # Whoever else makes the text: a function, an error.
    said = said or ["{" + ast.unparse(it) + "}" for it in others if _may_be_text(it)]
    yield from ((id, " · ".join(said)) for id in ids if said)


def _ids_of(node: ast.expr, known: dict[str, str]) -> list[str]:
    """The ids that a value may be."""
    match node:
        case ast.Constant(value=str(text)) if ID.fullmatch(text):
            return [text]
        case ast.Name() | ast.Attribute() if (name := ast.unparse(node)) in known:
            return [known[name]]
        case ast.IfExp(body=one, orelse=other):
            return [*_ids_of(one, known), *_ids_of(other, known)]
    return []


def _may_be_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Call | ast.Name | ast.Attribute | ast.Subscript | ast.JoinedStr)


def _returned(module: Sequence[ast.AST]) -> list[str]:
    """The texts that a module's functions return, or put into a ``Wait``."""
    found: list[str] = []
    for part in _functions(module):
        names = Names(part)
        for node in part:
            said: list[ast.expr] = []
            if isinstance(node, ast.Return) and node.value is not None:
                said = [node.value]
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "Wait":
                said = node.args
            found += [text for it in said if (text := rendered(it, names)) and " " in text]
    return list(dict.fromkeys(found))


def _cell(text: str) -> str:
    shown = " ".join(text.split()).replace("`", "'").replace("|", r"\|")
    return f"`{shown}`"


def page() -> str:
    """Returns the text of docs/texts.md."""
    sources = Sources()
    texts = sources.texts()
    out = [INTRODUCTION, "| id | text |", "|---|---|"]
    for id in sorted(sources.all):
        found = [_cell(text) for text in texts.get(id, {})] or ["that of what is reported"]
        out += [f"| {id} | {text} |" for text in found]
    for title, file in NEWS:
        said = [f"| {_cell(text)} |" for text in _returned(modules()[file])]
        out += [f"\n## {title}\n", "| text |", "|---|", *said]
    return "\n".join(out) + "\n"


if __name__ == "__main__":
    print(page(), end="")
