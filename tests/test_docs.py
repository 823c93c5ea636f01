"""The pages are true to the repository: what they link to and name is there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from docs.commands import page as commands_page
from docs.fields import page as fields_page
from docs.texts import page as texts_page
from launcher.job.customjob import build
from launcher.job.job import Job
from tests.commandline import refusal

ROOT = Path(__file__).parents[1]
FOLDERS = ("benchmarks", "containers", "docs", "examples", "launcher", "tests", "trainer")
HISTORY = ROOT / "CHANGELOG.md"  # names what is there no longer
PAGES = sorted(
    page
    for page in [*ROOT.glob("*.md"), *(it for f in FOLDERS for it in (ROOT / f).rglob("*.md"))]
    if not page.is_symlink()
)
CURRENT = [page for page in PAGES if page != HISTORY]
SOURCES = sorted(
    path
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*")
    if path.suffix in {".py", ".sh", ".proto", ".yaml"}
)

# A file or folder of the repository, wherever it is named; NAME stands for any.
_PATH = re.compile(rf"(?<![\w/.~-])(?:{'|'.join(FOLDERS)})/[\w./*-]*[\w*/]")
_MODULE = re.compile(r"(?<![\w./-])(?:launcher|trainer)(?:\.[A-Za-z_]\w*)+")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def prose(page: Path) -> Iterator[str]:
    """The lines of a page that are not code."""
    inside = False
    for line in page.read_text().splitlines():
        if line.startswith("```"):
            inside = not inside
        elif not inside and not line.startswith("    "):
            yield line


def anchors(page: Path) -> list[str]:
    """What a link may name after #: the headings, as forges make anchors of them."""
    headings = [line.lstrip("#") for line in prose(page) if re.match("#+ ", line)]
    return [
        re.sub(r"[^\w -]", "", heading.strip().lower()).replace(" ", "-") for heading in headings
    ]


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    for target in _LINK.findall("\n".join(prose(page))):
        if re.match("https?://|mailto:", target):
            continue
        file, _, anchor = target.partition("#")
        there = (page.parent / file).resolve() if file else page
        assert there.exists(), f"{target}: there is no such file"
        assert not anchor or anchor in anchors(there), f"{target}: there is no such heading"


@pytest.mark.parametrize("page", CURRENT, ids=named)
def test_files_that_are_named_exist(page: Path) -> None:
    paths = {path for path in _PATH.findall(page.read_text()) if "NAME" not in path}
    assert [path for path in sorted(paths) if not list(ROOT.glob(path))] == []


@pytest.mark.parametrize("page", CURRENT, ids=named)
def test_modules_that_are_named_exist(page: Path) -> None:
    assert [name for name in set(_MODULE.findall(page.read_text())) if not is_there(name)] == []


def is_there(name: str) -> bool:
    """Whether a dotted name is a module, or what one has; trainer.fit, say, or a function."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        path = ROOT.joinpath(*parts[:count])
        module = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if module.is_file():
            has = module.read_text()
            return all(re.search(rf"\b{part}\b", has) for part in parts[count:])
    return False


@pytest.mark.parametrize("page", CURRENT, ids=named)
def test_no_two_headings_are_alike(page: Path) -> None:
    assert sorted(anchors(page)) == sorted(set(anchors(page))), "a link could mean either"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_lines_are_short(page: Path) -> None:
    assert [line for line in prose(page) if len(line) > 100 and not line.startswith("|")] == []


def typed(page: Path) -> list[str]:
    """The lines of a page that begin with ``swell``, but for those with gaps to fill."""
    lines = re.findall(r"^(?:    |\$ )?(swell [a-z].*?)(?:\s{2,}#.*)?$", page.read_text(), re.M)
    return [line for line in lines if not re.search(r"\[OPTIONS|\[--|[…\\]|\.\.\.", line)]


@pytest.mark.parametrize("page", [it for it in CURRENT if typed(it) and it.stem != "commands"])
def test_the_command_takes_what_a_page_tells_its_reader_to_type(page: Path) -> None:
    assert [why for line in typed(page) if (why := refusal(line))] == []


@pytest.mark.parametrize("page", CURRENT, ids=named)
def test_the_command_has_what_a_page_names_of_it(page: Path) -> None:
    lines = re.findall(r"`(swell [a-z]+[^`\n|…]*)`", "\n".join(prose(page)))
    named = [line.replace("RUN...", "RUN") for line in lines]
    assert [why for line in named if (why := refusal(line, whole=False))] == []


def test_the_code_names_pages_and_sections_that_exist() -> None:
    for source in SOURCES:
        text = source.read_text()
        for page in re.findall(r"docs/\w+\.md", text):
            assert (ROOT / page).is_file(), f"{named(source)} names {page}"
        for page, heading in re.findall(r'(docs/\w+\.md), "([^"]+)"', text):
            assert heading.lower().replace(" ", "-") in anchors(ROOT / page), (source, heading)


@pytest.mark.parametrize("page", CURRENT, ids=named)
def test_the_tests_that_a_page_names_are_there(page: Path) -> None:
    for file, name in re.findall(r"(tests/[\w/]+\.py)::(\w+)", page.read_text()):
        assert f"def {name}(" in (ROOT / file).read_text(), (file, name)


def test_the_page_about_the_commands_is_current() -> None:
    current = (ROOT / "docs/commands.md").read_text() == commands_page()
    assert current, "run: python docs/commands.py > docs/commands.md"


def test_the_page_of_the_fields_is_current() -> None:
    current = (ROOT / "docs/fields.md").read_text() == fields_page()
    assert current, "run: python docs/fields.py > docs/fields.md"


def test_the_page_of_all_messages_is_current() -> None:
    current = (ROOT / "docs/texts.md").read_text() == texts_page()
    assert current, "run: python docs/texts.py > docs/texts.md"


def test_the_index_has_every_page() -> None:
    index = (ROOT / "docs/README.md").read_text()
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert {page for page in pages if f"]({page})" not in index} == set()


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


@pytest.mark.parametrize("page", CURRENT, ids=named)
def test_the_job_files_of_a_page_are_right(page: Path) -> None:
    for text in blocks(page, "yaml"):
        if re.search("^name: ", text, re.MULTILINE) and "# SkyPilot" not in text:
            job = yaml.safe_load(text)
            # What only tells who writes a part of one; and a file of limits.md is made from it.
            if "pools" in job:
                assert Job.model_validate(job).replicas(), text


def test_the_job_of_a_program_with_googles_sdk_asks_for_the_same() -> None:
    page = ROOT / "docs/from-vertex-sdk.md"
    [program], [text] = blocks(page, "python"), blocks(page, "yaml")
    [call] = [
        node
        for node in ast.walk(ast.parse(program))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "aiplatform.CustomJob"
    ]
    given = {it.arg: ast.literal_eval(it.value) for it in call.keywords}
    job = Job.model_validate(yaml.safe_load(text))
    sent_whole = build(job, run_id="run", run_dir="gs://my-bucket/runs/run", token="", attempt=1)
    spec = sent_whole["jobSpec"]
    wanted = [
        (
            it["machine_spec"]["machine_type"],
            it["machine_spec"]["accelerator_type"],
            it["machine_spec"]["accelerator_count"],
            it["replica_count"],
            it["container_spec"]["image_uri"],
        )
        for it in given["worker_pool_specs"]
    ]
    sent = [
        (
            it["machineSpec"]["machineType"],
            it["machineSpec"]["acceleratorType"],
            it["machineSpec"]["acceleratorCount"],
            int(it["replicaCount"]),
            it["containerSpec"]["imageUri"],
        )
        for it in spec["workerPoolSpecs"]
    ]
    assert sent == wanted
    assert spec["scheduling"]["strategy"] == "SPOT"
    assert spec["scheduling"]["timeout"] == "86400s"
    assert spec["serviceAccount"] == "trainer@my-project.iam.gserviceaccount.com"
