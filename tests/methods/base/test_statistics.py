"""Statistics: closed forms, and the same bits whatever the order and the processes."""

import numpy as np
import pytest
import torch

from anomaly_lab.core.errors import UserError
from anomaly_lab.functional import nearest_rows
from anomaly_lab.methods.base import reservoir, statistics
from anomaly_lab.methods.base.statistics import MemoryBank, RunningGaussian

PLACES, FEATURES, IMAGES = 5, 4, 12


@pytest.fixture
def images():
    return 3 + torch.randn(IMAGES, PLACES, FEATURES, generator=torch.Generator().manual_seed(0))


def gaussian(images, order, places=PLACES):
    statistic = RunningGaussian(FEATURES, places)
    for number in order:
        statistic.update(images[number], number)
    return statistic


def moments_of(shares, monkeypatch):
    """The moments that the first of several processes comes to."""
    seen = [[] for _ in shares]  # what each process brings, in the order of the calls
    for share, calls in zip(shares[1:], seen[1:], strict=True):
        monkeypatch.setattr(
            statistics, "sum_of_all_processes", lambda value, calls=calls: calls.append(value) or value.clone()
        )
        monkeypatch.setattr(statistics, "of_all_processes", lambda values, calls=calls: calls.append(values) or values)
        share.moments()
    others = iter(zip(*seen[1:], strict=True)) if shares[1:] else iter([()] * 1000)
    monkeypatch.setattr(statistics, "sum_of_all_processes", lambda value: sum(next(others), value))
    monkeypatch.setattr(statistics, "of_all_processes", lambda values: sum(next(others), values))
    return shares[0].moments()


@pytest.mark.parametrize("places", [PLACES, None])
def test_a_gaussian_is_numpys_at_each_place_or_over_all_rows(images, places):
    mean, covariance = gaussian(images, range(IMAGES), places).moments()
    parts = images.movedim(1, 0) if places else images.flatten(0, 1)[None]
    for place, rows in enumerate(np.round(parts.double().numpy() * 4096) / 4096):
        np.testing.assert_allclose(mean[place], rows.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(covariance[place], np.cov(rows, rowvar=False), rtol=1e-9)


@pytest.mark.parametrize("places", [PLACES, None])
@pytest.mark.parametrize("shares", [1, 2, 3])
def test_a_gaussian_has_the_same_bits_in_any_order_and_any_number_of_shares(images, monkeypatch, shares, places):
    whole = gaussian(images, range(IMAGES), places).moments()
    monkeypatch.setattr(statistics, "WAITING", 3 * PLACES * FEATURES)  # adds after the fourth, then every third image
    monkeypatch.setattr(statistics, "PART", 30)  # a place or two rows at a time
    order = np.random.default_rng(shares).permutation(IMAGES)
    parts = [gaussian(images, part.tolist(), places) for part in np.array_split(order, shares)]
    mean, covariance = moments_of(parts, monkeypatch)
    assert torch.equal(mean, whole[0])
    assert torch.equal(covariance, whole[1])


def test_a_constant_feature_has_a_variance_of_exactly_zero():
    statistic = RunningGaussian(1)
    statistic.update(torch.full((1000, 1), 63.3), 0)
    statistic.fit()
    assert statistic.covariance.item() == 0
    assert statistic.mean.item() == pytest.approx(63.3, abs=2**-13)


@pytest.mark.parametrize("value", [64.0, -70.0])
def test_a_gaussian_refuses_what_it_cannot_add_exactly(images, value):
    statistic = gaussian(images, range(IMAGES))
    statistic.update(torch.full((PLACES, FEATURES), value), 0)
    with pytest.raises(ValueError, match="expected features below 64 in size, found (64|70)"):
        statistic.fit()
    statistic = gaussian(images, range(IMAGES))
    statistic.update(torch.full((PLACES, FEATURES), torch.nan), 0)
    with pytest.raises(UserError, match="expected finite features"):
        statistic.fit()
    wide = RunningGaussian(1, largest=128.0)
    wide.update(torch.tensor([[-70.0], [70.0]]), 0)
    assert wide.moments()[1].item() == 9800


def test_a_gaussian_refuses_other_places_and_no_rows_and_one_row_has_no_covariance(images):
    with pytest.raises(ValueError, match="expected a row for each of 5 places, found 3 rows"):
        RunningGaussian(FEATURES, PLACES).update(images[0, :3], 0)
    with pytest.raises(ValueError, match="expected 1 to 67108864 rows, found 0"):
        gaussian(images, []).fit()
    statistic = gaussian(images, [0])
    statistic.fit()
    np.testing.assert_allclose(statistic.mean, images[0], atol=2**-13)
    assert not statistic.covariance.any()


@pytest.fixture
def bank():
    rows = torch.randn(300, 6, generator=torch.Generator().manual_seed(1))
    rows[7] = rows[250]  # a tie
    memory = MemoryBank(6, 1000, rows=30)
    assert memory.memory(2) == 60 * (6 * 4 + 164)
    assert memory.memory(100) == MemoryBank(6, 1000).memory(1) == 1000 * (3 * 6 * 4 + 164)  # while it is thinned out
    for image, part in enumerate(rows.split(30)):
        memory.update(part, image)
    memory.fit()
    assert torch.equal(memory.bank, rows)
    return memory


@pytest.mark.parametrize("shares", [2, 3])
def test_a_coreset_has_the_same_bits_in_any_order_and_any_number_of_shares(images, monkeypatch, shares):
    def seen(order, capacity):
        memory = MemoryBank(FEATURES, capacity, seed=3, ratio=0.3)
        for number in order:
            memory.update(images[number], number)
        return memory

    for capacity in (1000, 25):  # all rows, and a sample of them
        whole = seen(range(IMAGES), capacity)
        whole.fit()
        order = np.random.default_rng(shares).permutation(IMAGES)
        first, *others = (seen(part.tolist(), capacity) for part in np.array_split(order, shares))
        for other in others:
            other._sample._thin_out()
        brought = [part for other in others for part in other._sample._kept]
        with monkeypatch.context() as patch:
            patch.setattr(reservoir, "of_all_processes", lambda kept, brought=brought: kept + brought)
            first.fit()
        assert len(whole.bank) == int(0.3 * min(capacity, IMAGES * PLACES))
        assert torch.equal(first.bank, whole.bank)


@pytest.mark.parametrize("neighbours", [1, 3, 300])
def test_the_nearest_entries_are_those_of_brute_force(bank, neighbours, monkeypatch):
    queries = torch.cat([bank.bank[250:251], torch.randn(40, 6, generator=torch.Generator().manual_seed(2))])
    monkeypatch.setattr(nearest_rows, "BLOCK", 2**15)  # two queries at a time
    distance, number = bank.nearest(queries, neighbours)
    all_of_them = np.linalg.norm(queries.numpy()[:, None].astype(np.float64) - bank.bank.numpy()[None], axis=2)
    np.testing.assert_allclose(distance, np.sort(all_of_them, axis=1)[:, :neighbours], rtol=1e-5, atol=1e-6)
    assert number[0, 0] == 7  # the first of the two
    assert distance[0, 0] == 0


def test_more_neighbours_than_entries_are_refused(bank):
    with pytest.raises(ValueError, match="expected at most 300 neighbours, the size of the bank, found 301"):
        bank.nearest(torch.zeros(1, 6), 301)


def test_a_search_follows_the_bank_and_is_no_part_of_its_state(bank):
    query = bank.bank[100:101].clone()
    assert bank.nearest(query)[1].item() == 100
    prepared = bank._prepared
    bank.nearest(query)
    assert bank._prepared is prepared  # once
    assert bank.state_dict().keys() == {"bank"}
    bank.load_state_dict({"bank": bank.bank.flip(0)})  # of the same size: written in place
    assert bank.nearest(query)[1].item() == 199
    bank.bank = bank.bank[150:].clone()
    assert bank.nearest(query)[1].item() == 49
    assert bank.double().nearest(query.double())[0].dtype == torch.float64


def test_the_state_goes_through_a_checkpoint_whatever_its_size(bank, images):
    again = MemoryBank(6, 1000)
    again.load_state_dict(bank.state_dict())
    assert torch.equal(again.bank, bank.bank)
    statistic = gaussian(images, range(IMAGES))
    statistic.fit()
    other = RunningGaussian(1)
    other.load_state_dict(statistic.state_dict())
    assert torch.equal(other.covariance, statistic.covariance)
    assert other.covariance.shape == (PLACES, FEATURES, FEATURES)


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
