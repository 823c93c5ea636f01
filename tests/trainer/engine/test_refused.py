"""What cannot be trained rightly is refused, on all ranks, before the update, in plain words."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.trainer.engine.mistaken import Program, X, errors_of


def sparse(p: Program) -> None:
    p.model = nn.Sequential(nn.Embedding(9, 4, sparse=True), nn.Linear(4, 1))
    p.optimizer = torch.optim.SGD(p.model.parameters(), lr=0.1)
    for step in p.run():
        with step:
            p.model(step.indices % 9).sum().backward()
            p.optimizer.step()


def scaled_by_frequency(p: Program) -> None:
    p.model = nn.Sequential(nn.Embedding(9, 4, scale_grad_by_freq=True), nn.Linear(4, 1))
    p.optimizer = torch.optim.SGD(p.model.parameters(), lr=0.1)
    for step in p.run():
        p.train(step)


def rows_of_a_largest_norm(p: Program) -> None:
    p.model.words = nn.EmbeddingBag(9, 4, max_norm=1.0)
    for step in p.run():
        p.train(step)


def complex_numbers(p: Program) -> None:
    p.model.phase = nn.Parameter(torch.zeros(2, dtype=torch.complex64))
    for step in p.run():
        p.train(step)


def lbfgs(p: Program) -> None:
    p.optimizer = torch.optim.LBFGS(p.model.parameters())
    for step in p.run():
        p.train(step)


def lazy(p: Program) -> None:
    p.model = nn.Sequential(nn.LazyLinear(3))
    p.optimizer = torch.optim.SGD(p.model.parameters())
    for step in p.run():
        p.train(step)


def nothing_to_train(p: Program) -> None:
    p.model.requires_grad_(False)
    for step in p.run():
        p.train(step)


def a_loose_parameter(p: Program) -> None:
    temperature = nn.Parameter(torch.ones(3))
    p.optimizer = torch.optim.SGD([*p.model.parameters(), temperature], lr=0.1)
    for step in p.run():
        p.train(step)


def a_loose_head_later(p: Program) -> None:
    for step in p.run():
        if step.number == 2:
            p.optimizer.add_param_group({"params": nn.Linear(1, 3).parameters()})
        p.train(step)


def a_head_that_comes_later(p: Program) -> None:
    for step in p.run():
        if step.number == 2:
            p.model.append(nn.Linear(1, 1))
        p.train(step)


def an_optimizer_of_its_own(p: Program) -> None:
    for step in p.run(optimizer=None):
        p.train(step)


def unfrozen_inside(p: Program) -> None:
    p.model[0].requires_grad_(False)
    for step in p.run():
        with step:
            p.model[0].requires_grad_(True)
            p.loss(step).backward()
            p.optimizer.step()


def backward_again(p: Program) -> None:
    for step in p.run():
        with step:
            p.loss(step).backward()
            p.loss(step).backward()


def several_evaluations(p: Program) -> None:
    class Twice(torch.optim.SGD):
        def step(self, closure: Callable[[], Any] | None = None) -> Any:
            assert closure is not None
            closure()
            return super().step(closure)

    p.optimizer = Twice(p.model.parameters(), lr=0.1)
    for step in p.run():
        with step:
            p.optimizer.step(lambda step=step: p.loss(step).backward())


def accumulated_over_steps(p: Program) -> None:
    for step in p.run():
        with step:
            p.loss(step).backward()
            if step.number % 2 == 0:
                p.optimizer.step()
                p.optimizer.zero_grad()


def steps_outside(p: Program) -> None:
    for step in p.run():
        with step:
            p.loss(step).backward()
        p.optimizer.step()


def steps_twice(p: Program) -> None:
    for step in p.run():
        with step:
            p.loss(step).backward()
            p.optimizer.step()
            p.optimizer.step()


def a_list_of_parts(p: Program) -> None:
    for step in p.run():
        with step:
            for part in list(step.split(2)):
                p.model(X[part]).square().sum().backward()
            p.optimizer.step()


def two_passes_of_a_part(p: Program) -> None:
    for step in p.run():
        with step:
            for part in step.split(None):
                p.model(X[part]).sum().backward()
                p.optimizer.zero_grad()
                p.model(X[part]).square().sum().backward()
            p.optimizer.step()


def set_by_hand(p: Program) -> None:
    for step in p.run():
        with step:
            found = torch.autograd.grad(p.loss(step), list(p.model.parameters()))
            for parameter, gradient in zip(p.model.parameters(), found, strict=True):
                parameter.grad = gradient
            nn.utils.clip_grad_norm_(p.model.parameters(), 0.05)
            p.optimizer.step()


def set_before_backward(p: Program) -> None:
    """Weight decay by hand, where each worker would add it."""
    for step in p.run():
        with step:
            for parameter in p.model.parameters():
                parameter.grad = 0.1 * parameter.detach()
            p.loss(step).backward()
            p.optimizer.step()


def in_one_tensor(p: Program) -> None:
    """Gradients are parts of a flat tensor, by which the program clips them all at once."""
    parameters = list(p.model.parameters())
    flat = torch.zeros(sum(one.numel() for one in parameters))
    parts = flat.split([one.numel() for one in parameters])
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.grad = part.view_as(parameter)
    for step in p.run():
        with step:
            flat.zero_()
            p.loss(step).backward()
            flat.mul_(1 / flat.norm().clamp(min=1))
            p.optimizer.step()


def another_model_outside(p: Program) -> None:
    critic = nn.Linear(4, 1)
    its = torch.optim.SGD(critic.parameters(), lr=0.1)
    for step in p.run():
        with step:
            (p.loss(step) + critic(X[step.indices]).sum()).backward()
            p.optimizer.step()
            its.step()


def another_model_in_place(p: Program) -> None:
    for step in p.run():
        if step.number == 2:
            p.state.model = nn.Linear(4, 1)
        p.train(step)


def tried_again(p: Program) -> None:
    from trainer.engine import gradients

    sizes: Any = gradients
    sizes.BUCKET_BYTES = 16
    failing = True

    def fail(gradient: Tensor) -> None:
        if failing:
            raise RuntimeError("out of memory")

    for step in p.run():
        with step:
            loss = p.loss(step)
            failing = step.number == 2
            if failing:
                p.model[0].weight.register_hook(fail)
                try:
                    loss.backward()
                except RuntimeError:
                    p.optimizer.zero_grad()
                failing = False
                loss = p.loss(step)
            loss.backward()
            p.optimizer.step()


def leaves_parts_out(p: Program) -> None:
    for step in p.run():
        with step:
            for part in step.split(2):
                p.model(X[part]).square().sum().backward()
                break
            p.optimizer.step()


def caught(p: Program) -> None:
    """The program catches errors of its step, as some do for want of memory, and goes on."""
    for step in p.run():
        with step:
            try:
                p.loss(step).backward()
                p.loss(step).backward()
            except RuntimeError:
                pass
            p.optimizer.step()


def a_set(p: Program) -> None:
    for _ in p.run(seen=0):
        p.state.seen = {1, 2}


def a_numpy_object(p: Program) -> None:
    for _ in p.run(seen=0):
        p.state.seen = [np.array(["a"])]


def entered_twice(p: Program) -> None:
    for step in p.run():
        p.train(step)
        p.train(step)


def backward_before_the_block(p: Program) -> None:
    for step in p.run():
        p.loss(step).backward()
        with step:
            p.optimizer.step()


def the_models_own_tensors(p: Program) -> None:
    for step in p.run(best={}):
        p.train(step)
        p.state.best = p.model.state_dict()


def a_buffer_that_grows(p: Program) -> None:
    p.model.register_buffer("bank", torch.zeros(1))
    for step in p.run():
        p.train(step)
        p.model.bank = torch.cat([p.model.bank, torch.ones(1)])


def an_activation_that_changes(p: Program) -> None:
    for step in p.run():
        if step.number == 2:
            p.model[1] = nn.ReLU()
        p.train(step)


def clipped_in_each_part(p: Program) -> None:
    for step in p.run():
        with step:
            for part in step.split(2):
                (p.model(X[part]).square().sum() / step.batch_size).backward()
                nn.utils.clip_grad_norm_(p.model.parameters(), 0.05)
            p.optimizer.step()


def clipped_by_hooks(p: Program) -> None:
    for parameter in p.model.parameters():
        parameter.register_hook(lambda gradient: gradient.clamp(-0.01, 0.01))
    for step in p.run():
        p.train(step)


def averaged_as_with_ddp(p: Program) -> None:
    for step in p.run():
        with step:
            p.model(X[step.indices]).square().mean().backward()
            p.optimizer.step()


def divided_by_its_own(p: Program) -> None:
    for step in p.run():
        with step:
            i = step.indices
            (p.model(X[i]).square().sum() / len(i)).backward()
            p.optimizer.step()


def a_weighed_mean(p: Program) -> None:
    """As over the tokens that count, of samples of any length."""
    for step in p.run():
        with step:
            i = step.indices
            weights = 1.0 + i
            ((p.model(X[i]).squeeze() * weights).sum() / weights.sum()).backward()
            p.optimizer.step()


def a_loose_tensor(p: Program) -> None:
    """It is no parameter, and each worker would have its own."""
    scale = torch.ones((), requires_grad=True)
    its = torch.optim.SGD([scale], lr=0.1)
    for step in p.run():
        with step:
            (p.loss(step) * scale).backward()
            p.optimizer.step()
            its.step()


def a_module_that_goes(p: Program) -> None:
    p.model.head = nn.Linear(1, 1)
    for step in p.run():
        if step.number == 1:
            del p.model.head
        with step:
            p.model[:3](X[step.indices]).sum().backward()
            p.optimizer.step()


def a_group_that_goes(p: Program) -> None:
    p.optimizer = torch.optim.SGD(
        [{"params": p.model[0].parameters()}, {"params": p.model[2].parameters()}], lr=0.1
    )
    for step in p.run():
        if step.number == 2:
            del p.optimizer.param_groups[1]
        p.train(step)


def moved_between_groups(p: Program) -> None:
    first, second = p.model[0].parameters(), p.model[2].parameters()
    p.optimizer = torch.optim.SGD([{"params": first}, {"params": second}], lr=0.1)
    for step in p.run():
        if step.number == 2:
            one, two = p.optimizer.param_groups
            two["params"].append(one["params"].pop())
        p.train(step)


def what_an_optimizer_keeps(p: Program) -> None:
    for step in p.run():
        p.train(step)
        p.optimizer.state[p.model[0].weight]["history"] = deque([1.0])


def a_rate_in_single_precision(p: Program) -> None:
    p.optimizer = torch.optim.SGD(p.model.parameters(), lr=np.float32(0.1))
    for step in p.run():
        p.train(step)


def no_part_of_its_own(p: Program) -> None:
    """As with a data loader of its own, which gives the same to all workers."""
    from trainer import elastic

    state = elastic.State(model=p.model, optimizer=p.optimizer)
    for step in elastic.steps(state, elastic.batches(24, 8), epochs=1):
        with step:
            p.model(X[:8]).mean().backward()
            p.optimizer.step()


def a_teacher_outside(p: Program) -> None:
    teacher = copy.deepcopy(p.model).requires_grad_(False)
    for step in p.run():
        with step:
            i = step.indices
            (p.model(X[i]) - teacher(X[i])).square().sum().backward()
            p.optimizer.step()
        with torch.no_grad():
            for one, other in zip(teacher.parameters(), p.model.parameters(), strict=True):
                one.lerp_(other, 0.1)


def a_schedule_outside(p: Program) -> None:
    schedule = torch.optim.lr_scheduler.StepLR(p.optimizer, 2)
    for step in p.run():
        p.train(step)
        schedule.step()


ALIKE: dict[Callable[[Program], None], str] = {
    entered_twice: "`with step:` was entered twice in step 1",
    backward_before_the_block: "came to optimizer.step() before gradients were summed",
    the_models_own_tensors: "state.best has tensors that are those of model itself",
    a_buffer_that_grows: "model.bank has come, gone or changed its shape",
    an_activation_that_changes: "model.1 was replaced after training had begun, a Tanh by a ReLU",
    clipped_in_each_part: "was changed between two parts of a step (clipped, scaled or cleared)",
    clipped_by_hooks: "changes its gradient otherwise than by a factor, as by clipping it",
    averaged_as_with_ddp: "step 1: backward() begins at a mean over the samples of one worker",
    divided_by_its_own: "step 1: backward() begins at a sum over the samples of one",
    a_weighed_mean: "on rank 1, and gradients are summed over the workers, so how much a sample",
    a_loose_tensor: "a SGD that is no part of the state changes a parameter of shape []",
    a_module_that_goes: "model.head.bias has come, gone or changed its shape",
    a_group_that_goes: "the groups of an optimizer have lost parameters",
    moved_between_groups: "the groups of an optimizer have lost parameters",
    what_an_optimizer_keeps: "history is a deque",
    a_rate_in_single_precision: "lr is a NumPy float32; write float(",
    sparse: "model.0.weight is sparse",
    scaled_by_frequency: "model.0 scales gradients by how often a word occurs in a batch",
    rows_of_a_largest_norm: "model.words shortens rows in its forward pass (max_norm)",
    complex_numbers: "model.phase is complex",
    lbfgs: "optimizer is an LBFGS",
    lazy: "model.0.weight is not initialized",
    nothing_to_train: "requires a gradient, so there is nothing to train",
    a_loose_parameter: "changes a parameter of shape [3] (in its group 0) that no model",
    a_loose_head_later: "(in its group 1) that no model",
    a_head_that_comes_later: "model.3 came to the model after training had begun",
    an_optimizer_of_its_own: "a AdamW that is no part of the state changes model.0.weight",
    unfrozen_inside: "model.0.weight has required a gradient since the middle of a step",
    backward_again: "backward() was called again",
    several_evaluations: "evaluates its closure several times",
    accumulated_over_steps: "from the step before was neither used by an optimizer nor cleared",
    steps_outside: "outside the block of step 1",
    steps_twice: "called twice in step 1",
    a_list_of_parts: "loop over split() itself, and neither over a list of it",
    two_passes_of_a_part: "add up losses of the same samples before one backward()",
    set_by_hand: "call step.reduce() on all workers before gradients are used",
    set_before_backward: "was set before backward(), which adds to it",
    in_one_tensor: "are parts of one tensor of the program's own",
    another_model_outside: "each worker would train its own",
    another_model_in_place: "state.model is replaced while it is trained",
    tried_again: "backward() was tried again after it had failed",
    leaves_parts_out: "came to optimizer.step() before gradients were summed",
    caught: "backward() was called again",
    no_part_of_its_own: "step 1 asks for no part of its own",
    a_teacher_outside: "step 2: a Sequential computes in the step, changes from step to step",
    a_schedule_outside: "a schedule sets the learning rate of optimizer, and is no part of the",
    a_set: "state.seen is a set, which does not travel; write sorted",
    a_numpy_object: "state.seen[0] is of NumPy's type",
}


@pytest.mark.parametrize("program", ALIKE, ids=lambda one: one.__name__)
def test_what_cannot_be_trained_is_refused(program: Callable[[Program], None]) -> None:
    for error in errors_of(program):
        assert error.startswith("Mistake: ")
        assert ALIKE[program] in error
