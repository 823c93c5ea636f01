"""Modules outside the state: those that stay as they were made, and those that must be parts."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter

from trainer.engine.mistake import Mistake
from trainer.engine.outside import Outside, require_alike
from trainer.engine.state import State

X = torch.ones(1, 2)


def linear(seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(2, 2)


@pytest.fixture
def model() -> nn.Linear:
    return linear()


def told_of(outside: Outside, step: int, *modules: nn.Module) -> dict[str, int]:
    """What is told of a step in which some modules are called."""
    outside.watch()
    for one in modules:
        one(X)
    return outside.told(step)


def test_a_teacher_that_stays_as_it_is_may_be_outside(model: nn.Linear) -> None:
    outside, teacher = Outside(State(model=model)), nn.Sequential(linear(1), nn.Tanh())
    first = told_of(outside, 1, model, teacher)
    assert [*first] == ["Sequential 1"], "with all that is in it, once"
    with torch.no_grad():
        model.weight.add_(1)
    assert told_of(outside, 2, model, teacher, teacher) == first


def test_one_that_changes_is_refused(model: nn.Linear) -> None:
    outside, teacher = Outside(State(model=model)), linear(1)
    told_of(outside, 1, teacher)
    with torch.no_grad():
        teacher.weight.lerp_(model.weight, 0.1)
    with pytest.raises(Mistake, match="step 2: a Linear computes in the step, changes"):
        told_of(outside, 2, teacher)


def test_a_copy_that_each_step_makes_anew_is_not(model: nn.Linear) -> None:
    """As in meta-learning: it holds what the model holds, and is trained by hand then."""
    outside, inner = Outside(State(model=model)), copy.deepcopy(model)
    for step in (1, 2, 3):
        with torch.no_grad():
            model.weight.add_(1)
        inner.load_state_dict(model.state_dict())
        assert [*told_of(outside, step, inner)] == ["Linear 1"], "it was looked at, and may be"
        with torch.no_grad():
            inner.weight.mul_(2)


def test_nobody_looks_in_other_steps(model: nn.Linear) -> None:
    outside, teacher = Outside(State(model=model)), linear(1)
    told_of(outside, 1, teacher)
    with torch.no_grad():
        teacher.weight.add_(1)
    teacher(X)
    outside.watch()
    outside.forget()  # the step is not taken
    teacher(X)
    assert outside.told(3) == {}


@pytest.fixture
def counter() -> Iterator[CompileCounter]:
    """A backend of torch.compile that counts what it is given."""
    torch.compiler.reset()
    yield CompileCounter()
    torch.compiler.reset()


def computing(kind: str, model: nn.Module, teacher: nn.Module, counter: Any) -> tuple[State, Any]:
    """A state, and what computes with both modules, partly compiled."""
    if kind == "model":
        whole: Any = torch.compile(model, backend=counter)
        return State(model=whole), lambda: whole(X) - teacher(X)
    state, student = State(model=model), model
    if kind == "model beside it":
        student = torch.compile(model, backend=counter)  # type: ignore[assignment]
    if "teacher" in kind:
        teacher = torch.compile(teacher, backend=counter)  # type: ignore[assignment]

    def compute() -> Any:
        return student(X) - teacher(X)

    return state, torch.compile(compute, backend=counter) if "function" in kind else compute


KINDS = ["model", "model beside it", "teacher", "function", "teacher in a function"]


@pytest.mark.parametrize("kind", KINDS)
def test_compiled_code_is_watched_and_compiled_once(
    kind: str, model: nn.Linear, counter: Any
) -> None:
    """A hook of all modules would have it compiled once more, in each step that is examined."""
    teacher: Any = nn.Sequential(linear(1), nn.Tanh())
    state, compute = computing(kind, model, teacher, counter)
    outside, told = Outside(state), []
    for step in (1, 2, 3, 4):
        outside.watch()
        compute()
        told.append(outside.told(step))
    assert counter.frame_count == 1
    assert told[0] and told == told[:1] * 4
    with torch.no_grad():
        teacher[0].weight.add_(1)
    outside.watch()
    compute()
    with pytest.raises(Mistake, match=r"step 5: a [A-Za-z]+ computes in the step, changes"):
        outside.told(5)
    assert counter.frame_count == 1


def test_a_module_may_be_copied_in_a_step(model: nn.Linear, counter: Any) -> None:
    teacher = linear(1)
    torch.compile(model, backend=counter)
    outside = Outside(State(model=model))
    outside.watch()
    copied = copy.deepcopy(teacher)
    assert outside.told(1) == {}
    copied(X)
    assert outside.told(2) == {}, "nobody looks in this step"


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_beside_compiled_code_any_module_may_be(model: nn.Linear, counter: Any) -> None:
    """Hooks are refused by one that is scripted, and there is no place for them in half of one."""
    half, scripted = nn.Linear.__new__(nn.Linear), torch.jit.script(linear(1))
    torch.compile(model, backend=counter)
    outside = Outside(State(model=model))
    assert [*told_of(outside, 1, scripted)] == ["RecursiveScriptModule 1"]
    assert not vars(half)


def test_a_lazy_one_is_passed_over(model: nn.Linear) -> None:
    outside, lazy = Outside(State(model=model)), nn.LazyLinear(2)
    assert told_of(outside, 1, lazy) == {}
    assert [*told_of(outside, 2, lazy)] == ["Linear 1"], "it has become one"


def test_a_rank_that_has_none_such_is_told(model: nn.Linear) -> None:
    outside, teacher = Outside(State(model=model)), linear(1)
    told = told_of(outside, 1, teacher)
    outside.require_held([{}, told], rank=0, step=1)  # it has one, and has not called it
    outside.require_held([told, {"Linear 2": told["Linear 1"]}], rank=0, step=1)  # in more parts
    del teacher
    with pytest.raises(Mistake, match=r"a Linear computes in the step on other ranks, .* rank 0"):
        outside.require_held([{}, told], rank=0, step=1)
    outside.require_held([{}, {}], rank=0, step=1)


def test_layers_of_the_state_may_be_grouped_anew(model: nn.Linear) -> None:
    assert told_of(Outside(State(model=model)), 1, nn.Sequential(model)) == {}


def test_ranks_that_differ_are_named() -> None:
    require_alike([{"Teacher 1": 5}, {}, {"Teacher 1": 5, "Tanh 1": 3}], step=2)
    with pytest.raises(Mistake) as raised:
        require_alike([{"Teacher 1": 5}, {"Teacher 1": 6}, {"Teacher 1": 5}], step=2)
    assert "a Teacher computes in the step" in str(raised.value)
    assert "does not hold the same on ranks 0, 2 and 1" in str(raised.value)
