"""Samples: what is drawn, the indicator of mode collapse, who is left alone."""

import cv2
import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from anomaly_lab.methods.base.method import evaluating
from anomaly_lab.training.samples import Samples, diversity, grid, mean_distance
from tests.adversarial import Patches, anogan, fit


def test_distance_is_the_mean_over_pairs_and_pixels():
    images = torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1, 1).expand(3, 3, 4, 4)
    assert mean_distance(images) == pytest.approx((0.5 + 1.0 + 0.5) / 3)


def test_diversity_is_one_for_the_patches_and_zero_after_a_collapse():
    patches = torch.rand(8, 1, 4, 4)
    assert diversity(patches.flip(0), patches) == pytest.approx(1, rel=1e-5)
    assert diversity(patches[:1].expand(8, -1, -1, -1), patches) == 0
    assert diversity(patches, patches[:1].expand(8, -1, -1, -1)) > 1000


def test_a_grid_has_rows_of_equal_length_and_gray_is_gray():
    picture = grid(torch.arange(5).view(5, 1, 1, 1).expand(5, 1, 2, 2) / 4)
    assert picture.shape == (4, 6, 3)
    assert (picture[:2, :2] == 0).all()
    assert (picture[2:, 2:4] == 255).all()
    assert (picture[2:, 4:] == 0).all()
    assert (grid(torch.full((1, 3, 2, 2), 7.0)) == 255).all()


def test_drawing_leaves_the_modes_of_all_parts():
    method = anogan()
    method.discriminator.eval()
    before = {name: value.clone() for name, value in method.state_dict().items()}
    with evaluating(method), torch.no_grad():
        samples = method.samples(torch.zeros(4, 3, 32, 32))
    assert samples.shape == (4, 3, 32, 32)
    assert method.generator.training
    assert not method.discriminator.training
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())


class Metrics(pl.Callback):
    """Keeps the metrics at the end."""

    def on_train_end(self, trainer, *_):
        self.values = dict(trainer.callback_metrics)


def test_every_few_epochs_and_at_the_end_a_picture_is_written_and_logged(tmp_path):
    metrics = Metrics()
    fit(anogan(), tmp_path, 5, Patches(1, batch_size=6), callbacks=(Samples(every_epochs=2, count=5), metrics))
    files = sorted(path.name for path in (tmp_path / "samples").iterdir())
    assert files == ["epoch_0002.png", "epoch_0004.png", "epoch_0005.png"]
    assert cv2.imread(str(tmp_path / "samples" / files[0])).shape == (2 * 32, 3 * 32, 3)
    assert 0 < metrics.values["samples/diversity"] < 100


def test_loggers_show_the_picture(tmp_path):
    logger = pl.loggers.TensorBoardLogger(tmp_path)
    shown = []
    logger.experiment.add_image = lambda name, picture, epoch, dataformats: shown.append((name, picture, epoch))
    method = anogan()
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=logger, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[Samples()], default_root_dir=tmp_path, num_sanity_val_steps=0,
        log_every_n_steps=1,
    )  # fmt: skip
    trainer.fit(method, Patches(1), Patches(1))
    ((name, picture, epoch),) = shown
    assert (name, epoch) == ("samples/drawn", 1)
    assert picture.dtype == np.uint8


def test_a_method_that_draws_nothing_is_left_alone(tmp_path):
    method = anogan()
    method.samples = lambda patches: None
    fit(method, tmp_path, 1, Patches(1), callbacks=(Samples(),))
    assert not (tmp_path / "samples").exists()
