"""The site of docs/ is made without a warning, and needs nothing but itself."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_messages import ROOT, rows

_LOADED = re.compile(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"([^\"]*)\"|<link\b[^>]*>")
_HREF = re.compile(r"\bhref=\"([^\"]*)\"")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As ``make docs`` makes it; links and anchors are checked while it is made."""
    to = tmp_path_factory.mktemp("site")
    line = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-c", "docs"]
    made = subprocess.run(
        [*line, "-d", to / "doctrees", ".", to / "html"], cwd=ROOT, capture_output=True, text=True
    )
    assert made.returncode == 0, made.stderr
    return to / "html"


def test_it_begins_with_the_readme_and_has_every_page_of_the_index(site: Path) -> None:
    front = (site / "index.html").read_text()
    assert "<h1>Swell" in front
    index = (ROOT / "docs/README.md").read_text()
    for page in re.findall(r"^\| \[.*?\]\((.*?)\.md\)", index, re.MULTILINE):
        html = (Path("docs") / f"{page}.html").as_posix().replace("docs/../", "")
        assert (site / html).is_file()
        assert f'href="{html}"' in front, f"{html} is not in the navigation"


@pytest.mark.parametrize("name", ["run.svg", "watch.svg"])
def test_the_readmes_pictures_are_small_and_load_nothing(name: str) -> None:
    assert f"docs/{name}" in (ROOT / "README.md").read_text()
    picture = (ROOT / "docs" / name).read_text()
    assert len(picture) < 200_000
    assert not re.search(r"<image|<script|@import|url\(['\"]?http", picture)


def test_each_message_has_an_anchor(site: Path) -> None:
    page = (site / "docs/messages.html").read_text()
    assert [row[0] for row in rows() if f'id="{row[0].lower()}"' not in page] == []


def test_the_reference_has_what_docstrings_say(site: Path) -> None:
    page = (site / "docs/api.html").read_text()
    for name in ("launcher.launch", "trainer.Task.loss", "trainer.elastic.steps"):
        assert f'id="{name}"' in page, name
    assert "passes over the data" in page


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 40
    for page in pages:
        for found in _LOADED.finditer(page.read_text()):
            for source in (
                [found[1], *_HREF.findall(found[0])] if found[1] else _HREF.findall(found[0])
            ):
                assert not re.match("(https?:)?//", source), f"{page.name} loads {source}"
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//", sheet.read_text()), sheet.name
