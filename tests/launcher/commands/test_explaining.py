"""``swell explain`` says what docs/messages.md says; shells complete what ``swell`` takes."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from launcher.cli import app
from launcher.kinds import id_of, kinds
from tests.test_messages import ROOT, ids_in_code, rows


def explain(*words: str) -> Result:
    return CliRunner().invoke(app, ["explain", *words])


def test_each_message_of_the_code_is_explained() -> None:
    known = {it.id: it for it in kinds((ROOT / "launcher/messages.md").read_text())}
    assert sorted(known) == sorted(row[0] for row in rows())
    assert {it.id for it in known.values() if not it.retired} == set(ids_in_code())
    assert all("](" not in it.when + it.remedy for it in known.values()), "no Markdown's links"


@pytest.mark.parametrize("written", ["SW1009", "sw1009", "[SW1009]", "1009"])
def test_an_id_may_be_written_as_it_is_seen(written: str) -> None:
    assert id_of(written) == "SW1009"
    assert explain(written).output == (
        "SW1009  Wrong type\n"
        "  when  A text where a number belongs, a list where a mapping belongs, …\n"
        "  do    Write the type that the message names\n"
    )


def test_several_are_explained_each_once_and_as_json() -> None:
    said = explain("SW1009", "SW2024", "1009", "--json")
    found = json.loads(said.output)
    assert [(it["id"], it["retired"]) for it in found] == [("SW1009", False), ("SW2024", True)]


def test_links_become_the_names_of_pages() -> None:
    [kind] = kinds(
        "| SW1 | x |\n| SW1234 | A [name](job.md) | See [job.md](job.md#a) | [b](../c/d.md) |"
    )
    assert (kind.name, kind.when, kind.remedy) == (
        "A name (docs/job.md)",
        "See docs/job.md#a",
        "b (c/d.md)",
    )


@pytest.mark.parametrize("written", ["SW9999", "99", "", "help", "x" * 200])
def test_what_is_no_id_is_refused(written: str) -> None:
    said = explain(written)
    assert said.exit_code == 2
    assert said.output.endswith(
        ": is no id of a message; write one as it stands in brackets [SW6280]\n"
    )
    assert len(said.output) < 160


def test_a_person_is_told_how_to_learn_more_and_a_pipe_is_not(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "launcher.cli", "status", "no-such-run"]
    env = {**os.environ, "SWELL_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    piped = subprocess.run(line, env=env, capture_output=True, text=True)
    assert piped.returncode == 2 and "swell explain" not in piped.stderr
    ours, theirs = pty.openpty()
    with subprocess.Popen(line, env=env, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        told = b""
        try:
            while more := os.read(ours, 4096):
                told += more
        except OSError:  # nobody has the other end any more
            pass
        os.close(ours)
    assert process.returncode == 2
    assert told.decode().splitlines()[-1] == "For more: swell explain SW2003"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_what_is_installed(shell: str) -> None:
    said = CliRunner().invoke(app, ["completion", shell])
    assert said.exit_code == 0
    file = {"bash": "swell", "zsh": "_swell", "fish": "swell.fish"}[shell]
    assert said.output == (ROOT / "launcher/completions" / file).read_text()
    assert file in (ROOT / "setup.cfg").read_text(), "where the shell looks by itself"


def test_bash_completes_commands_options_and_runs(tmp_path: Path) -> None:
    programs, home = tmp_path / "bin", tmp_path / "home"
    (home / "runs/digits-1201-0930-abcd").mkdir(parents=True)
    (home / "runs/digits-1201-0930-abcd/run.json").write_text("{}")
    programs.mkdir()
    (programs / "swell").write_text(f'#!/bin/sh\nexec {sys.executable} -m launcher.cli "$@"\n')
    (programs / "swell").chmod(0o755)
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "SWELL_HOME": str(home)}
    script = (ROOT / "launcher/completions/swell").read_text() + "\n".join(
        f"COMP_WORDS=({words}); COMP_CWORD={words.count(' ')}; _swell_completion swell; "
        'echo "${COMPREPLY[@]}"'
        for words in ("swell la", "swell launch --det", "swell status dig")
    )
    bash = shutil.which("bash")
    assert bash
    told = subprocess.run([bash, "-c", script], env=env, capture_output=True, text=True)
    assert told.stdout.splitlines() == ["launch", "--detach", "digits-1201-0930-abcd"], told.stderr
