"""Ignore files are read as git reads them; git itself is asked."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from launcher.job.code import Code
from launcher.job.job import Job
from launcher.job.problem import NOT_SENT
from launcher.packing.ignore import IGNORE_FILES, Ignored, PackingError
from launcher.packing.pack import left_behind, pack
from tests.examples import examples

NAMES = (
    "a.py", "b.txt", "d/a.py", "d/e/a.py", "d/e/b.bin", "e/b.txt", "!x", "keep/e/f", "#a",
    "with space", "c ", "tab\t", "ü.txt", "sub/.hidden", "sub/a.py.bak", "[ab].x", "back\\slash",
)  # fmt: skip
LINES = [
    b"*.py", b"!a.py", b"d/", b"/d", b"d/*", b"!d/a.py", b"**/e", b"e/**", b"?.py", b"#a", b"\\#a",
    b"\\!x", b"!", b"!!x", b"/", b"//", b"d/e/", b"*", b"!*/", b"a.py ", b"a.py  ", b"c\\ ",
    b"c\\  ", b"c", b"c ", b"tab\t", b"tab", b"tab\\\t", b"[ab].*", b"\\[ab].x", b"[ab",
    b"[!a].txt", b"[a-", b"!d", b"**", b"**/", b"/**/a.py", b"d/**/a.py", b"\xef\xbb\xbf*.txt",
    b"*.bin\r",
    b"\r", b"  ", b" b.txt", b"a.py\x0b", b"a.py\x0c*.txt", b"\xc3\xbc.txt", b"\xc2\x85b.txt",
    b"\xe2\x80\xa8*", b"\xff*", b"back\\\\slash", b"back\\", b"with space", b"with\\ space", b".*",
    b"sub/", b"!sub/a.py.bak", b"*.b?k", b"keep/e", b"e/f", b"\tb.txt",
]  # fmt: skip
FILES = ["", "d/", "d/e/", "sub/"]  # folders of ignore files

texts = st.builds(
    lambda mark, lines, end, last: mark + end.join(lines) + last,
    st.sampled_from([b"", b"\xef\xbb\xbf"]),
    st.lists(st.sampled_from(LINES), max_size=5),
    st.sampled_from([b"\n", b"\n", b"\r\n"]),
    st.sampled_from([b"", b"\n", b"\r\n", b"\r"]),
)


def sent(folder: Path) -> list[str]:
    """What is packed; names that no bundle takes are only asked about."""
    ignored = Ignored(folder)
    found = [name for name in NAMES if ignored.why(name) is None]
    packable = [name for name in found if name.isprintable() and "\\" not in name]
    for name in set(NAMES) - set(packable):
        (folder / name).unlink()
    try:
        assert sorted(packable) == [file.name for file in pack(Code(folder=str(folder))).files]
    except PackingError as error:
        assert "everything is ignored" in str(error)
        assert packable == []
    return sorted(found)


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
@settings(max_examples=examples(60))  # each makes a repository
@given(st.dictionaries(st.sampled_from(FILES), texts, max_size=3))
@example({"": b"\xef\xbb\xbf*.bin\r\n/b.txt\r\n"})
@example({"": b"*.py\x0ca.txt\nb.txt\x85"})
@example({"": b"*.py\n!d/e/", "d/": b"!a.py\n", "d/e/": b"*.bin"})
@example({"": b"!\n/\nback\\\n[ab\n*.txt"})
def test_ignored_is_what_git_ignores(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]
) -> None:
    folder = tmp_path_factory.mktemp("repository")
    for name in NAMES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x\n")
    for where, data in files.items():
        (folder / where / ".gitignore").write_bytes(data)
    git = ["git", "-C", str(folder), "-c", "core.excludesFile=/dev/null"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    listed = subprocess.run(
        [*git, "ls-files", "--others", "--exclude-standard", "-z"], capture_output=True, check=True
    )
    wanted = {os.fsdecode(name) for name in listed.stdout.split(b"\0")} - {""}
    assert sent(folder) == sorted(wanted & set(NAMES))
    shutil.rmtree(folder)


def test_a_link_is_no_ignore_file_as_for_git(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("*.py\n")
    (tmp_path / "a.py").write_text("")
    (tmp_path / ".gitignore").symlink_to("elsewhere")
    assert Ignored(tmp_path).why("a.py") is None


def test_a_folder_of_that_name_is_none_either(tmp_path: Path) -> None:
    for name in IGNORE_FILES:
        (tmp_path / name).mkdir()
    assert Ignored(tmp_path).why("a.py") is None


@pytest.mark.parametrize("pattern", ["", "#x", "!", "x\\", " "])
def test_a_pattern_of_the_job_that_matches_nothing_is_refused(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(PackingError, match=r"code\.exclude: .* matches nothing; write a line as"):
        Ignored(tmp_path, [pattern])


def job(folder: Path, **fields: object) -> Job:
    fields = {"script": str(folder / "train.py"), "code": str(folder), **fields}
    return Job.model_validate({"name": "j", "pools": ["a2-highgpu-1g"], **fields})


@pytest.mark.parametrize(
    ("ignore", "fields", "at", "said"),
    [
        (
            {".gitignore": "x\n*.py\n"}, {}, ("script",),
            "train.py is ignored (.gitignore:2: *.py); let it be sent with !train.py in "
            ".swellignore",
        ),
        (
            {".gitignore": "/src/\n"}, {"task": "src/t.py:T"}, ("task",),
            "src/t.py is in src, which is ignored (.gitignore:1: /src/); let it be sent with "
            "!/src/t.py in .swellignore",
        ),
        (
            {"src/.gitignore": "t.py\n"}, {"task": "src/t.py:T"}, ("task",),
            "src/t.py is ignored (src/.gitignore:1: t.py); let it be sent with !t.py in "
            "src/.swellignore",
        ),
        (
            {".swellignore": "train.*"}, {"torchrun": "train.py"}, ("torchrun",),
            "train.py is ignored (.swellignore:1: train.*); let it be sent with !train.py in "
            ".swellignore",
        ),
        (
            {}, {"code": {"exclude": ["tr*"]}}, ("script",),
            "train.py is ignored (code.exclude: tr*); exclude less",
        ),
        (
            {}, {"script": ".venv/run.py"}, ("script",),
            ".venv/run.py is in .venv, which is ignored (never sent: .venv/); that is never sent; "
            "give it another name",
        ),
        (
            {"env/pyvenv.cfg": ""}, {"script": "env/bin/x.py"}, ("script",),
            "env/bin/x.py is in a virtual environment, env, which is not sent; move it",
        ),
        (
            {".gitignore": "*.txt"}, {"code": {"requirements": "req.txt"}},
            ("code", "requirements"),
            "req.txt is ignored (.gitignore:1: *.txt); let it be sent with !req.txt in "
            ".swellignore",
        ),
    ],
)  # fmt: skip
def test_a_program_that_is_left_behind_is_said_with_the_line_that_does_it(
    tmp_path: Path,
    ignore: dict[str, str],
    fields: dict[str, object],
    at: tuple[str, ...],
    said: str,
) -> None:
    for name, text in ignore.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    own = dict(fields)
    if isinstance(own.get("code"), dict):
        own["code"] = {"folder": str(tmp_path), **own["code"]}  # type: ignore[dict-item]
    for way in {"task", "torchrun", "script"} & own.keys():
        own = {"script": None, **own, way: f"{tmp_path}/{own[way]}"}
    assert list(left_behind(job(tmp_path, **own))) == [(at, NOT_SENT, said)]


def test_the_repository_above_is_named_from_the_folder(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / ".gitignore").write_text("*.py\n")
    folder = tmp_path / "a/b"
    folder.mkdir(parents=True)
    ((_, _, said),) = left_behind(job(folder))
    assert "(../../.gitignore:1: *.py)" in said
    assert said.endswith("!train.py in .swellignore")
    (folder / ".swellignore").write_text("!train.py\n")
    assert list(left_behind(job(folder))) == []
