"""DRAEM's two networks: sizes as published, what passes and what does not."""

from functools import partial

import pytest
import torch
from torch import nn

from anomaly_lab.networks.sspcab import SSPCAB
from anomaly_lab.networks.unet import discriminative, reconstructive


def flat(channels, maps):
    return torch.zeros(1, channels, *maps.shape[2:])


def count(network):
    return sum(weight.numel() for weight in network.parameters())


def test_the_published_networks_have_the_published_weights():
    with torch.device("meta"):
        assert count(reconstructive(3, 128)) == 69_048_579
        assert count(discriminative(3, 64)) == 28_374_146
        assert (count(reconstructive(3, 32)), count(discriminative(3, 16))) == (4_322_883, 1_778_210)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("block", ["none", "sspcab"])
def test_answers_have_the_size_of_the_images_whatever_it_is(channels, block):
    images = torch.rand(2, channels, 50, 37)
    rebuilt, loss = reconstructive(channels, 4, block)(images)
    logits, other = discriminative(channels, 4, block)(torch.cat([images, rebuilt], dim=1))
    assert rebuilt.shape == images.shape
    assert logits.shape == (2, 2, 50, 37)
    assert (loss > 0) == (other > 0) == (block == "sspcab")


def test_only_the_discriminative_network_passes_details_by_the_coarsest_map():
    """Without the coarsest maps the first network has one answer for all places of an image."""
    torch.manual_seed(0)
    images = torch.rand(1, 3, 64, 64)
    for network, passes in ((reconstructive(3, 4), False), (discriminative(3, 4), True)):
        network.eval()
        network.encoder[-1].forward = partial(flat, network.enlarged[0][0].in_channels)
        first = images if not passes else images.repeat(1, 2, 1, 1)
        one, other = (network(each)[0] for each in (first, first.flip(2)))
        assert torch.equal(one, other) == (not passes)


def test_a_block_takes_the_place_of_the_last_convolution():
    plain, changed = reconstructive(3, 8), reconstructive(3, 8, "sspcab")
    assert isinstance(changed.attention, SSPCAB)
    assert plain.attention is None
    kinds = [[type(m) for m in network.modules()].count(nn.Conv2d) for network in (plain, changed)]
    assert kinds == [kinds[1] - 3, kinds[1]]  # one less, four corners more


def test_weights_are_drawn_as_the_authors_do():
    torch.manual_seed(0)
    network = reconstructive(3, 16)
    convolution, norm = network.encoder[2][0][0], network.encoder[4][1][1]
    assert convolution.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert norm.weight.mean().item() == pytest.approx(1, abs=0.01)
    assert norm.weight.std().item() == pytest.approx(0.02, rel=0.3)
    assert not norm.bias.any()
    for part in (network.enlarged, network.decoder, network.output):
        for module in (each for each in part.modules() if isinstance(each, nn.Conv2d)):
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.15)


def test_maps_are_halved_by_their_maxima_and_doubled_from_corner_to_corner():
    network, seen = reconstructive(1, 2), {}
    for number, layers in enumerate(network.encoder):
        layers.register_forward_hook(lambda _, given, made, number=number: seen.update({number: (given[0], made)}))
    network.enlarged[0].register_forward_hook(lambda _, given, made: seen.update(large=given[0]))
    network(torch.rand(1, 1, 32, 32))
    made = seen[0][1]
    assert torch.equal(seen[1][0], made.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).amax(dim=(3, 5)))
    coarse, large = seen[4][1], seen["large"]
    assert (coarse.shape[2], large.shape[2]) == (2, 4)
    torch.testing.assert_close(large[..., ::3, ::3], coarse)
    torch.testing.assert_close(large[..., 0, 1], (2 * coarse[..., 0, 0] + coarse[..., 0, 1]) / 3)
