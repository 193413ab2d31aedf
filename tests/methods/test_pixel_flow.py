"""A flow on pixels: densities against integrals, determinants against autograd's, noise, the way back."""

import math

import pytest
import torch
from torch.autograd.functional import jacobian

from anomaly_lab.core.errors import UserError
from anomaly_lab.core.types import Batch
from anomaly_lab.methods.base.tiling import WholeImage
from anomaly_lab.methods.pixel_flow import ALPHA, PixelFlow

EDGE = math.log((1 - ALPHA) / ALPHA)  # the logit of white; that of black is its negative
INSIDE = math.erf(EDGE / math.sqrt(2))  # of a unit Gaussian


def pixel_flow(size=4, channels=1, *, scales=2, steps=2, moved=0.0, seed=0):
    """A flow in float64 whose weights are moved from those of the start."""
    torch.manual_seed(0)
    method = PixelFlow(WholeImage(), torch.optim.Adam, size, channels, scales, steps, 2.0, 2.0, seed=seed).double()
    for weight in method.parameters():
        weight.data += moved * torch.randn_like(weight)
    return method.eval()


def plain(method):
    """The method whose steps only reorder channels."""
    for flow in method.flows:
        for step in flow.steps:
            torch.nn.init.zeros_(step.subnet[-1].weight)
            torch.nn.init.zeros_(step.subnet[-1].bias)
    return method


def grays(count, size=4, channels=1):
    return torch.randint(256, (count, channels, size, size)).double() / 255


def test_the_log_determinant_of_both_scales_is_that_of_the_jacobian():
    method, images = pixel_flow(channels=3, moved=0.3), grays(1, channels=3)

    def latent(flat):
        inner = ALPHA + (1 - 2 * ALPHA) * (255 * flat.view_as(images) + 0.25) / 256
        return torch.cat([part.flatten() for part, _ in method.latents(inner.logit())])

    change = torch.linalg.slogdet(jacobian(latent, images.flatten()))[1].item() - 48 * math.log(255)  # per gray level
    expected = (24 * math.log(2 * math.pi) + latent(images.flatten()).square().sum().item() / 2 - change) / math.log(2)
    assert 48 * method.bits(images, 0.25).mean().item() == pytest.approx(expected, rel=1e-9)


def test_the_bits_of_a_pixel_by_hand():
    """Without steps each pixel is a Gaussian number behind its logit; the map says what each of them costs."""
    images = grays(2)
    inner = ALPHA + (1 - 2 * ALPHA) * (255 * images + 0.5) / 256
    nats = inner.logit().square() / 2 + math.log(2 * math.pi) / 2 + inner.log() + (1 - inner).log()
    each = 8 + (nats - math.log(1 - 2 * ALPHA)) / math.log(2)
    answer = plain(pixel_flow()).predict(images)
    torch.testing.assert_close(answer.score, each.mean(dim=(1, 2, 3)), rtol=1e-5, atol=0)
    corner = slice(0, 2)  # of the first scale: what 2 x 2 px cost less what their latent values do, and so on
    spread = (inner.log() + (1 - inner).log())[0, 0, corner, corner]
    found = answer.anomaly_map[0, 0, corner, corner]
    torch.testing.assert_close(found - found.mean(), (spread - spread.mean()) / math.log(2), rtol=1e-5, atol=1e-6)


def test_behind_a_logistic_prior_a_uniform_image_costs_eight_bits():
    """The logit undoes it, so that the density is flat; a tenth of it lies beyond black and white."""
    images, method = grays(3), plain(pixel_flow())
    values = (ALPHA + (1 - 2 * ALPHA) * (255 * images + 0.5) / 256).logit()
    gaussian = (values.square() + math.log(2 * math.pi)).mean(dim=(1, 2, 3)) / 2
    logistic = (values + 2 * torch.nn.functional.softplus(-values)).mean(dim=(1, 2, 3))
    bits = method.predict(images).score + (logistic - gaussian) / math.log(2)
    torch.testing.assert_close(bits, torch.full((3,), 8 - math.log2(1 - 2 * ALPHA)).double(), rtol=1e-5, atol=0)


def test_the_probabilities_of_the_values_of_a_pixel_add_up_to_what_lies_between_black_and_white():
    """In an image of four equal pixels without steps each costs the bits per dimension."""
    images = (torch.arange(256).double() / 255).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    bits = plain(pixel_flow(size=2, scales=1)).predict(images).score
    assert (2**-bits).sum().item() == pytest.approx(INSIDE, abs=1e-5)


def test_the_probability_of_all_images_is_the_share_of_samples_between_black_and_white():
    """Four pixels, an integral over all gray levels, steps that depend on the pixels."""
    method = pixel_flow(size=2, scales=1, moved=0.2)
    points = (torch.arange(14, dtype=torch.float64) + 0.5) / 14  # the middles of as many bins
    every = (256 * torch.cartesian_prod(*[points] * 4) - 0.5) / 255
    with torch.no_grad():
        total = (2 ** (4 * (8 - method.predict(every.view(-1, 1, 2, 2)).score))).mean().item()
        drawn = method.inverse([torch.randn(50_000, 4, 1, 1).double()])
    inside = (drawn.abs() < EDGE).all(dim=(1, 2, 3)).double().mean().item()
    assert 0.2 < inside < 0.999
    assert total == pytest.approx(inside, abs=0.01)


def test_the_score_is_the_mean_of_the_map_and_the_loss_without_noise(monkeypatch):
    method, images = pixel_flow(8, 3, moved=0.1), grays(2, 8, 3)
    answer = method.predict(images)
    assert answer.anomaly_map.shape == (2, 1, 8, 8)
    torch.testing.assert_close(answer.score, answer.anomaly_map.mean(dim=(1, 2, 3)))

    def middle(keys, count):
        return torch.full((len(keys), count), 0.5)

    monkeypatch.setattr("anomaly_lab.methods.pixel_flow.uniform", middle)
    assert method.losses(Batch.of(images))["loss"].item() == pytest.approx(answer.score.mean().item())


def noise_of(method, monkeypatch, batch):
    """The noise that `losses` adds to a batch."""
    seen = []
    monkeypatch.setattr(method, "bits", lambda images, noise: seen.append(noise) or images)
    method.losses(batch)
    return seen[0]


def test_a_row_gets_the_same_noise_in_any_batch_and_other_noise_in_another_epoch(monkeypatch):
    method, batch = pixel_flow(), Batch.of(grays(5))
    noise = noise_of(method, monkeypatch, batch)
    assert noise.shape == batch.image.shape
    assert 0 <= noise.min() < 0.2 < 0.8 < noise.max() < 1
    some = batch._replace(image=batch.image[[3, 1]], row=batch.row[[3, 1]])
    assert noise_of(method, monkeypatch, some).equal(noise[[3, 1]])
    assert not noise_of(pixel_flow(seed=1), monkeypatch, batch).equal(noise)
    held_out = batch._replace(row=None)
    assert noise_of(method, monkeypatch, held_out).equal(noise)  # numbered by their place in the list
    monkeypatch.setattr(PixelFlow, "current_epoch", 1)
    assert not noise_of(method, monkeypatch, batch).equal(noise)
    assert noise_of(method, monkeypatch, held_out).equal(noise)


def test_a_prediction_draws_nothing():
    method, images = pixel_flow(), grays(2)
    state = torch.get_rng_state()
    assert method.predict(images).score.equal(method.predict(images).score)
    assert torch.get_rng_state().equal(state)


@pytest.mark.parametrize(("size", "scales"), [(8, 3), (4, 1)])
def test_the_way_back_leads_to_the_image_and_half_of_the_channels_leaves_at_each_scale(size, scales):
    method, values = pixel_flow(size, 3, scales=scales, moved=0.1), torch.randn(2, 3, size, size).double()
    latents = [latent for latent, _ in method.latents(values)]
    shapes = {8: [(6, 4, 4), (12, 2, 2), (48, 1, 1)], 4: [(12, 2, 2)]}[size]  # the last scale gives all that it has
    assert [tuple(latent.shape[1:]) for latent in latents] == shapes
    torch.testing.assert_close(method.inverse(latents), values, rtol=0, atol=1e-9)


def test_samples_of_a_flow_without_steps_are_gaussian_behind_their_logit():
    images = plain(pixel_flow(32, 1)).samples(torch.zeros(8, 1, 32, 32).double())
    assert images.shape == (8, 1, 32, 32)
    assert 0 <= images.min() <= images.max() <= 1
    inner = ALPHA + (1 - 2 * ALPHA) * (255 * images + 0.5) / 256
    share = (inner.logit().abs() < 1).double().mean().item()
    assert share == pytest.approx(math.erf(1 / math.sqrt(2)), abs=0.02)


def test_a_sample_is_the_image_whose_values_were_drawn_and_the_seed_decides(monkeypatch):
    images, method = grays(3), pixel_flow()
    assert not method.samples(images).equal(pixel_flow(seed=1).samples(images))
    assert method.samples(images).equal(method.samples(1 - images))
    inner = ALPHA + (1 - 2 * ALPHA) * (255 * images + 0.5) / 256
    monkeypatch.setattr(method, "inverse", lambda latents: inner.logit())
    torch.testing.assert_close(method.samples(images), images, rtol=0, atol=1e-9)


def test_black_and_white_images_have_finite_scores_under_large_weights():
    method = pixel_flow(32, 3, steps=6, moved=0.1).float()
    for step in (step for flow in method.flows for step in flow.steps):
        step.subnet[-1].weight.data *= 100
    answer = method.predict(torch.stack([torch.zeros(3, 32, 32), torch.ones(3, 32, 32)]))
    assert answer.anomaly_map.isfinite().all()
    assert answer.score.isfinite().all()


def test_a_size_that_cannot_be_halved_so_often_is_refused():
    with pytest.raises(UserError, match=r"data.image_size: expected a multiple of 4 px .*method.scales.*, found 30"):
        pixel_flow(30)
