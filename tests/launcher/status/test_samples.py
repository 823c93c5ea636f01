"""Which samples the steps that count used."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from launcher.status.history import History
from launcher.status.samples import account
from tests.launcher.status.events import resumed, steps


def contribution(generation: int, step: int, ids: list[int], epoch: int = 0) -> dict[str, Any]:
    return {
        "generation": generation,
        "step": step,
        "epoch": epoch,
        "rank": 0,
        "ids": ids,
        "dataset_size": 4,
    }


def test_a_contribution_to_a_step_that_failed_does_not_count() -> None:
    history = History([resumed(1, 1.0, "start", 0), resumed(2, 2.0, "loss", 1)])
    history.add(steps(2, 3.0, 2, [1.0]))
    lines = [
        contribution(1, 1, [0, 1]),
        contribution(1, 2, [2, 3]),  # the collective failed: generation 2 did step 2 again
        contribution(2, 2, [2, 3]),
        contribution(2, 3, [0, 1], epoch=1),  # not completed yet
    ]
    found = account(lines, history.stretches(), finished=True)
    assert found is not None
    assert (found.repeated, found.skipped) == (0, 0)
    assert found.epochs == [{"epoch": 0, "samples": 4, "left_out": 0, "exactly_once": True}]


def test_a_step_that_was_taken_again_in_its_generation_counts_once() -> None:
    lines = [
        contribution(1, 1, [0, 1]),
        {**contribution(1, 1, [0, 1]), "withdrawn": True},
        contribution(1, 1, [0, 2]),  # by units, a rank has other samples of it
        contribution(1, 2, [1, 3]),
    ]
    found = account(lines, [(1, 1, 2)], finished=True)
    assert found is not None
    assert (found.repeated, found.skipped) == (0, 0)


def test_an_epoch_under_way_has_skipped_nothing_yet() -> None:
    found = account([contribution(1, 1, [0, 1])], [(1, 1, 1)], finished=False)
    assert found is not None
    assert (found.skipped, found.epochs[0]["exactly_once"]) == (0, None)


def test_no_audit_no_claim() -> None:
    assert account([], [(1, 1, 5)], finished=True) is None


@given(data=st.data())
def test_counts_equal_those_of_a_brute_force_count(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 6))
    starts = sorted(data.draw(st.lists(st.integers(0, 8), min_size=1, max_size=4)))
    last = starts[-1] + data.draw(st.integers(0, 4))
    history = History(resumed(g, float(g), "loss", s) for g, s in enumerate(starts, 1))
    if last > starts[-1]:
        history.add(steps(len(starts), 99.0, last, [1.0]))
    lines = data.draw(
        st.lists(
            st.builds(
                lambda generation, step, epoch, ids: {
                    "generation": generation,
                    "step": step,
                    "epoch": epoch,
                    "rank": 0,
                    "ids": ids,
                    "dataset_size": size,
                },
                st.integers(0, 5),
                st.integers(0, 13),
                st.integers(0, 2),
                st.lists(st.integers(0, size - 1), max_size=4),
            ),
            max_size=12,
        )
    )
    finished = data.draw(st.booleans())

    uses: dict[int, list[int]] = {}
    for line in lines:
        for generation, start in enumerate(starts, 1):
            end = starts[generation] if generation < len(starts) else last
            if line["generation"] == generation and start < line["step"] <= end:
                uses.setdefault(line["epoch"], []).extend(line["ids"])
    repeated = skipped = 0
    for epoch in range(max(uses, default=-1) + 1):
        for sample in range(size):
            times = uses.get(epoch, []).count(sample)
            repeated += max(0, times - 1)
            skipped += times == 0 and (finished or epoch < max(uses))

    found = account(lines, history.stretches(), finished)
    if not uses:
        assert found is None
    else:
        assert found is not None
        assert (found.repeated, found.skipped) == (repeated, skipped)


def test_samples_that_were_left_out_on_purpose_are_counted_by_themselves() -> None:
    history = History([resumed(1, 1.0, "start", 0), steps(1, 2.0, 1, [1.0, "nan"])])
    lines = [contribution(1, 1, [0, 1]), contribution(1, 2, [2, 3])]
    lines.append({**lines[1], "left_out": True})
    found = account(lines, history.stretches(), finished=True)
    assert found is not None
    assert (found.repeated, found.skipped, found.left_out) == (0, 0, 2)
    assert found.epochs == [{"epoch": 0, "samples": 2, "left_out": 2, "exactly_once": False}]


def test_what_was_left_out_in_a_world_that_went_back_does_not_count() -> None:
    """Generation 1 failed at step 3 and went back to 1; generation 2 left step 3 out."""
    history = History([resumed(1, 1.0, "start", 0), resumed(2, 2.0, "loss", 1, lost_steps=1)])
    history.add(steps(2, 3.0, 2, [1.0, "nan"]))
    lines = [contribution(1, step, [step]) for step in (1, 2, 3)]
    lines += [contribution(2, step, [step]) for step in (2, 3)]
    lines.append({**lines[-1], "left_out": True})
    found = account(lines, history.stretches(), finished=False)
    assert found is not None and (found.repeated, found.left_out) == (0, 1)
