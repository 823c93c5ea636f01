"""Ordinary training code trains in every world what it trains in a plain loop, or is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.trainer.engine.loops import alike
from tests.trainer.engine.plain import Run, Swell, data, numbers

WORLDS = (1, 2, 3)


def clipped(make: Any, log: list[Any]) -> None:
    """17 samples in batches of 16: in every second step all ranks but one have no sample."""
    torch.manual_seed(0)
    x, y = data(17)
    model = nn.Linear(4, 1).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    for step in make(17, 16, 2, model=model, optimizer=optimizer):
        with step:
            for part in step.split(None):
                loss = (model(x[part]) - y[part]).square().sum() / step.batch_size
                step.add(loss=loss)
                loss.backward()
            log.append(float(nn.utils.clip_grad_norm_(model.parameters(), 1.0)))
            optimizer.step()
            optimizer.zero_grad()
        log.append(numbers(model))


def in_the_last_turn(make: Any, log: list[Any]) -> None:
    """The optimizer steps in the last turn of the loop over the parts."""
    torch.manual_seed(0)
    x, y = data(24)
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 1)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2, momentum=0.9)
    for step in make(24, 12, 3, model=model, optimizer=optimizer):
        with step:
            parts = step.split(2)
            for number, part in enumerate(parts, 1):
                ((model(x[part]) - y[part]).square().sum() / step.batch_size).backward()
                if number == len(parts):
                    nn.utils.clip_grad_norm_(model.parameters(), 0.05)
                    optimizer.step()
                    optimizer.zero_grad()
        log.append(numbers(model))


def in_one_pass(make: Any, log: list[Any]) -> None:
    """The losses of all parts are added up, and there is one backward pass."""
    torch.manual_seed(0)
    x, y = data(24)
    model = nn.Linear(4, 1).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    for step in make(24, 12, 2, model=model, optimizer=optimizer):
        with step:
            losses = [(model(x[part]) - y[part]).square().sum() for part in step.split(2)]
            (torch.stack(losses).sum() / step.batch_size).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.05)
            optimizer.step()
            optimizer.zero_grad()
        log.append(numbers(model))


def hooked(make: Any, log: list[Any]) -> None:
    """An optimizer's hook, registered before Swell knows of it, sees the gradients."""
    torch.manual_seed(0)
    x, y = data(17)
    model = nn.Linear(4, 1).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)

    def clip(*_: object) -> None:
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)

    optimizer.register_step_pre_hook(clip)
    for step in make(17, 16, 2, model=model, optimizer=optimizer):
        with step:
            for part in step.split(None):
                ((model(x[part]) - y[part]).square().sum() / step.batch_size).backward()
            optimizer.step()
            optimizer.zero_grad()
        log.append(numbers(model))


def scaled(make: Any, log: list[Any]) -> None:
    """A GradScaler, which skips the steps whose gradients are infinite, and clipping."""
    torch.manual_seed(0)
    x, y = data(17)
    y[3] = torch.inf
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)
    for step in make(17, 16, 8, model=model, optimizer=optimizer, scaler=scaler):
        with step:
            for part in step.split(None):
                loss = (model(x[part]) - y[part]).square().sum() / step.batch_size
                scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        log.append([scaler.get_scale(), *numbers(model)])


def by_closure(make: Any, log: list[Any]) -> None:
    """optimizer.step(closure), with an optimizer that evaluates it once."""
    torch.manual_seed(0)
    x, y = data(24)
    model = nn.Linear(4, 1).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in make(24, 8, 2, model=model, optimizer=optimizer):
        with step:

            def closure(step: Any = step) -> Tensor:
                optimizer.zero_grad()
                i = step.indices
                loss: Tensor = (model(x[i]) - y[i]).square().sum() / step.batch_size
                loss.backward()
                return loss

            optimizer.step(closure)
        log.append(numbers(model))


def unfrozen(make: Any, log: list[Any]) -> None:
    """The first layer is frozen in epoch 0, the last one in epoch 2."""
    torch.manual_seed(0)
    x, y = data(20)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.5)
    for step in make(20, 8, 4, model=model, optimizer=optimizer):
        model[0].requires_grad_(step.epoch != 0)
        model[2].requires_grad_(step.epoch != 2)
        with step:
            i = step.indices
            ((model(x[i]) - y[i]).square().sum() / step.batch_size).backward()
            optimizer.step()
            optimizer.zero_grad()
        log.append(numbers(model))


def given_later(make: Any, log: list[Any]) -> None:
    """The backbone is frozen, and given to the optimizer in epoch 1."""
    torch.manual_seed(0)
    x, y = data(20)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    model[0].requires_grad_(False)
    optimizer = torch.optim.AdamW(model[2].parameters(), lr=0.05)
    for step in make(20, 8, 3, model=model, optimizer=optimizer):
        if step.epoch == 1 and len(optimizer.param_groups) == 1:
            model[0].requires_grad_(True)
            optimizer.add_param_group({"params": list(model[0].parameters()), "lr": 0.01})
        with step:
            i = step.indices
            ((model(x[i]) - y[i]).square().sum() / step.batch_size).backward()
            optimizer.step()
            optimizer.zero_grad()
        log.append(numbers(model))


def unused(make: Any, log: list[Any]) -> None:
    """One layer is never reached, one only by the samples of one rank."""
    torch.manual_seed(0)
    x, y = data(20)
    model = nn.ModuleList([nn.Linear(4, 1) for _ in range(3)]).double()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.5)
    for step in make(20, 8, 3, model=model, optimizer=optimizer):
        with step:
            for part in step.split(1):  # the first two layers share the samples
                layer = model[int(part) % 2] if step.number % 2 else model[1]
                ((layer(x[part]) - y[part]).square().sum() / step.batch_size).backward()
            log.append([p.grad is None for p in model.parameters()])
            optimizer.step()
            optimizer.zero_grad()
        log.append(numbers(model))


def set_by_hand(make: Any, log: list[Any]) -> None:
    """Gradients that come from torch.autograd.grad, and not from backward()."""
    torch.manual_seed(0)
    x, y = data(24)
    model = nn.Linear(4, 1).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for step in make(24, 8, 2, model=model, optimizer=optimizer):
        with step:
            i = step.indices
            loss = (model(x[i]) - y[i]).square().sum() / step.batch_size
            for p, gradient in zip(
                model.parameters(), torch.autograd.grad(loss, list(model.parameters())), strict=True
            ):
                p.grad = gradient
            step.reduce()
            nn.utils.clip_grad_norm_(model.parameters(), 0.05)
            optimizer.step()
        log.append(numbers(model))


def by_hand(make: Any, log: list[Any]) -> None:
    """The update is written by hand, and the gradients are zeroed in place."""
    torch.manual_seed(0)
    x, y = data(20)
    model = nn.Linear(4, 1).double()
    for step in make(20, 8, 3, model=model):
        with step:
            for part in step.split(None):
                ((model(x[part]) - y[part]).square().sum() / step.batch_size).backward()
            with torch.no_grad():
                for p in model.parameters():
                    assert p.grad is not None
                    p.sub_(1e-3 * p.grad)
                    p.grad.zero_()
        log.append(numbers(model))


def between_steps(make: Any, log: list[Any]) -> None:
    """A backward pass between two steps is the program's own."""
    torch.manual_seed(0)
    x, y = data(20)
    model = nn.Linear(4, 1).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    for step in make(20, 8, 3, model=model, optimizer=optimizer):
        with step:
            for part in step.split(None):
                ((model(x[part]) - y[part]).square().sum() / step.batch_size).backward()
            optimizer.step()
            optimizer.zero_grad()
        image = x[:1].clone().requires_grad_()
        model(image).sum().backward()  # what the input matters
        optimizer.zero_grad()
        assert image.grad is not None
        log.append(image.grad.flatten().tolist())


def strided(make: Any, log: list[Any]) -> None:
    """Parameters that lie in memory in another order, and optimizers that walk through it."""
    torch.manual_seed(0)
    x, y = data(24, 16)
    conv: Any = nn.Conv2d(1, 3, 3)
    conv.to(memory_format=torch.channels_last)
    model: Any = nn.Sequential(conv, nn.Tanh(), nn.Flatten(), nn.Linear(12, 1))
    model.double()
    with torch.no_grad():
        model.turned = nn.Parameter(torch.randn(12, 7, dtype=torch.float64).t())
    model[0].weight.data = model[0].weight.data.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, fused=True)
    for step in make(24, 8, 2, model=model, optimizer=optimizer):
        with step:
            for part in step.split(2):
                inner = model[:3](x[part].view(-1, 1, 4, 4))
                out = model[3](inner) + (inner @ model.turned.t()).sum(1, keepdim=True)
                ((out - y[part]).square().sum() / step.batch_size).backward()
            optimizer.step()
            optimizer.zero_grad()
        log.append(numbers(model))


def in_other_precision(make: Any, log: list[Any]) -> None:
    """The model becomes float64 on the way."""
    torch.manual_seed(0)
    x, y = data(24)
    model: Any = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(p.mul(8).round() / 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=2**-10)
    for step in make(24, 8, 2, model=model, optimizer=optimizer):
        model.double()
        with step:
            for part in step.split(None):
                ((model(x[part]) - y[part]).square().sum() / step.batch_size).backward()
            optimizer.step()
            optimizer.zero_grad()
        log.append(numbers(model))


def two_models(make: Any, log: list[Any]) -> None:
    """Two models that share a layer, two optimizers, one of them stepped every second time."""
    torch.manual_seed(0)
    x, y = data(20)
    one = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    two = nn.Sequential(one[0], nn.ReLU(), nn.Linear(4, 1, dtype=torch.float64))
    first = torch.optim.Adam(one.parameters(), lr=0.01)
    second = torch.optim.SGD(two[2].parameters(), lr=0.001, momentum=0.9)
    for step in make(20, 8, 3, one=one, two=two, first=first, second=second):
        with step:
            i = step.indices
            loss = (one(x[i]) - y[i]).square().sum() + (two(x[i]) - y[i]).square().sum()
            (loss / step.batch_size).backward()
            first.step()
            first.zero_grad()
            if step.number % 2:
                second.step()
            second.zero_grad()
        log.append(numbers(one, two))


def spectral(make: Any, log: list[Any]) -> None:
    """Spectral normalisation, old and new, iterates in forward passes; some ranks have none."""
    torch.manual_seed(0)
    x, y = data(17)
    new = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4).double())
    old = nn.utils.spectral_norm(nn.Linear(4, 4).double())
    model = nn.Sequential(new, nn.Tanh(), old, nn.Linear(4, 1).double())
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for step in make(17, 16, 2, model=model, optimizer=optimizer):
        with step:
            for part in step.split(None):
                ((model(x[part]) - y[part]).square().sum() / step.batch_size).backward()
            optimizer.step()
            optimizer.zero_grad()
        log.append(numbers(model))


def instances(make: Any, log: list[Any]) -> None:
    """Instance normalisation keeps no statistics by default, and batch normalisation need not."""
    torch.manual_seed(0)
    x, y = data(24)
    norm = nn.InstanceNorm1d(4, affine=True)
    model = nn.Sequential(norm, nn.Linear(4, 1)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    for step in make(24, 8, 2, model=model, optimizer=optimizer):
        with step:
            i = step.indices
            each = model(x[i].unsqueeze(1).expand(-1, 4, -1)).mean(1)
            ((each - y[i]).square().sum() / step.batch_size).backward()
            optimizer.step()
            optimizer.zero_grad()
        log.append(numbers(model))


def numpys_numbers(make: Any, log: list[Any]) -> None:
    """Hyperparameters that come of NumPy, at the start and from a schedule."""
    torch.manual_seed(0)
    x, y = data(24)
    model = nn.Linear(4, 1).double()
    optimizer = torch.optim.SGD(
        model.parameters(), lr=np.logspace(-2, -1, 2)[0], momentum=np.float64(0.9)
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: np.cos(n / 100))
    for step in make(24, 8, 2, model=model, optimizer=optimizer, schedule=schedule):
        with step:
            i = step.indices
            ((model(x[i]) - y[i]).square().sum() / step.batch_size).backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        log.append(numbers(model))


def hooked_later(make: Any, log: list[Any]) -> None:
    """Hooks that come after the first step, in a model of several buckets."""

    def halved(parameter: Any) -> None:
        parameter.grad.mul_(0.5)

    torch.manual_seed(0)
    x, y = data(24)
    wide = [nn.Linear(1024, 1024, bias=False) for _ in range(2)]
    model = nn.Sequential(nn.Linear(4, 1024), *wide, nn.Linear(1024, 1)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for step in make(24, 8, 1, model=model, optimizer=optimizer):
        if step.number == 2:
            first, second = (one.weight for one in wide)
            first.register_post_accumulate_grad_hook(halved)
            second.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
        with step:
            i = step.indices
            ((model(x[i]) - y[i]).square().sum() / step.batch_size).backward()
            optimizer.step()
            optimizer.zero_grad()
        log.append([float(one.detach().sum()) for one in model.parameters()])


def differentiable(make: Any, log: list[Any]) -> None:
    """Backward makes a graph of its own, as for second derivatives."""
    torch.manual_seed(0)
    x, y = data(24)
    model = nn.Linear(4, 1).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    for step in make(24, 8, 2, model=model, optimizer=optimizer):
        with step:
            i = step.indices
            loss = (model(x[i]) - y[i]).square().sum() / step.batch_size
            loss.backward(create_graph=True)
            optimizer.step()
            optimizer.zero_grad()
        log.append(numbers(model))


def skips_its_last_part(make: Any, log: list[Any]) -> None:
    """A part whose samples are of no use has no backward pass, and may be the last one."""
    torch.manual_seed(0)
    x, y = data(24)
    use = torch.arange(24) % 5 != 0
    model = nn.Linear(4, 1).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    for step in make(24, 12, 2, model=model, optimizer=optimizer):
        with step:
            for part in step.split(1):
                if bool(use[part]):
                    ((model(x[part]) - y[part]).square().sum() / step.batch_size).backward()
            optimizer.step()
            optimizer.zero_grad()
        log.append(numbers(model))


def counts_nothing(make: Any, log: list[Any]) -> None:
    """A mean over what some samples have: those of a worker may have nothing of it."""
    torch.manual_seed(0)
    x, y = data(24)
    tokens = (torch.arange(24) % 8 == 0).double() * 5
    model = nn.Linear(4, 1).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    for step in make(24, 12, 2, model=model, optimizer=optimizer):
        with step:
            total = 1.0 if make is Swell else float(tokens[step.indices].sum())
            for part in step.split(None):
                if make is Swell:
                    step.mean_over(tokens[part].sum())
                losses = (model(x[part]) - y[part]).square().squeeze(1) * tokens[part]
                (losses.sum() / total).backward()
            optimizer.step()
            optimizer.zero_grad()
        log.append(numbers(model))


class Table(torch.optim.SGD):
    """Keeps things under keys that are no parameters: a number, a tensor, a dict."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, lr=1e-2)
        table: Any = self.state
        table["count"], table["norm"] = 0, torch.zeros((), dtype=torch.float64)
        table["history"] = {"last": 0.0}

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        table: Any = self.state
        table["count"] += 1
        for p in self.param_groups[0]["params"]:
            table["norm"] += p.grad.norm()
        table["history"]["last"] = float(table["norm"])
        self.param_groups[0]["lr"] = 1e-2 / (1 + table["count"] + table["history"]["last"])
        return super().step(closure)


def keeps_a_table(make: Any, log: list[Any]) -> None:
    """An optimizer keeps what is of no parameter."""
    torch.manual_seed(0)
    x, y = data(24)
    model = nn.Linear(4, 1).double()
    optimizer = Table(model.parameters())
    for step in make(24, 8, 2, model=model, optimizer=optimizer):
        with step:
            i = step.indices
            ((model(x[i]) - y[i]).square().sum() / step.batch_size).backward()
            optimizer.step()
            optimizer.zero_grad()
        log.append(numbers(model))


GOOD: dict[str, Run] = {
    "keeps a table": keeps_a_table,
    "counts nothing": counts_nothing,
    "instances": instances,
    "numpy's numbers": numpys_numbers,
    "hooked later": hooked_later,
    "differentiable": differentiable,
    "skips its last part": skips_its_last_part,
    "spectral": spectral,
    "clipped": clipped,
    "in the last turn": in_the_last_turn,
    "in one pass": in_one_pass,
    "by hand": by_hand,
    "between steps": between_steps,
    "strided": strided,
    "in other precision later": in_other_precision,
    "hooked": hooked,
    "scaled": scaled,
    "closure": by_closure,
    "unfrozen": unfrozen,
    "given later": given_later,
    "unused": unused,
    "set by hand": set_by_hand,
    "two models": two_models,
}


@pytest.mark.parametrize("size", WORLDS)
@pytest.mark.parametrize("name", GOOD)
def test_it_trains_what_a_plain_loop_trains(name: str, size: int) -> None:
    assert alike(GOOD[name], size) == size
