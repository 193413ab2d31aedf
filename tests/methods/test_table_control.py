"""Controls of tables against NumPy and scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.covariance import EmpiricalCovariance
from sklearn.decomposition import PCA

from anomaly_lab.methods.base.tiling import WholeImage
from anomaly_lab.methods.table_control import TableControl


def as_images(rows):
    return torch.from_numpy(rows).float()[..., None, None]


@pytest.fixture
def rows():
    random = np.random.default_rng(0)
    seen = random.normal(size=(200, 4)) @ random.normal(size=(4, 4)) * [1, 10, 0.1, 1] + [0, 5, 1, -3]
    return seen, random.normal(size=(30, 4)) * 3


def fitted(seen, kind="norm"):
    control = TableControl(WholeImage(), seen.shape[1], kind)
    order = torch.randperm(len(seen), generator=torch.Generator().manual_seed(0))
    for part in order.split(37):
        control.update(as_images(seen)[part], part)
    control.fit()
    return control


def test_norm_mahalanobis_and_rest_of_the_components(rows):
    seen, asked = rows
    control = fitted(seen)
    scaled = (asked - seen.mean(0)) / seen.std(0)
    components = PCA(0.9).fit((seen - seen.mean(0)) / seen.std(0))
    rest = scaled - components.inverse_transform(components.transform(scaled))
    expected = {
        "norm": np.square(scaled).sum(1),
        "mahalanobis": EmpiricalCovariance().fit(seen).mahalanobis(asked),
        "pca": np.square(rest).sum(1),
    }
    for kind, values in expected.items():
        np.testing.assert_allclose(control.answer(kind, as_images(asked)).flatten(), values, rtol=1e-3)
        prediction = fitted(seen, kind).predict(as_images(asked))
        assert torch.equal(prediction.score, control.answer(kind, as_images(asked)).flatten())
        assert prediction.anomaly_map.shape == (30, 1, 1, 1)


def test_a_column_that_repeats_another_counts_nothing_by_mahalanobis(rows):
    seen, asked = rows
    twice, again = (np.concatenate([part, part[:, :1] * 2], axis=1) for part in rows)
    one, other = (fitted(part).answer("mahalanobis", as_images(query)).flatten() for part, query in
                  ((seen, asked), (twice, again)))  # fmt: skip
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


def test_units_change_nothing(rows):
    seen, asked = rows
    for kind in ("norm", "mahalanobis", "pca"):
        one, other = (fitted(seen * unit).answer(kind, as_images(asked * unit)) for unit in (1, [1000, 1e-3, 1, 60]))
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
