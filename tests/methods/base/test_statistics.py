"""Statistics: closed forms, and the same bits whatever the order and the processes."""

import numpy as np
import pytest
import torch

from anomaly_lab.methods.base import statistics
from anomaly_lab.methods.base.statistics import MemoryBank, RunningGaussian

PLACES, FEATURES, IMAGES = 5, 4, 12


@pytest.fixture
def images():
    return torch.randn(IMAGES, PLACES, FEATURES, generator=torch.Generator().manual_seed(0))


def gaussian(images, order):
    statistic = RunningGaussian(PLACES, FEATURES)
    for number in order:
        statistic.update(images[number], number)
    return statistic


def test_a_gaussian_is_numpys(images):
    statistic = gaussian(images, range(IMAGES))
    statistic.fit()
    for place in range(PLACES):
        rows = np.round(images[:, place].double().numpy() * 4096) / 4096
        np.testing.assert_allclose(statistic.mean[place], rows.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(statistic.covariance[place], np.cov(rows, rowvar=False), rtol=1e-9)


@pytest.mark.parametrize("shares", [1, 2, 3])
def test_a_gaussian_has_the_same_bits_in_any_order_and_any_number_of_shares(images, monkeypatch, shares):
    whole = gaussian(images, range(IMAGES))
    whole.fit()
    order = np.random.default_rng(shares).permutation(IMAGES)
    parts = [gaussian(images, part.tolist()) for part in np.array_split(order, shares)]
    sums = {
        "count": sum(part._count for part in parts),
        (PLACES, FEATURES): sum(part._sum for part in parts),
        (PLACES, FEATURES, FEATURES): sum(part._products for part in parts),
    }
    monkeypatch.setattr(
        statistics, "sum_of_all_processes", lambda values: sums[tuple(values.shape)] if values.ndim else sums["count"]
    )
    parts[0].fit()
    assert torch.equal(parts[0].mean, whole.mean)
    assert torch.equal(parts[0].covariance, whole.covariance)


def test_a_gaussian_refuses_what_it_cannot_add_exactly(images):
    statistic = RunningGaussian(PLACES, FEATURES)
    with pytest.raises(ValueError, match="expected features below 64 in size, found 70"):
        statistic.update(torch.full((PLACES, FEATURES), 70.0), 0)
    statistic.update(images[0], 0)
    with pytest.raises(ValueError, match="expected 2 to 131072 training images, found 1"):
        statistic.fit()


@pytest.fixture
def bank():
    rows = torch.randn(300, 6, generator=torch.Generator().manual_seed(1))
    rows[7] = rows[250]  # a tie
    memory = MemoryBank(6, 1000)
    for image, part in enumerate(rows.split(30)):
        memory.update(part, image)
    memory.fit()
    assert torch.equal(memory.bank, rows)
    return memory


@pytest.mark.parametrize("neighbours", [1, 3, 300])
def test_the_nearest_entries_are_those_of_brute_force(bank, neighbours, monkeypatch):
    queries = torch.cat([bank.bank[250:251], torch.randn(40, 6, generator=torch.Generator().manual_seed(2))])
    monkeypatch.setattr(statistics, "BLOCK", 1)  # a query at a time
    distance, number = bank.nearest(queries, neighbours)
    all_of_them = np.linalg.norm(queries.numpy()[:, None].astype(np.float64) - bank.bank.numpy()[None], axis=2)
    np.testing.assert_allclose(distance, np.sort(all_of_them, axis=1)[:, :neighbours], rtol=1e-5, atol=1e-6)
    assert number[0, 0] == 7  # the first of the two
    assert distance[0, 0] == 0


def test_more_neighbours_than_entries_are_refused(bank):
    with pytest.raises(ValueError, match="expected at most 300 neighbours, the size of the bank, found 301"):
        bank.nearest(torch.zeros(1, 6), 301)


def test_the_state_goes_through_a_checkpoint_whatever_its_size(bank, images):
    again = MemoryBank(6, 1000)
    again.load_state_dict(bank.state_dict())
    assert torch.equal(again.bank, bank.bank)
    statistic = gaussian(images, range(IMAGES))
    statistic.fit()
    other = RunningGaussian(1, 1)
    other.load_state_dict(statistic.state_dict())
    assert torch.equal(other.covariance, statistic.covariance)


def test_a_large_bank_is_searched_in_blocks(monkeypatch):
    generator = torch.Generator().manual_seed(3)
    memory = MemoryBank(2, 2**15)
    memory.update(torch.randn(2**14 + 9, 2, generator=generator), 0)
    memory.fit()
    queries = torch.randn(5, 2, generator=generator)
    distance, number = memory.nearest(queries, 2)
    expected = torch.cdist(queries.double(), memory.bank.double()).topk(2, largest=False)
    assert torch.equal(number, expected.indices)
    torch.testing.assert_close(distance.double(), expected.values, rtol=1e-5, atol=1e-6)
