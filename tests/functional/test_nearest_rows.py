"""Nearest rows: those of brute force, whatever the rows are like."""

import numpy as np
import pytest
import torch

from anomaly_lab.functional import nearest_rows as module
from anomaly_lab.functional.nearest_rows import PreparedRows, nearest_rows


def rows_of(kind, count, features, random):
    """Rows that the first principal components tell apart well, badly or not at all."""
    if kind == "random":
        return random.normal(size=(count, features))
    if kind == "clustered":
        centres = random.normal(size=(9, features))[random.integers(0, 9, count)]
        return centres + 1e-3 * random.normal(size=(count, features))
    if kind == "copies":
        return random.integers(0, 3, size=(count, 1)) + (np.arange(features) % 2)
    mixed = random.normal(size=(features, features)) * 0.9 ** np.arange(features)[:, None]  # correlated, far from zero
    return 30 + random.exponential(size=(count, features)) @ mixed


@pytest.mark.parametrize("kind", ["random", "clustered", "copies", "correlated"])
@pytest.mark.parametrize(("count", "features"), [(1, 5), (17, 3), (333, 32), (700, 130)])
def test_the_nearest_of_prepared_rows_is_that_of_brute_force(kind, count, features, monkeypatch):
    monkeypatch.setattr(module, "CACHED", 2**13)  # about twenty queries at once
    random = np.random.default_rng(features)
    both = torch.from_numpy(rows_of(kind, count + 90, features, random).astype(np.float32))
    entries, queries = both[:count], torch.cat([both[count:], both[: min(count, 40)]])
    distance, number = PreparedRows(entries).nearest(queries)
    differences = (queries[:, None] - entries[None]).double()
    squares = differences.square().sum(dim=2).float().numpy()  # rounded once
    assert number.tolist() == squares.argmin(axis=1).tolist()  # of ties the first
    np.testing.assert_array_equal(distance, (queries - entries[number]).norm(dim=1))
    assert not distance[90:].any()
    if kind != "clustered":  # products in float32 confuse entries that are this close together
        torch.testing.assert_close(distance, nearest_rows(queries, entries)[0][:, 0], rtol=1e-6, atol=0)


def test_of_a_few_close_rows_far_from_zero_each_is_nearest_to_itself(monkeypatch):
    """Products alone confuse them."""
    monkeypatch.setattr(module, "SMALL", 64)
    random = np.random.default_rng(1)
    centres = (10 + random.normal(size=(80, 24))).repeat(4, axis=0)
    entries = torch.from_numpy(
        random.permutation(centres + 1e-3 * random.normal(size=centres.shape)).astype(np.float32)
    )
    distance, number = nearest_rows(entries, entries)
    assert not distance.any()
    assert number[:, 0].tolist() == list(range(320))


def test_few_rows_are_visited(monkeypatch):
    """Correlated rows: the bounds leave out almost all."""
    random = np.random.default_rng(0)
    both = torch.from_numpy(rows_of("correlated", 1100, 128, random).astype(np.float32))
    visited = []

    def noted(rows, bounds, least, queries, slack, found):
        nearest = np.square(queries[:, None] - rows[None]).sum(axis=2).min(axis=1)
        visited.append((bounds[:, : len(rows)] <= (nearest + slack)[:, None]).mean())
        found[:] = 0

    monkeypatch.setattr(module, "_visit", noted)
    PreparedRows(both[:1000]).nearest(both[1000:])
    assert 1 / 1000 <= np.mean(visited) < 0.05


def test_a_query_that_is_not_finite_has_no_distance_and_leaves_the_others():
    entries = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    queries = entries[[3, 4, 5]].clone()
    queries[1, 2] = torch.nan
    distance, number = PreparedRows(entries).nearest(queries)
    assert distance.isnan().tolist() == [False, True, False]
    assert number[[0, 2]].tolist() == [3, 5]


def test_gradients_reach_the_queries():
    entries = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    query = torch.zeros(1, 6, requires_grad=True)
    with torch.inference_mode():
        prepared = PreparedRows(entries)
    distance, number = prepared.nearest(query)
    distance.sum().backward()
    torch.testing.assert_close(query.grad, -entries[number] / entries[number].norm())


@pytest.mark.parametrize("neighbours", [1, 3])
@pytest.mark.parametrize("offset", [0, 30])
def test_rows_close_together_and_far_from_zero_are_told_apart(neighbours, offset):
    """Their products are large numbers that differ in the last digits: without a common centre rounding decides."""
    rows = torch.from_numpy(rows_of("clustered", 1000, 64, np.random.default_rng(0))).float() + offset
    distance, number = nearest_rows(rows, rows, neighbours)
    assert not distance[:, 0].any()
    assert number[:, 0].tolist() == list(range(1000))


def test_a_graph_tells_them_apart_as_well():
    """PatchCore's and the others' banks are exported with this search."""
    rows = torch.from_numpy(rows_of("clustered", 1000, 64, np.random.default_rng(0))).float() + 30

    class Search(torch.nn.Module):
        def forward(self, queries):
            return nearest_rows(queries, rows)

    distance, number = torch.export.export(Search(), (rows[:10],)).module()(rows[:10])
    assert not distance.any()
    assert number[:, 0].tolist() == list(range(10))
