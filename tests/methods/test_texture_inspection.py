"""Mixtures over patches: likelihoods in closed form, and textures without variation."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import multivariate_normal

from anomaly_lab.core.errors import UserError
from anomaly_lab.functional.pyramid import pyramid
from anomaly_lab.methods import texture_inspection
from anomaly_lab.methods.base.tiling import WholeImage
from anomaly_lab.methods.texture_inspection import RIDGE, TextureInspection, split

SMALL = {"images": 4, "novelty_images": 3, "levels": 3, "components": 3, "vectors": 2000}


def build(side=64, **settings):
    return TextureInspection(WholeImage(), side, 1, **{**SMALL, **settings})


def grain(count, side=64, seed=0):
    """Smooth noise in 256 gray levels."""
    noise = np.random.default_rng(seed).normal(size=(count, side, side))
    smooth = np.stack([gaussian_filter(image, 1.0, mode="wrap") for image in noise])
    return torch.from_numpy((128 + 120 * smooth).clip(0, 255).round().astype(np.float32))[:, None] / 255


def fitted(images, **settings):
    method = build(images.shape[-1], **settings)
    method.update(images, torch.arange(len(images)))
    method.fit()
    return method.eval()


def patches_of(images):
    """All whole patches of gray images, as rows."""
    windows = np.lib.stride_tricks.sliding_window_view(images[:, 0].double().numpy(), (7, 7), axis=(1, 2))
    return windows.reshape(-1, 49)


def test_a_standard_normal_at_its_mean():
    method = build()  # before it is fitted it is a standard Gaussian around black
    assert method.novelty(torch.zeros(1, 1, 64, 64))[0].unique().tolist() == [pytest.approx(45.0280, abs=1e-4)]


def test_one_component_is_the_gaussian_in_closed_form():
    images = grain(1, side=28)
    method = fitted(images, levels=2, components=1, vectors=10_000)
    for level, part in enumerate(pyramid(images, 2)):
        rows = patches_of(part)
        covariance = np.cov(rows.T, bias=True)
        gaussian = multivariate_normal(rows.mean(axis=0), covariance + RIDGE * covariance.trace() / 49 * np.eye(49))
        inside = method.novelty(images)[level][0, 0, 3:-3, 3:-3]
        np.testing.assert_allclose(inside.flatten(), -gaussian.logpdf(rows), rtol=1e-4)


def test_the_buffers_are_the_mixtures_of_scikit_learn():
    method, images = fitted(grain(7)), grain(2, seed=9)
    of_mixtures, _ = split(7, 4, 3, 0)
    parts = pyramid((grain(7)[of_mixtures] * 255).round().double() / 255, 3)
    for level, part in enumerate(pyramid(images, 3)):
        mixture = method._mixture(parts[level], level)
        inside = method.novelty(images)[level][:, 0, 3:-3, 3:-3]
        np.testing.assert_allclose(inside.flatten(), -mixture.score_samples(patches_of(part)), rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("normalisation", ["none", "weber"])
@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_a_constant_texture_has_an_answer(level, normalisation, capsys):
    images = torch.full((6, 1, 64, 64), round(level * 255) / 255)
    method = fitted(images, normalisation=normalisation)
    assert "fewer than 3 components, for want of different patches: 1 at level 1, " in capsys.readouterr().out
    assert all(buffer.isfinite().all() for _, buffer in method.named_buffers())
    assert method.factors.diagonal(dim1=2, dim2=3).amax() == pytest.approx(1e4)  # the least ridge
    assert method(images[:1]).anomaly_map.abs().max() < 1
    other = images[:1].clone()
    other[..., 20:40, 20:40] = 0.3
    said = method(other).anomaly_map
    assert said.isfinite().all()
    assert said.max() > 1


def test_levels_with_fewer_components_get_no_weight_for_the_rest(capsys):
    images = torch.zeros(4, 1, 64, 64)
    images[..., ::2] = 1  # stripes, of which the second level sees nothing
    method = fitted(images)
    assert "2 at level 1, 1 at level 2, 1 at level 3" in capsys.readouterr().out
    assert method.offsets.shape == (3, 2)
    assert method.offsets[1].tolist()[1] == -torch.inf
    assert method(images).anomaly_map.isfinite().all()


def test_a_mixture_that_still_moves_is_told_in_a_line(monkeypatch, capsys):
    monkeypatch.setattr(texture_inspection, "STEPS", 1)
    fitted(grain(4))
    told = [line for line in capsys.readouterr().out.splitlines() if "still moved" in line]
    assert told == ["TextureInspection: mixtures still moved after 1 steps, at level 1, 2, 3"]


@pytest.mark.parametrize(
    ("count", "mixtures", "novelty"), [(1, 1, 1), (2, 1, 1), (3, 1, 2), (7, 3, 4), (20, 10, 10), (25, 10, 10)]
)
def test_few_images_are_shared(count, mixtures, novelty):
    first, second = (part.tolist() for part in split(count, 10, 10, seed=0))
    assert (len(first), len(second)) in {(mixtures, novelty), (novelty, mixtures)}
    assert set(first) | set(second) <= set(range(count))
    assert count == 1 or not set(first) & set(second)


def test_weber_does_not_see_a_change_of_brightness():
    images = grain(7)
    plain, weber = fitted(images), fitted(images, normalisation="weber")
    probe = grain(1, seed=3)
    change = [(m(probe).anomaly_map - m(probe / 2).anomaly_map).abs().mean() for m in (plain, weber)]
    assert change[1] < 0.1
    assert change[0] > 0.3


def test_sensitivity_brings_the_threshold_nearer():
    images = grain(7)
    plain, keen = (fitted(images, sensitivity=share)(grain(1, seed=3)).anomaly_map for share in (0.0, 0.2))
    torch.testing.assert_close(keen, plain / 0.8, rtol=1e-4, atol=1e-4)


def test_the_threshold_is_the_quantile_of_other_images():
    images = grain(7)
    method = fitted(images, quantile=0.99)
    _, of_novelty = split(7, 4, 3, 0)
    for level, values in enumerate(method.novelty(images[of_novelty])):
        assert (values > method.median[level] + method.spread[level]).float().mean() == pytest.approx(0.01, abs=1e-3)
        assert (values > method.median[level]).float().mean() == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize(
    ("side", "settings", "message"),
    [
        (48, {"levels": 4}, "data.image_size: expected at least 49 px.* found 48; or set method.levels to at most 3"),
        (12, {"levels": 2}, "data.image_size: expected at least 13 px.* found 12; or set method.levels to at most 1"),
        (6, {"levels": 1}, "data.image_size: expected at least 7 px.* found 6; or set method.patch_size smaller"),
        (64, {"patch_size": 6}, "method.patch_size: expected an odd number of px.* found 6"),
        (64, {"projection": 50}, "method.projection: expected at most 49 .* found 50"),
    ],
)
def test_what_does_not_fit_is_refused(side, settings, message):
    with pytest.raises(UserError, match=message):
        build(side, **settings)


def test_a_smaller_tile_is_refused_too():
    with pytest.raises(UserError, match=r"data\.image_size"):
        build(64)(torch.zeros(1, 1, 24, 24))


def test_memory_is_that_of_the_images_that_are_kept():
    method = build()
    assert method.memory(1000) == method.memory(7) > method.memory(2) > 0
    assert method.memory(7) - method.memory(0) == 3 * 7 * 64 * 64
