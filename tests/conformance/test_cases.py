"""The grid has all of torch's optimizers, and what a case says makes a difference."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.conformance.cases import FACTORS, Case, at_random, in_pairs
from tests.conformance.fleet import Fleet
from tests.conformance.journey import NEWCOMER, Stage, journey
from tests.conformance.optimizers import CLASSES, REFUSED, TRAINED
from tests.conformance.pairwise import pairs
from tests.conformance.report import Report, differences
from tests.conformance.training import STEPS, Trained, build

DRAWN = at_random("0", 300)
WORLDS = [case for case in DRAWN if case.world == "changing"]


def test_each_of_torchs_optimizers_is_trained_or_refused_for_a_reason() -> None:
    assert CLASSES.keys() == {*TRAINED} | {*REFUSED}
    assert {case.optimizer for case in in_pairs()} == {*TRAINED}
    assert all(REFUSED.values())


def test_every_two_values_meet_but_for_a_closure_of_two_optimizers() -> None:
    met = {
        frozenset({(one, getattr(case, one)), (other, getattr(case, other))})
        for case in in_pairs()
        for one in FACTORS
        for other in FACTORS
        if one != other
    }
    assert pairs(FACTORS) - met == {frozenset({("optimizer", "Muon"), ("closure", True)})}


def test_every_case_has_a_name_of_its_own() -> None:
    cases = {*in_pairs(), *DRAWN}
    assert {Case.parse(str(case)) for case in cases} == cases
    assert len({*map(str, cases)}) == len(cases)


def test_a_name_is_short_and_its_order_does_not_matter() -> None:
    case = Case("AdamW", parameters="tied", world="3", clip=True, seed=7)
    assert str(case) == "AdamW+tied+3+clip+seed7"
    assert Case.parse("3+seed7+clip+tied+AdamW") == case


def test_a_word_that_names_nothing_is_told() -> None:
    with pytest.raises(ValueError, match="'Adamm' is none of ASGD, "):
        Case.parse("Adamm+clip")


def test_a_seed_draws_the_same_cases_again() -> None:
    assert at_random("7", 20) == at_random("7", 30)[:20] != at_random("8", 20)


# --- worlds -------------------------------------------------------------------------------


def test_a_world_that_does_not_change_takes_all_steps() -> None:
    assert journey(Case("SGD", world="3")) == [Stage((0, 1, 2), 1, STEPS)]


@pytest.mark.parametrize("case", WORLDS[:20], ids=str)
def test_a_changing_world_loses_a_member_and_later_gets_a_newcomer(case: Case) -> None:
    three, two, again = journey(case)
    assert sorted(three.members) == [0, 1, 2]
    assert three.dies is not None and two.asks is not None
    assert {*two.members} == {*three.members} - {three.members[three.dies]}
    assert {*again.members} == {*two.members, NEWCOMER}
    assert 1 < three.last == two.first < two.last == again.first - 1 < STEPS


def test_newcomers_come_before_and_after_parameters_are_thawed() -> None:
    first = {journey(case)[-1].first for case in WORLDS}
    assert {4, 5, STEPS} <= first


# --- training -----------------------------------------------------------------------------


def moved(case: Case, fleet: Fleet) -> set[str]:
    """The names of the parameters that a case trains."""
    before = dict(build(case).model.named_parameters())
    after = fleet.plainly(case).parameters
    return {name for name, one in after.items() if not torch.equal(one, before[name])}


@pytest.mark.parametrize("kind", FACTORS["parameters"])
def test_everything_is_trained_but_what_is_frozen_or_unused(kind: str, fleet: Fleet) -> None:
    case = Case("AdamW", parameters=kind)
    names = {name for name, _ in build(case).model.named_parameters()}
    left = {
        "frozen": {"first.weight", "first.bias", "last.bias"},
        "unused": {"spare.linear.weight", "spare.linear.bias"},
    }
    assert names - moved(case, fleet) == left.get(kind, set())


@pytest.mark.parametrize("kind", ["thawed", "added", "refrozen"])
def test_what_changes_later_is_trained_otherwise(kind: str, fleet: Fleet) -> None:
    always, later = fleet.plainly(Case("Adam")), fleet.plainly(Case("Adam", parameters=kind))
    assert all(
        not torch.equal(one, later.parameters[name]) for name, one in always.parameters.items()
    )


@pytest.mark.parametrize("technique", ["clip", "groups", "schedule", "short"])
def test_a_technique_makes_a_difference(technique: str, fleet: Fleet) -> None:
    plain, with_it = fleet.plainly(Case("SGD")), fleet.plainly(Case.parse(f"SGD+{technique}"))
    assert not same(plain, with_it)


@pytest.mark.parametrize("kind", FACTORS["parameters"])
def test_recomputation_makes_none(kind: str, fleet: Fleet) -> None:
    cases = [Case("SGD", kind, recomputation) for recomputation in FACTORS["recomputation"]]
    first, *others = map(fleet.plainly, cases)
    assert all(same(first, other) for other in others)


def same(one: Trained, other: Trained) -> bool:
    return all(
        torch.allclose(one.parameters[name], other.parameters[name], rtol=1e-12, atol=1e-15)
        for name in one.parameters
    )


# --- what is told of a failure ------------------------------------------------------------

RIGHT = Trained(
    {"first": torch.ones(2), "last": torch.ones(1)}, {n: 1.0 for n in range(1, STEPS + 1)}
)
ALONE = journey(Case("SGD"))


def told(trained: Trained, started: int = 1, failed: dict[int, str] | None = None) -> list[str]:
    report = Report(trained, [(1, 0, started)], failed or {})
    return [*differences(RIGHT, report, ALONE, 0)]


def test_nothing_is_told_of_what_is_right() -> None:
    nearly = replace(
        RIGHT, parameters={"first": torch.ones(2) * (1 + 1e-10), "last": torch.ones(1)}
    )
    assert told(RIGHT) == told(nearly) == []


def test_the_first_parameter_and_the_first_loss_that_differ_are_told() -> None:
    wrong = Trained(
        {"first": torch.tensor([1, 1.25]), "last": torch.zeros(1)},
        {**RIGHT.losses, 3: 0.5, 4: 0.25},
    )
    assert told(wrong) == [
        "the loss of step 3 is 0.5 instead of 1, off by 0.5",
        "first is 1.25 instead of 1, off by 0.25",
    ]


def test_what_is_no_number_is_told() -> None:
    wrong = replace(
        RIGHT, parameters={"first": torch.tensor([1, torch.nan]), "last": torch.ones(1)}
    )
    assert told(wrong) == ["first is nan instead of 1, off by nan"]


def test_a_loop_that_ended_early_is_told() -> None:
    early = replace(RIGHT, losses={1: 1.0})
    assert told(early, failed={1: "reset by peer"}) == [
        "worlds failed: {1: 'reset by peer'}",
        "it took the steps [1] instead of [1, 2, 3, 4, 5, 6, 7, 8, 9]",
        "the loss of step 2 is nan instead of 1, off by nan",
    ]


def test_a_world_that_began_elsewhere_is_told() -> None:
    assert told(RIGHT, started=2) == ["it was in the worlds [(1, 0, 2)] instead of [(1, 0, 1)]"]
