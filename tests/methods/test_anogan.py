"""AnoGAN by closed forms: its networks, its losses, its search; what all adversarial methods share is in base/."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import softplus

from anomaly_lab.core.types import Batch
from anomaly_lab.methods.anogan import Discriminator, Generator
from anomaly_lab.methods.base.adversarial import unsigned
from tests.adversarial import Patches, anogan, fit


@pytest.fixture
def method():
    """One whose batch norm knows its own numbers, so that its images differ by their codes; in 64 bits.

    A search of many steps magnifies rounding, by how much differs between processors.
    """
    torch.set_default_dtype(torch.float64)
    method = anogan(width=4, search_rate=0.05)
    with torch.no_grad():
        for step in range(20):
            method.rehearse(Batch.of(torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(step))))
    yield method.eval()
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def photos(method):
    """Images of the generator itself, in [0, 1]."""
    return unsigned(method.generator(method.codes(4, method.random_at("training")))).double().detach()


@pytest.mark.parametrize(
    ("side", "latent_size", "channels", "weights"),
    [(128, 64, 3, (6_437_891, 4_341_121)), (128, 64, 1, (6_434_689, 4_337_921)), (64, 100, 3, (5_135_363, 4_316_545))],
)
def test_networks_have_the_published_size(side, latent_size, channels, weights):
    with torch.device("meta"):
        generator, discriminator = Generator(side, channels, latent_size), Discriminator(side, channels)
        images = generator(torch.zeros(2, latent_size))
    assert tuple(sum(weight.numel() for weight in net.parameters()) for net in (generator, discriminator)) == weights
    assert images.shape == (2, channels, side, side)
    assert discriminator.features(images).shape == (2, 512, side // 16, side // 16)


def test_layers_have_the_published_settings():
    generator, discriminator = Generator(32, 3, 64), Discriminator(32, 3)
    norms = [layer.num_features for layer in generator.network if isinstance(layer, nn.BatchNorm2d)]
    slopes = [layer.negative_slope for layer in discriminator.features if isinstance(layer, nn.LeakyReLU)]
    assert (norms, slopes) == ([512, 256, 128, 64], [0.2] * 4)
    layers = [*generator.network, *discriminator.features]
    convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]
    assert [(*layer.kernel_size, *layer.stride) for layer in convolutions] == [(5, 5, 2, 2)] * 8
    for weight in (generator.network[0].weight, generator.network[4].weight):
        assert weight.std().item() == pytest.approx(0.02, rel=0.05)
    cut = discriminator.features[2].weight
    assert cut.abs().max() <= 0.04
    assert cut.std().item() == pytest.approx(0.0176, rel=0.05)  # of a normal distribution cut at two deviations
    assert not discriminator.decision.bias.any()


def test_codes_are_uniform_and_a_discriminator_that_cannot_tell_loses_twice_log_2():
    method = anogan(generator_steps=1)
    nn.init.zeros_(method.discriminator.decision.weight)
    turns = list(method.turns(torch.rand(4, 3, 32, 32), 0, 0, torch.Generator().manual_seed(0)))
    assert [turn.name for turn in turns] == ["discriminator", "generator"]
    assert [turn.loss.item() for turn in turns] == pytest.approx([2 * 0.693147, 0.693147], abs=1e-5)
    parts = {name: part.item() for name, part in turns[0].parts.items()}
    assert parts == pytest.approx({"real": 0.693147, "fake": 0.693147}, abs=1e-5)
    codes = method.codes(5000, torch.Generator().manual_seed(0))
    assert (codes.mean().item(), codes.var().item()) == pytest.approx((0, 1 / 3), abs=0.01)
    assert -1 <= codes.min() <= codes.max() <= 1


def test_a_photo_that_the_search_starts_from_has_score_and_map_zero(method):
    method.search_steps = 0
    photo = unsigned(method.generator(method.codes(1, method.random_at("search"), alone=True))).double().detach()
    prediction = method.predict(photo)
    assert prediction.score.item() < 1e-3
    assert prediction.anomaly_map.max() < 1e-12


def test_without_a_weight_the_discriminator_is_not_asked(method, photos):
    method.feature_weight = 0.0
    del method.discriminator.features  # fails, were it asked
    prediction = method.predict(photos)
    difference = 2 * (photos - prediction.reconstruction).abs()
    torch.testing.assert_close(prediction.score, difference.flatten(1).sum(dim=1), rtol=1e-4, atol=0)


def test_a_search_comes_closer_and_is_that_of_each_photo_alone(method, photos):
    losses = []
    for method.search_steps in (0, 60):
        codes, loss = method.search(method.signed(photos))
        losses.append(loss)
    assert losses[1].sum() <= losses[0].sum() / 2
    assert (losses[1] < losses[0]).all()
    for photo, code, loss in zip(photos, codes, losses[1], strict=True):
        alone, alone_loss = method.search(method.signed(photo[None]))
        torch.testing.assert_close(alone[0], code, rtol=0, atol=1e-6)
        torch.testing.assert_close(alone_loss[0], loss, rtol=1e-6, atol=0)


def test_restarts_keep_the_best_search_of_every_photo(method, photos):
    method.restarts = 4
    _, best = method.search(method.signed(photos))
    starts, losses = method.codes(4, method.random_at("search"), alone=True), []
    method.restarts = 1
    for start in starts:
        method.codes = lambda *_, start=start, **__: start[None]
        losses.append(method.search(method.signed(photos))[1])
    torch.testing.assert_close(best, torch.stack(losses).amin(dim=0), rtol=1e-6, atol=0)
    assert len(set(torch.stack(losses).argmin(dim=0).tolist())) > 1
    method.restarts = 2
    method.codes = lambda *_, **__: torch.stack([torch.full((8,), torch.nan), torch.zeros(8)])
    assert all(found.isfinite().all() for found in method.search(method.signed(photos)))


def test_training_and_search_written_out(tmp_path):
    """The public implementation's order: a step of the discriminator, then two of the generator with the same codes."""
    settings = {"optimizer": partial(torch.optim.SGD, lr=0.05), "feature_weight": 0.3, "search_rate": 0.03, "seed": 5}
    ours, theirs = anogan(**settings), anogan(**settings)
    fit(ours, tmp_path, 1, Patches(3))
    generator, discriminator = theirs.generator, theirs.discriminator
    for number, batch in enumerate(Patches(3)):
        photos, codes = 2 * batch.image - 1, theirs.codes(4, theirs.random_at("training", 0, number))
        for network in (discriminator, generator, generator):
            generated = discriminator(generator(codes))
            loss = softplus(-generated).mean()
            if network is discriminator:
                loss = softplus(generated).mean() + softplus(-discriminator(photos)).mean()
            weights = list(network.parameters())
            with torch.no_grad():
                for weight, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
                    weight -= 0.05 * gradient
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)

    generator, discriminator, photo = generator.double().eval(), discriminator.double().eval(), photos[:1].double()
    start, theirs.search_steps = theirs.codes(1, theirs.random_at("search"), alone=True).double(), 5
    code, mean, square = start.clone(), 0.0, 0.0

    def loss(code):
        generated = generator(code)
        difference = discriminator.features(photo) - discriminator.features(generated)
        return 0.7 * (photo - generated).abs().sum() + 0.3 * difference.abs().sum()

    for step in range(1, 6):  # Adam
        code.requires_grad_()
        (gradient,) = torch.autograd.grad(loss(code), [code])
        mean, square = 0.5 * mean + 0.5 * gradient, 0.999 * square + 0.001 * gradient**2
        code = code.detach() - 0.03 * mean / (1 - 0.5**step) / ((square / (1 - 0.999**step)).sqrt() + 1e-8)
    theirs.codes = lambda *_, **__: start.clone()
    found, losses = theirs.search(photo)
    torch.testing.assert_close(found, code, rtol=1e-6, atol=1e-8)
    assert losses.item() == pytest.approx(loss(code).item())
