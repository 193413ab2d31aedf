"""SPADE: nearest images, and nearest places of these."""

import pytest
import torch

from anomaly_lab.core.errors import UserError
from anomaly_lab.methods.base.tiling import WholeImage
from anomaly_lab.methods.spade import Spade
from tests.features import Pixels


def spade(images=50, search="separate", pyramid=("fine", "coarse")):
    return Spade(WholeImage(), Pixels(), 8, list(pyramid), images, search, seed=0)


def photos(count, seed=0):
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def fitted(method, images):
    method.update(images, torch.arange(len(images)))
    method.fit()
    return method


@pytest.mark.parametrize("search", ["separate", "concatenated"])
def test_an_image_that_was_seen_is_at_no_distance(search):
    images = photos(5)
    answer = fitted(spade(1, search), images).predict(images)
    assert answer.anomaly_map.abs().max() == 0
    assert answer.score.abs().max() == 0


@pytest.mark.parametrize("search", ["separate", "concatenated"])
def test_places_are_not_compared_one_by_one(search):
    """A periodic surface that is shifted by a place of every layer; PaDiM would call it abnormal."""
    tile = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0)).repeat(1, 1, 2, 2)
    method = fitted(spade(1, search), tile)
    assert method.predict(tile.roll((4, 4), (2, 3))).anomaly_map.max() == 0
    assert method.predict(1 - tile).anomaly_map.max() > 0.1


def test_the_score_is_the_mean_distance_of_the_nearest_images():
    images = torch.zeros(3, 3, 8, 8)
    for image, value in zip(images, (0.1, 0.3, 0.9), strict=True):
        image += value
    method = fitted(spade(2), images)
    found = method.predict(torch.zeros(1, 3, 8, 8)).score
    torch.testing.assert_close(found, torch.tensor([3**0.5 * 0.2]))  # three channels, distances .1 and .3
    few, all_of_them = (fitted(spade(n), images).predict(images) for n in (3, 50))
    torch.testing.assert_close(few.anomaly_map, all_of_them.anomaly_map)


def test_separate_layers_are_searched_each_on_its_own_grid():
    images, new = photos(4), photos(1, seed=1)
    method = fitted(spade(4), images)
    parts = []
    for known, seen in zip(Pixels()(images), Pixels()(new), strict=True):
        gallery = known.flatten(2).mT.reshape(-1, 3)
        nearest = torch.cdist(seen[0].flatten(1).T, gallery).min(dim=1).values.view(1, 1, *seen.shape[2:])
        parts.append(torch.nn.functional.interpolate(nearest, (8, 8), mode="bilinear"))
    torch.testing.assert_close(method.predict(new).anomaly_map, (parts[0] + parts[1]) / 2, rtol=1e-4, atol=1e-5)


def test_features_that_are_not_finite_and_too_many_images(capsys):
    images = photos(3)
    images[1, 0, 0, 0] = torch.nan
    with pytest.raises(UserError, match="expected finite features"):
        fitted(spade(), images)
    spade().check_memory(3000, 10**9)
    assert capsys.readouterr().out.count("of 3,000 feature vectors a uniform sample of 2,000 is kept (method.max") == 1
    with pytest.raises(UserError, match=r"^method.max_images: .* set method.max_images=\d+ or less"):
        spade().check_memory(3000, 10**5)


def test_the_layers_of_the_pyramid_by_name_or_stride():
    assert spade(pyramid=("stride4", "fine")).layers == [1, 0]
    with pytest.raises(UserError, match=r"^method.pyramid: .*\(stride2, stride4, fine, coarse\), found medium$"):
        spade(pyramid=["medium"])
