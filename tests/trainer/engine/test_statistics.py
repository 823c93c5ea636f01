"""Running statistics are read and set at once, whatever they are kept in."""

from __future__ import annotations

from typing import Any

import torch

from trainer.engine.statistics import Row, Statistics


def buffers() -> list[torch.Tensor]:
    return [torch.tensor([0.1, 0.2]), torch.tensor(2**40 + 1), torch.tensor([[0.3], [0.4]])]


def test_what_was_read_is_written_back_to_the_last_bit() -> None:
    kept, before = buffers(), buffers()
    row = Row(kept)
    row.read()
    for one in kept:
        one.zero_()
    versions = [one._version for one in kept]
    row.write()
    assert all(map(torch.equal, kept, before))
    changed = [one._version > was for one, was in zip(kept, versions, strict=True)]
    assert all(changed), "who watches versions sees it"


def test_integers_are_rounded_to_and_nothing_else_is() -> None:
    kept = buffers()
    Row(kept).set(torch.tensor([1.5, 2.5, 6.9999, 3.5, 4.5], dtype=torch.float64))
    assert [one.tolist() for one in kept] == [[1.5, 2.5], 7, [[3.5], [4.5]]]


def test_each_unit_begins_with_what_there_was_before_the_step() -> None:
    model: Any = torch.nn.BatchNorm1d(1, momentum=0.5)
    statistics, batches = Statistics([model]), [torch.ones(2, 1), torch.full((2, 1), 3.0)]
    statistics.begin(units=2)
    for number, batch in enumerate(batches):
        statistics.begin_unit(number)
        assert (float(model.running_mean), int(model.num_batches_tracked)) == (0.0, 0)
        model(batch)
    statistics.settle(statistics.added(1.0))
    assert float(model.running_mean) == 1.75, "as after one batch and the other"
    assert int(model.num_batches_tracked) == 2


def test_another_buffer_in_its_place_is_followed() -> None:
    model: Any = torch.nn.BatchNorm1d(1, momentum=0.5)
    statistics = Statistics([model])
    statistics.begin()
    model.running_mean = torch.tensor([8.0])
    statistics.begin()
    model(torch.ones(2, 1))
    added = statistics.added(1.0)
    model.reset_running_stats()
    statistics.settle(added)
    assert float(model.running_mean) == 4.5
