"""CS-Flow: sizes, the start by hand, both maps, images that do not fit."""

import pytest
import torch

from anomaly_lab.core.errors import UserError
from anomaly_lab.core.types import Batch
from anomaly_lab.methods.base.tiling import WholeImage, enlarge
from anomaly_lab.methods.cs_flow import CSFlow, half_mean_square
from anomaly_lab.networks.backbone import Backbone
from anomaly_lab.networks.glow import Block, Glow, cross_scale
from tests.features import Pixels


def cs_flow(backbone=None, *, image_size=16, scales=3, map="finest"):
    torch.manual_seed(0)
    return CSFlow(
        WholeImage(), backbone or Pixels(("fine",)), torch.optim.Adam, image_size, scales, [3, 5], 4, 3.0, map
    ).eval()


def test_the_flow_is_as_large_as_the_published_one():
    def weights(hidden):  # of four blocks, by hand
        each = [3 * (side**2 * 152 + 1) * hidden + 7 * (side**2 * hidden + 1) * 304 + 3 for side in (3, 3, 3, 5)]
        return 2 * sum(each)

    assert weights(1024) == 275_227_288
    flow = Glow(*(Block(304, cross_scale(3, 2, side), 3.0, 3) for side in (3, 3, 3, 5)))
    assert sum(weight.numel() for weight in flow.parameters()) == weights(2)


def test_smaller_images_are_means_and_all_sizes_have_maps():
    method, images = cs_flow(), torch.rand(2, 1, 16, 16)
    maps = method.maps(images)
    assert [tuple(part.shape) for part in maps] == [(2, 3, side, side) for side in (8, 4, 2)]
    for part, size in zip(maps, (2, 4, 8), strict=True):
        torch.testing.assert_close(part[:, :1], torch.nn.functional.avg_pool2d(images, size))


def test_at_the_start_the_latent_values_are_the_features():
    method, images = cs_flow(), torch.rand(2, 3, 16, 16)
    maps = method.maps(images)
    squares = torch.cat([part.flatten(1) for part in maps], dim=1).square()
    assert squares.shape == (2, 3 * (64 + 16 + 4))
    torch.testing.assert_close(method.losses(Batch.of(images))["loss"], squares.mean() / 2)
    answer, product = method.predict(images), cs_flow(map="product").predict(images)
    each = [enlarge(part.square().mean(dim=1, keepdim=True), images) for part in maps]
    torch.testing.assert_close(answer.anomaly_map, each[0])
    torch.testing.assert_close(product.anomaly_map, each[0] * each[1] * each[2])
    for found in (answer, product):
        torch.testing.assert_close(found.score, squares.mean(dim=1) / 2)


def test_the_loss_is_the_likelihood_of_the_maps_divided_by_their_numbers():
    method, images = cs_flow(), torch.rand(2, 3, 16, 16)
    for weight in method.parameters():
        weight.data += 0.1 * torch.randn_like(weight)
    latent, log_determinant = method.flow(method.maps(images))
    likelihood = log_determinant - sum(part.square().sum(dim=(1, 2, 3)) for part in latent) / 2
    assert log_determinant.abs().min() > 0.1
    torch.testing.assert_close(method.losses(Batch.of(images))["loss"], -likelihood.mean() / 252)


def test_the_numbers_that_channels_have_do_not_matter():
    method, images = cs_flow(), torch.rand(2, 3, 16, 16)
    for weight in method.parameters():
        weight.data += 0.1 * torch.randn_like(weight)
    maps, turned = method.maps(images), torch.tensor([2, 0, 1])
    score = half_mean_square(method.flow(maps)[0])
    renamed = [part[:, turned] for part in maps]
    assert not torch.allclose(half_mean_square(method.flow(renamed)[0]), score)
    for order in method.flow.blocks[0].orders:  # the first block puts them back
        order.copy_(turned.argsort()[order])
    torch.testing.assert_close(half_mean_square(method.flow(renamed)[0]), score)


@pytest.mark.parametrize("map", ["finest", "product"])
def test_images_far_outside_the_training_have_finite_scores(map):
    method = cs_flow(map=map)
    for weight in method.parameters():
        weight.data += 0.1 * torch.randn_like(weight)
    answer = method.predict(torch.stack([torch.zeros(3, 16, 16), 1000 * torch.rand(3, 16, 16)]))
    assert answer.anomaly_map.isfinite().all()
    assert answer.score.isfinite().all()


def test_a_factor_of_zero_learns_at_once():
    method = cs_flow()
    method.losses(Batch.of(torch.rand(2, 3, 16, 16)))["loss"].backward()
    for block in method.flow.blocks:
        assert block.of_first.gamma.grad.abs().min() > 0


def test_maps_that_do_not_halve_are_refused():
    with pytest.raises(UserError, match="data.image_size: expected a multiple of 8 px, .*, found 6 px"):
        cs_flow(image_size=6)
    with pytest.raises(UserError, match="a multiple of 8 px, .*, found 18 px with maps of 9, 4, 2 places"):
        cs_flow(image_size=18)
    cs_flow(Backbone("resnet18", ("layer1",)), image_size=18)  # rounds up: 5, 3, 2
    with pytest.raises(UserError, match="a multiple of 16 px, .*, found 15 px"):
        cs_flow(Backbone("resnet18", ("layer1",)), image_size=15)
    with pytest.raises(UserError, match="method.backbone.layers: expected one layer, found fine, coarse"):
        cs_flow(Pixels())
