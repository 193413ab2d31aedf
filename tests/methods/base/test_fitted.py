"""What `FittedMethod` does for a method that declares its statistics and writes `rows`; what all of them promise."""

from functools import partial

import pytest
import pytorch_lightning as pl
import torch

from anomaly_lab.core.types import Batch
from anomaly_lab.functional.blur import gaussian_blur
from anomaly_lab.methods.base.fitted import FittedMethod
from anomaly_lab.methods.base.tiling import WholeImage
from anomaly_lab.methods.cnn_dictionary import CNNDictionary
from anomaly_lab.methods.control import Control
from anomaly_lab.methods.texture_inspection import TextureInspection
from anomaly_lab.methods.variation_model import VariationModel
from anomaly_lab.networks.backbone import Backbone
from tests.methods.base.pixels import Pixels
from tests.methods.base.test_gradient import Lists


@pytest.fixture
def images():
    return torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def fitted(images, tmp_path):
    method = Pixels()
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path, limit_val_batches=0,
    )  # fmt: skip
    index = torch.arange(6)
    batches = Lists([Batch.of(images[i])._replace(index=i) for i in index.split(4)])
    trainer.fit(method, batches, batches)
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


def grain(count, side=64, seed=0):
    """Smooth noise in 256 gray levels."""
    noise = torch.rand(count, 1, side, side, generator=torch.Generator().manual_seed(seed))
    return (gaussian_blur(noise, 1.5) * 255).round() / 255


FITTED = {
    "pixels": lambda _: Pixels(64**2, 1),
    **{kind: partial(lambda kind, _: Control(WholeImage(), 64, 1, kind), kind) for kind in ("background", "pca")},
    "variation_model": lambda _: VariationModel(WholeImage(), 64, images=4, alignment="rigid", region="foreground"),
    "texture_inspection": lambda _: TextureInspection(
        WholeImage(), 64, 1, images=4, novelty_images=2, levels=2, components=2, vectors=500, projection=16
    ),
    "cnn_dictionary": lambda weights: CNNDictionary(
        WholeImage(), Backbone("resnet18.tv_in1k", ["layer2"], str(weights)), 64, "dense", "mean", "medoid", 4, 2, 1,
        0.95, 16, 4, 64, 20, 0, vectors=50, batch_size=50,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FITTED)
def test_neither_order_nor_batches_nor_the_rest_of_a_test_batch_show_and_the_state_is_whole(name, weights):
    training, test = grain(8), grain(3, seed=1)
    methods = [FITTED[name](weights) for _ in range(3)]
    for method, batches in zip(methods, ([[0, 1, 2, 3], [4, 5, 6, 7]], [[6, 2, 4], [0], [7, 5, 1, 3]]), strict=False):
        method.setup("fit")
        for index in map(torch.tensor, batches):
            method.update(training[index], index)
        assert method.memory(1000) >= method.memory(1) > 0
        method.fit()
    one, other, fresh = (method.eval() for method in methods)
    assert all(torch.equal(buffer, other.get_buffer(name)) for name, buffer in one.named_buffers())
    fresh.load_state_dict(one.state_dict())
    together, alone = one(test).anomaly_map, fresh(test[1:2]).anomaly_map
    assert together.isfinite().all()
    torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-5)
