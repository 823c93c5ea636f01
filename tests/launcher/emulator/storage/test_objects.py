"""Buckets and objects against a model, through several processes' eyes at once."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from launcher.emulator.storage.errors import ConditionFailed, NoSuchThing, Refused, Taken
from launcher.emulator.storage.listing import BEGIN, Query
from launcher.emulator.storage.objects import Objects, Source
from launcher.emulator.storage.resource import Conditions

ROOT = Path(__file__).parents[4]
NAMES = st.sampled_from(["a", "a/b", "a/b/c", "ab", "b/ü", "\U0010ffff", "a/\U0010ffff"])
CONTENT = st.binary(max_size=5)


def put(objects: Objects, name: str, data: bytes, conditions: Conditions = Conditions()) -> int:  # noqa: B008
    with objects.receiving() as receiver:
        receiver.write(data)
    return objects.put("bucket", name, receiver.content(), {}, conditions).generation


class AgainstModel(RuleBasedStateMachine):
    """Two views of one folder must both be the model.

    That is {name: (content, generation)} of what is live and, in a bucket with versioning,
    {(name, generation): content} of what was.
    """

    @initialize(versioned=st.booleans())
    def begin(self, versioned: bool) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="swell-objects-")
        self.views = [Objects(Path(self.folder.name)) for _ in range(2)]
        settings = {"versioning": {"enabled": versioned}}
        self.views[0].create_bucket("bucket", settings=settings)
        self.versioned = versioned
        self.model: dict[str, tuple[bytes, int]] = {}
        self.old: dict[tuple[str, int], bytes] = {}
        self.newest = 0

    def make(self, name: str, data: bytes, generation: int) -> None:
        """An object is made, of a higher generation than all before it."""
        assert generation > self.newest
        self.newest = generation
        self.retire(name)
        self.model[name] = (data, generation)

    def retire(self, name: str) -> None:
        """An object makes way."""
        if name in self.model:
            data, generation = self.model.pop(name)
            if self.versioned:
                self.old[name, generation] = data

    @rule(view=st.integers(0, 1), name=NAMES, data=CONTENT, expect=st.sampled_from([None, 0, -1]))
    def put(self, view: int, name: str, data: bytes, expect: int | None) -> None:
        held = self.model.get(name, (b"", 0))[1]
        wanted = held if expect == -1 else expect
        if wanted not in (None, held):
            with pytest.raises(ConditionFailed):
                put(self.views[view], name, data, Conditions(wanted))
            return
        self.make(name, data, put(self.views[view], name, data, Conditions(wanted)))

    @rule(view=st.integers(0, 1), name=NAMES)
    def delete(self, view: int, name: str) -> None:
        if name not in self.model:
            with pytest.raises(NoSuchThing):
                self.views[view].delete("bucket", name)
        else:
            self.views[view].delete("bucket", name)
            self.retire(name)

    @rule(view=st.integers(0, 1), which=st.integers(0, 5))
    def delete_for_good(self, view: int, which: int) -> None:
        live = [(name, generation) for name, (_, generation) in self.model.items()]
        versions = sorted([*self.old, *live])
        if which >= len(versions):
            with pytest.raises(NoSuchThing):
                self.views[view].delete("bucket", "a", generation=self.newest + 1)
            return
        name, generation = versions[which]
        self.views[view].delete("bucket", name, generation=generation)
        if self.old.pop((name, generation), None) is None:
            del self.model[name]

    @rule(view=st.integers(0, 1), name=NAMES, goal=NAMES)
    def move(self, view: int, name: str, goal: str) -> None:
        if name not in self.model:
            with pytest.raises(NoSuchThing):
                self.views[view].move(Source("bucket", name), goal)
        elif name == goal:
            with pytest.raises(Refused):
                self.views[view].move(Source("bucket", name), goal)
        else:
            made = self.views[view].move(Source("bucket", name), goal)
            data, _ = self.model[name]
            self.retire(name)
            self.make(goal, data, made.generation)

    @rule(view=st.integers(0, 1), sources=st.lists(NAMES, min_size=1, max_size=3), goal=NAMES)
    def compose(self, view: int, sources: list[str], goal: str) -> None:
        parts = [Source("bucket", name) for name in sources]
        if not set(sources) <= set(self.model):
            with pytest.raises(NoSuchThing):
                self.views[view].compose(parts, "bucket", goal, {})
            return
        made = self.views[view].compose(parts, "bucket", goal, {})
        self.make(goal, b"".join(self.model[name][0] for name in sources), made.generation)

    @rule(
        view=st.integers(0, 1),
        prefix=st.sampled_from(["", "a", "a/", "a/b", "x"]),
        delimiter=st.sampled_from(["", "/"]),
        limit=st.integers(1, 4),
    )
    def listing(self, view: int, prefix: str, delimiter: str, limit: int) -> None:
        names, prefixes, start = [], [], BEGIN
        while True:
            page = self.views[view].list("bucket", Query(prefix, delimiter, start, limit=limit))
            assert len(page.objects) + len(page.prefixes) <= limit
            names += [one.name for one in page.objects]
            prefixes += page.prefixes
            if page.next is None:
                break
            start = page.next
        matching = sorted(name for name in self.model if name.startswith(prefix))
        cut = [name.find(delimiter, len(prefix)) if delimiter else -1 for name in matching]
        assert names == [name for name, at in zip(matching, cut, strict=True) if at < 0]
        folders = {name[: at + 1] for name, at in zip(matching, cut, strict=True) if at >= 0}
        assert prefixes == sorted(folders)

    @invariant()
    def both_views_are_the_model(self) -> None:
        for view in getattr(self, "views", []):
            for name, (data, generation) in self.model.items():
                found, file = view.open("bucket", name)
                with file:
                    assert (file.read(), found.generation) == (data, generation)
            for (name, generation), data in self.old.items():
                found, file = view.open("bucket", name, generation=generation)
                with file:
                    assert file.read() == data and found.deleted is not None
            listed = view.list("bucket", Query(versions=True)).objects
            live = [(name, generation) for name, (_, generation) in self.model.items()]
            assert [(one.name, one.generation) for one in listed] == sorted([*self.old, *live])
            blobs = list((Path(self.folder.name) / "blobs").iterdir())
            assert len(blobs) == len(listed), "content that nothing refers to is left"

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.folder.cleanup()


TestAgainstModel = AgainstModel.TestCase
TestAgainstModel.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)


# Claims names as fast as it can once it is told to go, and prints those that it got.
RACER = """
import sys
from pathlib import Path
from launcher.emulator.storage.errors import ConditionFailed
from launcher.emulator.storage.objects import Objects
from launcher.emulator.storage.resource import Conditions

objects, racer = Objects(Path(sys.argv[1])), sys.argv[2].encode()
print("ready", flush=True)
sys.stdin.readline()
for number in range(20):
    with objects.receiving() as receiver:
        receiver.write(racer)
    try:
        objects.put("bucket", f"claim/{number}", receiver.content(), {}, Conditions(0))
        print(number)
    except ConditionFailed:
        pass
"""


def test_of_several_processes_one_creates(tmp_path: Path) -> None:
    Objects(tmp_path).create_bucket("bucket")
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(tmp_path), str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for number in range(3)
    ]
    for racer in racers:
        assert racer.stdout and racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin
        racer.stdin.write("go\n")
        racer.stdin.flush()
    wins = []
    for number, racer in enumerate(racers):
        said, _ = racer.communicate(timeout=60)
        assert racer.returncode == 0
        wins += [(int(claim), number) for claim in said.split()]
    assert [claim for claim, _ in sorted(wins)] == list(range(20))
    for claim, number in wins:
        _, file = Objects(tmp_path).open("bucket", f"claim/{claim}")
        with file:
            assert file.read() == b"%d" % number


def test_what_is_being_read_stays_whole(tmp_path: Path) -> None:
    objects = Objects(tmp_path)
    objects.create_bucket("bucket")
    put(objects, "a", b"old")
    _, file = objects.open("bucket", "a")
    put(objects, "a", b"new")
    objects.delete("bucket", "a")
    with file:
        assert file.read() == b"old"


def test_buckets_come_back(tmp_path: Path) -> None:
    objects = Objects(tmp_path)
    objects.create_bucket("bucket", "EUROPE-WEST4")
    put(objects, "a", b"1")
    again = Objects(tmp_path)
    assert [(one.name, one.location) for one in again.buckets()] == [("bucket", "EUROPE-WEST4")]
    with pytest.raises(Taken):
        again.create_bucket("bucket")
    with pytest.raises(Taken):
        again.delete_bucket("bucket")
    assert put(again, "b", b"") > again.get("bucket", "a").generation


def test_a_folder_of_before_there_were_versions_is_read_and_goes_on(tmp_path: Path) -> None:
    """Its index has neither old versions nor settings, and its emulator may serve it still."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "one").write_bytes(b"data")
    index = sqlite3.connect(tmp_path / "index.sqlite")
    index.executescript(
        """
        CREATE TABLE buckets (name TEXT PRIMARY KEY, location TEXT, created REAL);
        CREATE TABLE objects (
            bucket TEXT, name TEXT, generation INTEGER, metageneration INTEGER, blob TEXT,
            size INTEGER, crc32c TEXT, md5 TEXT, created REAL, updated REAL, fields TEXT,
            PRIMARY KEY (bucket, name)
        );
        CREATE TABLE counter (last INTEGER);
        INSERT INTO counter VALUES (7);
        INSERT INTO buckets VALUES ('bucket', 'US', 1.0);
        INSERT INTO objects VALUES (
            'bucket', 'a', 7, 1, 'one', 4, 'rth90Q==', 'jXd/OF09/siBXSD3SWAm3A==', 1, 1, '{}'
        );
        """
    )
    index.close()
    objects = Objects(tmp_path)
    found, file = objects.open("bucket", "a")
    with file:
        assert (file.read(), found.generation, found.storage_class) == (b"data", 7, "STANDARD")
    assert not objects.bucket("bucket").versioned
    objects.change_bucket("bucket", {"versioning": {"enabled": True}})
    assert put(objects, "a", b"new") > 7
    with objects.open("bucket", "a", generation=7)[1] as file:
        assert file.read() == b"data"
    index = sqlite3.connect(tmp_path / "index.sqlite")
    columns = [row[1] for row in index.execute("PRAGMA table_info(objects)")]
    assert len(columns) == 11, "as the emulators of that time want it"
    index.close()
