"""What a step that is not taken has changed is put back, or known to be lost (test_put_back).

No world is formed here: steps are begun, and broken off before the optimizer or after it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trainer.engine.memory import SMALL
from trainer.engine.state import State
from trainer.engine.undo import Undo

EXAMINED = 2  # steps, the first ones of a world


class Helper:
    """An object of a program's own."""

    def __init__(self) -> None:
        self.count = 0


class Model(nn.Module):
    """Has one of whatever a program may change by itself."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(2, 2)
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)
        self.register_buffer("small", torch.ones(2))
        self.register_buffer("large", torch.ones(SMALL))
        self.count = 0
        self.scale = torch.ones(())
        self.past = [0.0]
        self.helper = Helper()


class Part:
    """Keeps what only its state_dict tells."""

    def __init__(self) -> None:
        self.random = np.random.default_rng(0)

    def state_dict(self) -> dict[str, Any]:
        return {"random": copy.deepcopy(self.random.bit_generator.state)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.random.bit_generator.state = copy.deepcopy(state["random"])


class Run:
    """Steps of a model; ``change(run)`` is called in them, before the sum or after the block."""

    def __init__(self, change: Callable[[Run], None], late: bool) -> None:
        self.change, self.late = change, late
        self.model, self.part = Model(), Part()
        self.optimizer = torch.optim.Adam(self.model.layer.parameters(), lr=0.1)
        self.state = State(model=self.model, optimizer=self.optimizer, part=self.part, value=[0])
        self.state.prepare()
        self.undo = Undo(self.state)
        self._taken = 0

    def take(self, changing: bool = True) -> None:
        """Takes a step."""
        self.undo.begin(examine=self._taken < EXAMINED, whole=self._taken == 0)
        if changing and not self.late:
            self.change(self)
        self.undo.summed()
        self.model.layer(torch.ones(1, 2)).sum().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.undo.left()
        if changing and self.late:
            self.change(self)
        self.undo.taken()
        self._taken += 1

    def fail(self) -> None:
        """Begins a step that is broken off; what follows its block runs all the same."""
        self.undo.begin(examine=self._taken < EXAMINED, whole=self._taken == 0)
        if not self.late:
            self.change(self)
        self.undo.undo()
        if self.late:
            self.change(self)
        self.undo.undo()

    def holds(self) -> list[Any]:
        """Everything there is."""
        model, states = self.model, self.optimizer.state.values()
        tensors = [*model.state_dict().values(), *(one for of in states for one in of.values())]
        return [
            *(one.tolist() for one in tensors if one.numel() < SMALL),
            float(model.get_buffer("large").sum()),
            *(model.count, float(model.scale), list(model.past), vars(model).get("new")),
            *(model.helper.count, list(self.state.value), model.layer.in_features),
            *(self.part.state_dict(), len(self.optimizer.param_groups)),
            [one.requires_grad for one in model.parameters()],
        ]


def attributes(run: Run) -> None:
    run.model.count += 1
    run.model.scale *= 0.9
    run.model.past.append(1.0)
    run.model.helper.count += 1
    run.state.value[0] += 1
    vars(run.model)["new"] = vars(run.model).get("new", 0) + 1


def an_attribute_of_torchs(run: Run) -> None:
    run.model.layer.in_features += 1


def a_buffer_that_is_replaced(run: Run) -> None:
    run.model.small = run.model.get_buffer("small") * 0.9
    run.model.large = run.model.get_buffer("large") * 0.9


def a_small_buffer(run: Run) -> None:
    run.model.get_buffer("small").mul_(0.9)


def a_large_buffer(run: Run) -> None:
    run.model.get_buffer("large").mul_(0.9)


def a_parameter(run: Run) -> None:
    with torch.no_grad():
        run.model.frozen.mul_(0.9)


def past_the_versions(run: Run) -> None:
    for one in (run.model.frozen, run.model.layer.weight, run.model.get_buffer("large")):
        one.data.mul_(0.9)


def by_another_data(run: Run) -> None:
    run.model.frozen.data = run.model.frozen.data * 0.9


def what_an_optimizer_keeps(run: Run) -> None:
    for state in run.optimizer.state.values():
        state["exp_avg"].mul_(0.9)


def a_generator(run: Run) -> None:
    run.part.random.random()


def what_is_trained(run: Run) -> None:
    weight = run.model.layer.weight
    weight.requires_grad_(not weight.requires_grad)
    run.optimizer.add_param_group({"params": [run.model.frozen]})


ALWAYS = (
    attributes,
    an_attribute_of_torchs,
    a_buffer_that_is_replaced,
    a_small_buffer,
    a_large_buffer,
    a_parameter,
    past_the_versions,
    by_another_data,
    what_an_optimizer_keeps,
    a_generator,
)
AT_ONCE = (attributes, a_buffer_that_is_replaced, a_generator, what_is_trained)
SECOND = (a_small_buffer, a_large_buffer, a_parameter)
LOST: dict[Callable[[Run], None], str] = {
    a_small_buffer: "small",
    a_large_buffer: "large",
    a_parameter: "model.frozen",
    what_an_optimizer_keeps: "what an optimizer keeps",
}


def named(change: Any) -> str:
    return str(change.__name__)


def put_back(run: Run) -> bool:
    """Whether all is as it was once a step of it has failed; fails with what is not."""
    before = run.holds()
    run.fail()
    assert run.holds() == before
    return run.state.torn == ""


@pytest.mark.parametrize("late", [False, True], ids=["before the sum", "after the block"])
@pytest.mark.parametrize("change", ALWAYS, ids=named)
def test_what_changes_in_every_step_is_put_back(change: Callable[[Run], None], late: bool) -> None:
    run = Run(change, late)
    for _ in range(4):
        run.take()
    assert put_back(run)


@pytest.mark.parametrize("late", [False, True], ids=["before the sum", "after the block"])
@pytest.mark.parametrize("change", AT_ONCE, ids=named)
def test_what_changes_for_the_first_time_in_a_step_that_fails_is_put_back(
    change: Callable[[Run], None], late: bool
) -> None:
    run = Run(change, late)
    for _ in range(4):
        run.take(changing=False)
    assert put_back(run)


@pytest.mark.parametrize("late", [False, True], ids=["before the sum", "after the block"])
@pytest.mark.parametrize("change", SECOND, ids=named)
def test_what_begins_to_change_between_examined_steps_is_put_back_from_the_second_time_on(
    change: Callable[[Run], None], late: bool
) -> None:
    run = Run(change, late)
    for changing in (False, False, False, True):
        run.take(changing)
    assert put_back(run)


@pytest.mark.parametrize("late", [False, True], ids=["before the sum", "after the block"])
@pytest.mark.parametrize("change", LOST, ids=named)
def test_what_cannot_be_put_back_tears_the_state(change: Callable[[Run], None], late: bool) -> None:
    run = Run(change, late)
    for _ in range(4):
        run.take(changing=False)
    run.fail()
    assert run.state.torn == LOST[change]


def test_a_model_received_in_between_was_changed_by_nobody() -> None:
    """Constant buffers would be copied in every step from then on."""
    run = Run(a_parameter, late=False)
    run.take(changing=False)
    run.model.load_state_dict(run.model.state_dict())
    run.take(changing=False)
    large = run.model.get_buffer("large")
    run.undo.begin(examine=False)
    large.mul_(2)
    run.undo.undo()
    assert run.state.torn == "large", "it was watched, and not copied"


def test_an_optimizer_in_the_middle_of_its_first_step_is_as_before() -> None:
    run = Run(attributes, late=False)
    run.undo.begin(examine=True, whole=True)
    weight: Tensor = run.model.layer.weight
    run.optimizer.state[weight]["exp_avg"] = torch.zeros(2, 2)
    run.undo.undo()
    assert not run.optimizer.state
    assert run.state.torn == ""
