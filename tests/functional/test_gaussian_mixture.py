"""The density of a mixture: scikit-learn's, and a Gaussian in closed form."""

import math

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture

from anomaly_lab.functional.gaussian_mixture import negative_log_likelihood


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-3)])
def test_the_likelihood_is_that_of_scikit_learn(dtype, tolerance):
    """Of rows that hardly vary along most directions, so that precisions are large, and of rows far from all."""
    random = np.random.default_rng(0)
    mixed = random.normal(size=(49, 49)) * 0.8 ** np.arange(49)[:, None]
    rows = random.integers(0, 3, size=(2000, 1)) + 0.1 * random.normal(size=(2000, 49)) @ mixed
    mixture = GaussianMixture(4, reg_covar=1e-6, init_params="k-means++", random_state=0).fit(rows)
    weights, means, factors = map(torch.from_numpy, (mixture.weights_, mixture.means_, mixture.precisions_cholesky_))
    assert factors.max() > 100
    offsets = weights.log() + factors.diagonal(dim1=1, dim2=2).log().sum(dim=1) - 49 / 2 * np.log(2 * np.pi)
    for some in (rows, random.random((100, 49))):
        said = negative_log_likelihood(*(x.to(dtype) for x in (torch.from_numpy(some), offsets, means, factors)))
        np.testing.assert_allclose(said, -mixture.score_samples(some), rtol=tolerance, atol=tolerance)


def test_a_component_without_weight_does_not_count():
    vectors, means = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 0.0], [1.0, 2.0]])
    offsets = torch.tensor([-math.log(2 * math.pi), -math.inf])
    found = negative_log_likelihood(vectors, offsets, means, torch.eye(2).repeat(2, 1, 1))
    torch.testing.assert_close(found, torch.tensor([math.log(2 * math.pi) + 2.0]))  # two deviations from the first mean
