"""PatchCore: neighbourhoods, memory and score in closed form."""

import math

import pytest
import torch

from anomaly_lab.core.errors import UserError
from anomaly_lab.methods.base.tiling import WholeImage
from anomaly_lab.methods.patchcore import PatchCore, reweighted
from tests.features import Pixels


def patchcore(ratio=1.0, neighbours=1, neighbourhood=3, image_size=8, max_vectors=10_000):
    return PatchCore(WholeImage(), Pixels(), image_size, ratio, neighbours, neighbourhood, max_vectors, seed=0)


def photos(count, seed=0):
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def fitted(method, images):
    method.update(images, torch.arange(len(images)))
    method.fit()
    return method


def test_a_patch_is_the_mean_of_its_neighbourhood_with_zeros_outside():
    image = torch.zeros(1, 3, 8, 8)
    image[..., 2:4, 2:4] = 9  # place (1, 1) of the fine layer
    fine = patchcore().patches(image)[0, 0]
    expected = torch.zeros(4, 4)
    expected[:3, :3] = 1
    torch.testing.assert_close(fine, expected)
    image = torch.zeros(1, 3, 8, 8)
    image[..., :2, :2] = 9  # in the corner
    assert patchcore().patches(image)[0, 0].nonzero().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert patchcore().patches(image)[0, 0, 0, 0] == 1


def test_the_map_is_the_distance_from_the_nearest_patch_of_any_place():
    images, new = photos(5), photos(2, seed=1)
    method = fitted(patchcore(), images)
    known = method.patches(images).flatten(2).mT.reshape(-1, 6)
    answer = method.predict(new)
    for image, found, score in zip(new, answer.anomaly_map, answer.score, strict=True):
        queries = method.patches(image[None])[0].flatten(1).T
        expected = (queries[:, None] - known[None]).norm(dim=2).min(dim=1).values
        torch.testing.assert_close(found.flatten(), expected)
        assert score == found.max()


def test_training_images_lie_in_a_memory_of_all_patches():
    images = photos(6)
    answer = fitted(patchcore(neighbours=9), images).predict(images)
    assert answer.anomaly_map.abs().max() == 0
    assert answer.score.abs().max() == 0


def test_the_memory_is_a_share_of_the_patches_that_covers_them():
    images = photos(10)
    whole, part = (fitted(patchcore(ratio), images).bank.bank for ratio in (1.0, 0.1))
    assert len(whole) == 160
    assert len(part) == 16
    apart = torch.cdist(whole, part).min(dim=1).values.max()
    at_random = torch.cdist(whole, whole[torch.randperm(160, generator=torch.Generator().manual_seed(0))[:16]])
    assert apart < at_random.min(dim=1).values.max()
    assert len(fitted(patchcore(1e-9), images).bank.bank) == 1


def test_copies_are_kept_once():
    method = fitted(patchcore(0.5, neighbourhood=1), torch.full((4, 3, 8, 8), 0.5))
    assert len(method.bank.bank) == 1
    assert method.predict(torch.full((1, 3, 8, 8), 0.5)).anomaly_map.max() == 0


def test_of_more_patches_than_fit_a_sample_is_thinned_out():
    method = fitted(patchcore(0.5, max_vectors=40), photos(10))
    assert len(method.bank.bank) == 20
    assert method.memory(10) < patchcore(0.5).memory(1000)


def test_the_weight():
    around = torch.tensor([[1.0] + [2.0] * 8, [3.0] * 9])
    expected = torch.tensor([1 - 1 / (1 + 8 * math.e), 8 / 9])
    torch.testing.assert_close(reweighted(torch.tensor([1.0, 3.0]), around), expected)
    torch.testing.assert_close(reweighted(torch.tensor([1e4]), torch.full((1, 9), 1e4)), torch.tensor([8 / 9]))


def test_the_score_weighs_the_largest_distance_by_the_surroundings_of_its_nearest_patch():
    images, new = photos(5), photos(3, seed=1)
    plain, weighted = (fitted(patchcore(neighbours=n), images) for n in (1, 4))
    torch.testing.assert_close(plain.predict(new).anomaly_map, weighted.predict(new).anomaly_map)
    bank = weighted.bank.bank
    for image, largest, score in zip(new, plain.predict(new).score, weighted.predict(new).score, strict=True):
        queries = weighted.patches(image[None])[0].flatten(1).T
        apart = torch.cdist(queries, bank)
        place = apart.min(dim=1).values.argmax()
        around = (bank - bank[apart[place].argmin()]).norm(dim=1).argsort()[:4]  # the nearest patch among them
        expected = largest * (1 - largest.exp() / apart[place, around].exp().sum())
        torch.testing.assert_close(score, expected, rtol=1e-4, atol=1e-5)


def test_features_that_are_not_finite_are_refused():
    images = photos(3)
    images[1, 0, 0, 0] = torch.nan
    with pytest.raises(UserError, match="expected finite features"):
        fitted(patchcore(0.5), images)
