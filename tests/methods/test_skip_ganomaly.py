"""Skip-GANomaly by closed forms and by hand; training, resume and processes are tested in test_ganomaly.py."""

from functools import partial

import pytest
import torch
from torch.nn.functional import binary_cross_entropy

from anomaly_lab.methods.base.tiling import WholeImage
from anomaly_lab.methods.skip_ganomaly import Discriminator, SkipGANomaly, UNet
from tests.adversarial import Bars, acquainted, auroc_of_bars, fit

ADAM = partial(torch.optim.Adam, lr=2e-3, betas=(0.5, 0.999))


def small(latent_size=8, width=4, **changes):
    torch.manual_seed(0)
    return SkipGANomaly(32, 3, ADAM, WholeImage(), latent_size=latent_size, width=width, **changes).eval()


@pytest.mark.parametrize(
    ("size", "generator", "discriminator"),
    [
        (32, 16_659_075, 1_069_700), (64, 29_244_035, 3_577_476), (128, 41_828_995, 12_787_332),
        (256, 54_413_955, 47_984_260),
    ],
)  # fmt: skip
def test_sizes_are_those_of_the_authors(size, generator, discriminator):
    with torch.device("meta"):
        networks = UNet(size, 3, 64), Discriminator(size, 3, 100, 64)
    assert [sum(weight.numel() for weight in network.parameters()) for network in networks] == [
        generator, discriminator
    ]  # fmt: skip


@pytest.mark.parametrize("size", [32, 64, 128, 256])
def test_the_u_goes_down_to_one_pixel(size):
    network = UNet(size, 1, 2)
    sides = []
    for down in network.down:
        down.register_forward_hook(lambda _module, _inputs, output: sides.append(output.shape[-1]))
    images = torch.rand(2, 1, size, size)
    assert network(images).shape == images.shape
    assert sides[0] == size // 2
    assert sides[-1] == 1
    assert len(sides) == size.bit_length() - 1


def test_fine_detail_passes_the_bottleneck_by():
    network = small().generator
    torch.nn.init.zeros_(network.down[-1].weight)  # the bottleneck says nothing
    for layer in (network.down[0], network.output):  # wide enough to be seen
        torch.nn.init.normal_(layer.weight, 0, 0.5)
    stripes = torch.ones(1, 3, 32, 32)
    stripes[..., ::2] = -1  # as fine as they can be
    change = network(stripes) - network(-stripes)
    assert (change[..., 1:] - change[..., :-1]).abs().mean() > 0.1


def test_losses_by_hand():
    method = small()
    images = 2 * torch.rand(2, 3, 32, 32) - 1
    x_hat = method.generator(images)
    f, f_hat = method.discriminator.encoder(images), method.discriminator.encoder(x_hat)
    real, fake = (method.discriminator.classifier(values).sigmoid() for values in (f, f_hat))
    assert f.shape == (2, 8, 1, 1)
    assert real.shape == (2, 1, 1, 1)
    latent = ((f - f_hat) ** 2).mean()
    one, zero = torch.ones_like(real), torch.zeros_like(real)
    bce = binary_cross_entropy(real, one) + binary_cross_entropy(fake, zero)
    losses = method.losses(images)
    expected = binary_cross_entropy(fake, one) + 50 * (images - x_hat).abs().mean() + latent
    torch.testing.assert_close(losses.generator, expected)
    torch.testing.assert_close(losses.discriminator, bce + latent)
    torch.testing.assert_close(small(latent_in_discriminator=False).losses(images).discriminator, bce)
    assert list(losses.parts) == [
        "generator/adversarial", "generator/contextual", "generator/latent", "discriminator/real", "discriminator/fake"
    ]  # fmt: skip


def test_closed_forms():
    method = small()
    images = torch.rand(2, 3, 32, 32)
    torch.nn.init.zeros_(method.discriminator.classifier.weight)  # cannot tell
    losses = method.losses(2 * images - 1)
    assert losses.parts["generator/adversarial"].item() == pytest.approx(0.693147, abs=1e-6)
    assert (losses.parts["discriminator/real"] + losses.parts["discriminator/fake"]).item() == pytest.approx(
        1.386294, abs=1e-6
    )
    method.generator = torch.nn.Identity()
    prediction = method.predict(images)
    assert not prediction.score.any()
    assert not prediction.anomaly_map.any()


def test_map_and_score_by_hand():
    method = small()
    images = torch.rand(2, 3, 32, 32)
    x = 2 * images - 1
    x_hat = method.generator(x)
    r = (x - x_hat).square().mean((1, 2, 3))
    latent = (method.discriminator.encoder(x) - method.discriminator.encoder(x_hat)).square().mean((1, 2, 3))
    prediction = method.predict(images)
    torch.testing.assert_close(prediction.score, 0.9 * r + 0.1 * latent)
    torch.testing.assert_close(small(score_weight=0.2).predict(images).score, 0.2 * r + 0.8 * latent)
    torch.testing.assert_close(prediction.anomaly_map, (x - x_hat).abs().mean(1, keepdim=True))


def test_training_helps(tmp_path):
    """The score of the paper on toy data. (GANomaly's needs longer: experiments/adversarial.)"""
    trained, untrained = (small(latent_size=16, width=8) for _ in range(2))
    fit(trained.train(), tmp_path, 1, Bars(200, 16))
    assert auroc_of_bars(trained) > auroc_of_bars(acquainted(untrained, Bars(200, 16))) + 0.1
