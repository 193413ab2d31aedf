"""Rows under random projections: one matrix, one row, one layer after the other."""

import torch
from torch.nn import functional

from anomaly_lab.networks.projected_rows import ProjectedRows


def test_every_row_is_seen_under_every_matrix_by_the_same_layers():
    torch.manual_seed(0)
    network = ProjectedRows(channels=5, count=3, size=4, features=6, hidden=2)
    rows = torch.randn(7, 5, 1, 1) * 3 + 1
    network.standardise.learn([rows])
    layers = [layer.weight for layer in network.network[::2]]
    assert [tuple(weight.shape) for weight in layers] == [(6, 4), (6, 6), (6, 6)]
    assert all(layer.bias is None for layer in network.network[::2])
    found = network(rows)
    for number, matrix in enumerate(network.matrices):
        for row in range(7):
            vector = network.standardise(rows)[row] @ matrix
            for place, weight in enumerate(layers):
                vector = weight @ (functional.leaky_relu(vector, 0.2) if place else vector)
            torch.testing.assert_close(found[number, row], vector)


def test_matrices_are_normal_and_follow_from_the_seed():
    one, same, other = (ProjectedRows(30, 64, 64, 8, seed=seed).matrices for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert abs(one.mean()) < 0.01
    assert abs(one.std() - 1) < 0.01


def test_weights_start_as_the_authors_have_them():
    """Xavier's normal weights with a gain of the root of two; the head has one bias for each guess."""
    torch.manual_seed(0)
    network = ProjectedRows(channels=5, count=200, size=300, features=400, hidden=1)
    for layer, (inputs, outputs) in zip(
        (*network.network[::2], network.head()[1]), [(300, 400), (400, 400), (400, 200)], strict=True
    ):
        assert abs(layer.weight.std() / (2 * 2 / (inputs + outputs)) ** 0.5 - 1) < 0.02
    assert network.head()[1].bias.shape == (200,)
