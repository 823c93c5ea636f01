"""What a terminal gets to see of texts from outside: all of it, and nothing that it obeys."""

from __future__ import annotations

import ast
import io
import json
import os
import pty
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table
from rich.text import Text

from launcher.terminal import GuardedStream, visible
from launcher.views.output import Screen

ROOT = Path(__file__).parents[2]
# A title, a bell, the cursor home, an answer that a terminal types, a line that hides the last one.
HOSTILE = "a\x1b]0;title\x07b\x1b[H\x1b[2J\x9b6n\r\u202egnp.exe\x00\x7f"
SHOWN = r"a\u001b]0;title\u0007b\u001b[H\u001b[2J\u009b6n\u000d\u202egnp.exe\u0000\u007f"


def test_control_characters_are_shown_and_all_else_is_as_it_was() -> None:
    assert visible(HOSTILE) == SHOWN
    plain = "tab\tline\nÄ 漢字 👩\u200d💻 \u00a0 \ue0b0"
    assert visible(plain) == plain
    assert visible("\ud800") == r"\ud800"


@given(st.text())
def test_nothing_that_a_terminal_obeys_is_left(text: str) -> None:
    shown = visible(text)
    assert visible(shown) == shown
    left = {c for c in shown if unicodedata.category(c) in ("Cc", "Zl", "Zp", "Cs")}
    assert left <= {"\t", "\n"}
    assert not {c for c in shown if unicodedata.bidirectional(c)[-1:] in "EOI" and c > "\u200d"} & {
        *"\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
    }


@given(st.text())
def test_json_stays_json(text: str) -> None:
    for ensure_ascii in (True, False):
        assert json.loads(visible(json.dumps(text, ensure_ascii=ensure_ascii))) == text


def test_a_guarded_stream_shows_whatever_is_printed() -> None:
    below = io.BytesIO()
    stream = GuardedStream(io.TextIOWrapper(below, "utf-8"))
    assert stream.write(HOSTILE) == len(HOSTILE)
    print(HOSTILE, file=stream)
    assert below.getvalue().decode() == f"{SHOWN}{SHOWN}\n"


@pytest.mark.parametrize("terminal", [False, True])
def test_what_is_drawn_has_codes_of_ours_alone(terminal: bool) -> None:
    file = io.StringIO()
    screen = Screen(file, width=200, force_terminal=terminal)
    table = Table(box=None)
    table.add_column("[bold]name")
    table.add_row(HOSTILE)
    table.add_row(Text(HOSTILE, style="red"))
    table.add_row("[link=https://evil.example]x[/link] [/nothing] :bomb:")
    screen.print(table)
    said = file.getvalue()
    assert said.count(SHOWN) == 1
    assert said.count("gnp.exe") == 2, "rich's own Text leaves some of them out"
    assert "[link=https://evil.example]x[/link] [/nothing] :bomb:" in said
    assert "[bold]name" in said
    codes = {"\x1b[0m", "\x1b[1m", "\x1b[31m"} if terminal else set()
    for code in codes:
        said = said.replace(code, "")
    assert visible(said) == said


@pytest.mark.parametrize("terminal", [False, True])
def test_the_command_s_streams_are_guarded_whoever_prints(terminal: bool) -> None:
    """A library's warning and a traceback come by there as well."""
    program = (
        "import sys, warnings, logging, typer\n"
        "from launcher.terminal import guard\n"
        "guard()\n"
        "text = sys.argv[1]\n"
        "print(text); typer.echo(text); typer.echo(text, err=True); sys.stdout.write(text)\n"
        "warnings.warn(text); logging.getLogger('x').error(text)\n"
        "raise ValueError(text)\n"
    )
    hostile = HOSTILE.replace("\x00", "")
    command = [sys.executable, "-c", program, hostile]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    if not terminal:
        done = subprocess.run(command, env=environment, capture_output=True)
        said = (done.stdout + done.stderr).decode()
    else:
        here, there = pty.openpty()
        with subprocess.Popen(command, env=environment, stdout=there, stderr=there):
            os.close(there)
            pieces = []
            try:
                while piece := os.read(here, 65536):
                    pieces.append(piece)
            except OSError:  # the terminal's last program has gone
                pass
        os.close(here)
        said = b"".join(pieces).decode().replace("\r\n", "\n")
    assert said.count("gnp.exe") >= 7
    assert visible(said) == said


# Who prints, and why that is no way around the two streams.
PRINTERS = {
    "launcher/controller.py": "lines that are visible, to a VM's log",
    "launcher/views/output.py": "draws, through Screen, or what Screen has drawn",
    "launcher/commands/foreground.py": "a line that is visible",
    "launcher/commands/following.py": "lines that are visible, and JSON",
    "launcher/commands/interrupts.py": "a text of its own",
    "launcher/commands/runs.py": "a line that is visible",
    "launcher/commands/watched.py": "lines that are visible",
    "launcher/views/outlet.py": "what its users print, who are the ones here",
    "launcher/logs/reader.py": "a line of which logline has left no more than colours",
}


def test_nobody_goes_around_the_guard() -> None:
    found = set()
    for path in (ROOT / "launcher").rglob("*.py"):
        name = path.relative_to(ROOT).as_posix()
        if name.startswith("launcher/emulator/") or name == "launcher/terminal.py":
            continue
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                streams = ("sys.__stdout__", "sys.__stderr__", "unguarded", "os.write")
                console = called in ("Console", "rich.print", "rich.get_console")
                to_file = called == "print" and any(k.arg == "file" for k in node.keywords)
                if console or to_file or called.startswith(streams):
                    found.add(name)
    assert found == set(PRINTERS)


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)])
def test_no_file_gets_the_number_of_a_standard_stream_that_was_closed(
    closed: tuple[int, ...], tmp_path: Path
) -> None:
    program = (
        "import os, sys\n"
        "from launcher.terminal import reopen_closed\n"
        "lost, file = reopen_closed(), open(sys.argv[1], 'w')\n"
        "assert file.fileno() > 2, file.fileno()\n"
        "print('lost'); print('lost', file=sys.stderr); sys.stdout.flush()\n"
        "os.system('echo lost; echo lost >&2')\n"  # by whoever is started
        "file.write(' '.join(lost))\n"
    )
    path = tmp_path / "file"
    streams = " ".join(("<&-", ">&-", "2>&-")[number] for number in closed)
    command = f'exec "$0" -c "$1" "$2" {streams}'
    subprocess.run(
        ["sh", "-c", command, sys.executable, program, path], cwd=ROOT, check=True, timeout=60.0
    )
    assert path.read_text().split() == [("", "stdout", "stderr")[n] for n in closed if n]
