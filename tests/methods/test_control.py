"""Controls in closed form: what they say of images whose answer is known by thought."""

from typing import get_args

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from anomaly_lab.methods.base.tiling import WholeImage
from anomaly_lab.methods.control import COMPONENTS, KINDS, Control, Kind


def fitted(images, kind="brightness"):
    control = Control(WholeImage(), images.shape[-1], images.shape[1], kind)
    for start in range(0, len(images), 3):
        index = torch.arange(len(images))[start : start + 3]
        control.update(images[index], index)
    control.fit()
    return control.eval()


def flat(*levels, side=64):
    return torch.stack([torch.full((3, side, side), level) for level in levels])


def answer(kind, images, training):
    return fitted(training, kind)(images).anomaly_map


def test_brightness_and_sharpness_are_numbers_of_the_image():
    images = flat(0.25, 0.5)
    images[1, :, :, ::2] = 0.75  # stripes a pixel wide
    bright, sharp = (fitted(flat(0.1), kind)(images) for kind in ("brightness", "sharpness"))
    assert bright.score.tolist() == pytest.approx([0.25, 0.625])
    assert sharp.score.tolist() == pytest.approx([0.0, 0.25])
    assert bright.anomaly_map.shape == (2, 1, 64, 64)
    assert bright.anomaly_map[0].unique().numel() == 1


def test_background_is_the_distance_to_the_median_gray():
    training = flat(0.2, 0.2, 0.2, 1.0)
    assert answer("background", flat(0.2, 0.6), training)[1].mean() == pytest.approx(0.4, abs=1e-6)
    assert fitted(training).background == pytest.approx(0.2)


def test_mean_image_is_the_squared_difference_to_the_mean():
    training = flat(0.2, 0.4)
    training[:, 0] += 0.2  # red
    said = answer("mean_image", flat(0.6), training)
    assert said.unique().tolist() == [pytest.approx((0.1**2 + 2 * 0.3**2) / 3, abs=1e-6)]


def test_gray_ssim_of_gray_is_zero():
    assert answer("gray_ssim", flat(0.5), flat(0.1)).abs().max() < 1e-6
    assert answer("gray_ssim", flat(0.1), flat(0.1)).min() > 0.1


@pytest.mark.parametrize("inverse", [False, True])
def test_foreground_is_where_the_median_gray_is_not(inverse):
    image = flat(0.2)
    image[..., 20:30, 20:30] = 0.9
    image = 1 - image if inverse else image
    said = answer("foreground", image, image)
    assert said.sum() == 100
    assert said[0, 0, 25, 25] == 1


def test_what_lies_in_the_span_of_the_training_images_has_no_residual():
    random = np.random.default_rng(0)
    basis = torch.from_numpy(random.random((3, 1, 64, 64), dtype=np.float32))
    weights = torch.from_numpy(random.dirichlet([1, 1, 1], 12).astype(np.float32))
    training = torch.einsum("nk,kchw->nchw", weights, basis)
    inside = answer("pca", training.mean(dim=0, keepdim=True), training)
    assert inside.max() < 1e-9
    outside = training[:1].clone()
    outside[..., 10:14, 10:14] = 1.0
    said = answer("pca", outside, training)
    assert said.flatten().argmax() in [row * 64 + column for row in range(10, 14) for column in range(10, 14)]


def test_nearest_is_the_distance_to_the_nearest_training_image():
    said = fitted(flat(0.1, 0.3, 0.9), "nearest")(flat(0.2, 0.5))
    side = (3 * 32**2) ** 0.5
    assert said.score.tolist() == pytest.approx([0.1 * side, 0.2 * side], rel=1e-4)
    assert not fitted(flat(0.1), "nearest").localises


def test_kde_is_a_density_of_gaussians_half_as_wide_as_images_lie_apart():
    """Of three grays the nearest others are .2, .2 and .6 away: the median is .2, a Gaussian .1 wide."""
    training = flat(0.1, 0.3, 0.9)
    side = (3 * 32**2) ** 0.5
    control = fitted(training, "kde")
    assert control.width.item() == pytest.approx(0.1 * side, rel=1e-4)
    expected = -np.logaddexp.reduce([-((0.2 - level) ** 2) / (2 * 0.1**2) for level in (0.1, 0.3, 0.9)])
    assert control(flat(0.2)).score.item() == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("training", [flat(0.1), flat(0.1, 0.1)])
def test_copies_and_a_single_image_have_a_width(training):
    control = fitted(training, "kde")
    assert control.width.item() == pytest.approx((3 * 32**2) ** 0.5 / 255, rel=1e-5)
    assert control(flat(0.1, 0.5)).score.isfinite().all()


def test_the_eleven_kinds_are_the_seven_of_every_run_and_four_for_classes():
    assert set(get_args(Kind)) - set(KINDS) == {"nearest", "kde", "mean_distance", "pca_distance"}


@pytest.mark.parametrize(("kind", "of"), [("mean_distance", "mean_image"), ("pca_distance", "pca")])
def test_a_distance_is_the_mean_of_a_map_and_not_its_maximum(kind, of):
    training, asked = torch.rand(20, 3, 64, 64), torch.rand(3, 3, 64, 64)
    asked[1, :, :8, :8] = 9.0  # a maximum
    control = fitted(training, kind)
    expected = fitted(training, of)(asked).anomaly_map.mean(dim=(1, 2, 3))
    torch.testing.assert_close(control(asked).score, expected)
    assert not control.localises


def test_the_distance_after_components_is_the_reconstruction_error_of_scikit_learn():
    training, asked = torch.rand(40, 1, 64, 64), torch.rand(5, 1, 64, 64)
    model = PCA(COMPONENTS, svd_solver="full").fit(training.flatten(1))
    rest = asked.flatten(1).numpy() - model.inverse_transform(model.transform(asked.flatten(1)))
    said = fitted(training, "pca_distance")(asked).score
    assert said.tolist() == pytest.approx((rest**2).mean(axis=1), rel=1e-4)
