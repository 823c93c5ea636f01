"""Patches go in exactly, or not at all, and nothing goes in that the usual tools would refuse."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from difflib import SequenceMatcher
from pathlib import Path

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from patching import PatchError, apply_patches, parse_patch, read_patches

BEFORE = [b"%d\n" % number for number in range(1, 21)]


def diff(before: list[bytes], after: list[bytes], file: str = "file") -> bytes:
    """What ``git diff`` says of a file."""
    text = f"diff --git a/{file} b/{file}\n--- a/{file}\n+++ b/{file}\n".encode()
    matcher = SequenceMatcher(a=before, b=after, autojunk=False)
    for group in matcher.get_grouped_opcodes():
        (_, a, _, b, _), (_, _, a_end, _, b_end) = group[0], group[-1]
        text += b"@@ -%d,%d +%d,%d @@\n" % (a + 1, a_end - a, b + 1, b_end - b)
        for tag, i, i_end, j, j_end in group:
            if tag == "equal":
                text += b"".join(shown(b" ", line) for line in before[i:i_end])
            else:
                text += b"".join(shown(b"-", line) for line in before[i:i_end])
                text += b"".join(shown(b"+", line) for line in after[j:j_end])
    return text


def shown(kind: bytes, line: bytes) -> bytes:
    end = b"" if line.endswith(b"\n") else b"\n\\ No newline at end of file\n"
    return kind + line + end


def mail(diffs: bytes, number: int = 1, total: int = 1) -> bytes:
    """A patch as ``git format-patch`` writes it."""
    return b"Subject: [PATCH sea-1.2 %d/%d] Swell\n\nProse.\n---\n%s" % (number, total, diffs)


def swapped(lines: list[bytes], changes: dict[int, bytes]) -> list[bytes]:
    """The lines with others in some places, counted from 1."""
    return [changes.get(number, line) for number, line in enumerate(lines, 1)]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "file").write_bytes(b"".join(BEFORE))
    return tmp_path


def apply(tree: Path, *diffs: bytes) -> None:
    texts = [mail(one, number, len(diffs)) for number, one in enumerate(diffs, 1)]
    apply_patches([parse_patch(f"000{n}.patch", text) for n, text in enumerate(texts, 1)], tree)


AFTER = swapped(BEFORE, {2: b"two\n", 19: b"nineteen\n"})
DIFF = diff(BEFORE, AFTER)  # two hunks


class TestApplying:
    def test_all_hunks_of_all_patches_go_in(self, tree: Path) -> None:
        last = swapped(AFTER, {3: b"three\n"})
        apply(tree, DIFF, diff(AFTER, last))
        assert (tree / "file").read_bytes() == b"".join(last)

    @pytest.mark.parametrize(
        "change, message",
        [
            (
                {18: b"eighteen\n"},
                r"file, hunk 2 of 2: line 18 is 'eighteen\\n', and should be '18\\n'",
            ),
            ({5: b"4\n"}, "file, hunk 1 of 2: line 5 is "),  # unchanged lines count
            ({1: b"0\n1\n"}, "file, hunk 1 of 2: line 1 is "),  # no offset
            ({20: b"20"}, "file, hunk 2 of 2: line 20 is '20', and should be "),  # no line end
            ({20: b""}, "file, hunk 2 of 2: line 20 is missing, and should be "),
            ({4: b"4\r\n"}, "file, hunk 1 of 2: line 4 is "),
            ({20: b"20\n21\n"}, "file, hunk 2 of 2: the file should end after line 20"),
        ],
    )
    def test_one_line_that_differs_stops_all(
        self, tree: Path, change: dict[int, bytes], message: str
    ) -> None:
        content = b"".join(swapped(BEFORE, change))
        for file in ("file", "other"):
            (tree / file).write_bytes(content if file == "file" else b"1\n")
        with pytest.raises(PatchError, match=message) as caught:
            apply(tree, diff([b"1\n"], [b"2\n"], "other"), DIFF)
        assert str(caught.value).startswith("0002.patch does not fit file, hunk ")
        assert str(caught.value).endswith(
            "It was made for sea-1.2: build that version, or make the patch anew."
        )
        assert (tree / "file").read_bytes() == content
        assert (tree / "other").read_bytes() == b"1\n"

    def test_a_line_outside_of_the_hunks_may_be_any(self, tree: Path) -> None:
        (tree / "file").write_bytes(b"".join(swapped(BEFORE, {10: b"ten\n"})))
        apply(tree, DIFF)
        assert (tree / "file").read_bytes() == b"".join(swapped(AFTER, {10: b"ten\n"}))

    def test_a_file_that_is_missing_is_said(self, tree: Path) -> None:
        (tree / "file").unlink()
        with pytest.raises(PatchError, match=r"0001\.patch does not fit file, there is no such"):
            apply(tree, DIFF)

    def test_a_second_application_is_noticed(self, tree: Path) -> None:
        """Also where later patches have moved what earlier ones put in."""
        last = [b"0\n", *AFTER]
        apply(tree, DIFF, diff(AFTER, last))
        with pytest.raises(PatchError, match="has these patches already"):
            apply(tree, DIFF, diff(AFTER, last))
        assert (tree / "file").read_bytes() == b"".join(last)

    def test_bytes_that_are_no_text_stay(self, tree: Path) -> None:
        before = [b"\xff\x00\r\n", b"\x0c\x85\n", b"a\r b\n"]
        (tree / "file").write_bytes(b"".join(before))
        apply(tree, diff(before, swapped(before, {2: b"\xe2\x80\xa8\n"})))
        assert (tree / "file").read_bytes() == b"\xff\x00\r\n\xe2\x80\xa8\na\r b\n"


class TestReading:
    def test_what_it_is_for_and_its_place_are_in_the_subject(self) -> None:
        patch = parse_patch("0002-x.patch", mail(DIFF, 2, 9))
        assert (patch.name, patch.source, patch.number, patch.total) == (
            "0002-x.patch",
            "sea-1.2",
            2,
            9,
        )
        assert [(change.file, len(change.hunks)) for change in patch.changes] == [("file", 2)]

    @pytest.mark.parametrize(
        "old, new, line",
        [
            (b"--- a/file", b"--- /dev/null", 5),  # files that come, go or change otherwise
            (b"+++ b/file", b"+++ b/other", 5),
            (b"--- a/file", b"new file mode 100644\n--- a/file", 5),
            (b"-2\n", b"", 8),  # a line is missing
            (b"-2\n", b"-2\n-3\n", 8),  # one too many
            (b" 5\n", b"5\n", 8),  # an editor took the space away
            (b"@@ -1,5", b"@@ -2,5", 8),  # not as far from the top before as after
            (b"@@ -1,5 +1,5 @@", b"@@ -7,5 +7,5 @@", 8),  # less above than below, but not the top
            (b"@@ -16,5", b"@@ -17,5", 15),  # not as far from the first hunk before as after
            (b"@@ -16,5 +16,5", b"@@ -4,5 +4,5", 15),  # they overlap
            (b" 20\n", b" 20\n-- \n2.39.5\n", 15),  # format-patch without --no-signature
            (b" 20\n", b" 20\n@@ -20,0 +21 @@\n+21\n", 22),  # nothing says what is there
            (b" 20\n", b" 20\n@@ -30 +30 @@\n 30\n", 22),  # nothing changes
        ],
    )
    def test_what_is_no_whole_hunk_is_an_error(self, old: bytes, new: bytes, line: int) -> None:
        text = mail(DIFF)
        assert text.count(old) == 1
        with pytest.raises(PatchError, match=rf"^0001\.patch, line {line}: neither a hunk"):
            parse_patch("0001.patch", text.replace(old, new))

    @pytest.mark.parametrize(
        "text, message",
        [
            (DIFF, r"has no line 'Subject: \[PATCH NAME-VERSION N/TOTAL\] ...'"),
            (mail(DIFF).replace(b"sea-1.2 ", b""), "has no line 'Subject: "),
            (mail(b""), "changes nothing"),
            (mail(DIFF[: DIFF.index(b"@@")]), "changes nothing"),
        ],
    )
    def test_what_is_no_patch_is_an_error(self, text: bytes, message: str) -> None:
        with pytest.raises(PatchError, match=rf"^0001\.patch {message}"):
            parse_patch("0001.patch", text)

    def test_a_series_is_read_in_its_order(self, tmp_path: Path) -> None:
        for number in (2, 1, 3):
            (tmp_path / f"000{number}-x.patch").write_bytes(mail(DIFF, number, 3))
        (tmp_path / "README").touch()
        assert [patch.number for patch in read_patches(tmp_path)] == [1, 2, 3]

    def test_a_patch_that_is_missing_is_noticed(self, tmp_path: Path) -> None:
        (tmp_path / "0001-x.patch").write_bytes(mail(DIFF, 1, 3))
        (tmp_path / "0003-x.patch").write_bytes(mail(DIFF, 3, 3))
        with pytest.raises(PatchError, match=r"0001-x\.patch says it is 1 of 3, but it is 1 of 2"):
            read_patches(tmp_path)

    def test_a_patch_that_should_be_gone_is_noticed(self, tmp_path: Path) -> None:
        """Such as one that has another name since its subject changed."""
        for name, number in (("0001-new", 1), ("0001-old", 1), ("0002-x", 2)):
            (tmp_path / f"{name}.patch").write_bytes(mail(DIFF, number, 2))
        with pytest.raises(PatchError, match=r"0001-new\.patch says it is 1 of 2, but it"):
            read_patches(tmp_path)

    def test_a_folder_without_patches_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(PatchError, match="there are no patches in "):
            read_patches(tmp_path)


# --- beside the usual tools -------------------------------------------------------------------

# Few different lines, so that a hunk fits in many places.
LINES = st.sampled_from([b"a\n", b"b\n", b"\n", b" \n", b"-- a\n", b"@@ -1 +1 @@\n", b"\xff\r\n"])
FILES = st.builds(
    lambda lines, end: [*lines, end], st.lists(LINES, max_size=40), LINES | st.just(b"end")
)
TOOLS = {
    "git": ["git", "apply", "-p1", "patch"],
    "patch": ["patch", "-p1", "--batch", "--forward", "--silent", "--fuzz=0", "--input=patch"],
}


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[bytes], list[bytes], list[bytes]]:
    """A file, what becomes of it, and another in which other lines are different or more follow."""
    before = draw(FILES)
    after = list(before)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(after) - 1))
        after[at : at + draw(st.integers(0, 2))] = draw(st.lists(LINES, max_size=2))
        after = after or [b"a\n"]
    other = [*before]
    other[draw(st.integers(0, len(other) - 1))] = draw(LINES)
    other += draw(st.just([]) | st.just([b"a\n"]))
    assume(before != after)
    return before, ended(after), ended(other)


def ended(lines: list[bytes]) -> list[bytes]:
    """The lines of a file, of which only the last may be without an end."""
    return [*(line if line.endswith(b"\n") else b"end\n" for line in lines[:-1]), lines[-1]]


def applied(content: list[bytes], text: bytes) -> bytes | None:
    """What becomes of a file; None when the patch does not fit."""
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "file"
        file.write_bytes(b"".join(content))
        try:
            apply_patches([parse_patch("0001.patch", text)], Path(name))
        except PatchError:
            assert file.read_bytes() == b"".join(content)
            return None
        return file.read_bytes()


@given(cases())
def test_a_diff_leads_from_one_file_to_the_other(
    case: tuple[list[bytes], list[bytes], list[bytes]],
) -> None:
    before, after, _ = case
    text = mail(diff(before, after))
    assert applied(before, text) == b"".join(after)
    (change,) = parse_patch("0001.patch", text).changes
    assert change.reversed().apply(after) == before


@pytest.mark.parametrize("tool", TOOLS)
@settings(max_examples=200)
@given(cases())
@example((BEFORE, AFTER, [*BEFORE, b"21\n"]))
@example((BEFORE, AFTER, [b"0\n", *BEFORE]))
def test_what_fits_goes_in_with_the_usual_tools_as_well(
    tool: str, case: tuple[list[bytes], list[bytes], list[bytes]]
) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not here")
    before, after, other = case
    text = mail(diff(before, after))
    found = applied(other, text)
    if found is None:
        return
    with tempfile.TemporaryDirectory() as name:
        Path(name, "file").write_bytes(b"".join(other))
        Path(name, "patch").write_bytes(text)
        # A repository around it would change what git does.
        environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(Path(name).parent)}
        done = subprocess.run(TOOLS[tool], cwd=name, env=environment, capture_output=True)
        assert done.returncode == 0, done
        assert Path(name, "file").read_bytes() == found
