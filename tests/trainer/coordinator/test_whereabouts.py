"""Each way in which a world stands still is told apart from the others, in a line."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trainer.coordinator import whereabouts
from trainer.coordinator.whereabouts import Group, Seen, groups_of, in_words, ranks_in_words
from trainer.protocol.stacks import Frame, render

SITE = "/usr/local/lib/python3.11/site-packages"
SWELL = whereabouts._SWELL
MAIN = Frame("/code/train.py", 90, "<module>")
ALLREDUCE = (
    Frame(f"{SITE}/horovod/torch/mpi_ops.py", 1300, "synchronize"),
    Frame(f"{SITE}/horovod/torch/mpi_ops.py", 210, "forward"),
    Frame(f"{SITE}/torch/autograd/function.py", 570, "apply"),
    Frame(f"{SITE}/horovod/torch/mpi_ops.py", 260, "allreduce"),
    Frame("/code/train.py", 31, "train"),
    MAIN,
)
BROADCAST = (
    Frame(f"{SITE}/horovod/torch/mpi_ops.py", 1300, "synchronize"),
    Frame(f"{SITE}/horovod/torch/mpi_ops.py", 660, "broadcast_"),
    Frame("/code/train.py", 44, "train"),
    MAIN,
)
LOCK = (
    Frame("/usr/lib/python3.11/threading.py", 320, "wait"),
    Frame("/code/data.py", 7, "fetch"),
    Frame("/code/train.py", 30, "train"),
    MAIN,
)
SPIN = (Frame("/code/train.py", 17, "spin"), MAIN)
BARRIER = (
    Frame(f"{SITE}/torch/distributed/distributed_c10d.py", 4700, "barrier"),
    Frame(f"{SITE}/torch/distributed/c10d_logger.py", 81, "wrapper"),
    Frame("/code/train.py", 99, "<module>"),
)
BACKWARD = (
    Frame(f"{SITE}/torch/autograd/graph.py", 850, "_engine_run_backward"),
    Frame(f"{SITE}/torch/_tensor.py", 650, "backward"),
    Frame("/code/train.py", 28, "train"),
)


def seen(rank: int, thread: tuple[Frame, ...], busy: float = 0.0, **more: object) -> Seen:
    return Seen(rank, text=render([thread]), busy=busy, **more)  # type: ignore[arg-type]


def line(*all_seen: Seen) -> str:
    return in_words(groups_of(all_seen))


WAITING = [seen(rank, ALLREDUCE) for rank in range(3)]


def test_a_deadlock() -> None:
    assert line(*WAITING, seen(3, LOCK)) == (
        "ranks 0-2 wait in hvd.allreduce (train.py:31); "
        "rank 3 waits for a lock or another thread in fetch (data.py:7)"
    )


def test_a_loop_without_end() -> None:
    assert line(*WAITING, seen(3, SPIN, busy=0.97)) == (
        "ranks 0-2 wait in hvd.allreduce (train.py:31); rank 3 computes in spin (train.py:17)"
    )


def test_a_rank_that_has_left_its_loop() -> None:
    ended = Seen(3, ended=True)
    assert line(*WAITING, ended) == (
        "ranks 0-2 wait in hvd.allreduce (train.py:31); rank 3 has ended its script"
    )
    order = Frame(f"{SWELL}/protocol/channel.py", 100, "next")
    assert seen(0, (Frame("/usr/lib/python3.11/queue.py", 1, "get"), order)).does == (
        "has left its loop"
    )
    assert seen(0, (order, MAIN)).does == "has left its loop (train.py:90)"


def test_collectives_that_do_not_match() -> None:
    assert line(*WAITING, seen(3, BROADCAST)) == (
        "ranks 0-2 wait in hvd.allreduce (train.py:31); "
        "rank 3 waits in hvd.broadcast_ (train.py:44): "
        "these are different collectives, and none of them can end"
    )
    assert seen(0, BARRIER).does == "waits in dist.barrier (train.py:99)"


def test_all_in_the_same() -> None:
    assert line(*WAITING) == "all 3 ranks wait in hvd.allreduce (train.py:31)"
    assert line(WAITING[0]) == "rank 0 waits in hvd.allreduce (train.py:31)"


def test_backward_waits_for_peers_unless_it_computes() -> None:
    assert seen(0, BACKWARD).does == "waits in backward() (train.py:28)"
    assert seen(0, BACKWARD, busy=0.9).does == "computes in train (train.py:28)"


def test_swells_own_collectives_have_names() -> None:
    thread = (
        Frame(f"{SWELL}/engine/wires.py", 124, "_wait"),
        Frame(f"{SWELL}/engine/step.py", 380, "_sum"),
        Frame(f"{SWELL}/engine/step.py", 300, "reduce"),
        *BACKWARD,
    )
    assert seen(0, thread).does == "waits in the sum of the gradients (train.py:28)"
    assert seen(0, thread[:1], collective=True).does == "waits in a collective"


def test_the_tasks_that_come_with_swell_are_programs() -> None:
    task = Frame(f"{SWELL}/tasks/digits.py", 50, "loss")
    assert (
        seen(0, (task, Frame(f"{SWELL}/loop.py", 9, "run"))).does
        == "does nothing in loss (digits.py:50)"
    )


def test_whoever_starts_a_worker_is_no_program() -> None:
    starts = Frame(f"{SWELL}/worker/worker.py", 50, "main"), Frame("/opt/entry.py", 9, "begin")
    assert seen(0, (Frame(f"{SITE}/x.py", 1, "f"), *starts)).does == "does nothing"


def test_what_is_not_known_is_said_to_be() -> None:
    assert Seen(0).does == "gives no stack: nothing is known of it"
    assert Seen(0, missing="its agent does not answer").does == (
        "gives no stack: its agent does not answer"
    )
    assert line() == "nothing is known of any rank"
    assert seen(0, (Frame(f"{SITE}/x.py", 1, "f"),)).does == "does nothing"


def test_a_line_has_an_end() -> None:
    many = [seen(rank, (Frame("/code/a.py", rank + 1, "f"),)) for rank in range(5000)]
    said = line(*many)
    assert len(said) < 400
    assert said.endswith("4994 more elsewhere")


def test_ranks_are_told_as_ranges() -> None:
    assert ranks_in_words([3]) == "rank 3"
    assert ranks_in_words([0, 1, 2, 5, 7, 8]) == "ranks 0-2, 5, 7-8"
    assert ranks_in_words(range(0, 100, 2)).endswith("14, …")


@given(
    st.lists(
        st.tuples(st.sampled_from([ALLREDUCE, BROADCAST, LOCK, SPIN]), st.sampled_from([0.0, 1.0])),
        min_size=1,
        max_size=30,
    )
)
def test_every_rank_is_in_one_group(given: list[tuple[tuple[Frame, ...], float]]) -> None:
    groups: list[Group] = groups_of(seen(rank, *one) for rank, one in enumerate(given))
    assert sorted(rank for one in groups for rank in one.ranks) == list(range(len(given)))
    waits = [one.waits for one in groups]
    assert waits == sorted(waits, reverse=True), "who waits in a collective comes first"
