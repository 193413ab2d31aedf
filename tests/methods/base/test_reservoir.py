"""The sample of the training data: uniform, and the same whoever saw what, when."""

import numpy as np
import pytest
import torch

from anomaly_lab.methods.base.reservoir import Reservoir


def images(count=9, rows=7):
    """Rows that say where they come from."""
    return [torch.tensor([[i, row] for row in range(rows)]) for i in range(count)]


def sample(order, capacity, seed=0, processes=1, monkeypatch=None):
    reservoirs = [Reservoir(capacity, seed) for _ in range(processes)]
    for position, i in enumerate(order):
        reservoirs[position % processes].add(i, images()[i])
    if processes == 1:
        return reservoirs[0].rows()
    parts = []
    for reservoir in reservoirs:
        reservoir._thin_out()
        parts += reservoir._kept
    monkeypatch.setattr("anomaly_lab.methods.base.reservoir.of_all_processes", lambda items: parts)
    return reservoirs[-1].rows()


def test_everything_stays_where_there_is_room_in_the_order_of_the_images():
    assert torch.equal(sample([3, 0, 8, 1, 2, 4, 7, 6, 5], 100), torch.cat(images()))


@pytest.mark.parametrize("capacity", [1, 5, 20, 62])
def test_neither_order_nor_processes_change_the_sample(capacity, monkeypatch):
    expected = sample(range(9), capacity)
    assert len(expected) == capacity
    assert len({tuple(row) for row in expected.tolist()}) == capacity
    for order in (range(8, -1, -1), [4, 0, 8, 1, 7, 2, 6, 3, 5]):
        assert torch.equal(sample(order, capacity), expected)
        for processes in (2, 3):
            assert torch.equal(sample(order, capacity, processes=processes, monkeypatch=monkeypatch), expected)
            monkeypatch.undo()


def test_the_seed_changes_the_sample():
    assert not torch.equal(sample(range(9), 10), sample(range(9), 10, seed=1))


def test_every_row_is_as_likely_as_any_other():
    count = np.zeros((9, 7))
    for seed in range(400):
        for i, row in sample(range(9), 9, seed).tolist():
            count[i, row] += 1
    expected = 400 * 9 / 63  # 57.1, standard deviation 7
    assert count.min() > expected - 5 * 7
    assert count.max() < expected + 5 * 7


def test_memory_stays_below_twice_the_capacity():
    reservoir = Reservoir(10, 0)
    for i, rows in enumerate(images()):
        reservoir.add(i, rows)
        assert sum(len(part.rows) for part in reservoir._kept) < 20
    assert len(reservoir.rows()) == 10
    with pytest.raises(RuntimeError, match="no training image was seen"):
        reservoir.rows()
