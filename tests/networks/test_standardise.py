"""Columns on one scale: those of scikit-learn."""

import numpy as np
import torch
from sklearn.preprocessing import StandardScaler

from anomaly_lab.networks.standardise import Standardise


def test_columns_are_scaled_as_by_scikit_learn_in_batches_of_any_size():
    random = np.random.default_rng(0)
    rows = random.normal(size=(50, 3)) * [1, 1000, 1e-3] + [0, 1e4, 5]
    scaled = Standardise(3)
    values = torch.from_numpy(rows).float()[:, :, None, None]
    scaled.learn(values.split([7, 40, 3]))
    expected = StandardScaler().fit(values.flatten(1).numpy()).transform(values.flatten(1).numpy())
    np.testing.assert_allclose(scaled(values).numpy(), expected, atol=2e-4)
    assert scaled(values).std(dim=0, correction=0).sub(1).abs().max() < 1e-3


def test_without_rows_nothing_changes():
    scaled = Standardise(2)
    scaled.learn([])
    assert scaled(torch.tensor([[3.0, 4.0]])[..., None, None]).tolist() == [[3, 4]]
