"""The fit of a Dirichlet distribution: draws of a known one, scipy's functions, rows without a distribution."""

import numpy as np
import pytest
import torch
from scipy.special import psi

from anomaly_lab.functional.dirichlet import concentrations


def fitted(rows):
    rows = torch.as_tensor(rows).double()
    return concentrations(rows.mean(dim=0), rows.log().mean(dim=0))


@pytest.mark.parametrize("alpha", [(2.0, 5.0, 1.0), (0.1, 0.1), (30.0, 1.0, 0.5, 200.0)])
def test_the_parameters_of_20_000_draws_come_back(alpha):
    draws = np.random.default_rng(0).dirichlet(alpha, 20_000).clip(1e-300)
    found = fitted(draws).numpy()
    np.testing.assert_allclose(found, alpha, rtol=0.05)
    # where the gradient of the likelihood is zero, by scipy
    np.testing.assert_allclose(psi(found) - psi(found.sum()), np.log(draws).mean(axis=0), rtol=1e-4)


def test_several_distributions_are_fitted_at_once():
    draws = [np.random.default_rng(i).dirichlet((1 + i, 2, 3), 500) for i in range(2)]
    stacked = torch.from_numpy(np.stack(draws))
    together = concentrations(stacked.mean(dim=1), stacked.log().mean(dim=1))
    torch.testing.assert_close(together, torch.stack([fitted(rows) for rows in draws]), rtol=1e-4, atol=0)


def test_rows_that_are_all_the_same_have_a_steep_one():
    found = fitted([[0.2, 0.8]] * 3)
    assert found.isfinite().all()
    torch.testing.assert_close(found / found.sum(), torch.tensor([0.2, 0.8]).double(), rtol=1e-3, atol=0)
    assert found.sum() > 1000
