"""Every message for users has an id; docs/messages.md explains each, once."""

from __future__ import annotations

import ast
import builtins
import re
from collections import defaultdict
from functools import cache
from pathlib import Path

from docs.texts import modules

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/messages.md"
ID = re.compile(r"SW\d{4}")

# What else is raised, and why no user meets it as a message of its own. Errors that Python defines
# are none of these either: a ValueError or an OSError that gets to a command is given the id of a
# file that refuses, or it is a fault and shows its traceback.
NOT_FOR_USERS = {
    "launcher/job/source.py _Unknown": "ends a look that cannot tell",
    "trainer/agent/agent.py Broken": "has the replica started again; the run's story says why",
    "trainer/agent/agent.py Rejoin": "starts the agent again",
    "trainer/agent/outcome_watch.py RunEnded": "ends the agent's tasks",
    "trainer/check/world.py Failed": "becomes a message of the check",
    "trainer/checkpoints/tree.py NotPortable": "is raised by the program that a user debugs",
    "trainer/data/chats.py _Wrong": "becomes an Unusable",
    "trainer/data/shards/cache.py NoRoom": "has a sample read without the cache; a line says so",
    "trainer/engine/mistake.py StandsAlone": "starts the worker again",
    "trainer/engine/nonfinite.py LeftOut": "ends a step's block",
    "trainer/engine/sums.py BlockOver": "ends the block of a step",
    "trainer/engine/sums.py LoopEnded": "ends the block of a step",
    "trainer/engine/sums.py Learning": "takes the step again",
    "trainer/engine/values.py Unportable": "becomes a Mistake",
    "trainer/loaders/likeness.py Untold": "leaves it open what a data set is like",
    "trainer/loaders/pool.py LoadersLost": "is told as the fault of who it is",
    "trainer/loaders/sample.py SampleError": "is told as what a data set raised",
    "trainer/loaders/sample.py _InLoader": "shows where that was",
    "trainer/health.py Unfit": "is read by `swell image check`, which has ids of its own",
    "trainer/rundir/bundle.py BundleError": "becomes a CodeError",
    "trainer/rundir/retry.py StoreUnavailable": "is an OSError",
    "trainer/rundir/store.py TooLarge": "becomes what its reader makes of it",
    "trainer/worker/horovod_hooks.py NoWorker": "starts the worker again",
    "launcher/api/reach.py _Over": "becomes an Unreachable",
    "launcher/supervision/attendance.py Relieved": "ends a controller beside the next one",
    "launcher/job/interpolation.py InterpolationError": "becomes a FileError",
    "launcher/emulator/jobs/lifecycle.py Refused": "becomes an answer of the API",
    "launcher/emulator/resources/errors.py ApiError": "becomes an answer of the API",
    "launcher/emulator/storage/errors.py Refused": "becomes an answer of the storage",
    "launcher/emulator/storage/errors.py NoSuchThing": "becomes an answer of the storage",
    "launcher/emulator/storage/errors.py NoSuchBucket": "becomes an answer of the storage",
    "launcher/emulator/storage/errors.py ConditionFailed": "becomes an answer of the storage",
    "launcher/emulator/storage/errors.py NotChanged": "becomes an answer of the storage",
    "launcher/emulator/storage/errors.py Taken": "becomes an answer of the storage",
    "launcher/emulator/storage/errors.py Busy": "becomes an answer of the storage",
    "launcher/emulator/storage/errors.py Ended": "becomes an answer of the storage",
    "launcher/emulator/storage/errors.py OutOfRange": "becomes an answer of the storage",
    "launcher/emulator/storage/errors.py NotServed": "becomes an answer of the storage",
    "launcher/emulator/storage/errors.py StorageError": "becomes an answer of the storage",
    "launcher/emulator/storage/xml_requests.py NoSuchUpload": "becomes an answer of the storage",
}


def rows() -> list[list[str]]:
    """The rows of the page's tables: id, kind, when, what to do."""
    lines = PAGE.read_text().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return [row for row in cells if ID.match(row[0])]


@cache
def ids_in_code() -> dict[str, set[str]]:
    """Each id, and the files that have it as a text of its own."""
    found = defaultdict(set)
    for file, nodes in modules().items():
        for node in nodes:
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                for id in ID.findall(node.value):
                    assert node.value == id, f"{file}:{node.lineno}: an id is no part of a text"
                    found[id].add(file)
    return found


def retired(row: list[str]) -> bool:
    return row[1].startswith("*retired*")


def test_every_row_is_whole() -> None:
    assert len(rows()) > 100
    for row in rows():
        assert ID.fullmatch(row[0].strip()), row
        assert len(row) == 4 and all(row), row


def test_the_ids_in_the_code_are_those_on_the_page() -> None:
    in_use = [row[0] for row in rows() if not retired(row)]
    assert sorted(ids_in_code()) == sorted(in_use)


def test_the_page_of_all_texts_has_each_id() -> None:
    page = (ROOT / "docs/texts.md").read_text()
    assert set(ID.findall(page)) == set(ids_in_code())


def test_an_id_and_a_kind_are_explained_once() -> None:
    ids, kinds = [row[0] for row in rows()], [row[1] for row in rows() if not retired(row)]
    assert ids == sorted(ids), "in order, and so that the next free one is easily found"
    assert len(ids) == len(set(ids)), "an id has one meaning"
    assert len(kinds) == len(set(kinds)), "a kind has one id"


def test_files_share_an_id_through_one_constant() -> None:
    several = {id: files for id, files in ids_in_code().items() if len(files) > 1}
    assert several == {}, "written in two places, one id would soon mean two things"


@cache
def exceptions() -> list[tuple[str, list[str]]]:
    """Each class of an exception, and the names of its bases."""
    known = {
        name
        for name, one in vars(builtins).items()
        if isinstance(one, type) and issubclass(one, BaseException)
    }
    classes = [
        (f"{file} {node.name}", node.name, [ast.unparse(base) for base in node.bases])
        for file, nodes in modules().items()
        for node in nodes
        if isinstance(node, ast.ClassDef)
    ]
    for _ in range(4):  # bases may be anywhere
        known |= {name for _, name, bases in classes if known & set(bases)}
    return [(where, bases) for where, _, bases in classes if known & set(bases)]


def test_errors_have_ids_unless_users_never_meet_them() -> None:
    with_ids = {"UserError"}
    for _ in range(4):
        with_ids |= {where.split()[1] for where, bases in exceptions() if with_ids & set(bases)}
    others = {where for where, bases in exceptions() if not with_ids & set(bases)}
    assert others - {"trainer/rundir/usererror.py UserError"} == set(NOT_FOR_USERS)
