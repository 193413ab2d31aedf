"""FastFlow: sizes, the first loss, the three maps by hand."""

import math

import pytest
import torch

from anomaly_lab.core.types import Batch
from anomaly_lab.methods.base.tiling import WholeImage
from anomaly_lab.methods.fastflow import FastFlow
from anomaly_lab.networks.backbone import Backbone
from tests.features import Pixels

LAYERS = ("layer1", "layer2", "layer3")


def fastflow(backbone=None, *, steps=2, affine=False, map="probability", image_size=8, kernels=(3,)):
    torch.manual_seed(0)
    return FastFlow(
        WholeImage(), backbone or Pixels(), torch.optim.Adam, image_size, steps, kernels, 2.0, affine, map
    ).eval()


def plain(method):
    """The method whose flows only reorder channels."""
    for flow in method.flows:
        for step in flow.steps:
            torch.nn.init.zeros_(step.subnet[-1].weight)
            torch.nn.init.zeros_(step.subnet[-1].bias)
    return method


@pytest.mark.parametrize(("affine", "parameters"), [(False, 4_657_408), (True, 5_574_912)])
def test_the_flows_of_resnet_18_are_as_large_as_those_of_others(affine, parameters):
    method = fastflow(Backbone("resnet18", LAYERS), steps=8, affine=affine, image_size=256)
    assert sum(weight.numel() for weight in method.trained()) == parameters
    losses = plain(method).losses(Batch.of(torch.rand(1, 3, 256, 256)))
    expected = {"layer1": 64 * 64**2 / 2, "layer2": 128 * 32**2 / 2, "layer3": 256 * 16**2 / 2}
    assert list(losses) == ["loss", *LAYERS]
    for layer, half in expected.items():  # normalised maps have a mean square of 1
        assert losses[layer].item() == pytest.approx(half, rel=1e-3)
    assert losses["loss"].item() == pytest.approx(sum(expected.values()), rel=1e-3)


def test_maps_are_normalised_image_by_image():
    method, images = plain(fastflow()), torch.rand(3, 3, 8, 8)
    for factor in (1, 5):
        energies = method.energies(factor * images)
        for (energy, _), (channels, side) in zip(energies, ((3, 4), (3, 2)), strict=True):
            mean_square = 2 * energy.sum(dim=(1, 2)) / (channels * side**2)
            torch.testing.assert_close(mean_square, torch.ones(3), rtol=1e-2, atol=0)


def test_the_three_maps_by_hand(monkeypatch):
    energy, change = torch.tensor([[[3.0, 6], [0, 9]]]), torch.tensor([[[1.0, 0], [2, -3]]])
    images = torch.rand(1, 3, 2, 2)
    expected = {
        "probability": -torch.exp(-energy / 3), "energy": energy / 3, "density": (energy - change) / 3,
    }  # fmt: skip
    for kind, one in expected.items():
        method = fastflow(map=kind)
        monkeypatch.setattr(method, "energies", lambda _: [(energy, change), (2 * energy, change)])
        two = {"probability": -torch.exp(-2 * energy / 3), "energy": 2 * energy / 3,
               "density": (2 * energy - change) / 3}[kind]  # fmt: skip
        answer = method.predict(images)
        torch.testing.assert_close(answer.anomaly_map[:, 0], (one + two) / 2)
        assert answer.score == answer.anomaly_map.max()
    losses = method.losses(Batch.of(images))
    assert losses["loss"].item() == pytest.approx(18 + 36)
    assert losses["fine"].item() == pytest.approx(18)


def test_a_layer_of_unit_normal_numbers_has_a_probability_of_three_fifths():
    torch.manual_seed(0)
    method = plain(fastflow(Backbone("resnet18", ("layer2",)), steps=1, image_size=64))
    method.backbone.forward = lambda images: (torch.randn(len(images), 128, 8, 8),)
    answer = method.predict(torch.rand(4, 3, 64, 64))
    assert answer.anomaly_map.mean().item() == pytest.approx(-math.exp(-0.5), abs=0.005)


def test_the_inside_of_a_map_moves_with_the_image():
    """By 16 px; two steps see four places of 4 px to each side."""
    method, images = fastflow(), torch.rand(1, 3, 96, 96)
    here, there = (method.predict(shown).anomaly_map for shown in (images, images.roll((16, 16), (2, 3))))
    torch.testing.assert_close(there[..., 36:76, 36:76], here[..., 20:60, 20:60])
    assert not torch.allclose(there[..., 36:76, 36:76], here[..., 36:76, 36:76], rtol=1e-2, atol=1e-2)


def test_kernels_alternate_from_step_to_step():
    method = fastflow(steps=4, kernels=(3, 1))
    sides = [step.subnet[0].kernel_size[0] for step in method.flows[0].steps]
    assert sides == [3, 1, 3, 1]


def test_images_far_outside_the_training_have_finite_scores():
    for kind in ("probability", "energy", "density"):
        answer = fastflow(Backbone("resnet18", ("layer1",)), steps=8, map=kind, image_size=32).predict(
            torch.stack([torch.zeros(3, 32, 32), torch.ones(3, 32, 32)])
        )
        assert answer.anomaly_map.isfinite().all()
        assert answer.score.isfinite().all()
