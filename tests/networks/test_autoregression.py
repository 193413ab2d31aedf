"""The estimator of the density of codes: who sees whom, published sizes, a slow version, likelihoods in closed form."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from anomaly_lab.networks.autoregression import Estimator, MaskedDense, bin_of, negative_log_likelihood


def estimator(latent_size=6, bins=5, width=3):
    torch.manual_seed(0)
    return Estimator(latent_size, bins, width)


def codes(count=4, latent_size=6):
    return torch.rand(count, latent_size, generator=torch.Generator().manual_seed(1))


def masked(network):
    return [layer for layer in network.modules() if isinstance(layer, MaskedDense)]


def test_a_number_changes_the_bins_of_all_later_ones_and_of_no_other():
    network, given = estimator(), codes(1)
    with torch.no_grad():
        before = network(given)
        for changed in range(6):
            other = given.clone()
            other[0, changed] += 0.3
            differs = (network(other) != before).any(dim=2)[0]
            assert differs.tolist() == [number > changed for number in range(6)]


@pytest.mark.parametrize("strict", [True, False])
def test_a_layer_sees_earlier_numbers_and_itself_unless_it_is_strict(strict):
    torch.manual_seed(0)
    layer, values = MaskedDense(4, 2, 3, strict), torch.randn(5, 4, 2)
    expected = torch.empty(5, 4, 3)
    for number in range(4):
        seen = number if strict else number + 1
        terms = [layer.weight[number, :, other] @ values[:, other].T for other in range(seen)]
        expected[:, number] = layer.bias[number] + sum(terms, torch.zeros(3, 5)).T
    torch.testing.assert_close(layer(values), expected)


def test_with_the_published_sizes_it_has_the_parameters_of_the_authors():
    """Those that are stored, and of them those that an output can depend on."""
    network = Estimator()
    assert sum(weight.numel() for weight in network.parameters()) == 25_835_776
    active = sum(int(layer.mask.expand_as(layer.weight).sum()) + layer.bias.numel() for layer in masked(network))
    assert active == 13_124_864
    assert [layer.weight.shape[1] for layer in masked(network)] == [32, 32, 32, 32, 100]
    assert network(torch.rand(2, 64)).shape == (2, 64, 100)


def test_weights_start_as_those_of_a_dense_layer():
    torch.manual_seed(0)
    layer, dense = MaskedDense(64, 8, 4, strict=False), nn.Linear(64 * 8, 64 * 4)
    for ours, theirs in ((layer.weight, dense.weight), (layer.bias, dense.bias)):
        assert ours.abs().max() <= 1 / 512**0.5
        assert ours.std().item() == pytest.approx(theirs.std().item(), rel=0.1)


def test_weights_of_later_numbers_never_learn_and_no_mask_is_saved():
    network = estimator()
    assert set(network.state_dict()) == {name for name, _ in network.named_parameters()}
    negative_log_likelihood(codes(), network(codes())).mean().backward()
    for layer in masked(network):
        assert not layer.weight.grad[(layer.mask == 0).expand_as(layer.weight)].any()
        assert layer.weight.grad.any()


def test_bins_are_equal_and_the_last_one_is_closed():
    assert bin_of(torch.tensor([[0.0, 0.0099, 0.011, 0.5, 0.999, 1.0]]), 100).tolist() == [[0, 0, 1, 50, 99, 99]]


def test_equal_probabilities_are_log_100_nats_a_number():
    found = negative_log_likelihood(codes(latent_size=64), torch.full((4, 64, 100), 3.0))
    assert found.tolist() == pytest.approx([294.7309] * 4, abs=1e-4)
    untrained = negative_log_likelihood(codes(latent_size=64), Estimator()(codes(latent_size=64)))
    assert untrained.tolist() == pytest.approx([64 * math.log(100)] * 4, rel=1e-2)


def test_it_is_the_cross_entropy_of_the_bins():
    given, logits = codes(), 3 * torch.randn(4, 6, 5, generator=torch.Generator().manual_seed(2))
    expected = functional.cross_entropy(logits.flatten(0, 1), bin_of(given, 5).flatten(), reduction="none")
    torch.testing.assert_close(negative_log_likelihood(given, logits), expected.view(4, 6).sum(dim=1))


def test_a_bin_that_was_thought_impossible_keeps_its_gradient():
    """The authors clip a probability at 2e-16, which is 36 nats."""
    logits = torch.tensor([[[0.0, 100.0]]], requires_grad=True)
    found = negative_log_likelihood(torch.zeros(1, 1), logits)
    assert found.item() == pytest.approx(100)
    found.backward()
    assert logits.grad.flatten().tolist() == pytest.approx([-1, 1])


def test_the_density_sums_to_one():
    """Over all codes of three numbers of two bins, each at the middle of its bins."""
    network = estimator(3, 2)
    every = torch.cartesian_prod(*[torch.tensor([0.25, 0.75])] * 3)
    likelihood = (-negative_log_likelihood(every, network(every))).exp()
    assert likelihood.sum().item() == pytest.approx(1, rel=1e-5)


def test_a_code_moves_only_through_what_the_estimator_sees():
    """The gradient at a code is that at the numbers that go in, for bins that stand."""
    network, given = estimator(), codes().requires_grad_()
    negative_log_likelihood(given, network(given)).sum().backward()
    seen = codes().requires_grad_()
    negative_log_likelihood(codes(), network(seen)).sum().backward()
    assert torch.equal(given.grad, seen.grad)
    assert given.grad[:, :-1].any()
    assert not given.grad[:, -1].any()  # nothing comes after the last
