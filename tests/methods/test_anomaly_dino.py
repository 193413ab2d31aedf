"""AnomalyDINO: directions of tokens."""

import math

import pytest
import torch

from anomaly_lab.core.errors import UserError
from anomaly_lab.methods.anomaly_dino import AnomalyDino, rotated
from anomaly_lab.methods.base.tiling import WholeImage
from tests.features import Pixels


def dino(image_size=8, rotations=1):
    return AnomalyDino(WholeImage(), Pixels(("fine",)), image_size, rotations, ratio=1.0, max_vectors=100_000, seed=0)


def fitted(method, images):
    method.update(images, torch.arange(len(images)))
    method.fit()
    return method


def filled(colour, side=8):
    return torch.tensor(colour).view(1, 3, 1, 1).expand(1, 3, side, side).clone()


def test_a_distance_is_one_less_the_cosine_and_lengths_do_not_count():
    method = fitted(dino(), filled([1.0, 0.0, 0.0]))
    at_60_degrees = filled([0.5, math.sqrt(3) / 2, 0.0])
    for scale in (1.0, 0.1):
        torch.testing.assert_close(method.predict(scale * at_60_degrees).anomaly_map, torch.full((1, 1, 4, 4), 0.5))


@pytest.mark.parametrize(("side", "top"), [(8, 1), (64, 10)])
def test_the_score_is_the_mean_of_the_largest_hundredth_and_of_one_place_at_least(side, top):
    images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    answer = fitted(dino(side), images[:1]).predict(images[1:])
    assert answer.anomaly_map.numel() == (side // 2) ** 2
    largest = answer.anomaly_map.flatten().sort(descending=True).values[:top]
    torch.testing.assert_close(answer.score, largest.mean()[None])


def test_rotations_of_every_image_are_kept():
    image = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(rotated(image, 90.0), image.rot90(1, (2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(rotated(filled([0.2, 0.4, 0.6]), 45.0), filled([0.2, 0.4, 0.6]))
    method = fitted(dino(rotations=8), image)
    assert len(method.bank.bank) == 8 * 16
    assert method.predict(image.rot90(1, (2, 3))).anomaly_map.max() < 1e-5


def test_features_that_are_not_finite_are_refused_and_copies_are_said(capsys):
    with pytest.raises(UserError, match="expected finite features"):
        fitted(dino(), filled([math.inf, 0.0, 0.0]))
    answer = fitted(dino(), filled([1.0, 0.0, 0.0])).predict(filled([0.0, 1.0, 0.0]))
    assert "all 16 feature vectors of the training images are the same" in capsys.readouterr().out
    torch.testing.assert_close(answer.score, torch.ones(1))
