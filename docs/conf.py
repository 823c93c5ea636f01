"""Settings of Sphinx, which makes the site of these pages (`make docs`).

The sources are the pages as they lie in the repository, so that their links hold there as well as
on the site. The navigation is made of the tables in docs/README.md: a page stands where that lists
it, and a page that it does not list stops the build.
"""

from __future__ import annotations

import re
import shutil
from functools import partial
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

ROOT = Path(__file__).parents[1]

project = "Swell"
root_doc = "README"
source_suffix = {".md": "markdown"}
include_patterns = [
    "*.md",
    "docs/*.md",
    "containers/README.md",
    "benchmarks/README.md",
    "tests/data/traces/README.md",
]
exclude_patterns = [".*", "build", "launcher", "trainer"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 6
autodoc_preserve_defaults = True  # as written: a value may be of this machine
autodoc_mock_imports = ["horovod", "torch"]  # a third of the time, and nothing of it is shown
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the text says what an argument is, with its units
suppress_warnings = ["misc.highlighting_failure"]  # an ellipsis in Python stands for what follows

html_theme = "furo"
html_title = "Swell"
html_theme_options: dict[str, list[str]] = {"top_of_page_buttons": []}
html_show_copyright = False
html_copy_source = False

_SECTION = re.compile(r"^## (.+)\n\n(\|.*\n)+", re.MULTILINE)
_PAGE = re.compile(r"^\| \[.*?\]\(([^)#]+)\.md\)", re.MULTILINE)
_LINK = re.compile(r"\[([^\]]*)\]\(([^)\s#]+)\)")
_ROW = re.compile(r"^\| (SW\d{4}) \|", re.MULTILINE)


def navigation(index: str) -> str:
    """Returns the site's tables of contents: those of ``index``, the text of docs/README.md."""
    out = []
    for section in _SECTION.finditer(index):
        pages = [(Path("docs") / it).as_posix() for it in _PAGE.findall(section[0])]
        inside = [re.sub(r"^docs/\.\./", "", it) for it in pages]
        head = ["```{toctree}", ":hidden:", f":caption: {section[1]}", ""]
        out.append("\n".join([*head, *inside, "```"]))
    return "\n\n".join(out)


def _read(app: Sphinx, page: str, text: list[str]) -> None:
    text[0] = _LINK.sub(partial(_folder, ROOT / page), text[0])
    if page == root_doc:
        index = (ROOT / "docs/README.md").read_text("utf-8")
        hidden = "```{toctree}\n:hidden:\n\ndocs/README\n```"
        text[0] += f"\n\n{hidden}\n\n{navigation(index)}\n"
    if page == "docs/messages":  # each id is an anchor
        text[0] = _ROW.sub(lambda it: f'| <a id="{it[1].lower()}"></a>{it[1]} |', text[0])


def _folder(page: Path, link: re.Match[str]) -> str:
    """A link to a folder leads somewhere in the repository; on the site it is a name."""
    return link[1] if (page.parent / link[2]).is_dir() else link[0]


def _code(app: Sphinx, what: str, name: str, object: Any, options: Any, lines: list[str]) -> None:
    """An indented block of a docstring, after an empty line, is code."""
    for at in range(len(lines) - 1, 0, -1):
        indent = len(lines[at]) - len(lines[at].lstrip())
        if lines[at] and not lines[at - 1]:
            before = next(len(it) - len(it.lstrip()) for it in reversed(lines[:at]) if it.strip())
            if indent >= before + 4:
                lines[at:at] = [" " * before + "::", ""]


def _front(app: Sphinx, error: Exception | None) -> None:
    if error is None and app.builder.name == "html":
        shutil.copyfile(Path(app.outdir) / "README.html", Path(app.outdir) / "index.html")


def setup(app: Sphinx) -> None:
    """Has Sphinx ask here."""
    app.connect("source-read", _read)
    app.connect("autodoc-process-docstring", _code, priority=400)  # before Google's style is read
    app.connect("build-finished", _front)
