"""What `FittedMethod` does for a method that declares its statistics and writes `rows`."""

import pytest
import torch

from anomaly_lab.core.types import Batch
from anomaly_lab.methods.base.fitted import FittedMethod
from anomaly_lab.methods.base.tiling import WholeImage
from tests.adversarial import fit
from tests.methods.base.pixels import Pixels
from tests.methods.base.test_gradient import Lists


@pytest.fixture
def images():
    return torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def fitted(images, tmp_path):
    method = Pixels()
    index = torch.arange(6)
    batches = Lists([Batch.of(images[i])._replace(index=i) for i in index.split(4)])
    fit(method, tmp_path, 1, batches, batches, limit_val_batches=0)
    return method


def test_it_sees_every_image_once_and_fits_after_the_last(fitted, images):
    assert set(fitted.statistics) == {"gaussian", "bank"}
    torch.testing.assert_close(fitted.gaussian.mean, images.mean(dim=0).flatten(1).T, rtol=0, atol=2e-4)
    assert len(fitted.bank.bank) == 96
    assert not fitted.predict(images).anomaly_map.any()
    assert fitted.memory(6) == fitted.gaussian.memory(6) + fitted.bank.memory(6)


def test_the_state_has_the_size_of_the_data(fitted, images):
    again = Pixels()
    again.load_state_dict(fitted.state_dict())
    assert torch.equal(again.predict(images + 0.5).anomaly_map, fitted.predict(images + 0.5).anomaly_map)


def test_a_method_must_say_what_it_looks_at():
    class Nothing(FittedMethod):
        """Writes neither."""

        predict = None

    with pytest.raises(NotImplementedError, match="Nothing writes neither rows nor update"):
        Nothing(WholeImage()).update(torch.zeros(1, 3, 4, 4), torch.zeros(1).long())
