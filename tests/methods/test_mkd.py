"""MKD: the cloner by its count, direction and size by hand, the map of a linear score."""

import pytest
import torch

from anomaly_lab.core.errors import UserError
from anomaly_lab.core.types import Batch
from anomaly_lab.functional.blur import gaussian_blur
from anomaly_lab.methods.base.tiling import WholeImage
from anomaly_lab.methods.mkd import MKD, Cloner
from anomaly_lab.networks.backbone import Backbone
from tests.features import Given, Pixels

VGG = {4: 128, 8: 256, 16: 512, 32: 512}  # the poolings of VGG-16 that are cloned


def mkd(backbone=None, *, scoring=1, localisation="none", pooled=False, normalise=True, size_weight=0.5):
    backbone = backbone or Pixels()
    return MKD(
        WholeImage(), backbone, torch.optim.Adam, size_weight, scoring, localisation, pooled, normalise
    ).eval()  # fmt: skip


def cloned(method, maps):
    """The method with a cloner that gives these maps."""
    method.cloner.forward = lambda images: maps
    return method


def test_the_cloner_of_vgg_is_as_large_as_that_of_the_authors_and_has_its_shapes():
    cloner = Cloner(VGG)
    assert sum(weight.numel() for weight in cloner.parameters()) == 343_984
    shapes = [tuple(layer.shape[1:]) for layer in cloner.eval()(torch.rand(1, 3, 128, 128))]
    assert shapes == [(128, 32, 32), (256, 16, 16), (512, 8, 8), (512, 4, 4)]
    assert not any(module.bias is not None for module in cloner.modules() if isinstance(module, torch.nn.Conv2d))


def test_critical_layers_are_never_negative_as_those_of_the_source():
    torch.manual_seed(0)
    for layer in Cloner({2: 8, 4: 8})(torch.randn(4, 3, 16, 16)):
        assert layer.min() == 0 < layer.max()


@pytest.mark.parametrize("pooled", [False, True])
def test_the_cloner_gives_maps_of_the_sources_shapes(pooled):
    backbone = Backbone("resnet18", ("layer1", "layer2"))
    for side in (64, 72, 100):
        assert len(mkd(backbone, pooled=pooled).distances(torch.rand(2, 1, side, side))) == 2


def test_a_cloner_that_repeats_the_source_loses_nothing():
    images = torch.rand(2, 3, 8, 8)
    method = mkd()
    cloned(method, method.backbone(images))
    assert method.losses(Batch.of(images))["loss"] == 0
    assert not method.predict(images).score.any()


def test_direction_and_size_are_added_over_all_layers_and_the_deepest_score():
    maps = [torch.tensor([3.0, 4]).view(1, 2, 1, 1)] * 3
    method = cloned(mkd(Given(maps), scoring=2), [-maps[0], 2 * maps[0], torch.tensor([4.0, -3]).view(1, 2, 1, 1)])
    expected = [2 + 0.5 * 50, 0 + 0.5 * 12.5, 1 + 0.5 * 25]  # opposite; twice as long; at a right angle
    losses = method.losses(Batch.of(torch.rand(1, 3, 8, 8)))
    assert list(losses) == ["loss", "layer1", "layer2", "layer3"]
    assert [losses[f"layer{i}"].item() for i in (1, 2, 3)] == pytest.approx(expected)
    assert losses["loss"].item() == pytest.approx(sum(expected))
    assert method.predict(torch.rand(1, 3, 8, 8)).score.item() == pytest.approx(sum(expected[1:]))


def test_a_direction_is_that_of_the_whole_map():
    source = torch.tensor([[1.0, 0], [0, 3]]).view(1, 2, 1, 2)  # places (1, 0) and (0, 3)
    other = torch.tensor([[0.0, 0], [1, 3]]).view(1, 2, 1, 2)  # places (0, 1) and (0, 3)
    method = cloned(mkd(Given([source]), size_weight=0), [other])
    assert method.losses(Batch.of(torch.rand(1, 3, 8, 8)))["loss"].item() == pytest.approx(1 - 9 / 10)


def test_the_gradient_goes_through_the_source_too():
    """Of a cloner that says zero the size alone counts: 0.5 times the mean of the squares of the source's values."""
    images = torch.rand(2, 3, 4, 4)
    method = cloned(mkd(Pixels(("fine",)), localisation="gradient"), [torch.zeros(2, 3, 2, 2)])
    steepest = method.backbone(images)[0].amax(dim=1, keepdim=True) / 12 / 4  # of 12 values, each the mean of 4 px
    expected = gaussian_blur(torch.nn.functional.interpolate(steepest, scale_factor=2), 4 / 128 * 4)
    torch.testing.assert_close(method.predict(images).anomaly_map, expected)


def test_the_map_is_the_largest_absolute_gradient_of_the_channels_smoothed():
    weight = torch.randn(3, 16, 16)

    class Linear(MKD):
        def score(self, images):
            return (images * weight).sum(dim=(1, 2, 3))

    method = Linear(WholeImage(), Pixels(), torch.optim.Adam, 0.5, 1, "gradient", pooled=False, normalise=True)
    images = torch.rand(2, 3, 16, 16)
    with torch.inference_mode():
        answer = method.predict(images)
    expected = gaussian_blur(weight.abs().amax(dim=0)[None, None], 0.5).expand(2, 1, 16, 16)
    torch.testing.assert_close(answer.anomaly_map, expected)
    torch.testing.assert_close(answer.score, (images * weight).sum(dim=(1, 2, 3)))
    assert method.localises
    assert "gradient" in method.export_obstacle


def test_the_images_of_a_batch_do_not_see_one_another():
    method, images = mkd(localisation="gradient", scoring=2), torch.rand(3, 3, 16, 16)
    together, alone = method.predict(images), method.predict(images[1:2])
    torch.testing.assert_close(together.anomaly_map[1:2], alone.anomaly_map)
    torch.testing.assert_close(together.score[1:2], alone.score)


def test_without_a_map_it_is_one_pass_that_claims_no_pixels():
    answer = mkd().predict(torch.rand(2, 3, 16, 16))
    assert answer.anomaly_map.shape == (2, 1, 1, 1)
    assert answer.anomaly_map.flatten().equal(answer.score)
    assert not mkd().localises
    assert mkd().export_obstacle is None


def test_images_are_shown_as_they_are_or_normalised():
    seen = []
    for normalise in (False, True):
        method = mkd(Backbone("resnet18", ("layer1",)), normalise=normalise)
        method.cloner.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        method.distances(torch.full((1, 1, 32, 32), 0.485))
    assert seen[0].equal(torch.full((1, 3, 32, 32), 0.485))
    assert seen[1][0, 0].abs().max() < 1e-6


@pytest.mark.parametrize("layers", [("layer2", "layer1"), ("layer1", "layer1")])
def test_layers_that_do_not_become_coarser_are_refused(layers):
    with pytest.raises(UserError, match="method.backbone.layers: expected layers with strides that are powers of two"):
        mkd(Backbone("resnet18", layers))


def test_more_scoring_layers_than_there_are_are_refused():
    with pytest.raises(UserError, match="method.scoring: expected at most 2, the number of layers, found 3"):
        mkd(scoring=3)
