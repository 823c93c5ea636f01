"""Stacks come back as what they were, and nothing else comes with them."""

from __future__ import annotations

import faulthandler
import os
import tempfile
import threading

from hypothesis import given
from hypothesis import strategies as st

from trainer.protocol.stacks import FRAMES, THREADS, Frame, parse, render

plain = st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1, max_size=20)
frames = st.builds(Frame, plain.map("/{}.py".format), st.integers(0, 10**9 - 1), plain)
threads = st.lists(st.lists(frames, min_size=1, max_size=5).map(tuple), max_size=4)


@given(threads)
def test_what_was_rendered_is_parsed_again(given: list[tuple[Frame, ...]]) -> None:
    assert list(parse(render(given))) == given


@given(st.text() | st.lists(st.sampled_from(["  File", "Thread 0x1", ":", "\n", '"', "line"])))
def test_what_is_no_stack_comes_to_nothing(text: str | list[str]) -> None:
    for thread in parse("".join(text)):
        for frame in thread:
            assert "\n" not in frame.file + frame.function


def test_what_faulthandler_writes_is_understood() -> None:
    def waits(lock: threading.Event) -> None:
        lock.wait()

    over = threading.Event()
    other = threading.Thread(target=waits, args=(over,))
    other.start()
    try:
        with tempfile.TemporaryFile() as file:
            faulthandler.dump_traceback(file, all_threads=True)
            file.seek(0)
            found = parse(file.read().decode())
    finally:
        over.set()
        other.join()
    first = found[-1]
    assert first[0].file == __file__
    assert first[0].function == "test_what_faulthandler_writes_is_understood"
    assert any(frame.function == "waits" for thread in found[:-1] for frame in thread)


def test_values_and_other_lines_do_not_come_along() -> None:
    text = (
        "password=hunter2\n"
        "Current thread 0x00007f01 [python] (most recent call first):\n"
        '  File "/a.py", line 3 in f\n'
        "    secret = 'hunter2'\n"
        '  File "/a.py", line 9 in <module>; token=hunter2\n'
        "  ...\n"
    )
    assert parse(text) == ((Frame("/a.py", 3, "f"),),)
    assert "hunter2" not in render(parse(text))


def test_there_is_a_limit_to_frames_and_threads() -> None:
    endless = [tuple(Frame("/a.py", line, "f") for line in range(5 * FRAMES))] * (3 * THREADS)
    found = parse(render(endless))
    assert (len(found), {len(one) for one in found}) == (THREADS, {FRAMES})


def test_the_file_of_another_process_is_told_from_ones_own() -> None:
    from trainer.protocol.stacks import name_of

    assert name_of(os.getpid()) != name_of(os.getppid())
