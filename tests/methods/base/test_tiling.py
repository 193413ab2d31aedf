"""Cutting and stitching: identities, coverage, errors."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from anomaly_lab.core.errors import UserError
from anomaly_lab.core.types import Prediction
from anomaly_lab.methods.base.tiling import SlidingWindow, WholeImage


def identity(images):
    """Answers with the first channel as map and the image as reconstruction."""
    return Prediction(images[:, :1], None, images)


@st.composite
def windows(draw):
    """A window of any size and stride, and images at least as large."""
    size = draw(st.integers(1, 16))
    side = st.integers(size, size + 16)
    return SlidingWindow(size, draw(st.integers(1, size)), batch_size=draw(st.integers(4, 40))), draw(side), draw(side)


@given(made=windows(), seed=st.integers(0, 9))
def test_any_window_covers_every_pixel_and_stitches_the_identity(made, seed):
    window, height, width = made
    for side in (height, width):
        offsets = window.offsets(side)
        assert offsets == sorted({*range(0, side - window.size, window.stride), side - window.size})
        assert window._coverage(side).min() >= 1
    images = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(seed))
    prediction = window(identity, images)
    torch.testing.assert_close(prediction.anomaly_map, images[:, :1], rtol=1e-6, atol=0)
    torch.testing.assert_close(prediction.reconstruction, images, rtol=1e-6, atol=0)


@given(made=windows(), value=st.floats(-1e6, 1e6, width=32))
def test_stitching_a_constant_returns_exactly_it(made, value):
    window, height, width = made

    def constant(images):
        return Prediction(torch.full_like(images[:, :1], value), None, None)

    assert (window(constant, torch.zeros(1, 3, height, width)).anomaly_map == torch.tensor(value)).all()


def test_published_protocol_has_14_offsets_and_known_coverage():
    window = SlidingWindow(128, 30)
    assert window.offsets(512) == [*range(0, 361, 30), 384]
    coverage = window._coverage(512)
    assert coverage[[0, 29, 30, 255, 511]].tolist() == [1, 1, 2, 4, 1]
    assert coverage.min() == 1
    assert coverage.max() == 5


@pytest.mark.parametrize(("height", "width", "stride"), [(100, 131, 11), (64, 64, 5), (96, 32, 32)])
@pytest.mark.parametrize("reduction", ["max", "mean"])
def test_one_pass_says_the_same_as_window_by_window(height, width, stride, reduction):
    images = torch.rand(3, 2, height, width)

    def predict(tiles):
        coarse = functional.avg_pool2d(tiles - tiles.mean(dim=(2, 3), keepdim=True), 4)
        return Prediction(coarse[:, :1], tiles[:, 1].amax(dim=(1, 2)) * tiles[:, 0, 0, 0], tiles)

    for tiling in (SlidingWindow(32, stride, batch_size=7, score=reduction), WholeImage()):
        expected, found = tiling(predict, images), tiling.in_one_pass(predict, images)
        torch.testing.assert_close(found.anomaly_map, expected.anomaly_map, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(found.score, expected.score, rtol=1e-6, atol=0)

    def without_score(tiles):
        return predict(tiles)._replace(score=None)

    assert SlidingWindow(32, stride).in_one_pass(without_score, images).score is None


@pytest.mark.parametrize(("reduction", "expected"), [("max", [3.0, 7.0]), ("mean", [1.5, 5.5])])
def test_scores_of_windows_become_the_score_of_the_image(reduction, expected):
    scores = torch.arange(8.0)

    def scored(tiles):
        return Prediction(tiles[:, :1], scores[: len(tiles)], None)

    prediction = SlidingWindow(8, 8, score=reduction)(scored, torch.zeros(2, 1, 16, 16))
    assert prediction.score.tolist() == expected


def test_coarse_maps_are_enlarged():
    def coarse(images):
        return Prediction(torch.ones(len(images), 1, 4, 4), None, None)

    for tiling in (WholeImage(), SlidingWindow(32, 16)):
        assert tiling(coarse, torch.zeros(2, 3, 64, 48)).anomaly_map.shape == (2, 1, 64, 48)


def test_training_like_windows_do_not_overlap():
    images = torch.rand(2, 3, 100, 64)
    tiles = SlidingWindow(32, 10).training_like(images)
    assert tiles.shape == (2 * 3 * 2, 3, 32, 32)
    assert torch.equal(tiles[:2], images[:, :, :32, :32])
    assert WholeImage().training_like(images) is images


def test_a_gap_between_windows_is_refused():
    with pytest.raises(UserError, match=r"expected 1 to 16 px .* found 20"):
        SlidingWindow(16, 20)


def test_an_image_smaller_than_the_window_is_refused():
    with pytest.raises(UserError, match=r"at least 128 px .* found an image side of 100"):
        SlidingWindow(128, 30)(identity, torch.zeros(1, 3, 128, 100))
