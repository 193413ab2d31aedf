"""What is particular about the VAE: its bound, its gamma, its codes; its three maps."""

import math
from functools import partial

import pytest
import torch
from torch import nn

from anomaly_lab.core.errors import UserError
from anomaly_lab.core.types import Batch
from anomaly_lab.functional.projection import misfits
from anomaly_lab.methods.base.tiling import SlidingWindow, WholeImage
from anomaly_lab.methods.cae import CAE
from anomaly_lab.methods.vae import VAE
from anomaly_lab.networks.autoencoder import GaussianAutoencoder
from tests.conftest import stand_in

ADAM = partial(torch.optim.Adam, lr=1e-3)


class Coder(nn.Module):
    """Gives every image the same mean and variance."""

    def __init__(self, mean=0.0, variance=1.0):
        super().__init__()
        self.mean, self.log_variance = mean, math.log(variance)

    def forward(self, images):
        ones = torch.ones(len(images), 4, 1, 1)
        return self.mean * ones, self.log_variance * ones


class Net(GaussianAutoencoder):
    """Such codes, of which the decoder knows nothing: it gives one gray."""

    def __init__(self, gray=0.5, **code):
        nn.Module.__init__(self)
        self.encoder, self.decoder, self.gray = Coder(**code), nn.Sequential(nn.Flatten()), gray

    def encode(self, images):
        self.decoder.forward = lambda codes: torch.full_like(images, self.gray)
        return self.encoder(images)


def vae(network=None, tiling=None, **changes):
    torch.manual_seed(0)
    return VAE(network or Net(), ADAM, tiling or WholeImage(), **changes).eval()


@pytest.fixture(scope="module")
def images():
    return torch.rand(3, 1, 128, 128, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return GaussianAutoencoder(128, 1, 10)


def test_the_loss_is_cost_and_divergence_by_value():
    images = torch.rand(3, 2, 4, 4)
    method = vae(Net(mean=1.0), gamma=0.1, beta=3.0)
    losses = method.losses(Batch.of(images))
    cost = (images - 0.5).square().mean().item() / 0.2 + math.log(0.1) / 2
    assert losses["kl"].item() == pytest.approx(4 * 0.5)
    assert losses["cost"].item() == pytest.approx(cost)
    assert losses["loss"].item() == pytest.approx(cost + 3 * 2 / 32)
    assert not method.exponent.requires_grad


def test_the_best_gamma_is_the_mean_square_of_the_residuals():
    images = torch.rand(5, 3, 4, 4)
    best = (images - 0.5).square().mean().item()
    method = vae()
    with torch.no_grad():
        method.exponent.fill_(math.log(best) / 10)
    loss = method.losses(Batch.of(images))["loss"]
    assert loss.item() == pytest.approx((1 + math.log(best)) / 2, rel=1e-5)
    loss.backward()
    assert method.exponent.grad.item() == pytest.approx(0, abs=1e-5)


def test_gamma_comes_back_from_below_its_least():
    method, batch = vae(), Batch.of(torch.rand(2, 1, 4, 4))
    with torch.no_grad():
        method.exponent.fill_(-1.5)
    method.on_train_batch_end(None, batch, 0)
    assert method.log_gamma.item() == -10
    method.losses(batch)["loss"].backward()
    assert method.exponent.grad < 0  # and rises again, if the residuals do


@pytest.mark.parametrize("log_variance", [100.0, math.nan])
def test_a_variance_that_is_no_number_makes_a_loss_and_scores_that_are_none(log_variance):
    """So that the run ends with that reason: nothing is clamped on the way (`training/finite_loss.py`)."""
    network = Net()
    network.encoder.log_variance = log_variance
    method, batch = vae(network, score="kl"), Batch.of(torch.rand(2, 1, 4, 4))
    assert not method.losses(batch)["loss"].isfinite()
    assert not method.predict(batch.image).score.isfinite().any()


def test_logits_have_their_cross_entropy():
    images = torch.rand(3, 1, 4, 4)
    method = vae(Net(gray=2.0), likelihood="bernoulli")
    assert not method.exponent.requires_grad
    q = 1 / (1 + math.exp(-2))
    expected = -(images * math.log(q) + (1 - images) * math.log(1 - q)).mean().item()
    assert method.losses(Batch.of(images))["cost"].item() == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(method.predict(images).reconstruction, torch.full_like(images, q))
    with pytest.raises(UserError, match=r"method.network.output: expected linear, .* found sigmoid"):
        vae(GaussianAutoencoder(128, 1, 2, output="sigmoid"), likelihood="bernoulli")


def test_without_a_divergence_and_without_noise_it_is_the_loss_of_cae(network, images, monkeypatch):
    monkeypatch.setattr("anomaly_lab.methods.vae.normal", lambda keys, count: torch.zeros(len(keys), count))
    loss = vae(network, beta=0.0, gamma=0.1).losses(Batch.of(images))["loss"]
    plain = CAE(network, ADAM, WholeImage()).losses(Batch.of(images))["loss"]
    assert loss.item() == pytest.approx(plain.item() / 0.2 + math.log(0.1) / 2, rel=1e-5)


def test_noise_follows_from_seed_epoch_and_row(network, images, monkeypatch):
    method, batch = vae(network), Batch.of(images)
    each = [method.losses(Batch.of(images[i : i + 1])._replace(row=torch.tensor([i])))["loss"] for i in range(3)]
    torch.testing.assert_close(method.losses(batch)["loss"], torch.stack(each).mean())
    assert method.losses(batch)["loss"] != method.losses(batch._replace(row=torch.tensor([3, 4, 5])))["loss"]
    assert method.losses(batch)["loss"] == method.losses(batch._replace(row=None))["loss"]
    assert method.losses(batch)["loss"] != vae(network, seed=1).losses(batch)["loss"]
    before = method.losses(batch)["loss"]
    monkeypatch.setattr(VAE, "current_epoch", 1)
    assert method.losses(batch)["loss"] != before


def test_a_collapsed_code_uses_no_unit(network, images):
    assert vae().train().losses(Batch.of(images))["active_units"] == vae().losses(Batch.of(images))["kl"] == 0
    assert vae(network).losses(Batch.of(images))["kl"] > 0


def test_a_unit_is_active_whose_mean_differs_from_image_to_image(images, monkeypatch):
    method = vae()
    codes = torch.tensor([[0.0, 1, 0.3, 5], [0, 2, 0.31, 5], [0, 3, 0.32, 5]]).view(3, 4, 1, 1)
    monkeypatch.setattr(method.network, "encode", lambda images: (codes, torch.zeros_like(codes)))
    monkeypatch.setattr(method, "decode", lambda codes: torch.zeros_like(images))
    assert method.train().losses(Batch.of(images))["active_units"] == 1
    assert set(method.eval().losses(Batch.of(images))) == {"loss", "cost", "kl"}  # of held-out images


def test_scores_are_of_the_mean_code():
    images = torch.rand(3, 1, 4, 4)
    residual = (images - 0.5).square()
    assert vae().predict(images).score is None
    assert vae(Net(gray=1.5)).predict(images).reconstruction.max() == 1
    torch.testing.assert_close(vae().predict(images).anomaly_map, residual)
    assert vae(Net(mean=2.0), score="kl", beta=5).predict(images).score.tolist() == pytest.approx([4 * 2.0] * 3)
    expected = residual.flatten(1).mean(dim=1) / 2 + 8 / 16
    torch.testing.assert_close(vae(Net(mean=2.0), score="elbo", beta=5).predict(images).score, expected)


def test_two_answers_agree_to_the_bit(network, images):
    for kind in ("residual", "projection", "attention"):
        method = vae(network, map=kind, search_steps=2, search_rate=1e-3)  # at .5 an untrained network is chaotic
        with torch.inference_mode():
            one, other, alone = method(images), method(images), method(images[1:2])
        assert torch.equal(one.anomaly_map, other.anomaly_map)
        torch.testing.assert_close(one.anomaly_map[1:2], alone.anomaly_map, rtol=1e-4, atol=1e-5)
        assert one.anomaly_map.shape == images.shape
        assert one.anomaly_map.std() > 0
        assert all(weight.grad is None for weight in network.parameters())


def test_a_projection_moves_towards_the_normal_and_stops_where_training_images_are():
    method = vae(map="projection", search_steps=300, search_rate=0.5, search_weight=0.0)
    training = torch.rand(4, 1, 4, 4)
    with torch.inference_mode():
        method.conclude(Batch.of(training[i : i + 2]) for i in (0, 2))
    least = misfits(training, torch.full_like(training, 0.5)).min()
    assert method.least_misfit == least
    images = torch.stack([torch.full((1, 4, 4), 0.5), torch.eye(4)[None]])
    with torch.inference_mode():
        answer = method.predict(images)
    assert not answer.anomaly_map[0].any()
    assert answer.anomaly_map[1].min() > 0
    assert misfits(answer.reconstruction, torch.full_like(images, 0.5))[1] <= least
    torch.testing.assert_close(answer.anomaly_map, (images - answer.reconstruction).abs())
    assert method.search_steps == 300
    assert "300 gradient steps" in method.export_obstacle


def test_a_projection_asks_the_network_that_the_plain_map_asks(network, images):
    """No weight moves; after one step without any weight on the distance it is the published step by hand."""
    plain, moved = vae(network), vae(network, map="projection", search_steps=1, search_rate=0.5, search_weight=0.0)
    before = {name: weight.clone() for name, weight in network.state_dict().items()}
    found = moved.predict(images).reconstruction
    assert all(torch.equal(weight, before[name]) for name, weight in network.state_dict().items())
    leaf = images.clone().requires_grad_()
    squared = (leaf - plain.reconstruct(leaf)).square()
    (gradient,) = torch.autograd.grad(squared.sum(), leaf)
    expected = images - 0.5 * gradient * squared.detach()
    torch.testing.assert_close(found, expected.clamp(0, 1), rtol=1e-4, atol=1e-6)


def test_a_projection_of_windows_stops_where_training_windows_are():
    method = vae(tiling=SlidingWindow(2, 1), map="projection")
    training = torch.rand(3, 1, 4, 4)
    method.conclude([Batch.of(training)])
    windows = training.unfold(2, 2, 2).unfold(3, 2, 2)
    assert method.least_misfit.item() == pytest.approx((windows - 0.5).square().sum(dim=(4, 5)).min().item())


def test_maps_without_a_projection_look_at_no_training_image():
    vae().conclude([stand_in(Batch)])
    assert vae().search_steps == 0
    assert vae().export_obstacle is None
    assert "gradient" in vae(map="attention").export_obstacle


def test_attention_is_the_weighted_sum_of_16_x_16_features(network, images):
    """By finite differences: a shift of a whole channel changes the sum of the code by the mean gradient, 256 times."""
    method = vae(network, map="attention")
    maps = method.predict(images).anomaly_map
    assert maps.shape == (3, 1, 16, 16)
    network.double()
    with torch.no_grad():
        features = network.encoder[:-7](images.double())
        shifted = features[:1].repeat(64, 1, 1, 1)
        shifted += 1e-6 * torch.eye(64, dtype=torch.float64)[:, :, None, None]
        codes = [network.encoder[-7:](rows)[0].flatten(1).sum(dim=1) for rows in (features[:1], shifted)]
        weights = (codes[1] - codes[0]) / 1e-6 / 256
    network.float()
    torch.testing.assert_close(
        maps[0, 0], (weights[:, None, None] * features[0]).sum(dim=0).abs().float(), rtol=1e-3, atol=1e-6
    )


def test_attention_of_a_small_image_has_a_quarter_of_its_side():
    torch.manual_seed(0)
    method = vae(GaussianAutoencoder(28, 1, 8), map="attention")
    maps = method.predict(torch.rand(2, 1, 28, 28)).anomaly_map
    assert maps.shape == (2, 1, 7, 7)
    assert maps.std() > 0


def test_samples_are_decoded_from_the_prior(network, images):
    method = vae(network)
    drawn = method.samples(images)
    assert torch.equal(drawn, method.samples(torch.zeros_like(images)))
    assert (drawn[0] - drawn[1]).abs().max() > 0.01
    assert not torch.equal(drawn, vae(network, seed=1).samples(images))
    torch.testing.assert_close(method.embed(images), network.encode(images)[0].flatten(1))


def test_logits_have_no_variance():
    with pytest.raises(UserError, match="method.gamma: expected null, because logits have no variance, found 0.1"):
        vae(likelihood="bernoulli", gamma=0.1)
