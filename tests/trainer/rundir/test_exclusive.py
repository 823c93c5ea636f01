"""Exclusive create on every store: one caller wins, and knows it, whatever answers are lost."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.storage import StorageServer
from tests.trainer.rundir.stores import gs_store
from trainer.rundir.exclusive import LIMIT, create_exclusive
from trainer.rundir.retry import ONCE, Backoff, StoreUnavailable
from trainer.rundir.store import Store

RETRY = Backoff(first=0.001, longest=0.001, limit=0.005)


def content(store: Store, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(store.read(name))
    found.pop("owner")
    return found


def test_the_first_creates(store: Store) -> None:
    assert create_exclusive(store, "claims/1", {"by": "a"})
    assert not create_exclusive(store, "claims/1", {"by": "b"})
    assert content(store, "claims/1") == {"by": "a"}


def test_the_same_content_does_not_make_two_winners(store: Store) -> None:
    assert create_exclusive(store, "claim", {"by": "a"})
    assert not create_exclusive(store, "claim", {"by": "a"})


def test_one_of_many_racers_wins_and_the_file_is_its(store: Store) -> None:
    racers = 12
    start = threading.Barrier(racers)

    def race(racer: int) -> bool:
        start.wait()
        return create_exclusive(store, "race", {"by": racer})

    with ThreadPoolExecutor(racers) as pool:
        won = list(pool.map(race, range(racers)))
    assert won.count(True) == 1
    assert content(store, "race") == {"by": won.index(True)}


class Flaky(Store):
    """Does to each ``create`` what is next on the list, then behaves.

    ``"lost"``: not done, and an error. ``"done"``: done, and an error. ``"again"``: done, and
    tried again by the client, which is told that the file exists.
    """

    def __init__(self, store: Store, faults: list[str], error: Callable[[str], OSError]) -> None:
        super().__init__(store.url, store.fs)
        self.faults = faults
        self.error = error

    def create(self, name: str, data: bytes) -> bool:
        fault = self.faults.pop(0) if self.faults else ""
        if fault == "lost":
            raise self.error("503")
        created = super().create(name, data)
        if fault == "done":
            raise self.error("the answer was lost")
        return False if fault == "again" else created


@pytest.mark.parametrize("fault", ["lost", "done", "again"])
def test_a_lost_answer_does_not_lose_the_win(store: Store, fault: str) -> None:
    flaky = Flaky(store, [fault], StoreUnavailable)
    assert create_exclusive(flaky, "claim", {"by": "a"}, retry=RETRY)
    assert content(store, "claim") == {"by": "a"}
    assert not create_exclusive(store, "claim", {"by": "b"})


@pytest.mark.parametrize("fault", ["lost", "done", "again"])
def test_a_lost_answer_does_not_win_what_was_lost(store: Store, fault: str) -> None:
    assert create_exclusive(store, "claim", {"by": "a"})
    assert not create_exclusive(
        Flaky(store, [fault], StoreUnavailable), "claim", {"by": "b"}, retry=RETRY
    )
    assert content(store, "claim") == {"by": "a"}


def test_who_is_not_allowed_is_told(store: Store) -> None:
    flaky = Flaky(store, ["lost"], PermissionError)
    with pytest.raises(PermissionError):
        create_exclusive(flaky, "claim", {}, retry=RETRY)


def test_a_store_that_stays_away_is_an_error(store: Store) -> None:
    flaky = Flaky(store, ["lost"] * 1000, StoreUnavailable)
    with pytest.raises(StoreUnavailable):
        create_exclusive(flaky, "claim", {}, retry=RETRY)
    assert len(flaky.faults) < 1000


def test_what_is_not_ours_is_not_taken_in_whole(store: Store) -> None:
    store.write("claim", b" " * (LIMIT + 1))
    assert not create_exclusive(store, "claim", {"by": "a"})


@given(
    faults=st.lists(
        st.tuples(st.integers(0, 2), st.sampled_from(["", "lost", "done", "again"])), max_size=12
    )
)
def test_of_three_in_any_order_with_any_faults_one_wins(faults: list[tuple[int, str]]) -> None:
    """Those who raise do not know; but no two win, and the winner's content is there."""
    store = Store("memory://exclusive-property")
    store.delete("")
    won = []
    for caller, fault in [*faults, (0, ""), (1, ""), (2, "")]:
        flaky = Flaky(store, [fault], StoreUnavailable)
        try:
            if create_exclusive(flaky, "claim", {"by": caller}, retry=ONCE):
                won.append(caller)
        except StoreUnavailable:
            assert fault == "lost"
    assert len(won) == 1
    assert content(store, "claim") == {"by": won[0]}


# --- through the real gcsfs, with the faults in the server --------------------------------


@pytest.mark.parametrize(
    "fault, when",
    [({"status": 503}, "after"), ({"cut": True}, "after"), ({"status": 429}, "before")],
    ids=str,
)
def test_gcsfs_whose_answer_is_lost_wins_all_the_same(
    server: StorageServer, fault: dict[str, Any], when: str
) -> None:
    """gcsfs tries again by itself, and makes "it exists" of its own success."""
    store = gs_store(server, f"gs://bucket/lost-{when}-{fault}")
    server.fail(method="POST", path="/upload/", when=when, **fault)
    assert create_exclusive(store, "claim", {"by": "a"})
    assert server.rules()[0]["times"] == 0, "the fault did not happen"
    assert content(store, "claim") == {"by": "a"}
    assert not create_exclusive(store, "claim", {"by": "b"})
