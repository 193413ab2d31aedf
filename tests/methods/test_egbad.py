"""EGBAD by closed forms: its losses, its averages, its score; a training written out."""

import math
from contextlib import contextmanager
from copy import deepcopy
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy

from anomaly_lab.methods.egbad import EGBAD
from tests.adversarial import COMMON, SIZE, Patches, fit


def egbad(**changes):
    """An EGBAD of a few thousand weights for 32 px, whose averages are not its networks."""
    torch.manual_seed(0)
    method = EGBAD(**COMMON | SIZE | changes)
    for weight in method.parameters():
        nn.init.normal_(weight, std=0.2)
    return method


def test_losses_where_the_discriminator_knows_nothing():
    method = egbad()
    for weight in method.discriminator.decision.parameters():
        nn.init.zeros_(weight)
    images = 2 * torch.rand(4, 3, 32, 32) - 1
    turns = list(method.turns(images, 0, 0, torch.Generator()))
    assert [turn.name for turn in turns] == ["discriminator", "generator", "encoder"]
    assert [turn.loss.item() for turn in turns] == pytest.approx([2 * math.log(2), math.log(2), math.log(2)])
    assert method.validation_losses(images, 0, torch.Generator())["loss"].item() == pytest.approx(2 * math.log(2))


@contextmanager
def forgetting(network):
    """Batch norm afterwards knows what it knew before."""
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    yield
    network.load_state_dict(before, strict=False)


def descend(gradients, network):
    with torch.no_grad():
        for weight, gradient in zip(network.parameters(), gradients, strict=True):
            weight -= 0.05 * gradient


def test_a_training_written_out(tmp_path):
    """The authors' loop: generator and encoder step at once; each batch norm learns in its own steps."""
    ours, theirs = (egbad(optimizer=partial(torch.optim.SGD, lr=0.05), decay=0.2) for _ in range(2))
    for method in (ours, theirs):
        for layer in method.modules():
            if isinstance(layer, nn.Dropout):
                layer.p = 0.0
    averages = deepcopy(theirs.averages)
    fit(ours, tmp_path, 1, Patches(5))

    networks = theirs.networks()
    discriminator, generator, encoder = networks.values()
    real, fake = torch.ones(4), torch.zeros(4)
    for number, batch in enumerate(Patches(5)):
        photos, random = 2 * batch.image - 1, theirs.random_at("training", 0, number)

        codes = theirs.codes(4, random)
        with torch.no_grad(), forgetting(generator), forgetting(encoder):
            found, generated = encoder(photos), generator(codes)
        loss = binary_cross_entropy(discriminator(photos, found).sigmoid(), real)
        loss += binary_cross_entropy(discriminator(generated, codes).sigmoid(), fake)
        descend(torch.autograd.grad(loss, list(discriminator.parameters())), discriminator)

        codes, found = theirs.codes(4, random), encoder(photos)
        generator(found.detach())
        with forgetting(discriminator):
            of_generator = binary_cross_entropy(discriminator(generator(codes), codes).sigmoid(), real)
            of_encoder = binary_cross_entropy(discriminator(photos, found).sigmoid(), fake)
            for_generator = torch.autograd.grad(of_generator, list(generator.parameters()))
            for_encoder = torch.autograd.grad(of_encoder, list(encoder.parameters()))
        descend(for_generator, generator)
        descend(for_encoder, encoder)

        decay = (2 / 11, 0.2)[number > 0]  # (1 + 1) / (10 + 1), later at most 0.2
        for name, network in networks.items():
            for average, weight in zip(averages[name].parameters(), network.parameters(), strict=True):
                average.copy_(decay * average + (1 - decay) * weight.detach())
            averages[name].load_state_dict(dict(network.named_buffers()), strict=False)

    before, expected = egbad().state_dict(), theirs.state_dict()
    expected |= {f"averages.{name}": value for name, value in averages.state_dict().items()}
    for name, value in ours.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6, msg=name)
            assert not name.endswith(("running_mean", "weight")) or not torch.equal(value, before[name])


def test_the_average_of_constants_is_these_constants(tmp_path):
    torch.manual_seed(0)
    method = EGBAD(**COMMON | SIZE | {"optimizer": partial(torch.optim.SGD, lr=0.0)})
    fit(method, tmp_path, 1, Patches(4))
    for name, network in method.networks().items():
        state = method.averages[name].state_dict()
        assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert not any(weight.requires_grad for weight in method.averages.parameters())


@pytest.mark.parametrize("difference", ["features", "cross_entropy"])
@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_the_score_compares_two_images_of_one_code(difference, weight):
    """Of the averages, as the map and the picture; with weight 0 it is the residual."""
    method, images = egbad(feature_weight=weight, difference=difference).eval(), torch.rand(3, 3, 32, 32)
    encoder, generator, discriminator = (method.averages[name] for name in ("encoder", "generator", "discriminator"))
    with torch.no_grad():
        prediction = method.predict(images)
        photos, codes = 2 * images - 1, encoder(2 * images - 1)
        rebuilt = generator(codes)
        residual = (photos - rebuilt).abs()
        features = discriminator.features(photos, codes) - discriminator.features(rebuilt, codes)
        entropy = -discriminator(rebuilt, codes).sigmoid().log()
        for network in method.networks().values():
            nn.init.zeros_(next(network.parameters()))
        again = method.predict(images)
    other = features.abs().sum(dim=1) if difference == "features" else entropy
    torch.testing.assert_close(prediction.score, (1 - weight) * residual.sum(dim=(1, 2, 3)) + weight * other)
    torch.testing.assert_close(prediction.anomaly_map, residual.mean(dim=1, keepdim=True))
    torch.testing.assert_close(prediction.reconstruction, (rebuilt + 1) / 2)
    assert torch.equal(again.score, prediction.score)
    assert features.abs().max() > 1e-3  # of unlike pairs
    assert (entropy - math.log(2)).abs().min() > 0.1
