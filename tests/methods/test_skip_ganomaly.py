"""Skip-GANomaly by closed forms; what it shares with GANomaly is in test_ganomaly.py, with all four in base/."""

import pytest
import torch
from torch.nn.functional import binary_cross_entropy

from anomaly_lab.methods.skip_ganomaly import Discriminator
from anomaly_lab.networks.pix2pix import UNet
from tests.adversarial import skip_ganomaly


@pytest.mark.parametrize(
    ("size", "generator", "discriminator"),
    [
        (32, 16_659_075, 1_069_700), (64, 29_244_035, 3_577_476), (128, 41_828_995, 12_787_332),
        (256, 54_413_955, 47_984_260),
    ],
)  # fmt: skip
def test_networks_have_the_size_of_the_authors(size, generator, discriminator):
    with torch.device("meta"):
        networks = UNet(size, 3, 64), Discriminator(size, 3, 100, 64)
    assert [sum(weight.numel() for weight in network.parameters()) for network in networks] == [
        generator, discriminator
    ]  # fmt: skip


def test_losses_by_hand():
    weights = {"adversarial_weight": 2.0, "contextual_weight": 7.0, "latent_weight": 3.0}
    method = skip_ganomaly(**weights).eval()
    images = 2 * torch.rand(2, 3, 32, 32) - 1
    x_hat = method.generator(images)
    f, f_hat = method.discriminator.encoder(images), method.discriminator.encoder(x_hat)
    real, fake = (method.discriminator.classifier(values).sigmoid() for values in (f, f_hat))
    assert (f.shape, real.shape) == ((2, 8, 1, 1), (2, 1, 1, 1))
    one, zero = torch.ones_like(real), torch.zeros_like(real)
    taken_for_real, on_real = binary_cross_entropy(fake, one), binary_cross_entropy(real, one)
    on_fake, contextual, latent = (
        binary_cross_entropy(fake, zero),
        (images - x_hat).abs().mean(),
        ((f - f_hat) ** 2).mean(),
    )
    generator, discriminator = method.turns(images, 0, 0, torch.Generator())
    parts = {"adversarial": taken_for_real, "contextual": contextual, "latent": latent}
    torch.testing.assert_close(dict(generator.parts), parts)
    torch.testing.assert_close(generator.loss, 2 * taken_for_real + 7 * contextual + 3 * latent)
    torch.testing.assert_close(dict(discriminator.parts), {"real": on_real, "fake": on_fake})
    torch.testing.assert_close(discriminator.loss, on_real + on_fake + 3 * latent)
    assert not skip_ganomaly().generator.output.bias.any()
    _, alone = skip_ganomaly(latent_in_discriminator=False).eval().turns(images, 0, 0, torch.Generator())
    torch.testing.assert_close(alone.loss, on_real + on_fake)


def test_map_and_score_by_hand():
    method, images = skip_ganomaly().eval(), torch.rand(2, 3, 32, 32)
    x = 2 * images - 1
    x_hat = method.generator(x)
    r = (x - x_hat).square().mean((1, 2, 3))
    latent = (method.discriminator.encoder(x) - method.discriminator.encoder(x_hat)).square().mean((1, 2, 3))
    prediction = method.predict(images)
    torch.testing.assert_close(prediction.score, 0.9 * r + 0.1 * latent)
    torch.testing.assert_close(skip_ganomaly(score_weight=0.2).eval().predict(images).score, 0.2 * r + 0.8 * latent)
    torch.testing.assert_close(prediction.anomaly_map, (x - x_hat).abs().mean(1, keepdim=True))
