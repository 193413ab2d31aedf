"""Flows: determinants against autograd's, the way back, what is random and what is saved."""

import math

import pytest
import torch
from torch.autograd.functional import jacobian

from anomaly_lab.networks.flow import ONE, Coupling, Flow, convolutions, dense, random_rotation


def flow(kind="maps", steps=4, seed=0, channels=6):
    """A flow in float64 whose weights are not those of the start."""
    torch.manual_seed(seed)
    made = {
        "maps": lambda: Coupling(channels, convolutions(3), 2.0, "permutation"),
        "vectors": lambda: Coupling(channels, dense(2), 1.9, "rotation", condition=4),
    }[kind]
    built = Flow(*(made() for _ in range(steps))).double()
    for weight in built.parameters():
        weight.data += 0.3 * torch.randn_like(weight)
    return built


def data(kind="maps", count=1, channels=6):
    shape = (count, channels, 3, 3) if kind == "maps" else (count, channels)
    condition = None if kind == "maps" else torch.randn(count, 4, dtype=torch.float64)
    return torch.randn(shape, dtype=torch.float64), condition


@pytest.mark.parametrize(
    ("kind", "channels"), [("maps", 6), ("maps", 5), ("vectors", 5), ("vectors", 8), ("vectors", 2)]
)
def test_the_log_determinant_is_that_of_the_jacobian_and_the_way_back_leads_to_the_data(kind, channels):
    built = flow(kind, channels=channels)
    values, condition = data(kind, channels=channels)
    latent, log_determinant = built(values, condition)
    whole = jacobian(lambda flat: built(flat.view_as(values), condition)[0].flatten(), values.flatten())
    assert log_determinant.sum().item() == pytest.approx(torch.linalg.slogdet(whole)[1].item(), abs=1e-10)
    assert log_determinant.shape == (values.shape[0], *values.shape[2:])
    torch.testing.assert_close(built.inverse(latent, condition), values, rtol=0, atol=1e-10)


def test_the_log_determinant_of_a_place_is_its_own_share():
    """Convolutions of 1 px: no place sees another."""
    torch.manual_seed(0)
    built = Flow(*(Coupling(4, convolutions(1), 2.0, "permutation") for _ in range(3))).double()
    values = torch.randn(1, 4, 2, 3, dtype=torch.float64)
    for row in range(2):
        for column in range(3):
            alone = built(values[..., row : row + 1, column : column + 1])
            torch.testing.assert_close(alone[1][0, 0, 0], built(values)[1][0, row, column])


@pytest.mark.parametrize("mixing", ["permutation", "rotation"])
def test_at_the_start_subnets_of_zero_only_mix_the_channels(mixing):
    step = Coupling(6, convolutions(3), 2.0, mixing).double()
    torch.nn.init.zeros_(step.subnet[-1].weight)
    torch.nn.init.zeros_(step.subnet[-1].bias)
    values, _ = data()
    mixed, log_determinant = step(values)
    assert pytest.approx(9.9865, abs=1e-4) == ONE
    torch.testing.assert_close(log_determinant, torch.zeros_like(log_determinant), atol=1e-6, rtol=0)
    torch.testing.assert_close(mixed.square().sum(), values.square().sum(), rtol=1e-6, atol=0)
    if mixing == "permutation":
        torch.testing.assert_close(mixed.sort(dim=1).values, values.sort(dim=1).values, rtol=1e-6, atol=0)


def test_the_larger_half_stays_the_smaller_is_scaled_and_shifted_within_the_clamp():
    step = Coupling(5, lambda seen, given: torch.nn.Conv2d(seen, given, 1), 2.0, "permutation").double()
    assert (step.kept, step.changed) == (3, 2)
    torch.nn.init.zeros_(step.subnet.weight)
    step.subnet.bias.data = torch.tensor([1e9, -1e9, 30, 70], dtype=torch.float64)
    step.order.copy_(torch.arange(5))
    values, _ = data(channels=5)
    found, log_determinant = step(values)
    torch.testing.assert_close(found[:, :3], values[:, :3], rtol=1e-6, atol=0)
    torch.testing.assert_close(found[:, 3], values[:, 3] * math.exp(2) + 3, rtol=1e-6, atol=1e-6)  # a tenth of 30
    torch.testing.assert_close(found[:, 4], values[:, 4] * math.exp(-2) + 7, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(log_determinant, torch.zeros(1, 3, 3).double(), atol=1e-5, rtol=0)


def test_a_flow_learns_a_gaussian_whose_channels_depend_on_one_another():
    torch.manual_seed(0)
    mix = torch.randn(4, 4)
    covariance = mix @ mix.T
    entropy = (4 * math.log(2 * math.pi * math.e) + torch.logdet(covariance).item()) / 2
    built = Flow(*(Coupling(4, dense(4), 1.9, "permutation") for _ in range(4)))
    optimizer = torch.optim.Adam(built.parameters(), 2e-2)

    def negative_log_likelihood(count):
        latent, change = built(torch.randn(count, 4) @ mix.T)
        return (2 * math.log(2 * math.pi) + latent.square().sum(1) / 2 - change).mean()

    for _ in range(120):
        optimizer.zero_grad()
        loss = negative_log_likelihood(256)
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        assert negative_log_likelihood(20_000).item() == pytest.approx(entropy, abs=0.1)


def still(channels, subnet):
    """A step whose subnet says nothing and which leaves the order of the channels."""
    step = Coupling(channels, subnet, 2.0, "permutation")
    torch.nn.init.zeros_(step.subnet[-1].weight)
    torch.nn.init.zeros_(step.subnet[-1].bias)
    step.order.copy_(torch.arange(channels))
    return step


def test_scale_factors_alone_learn_the_entropy_of_independent_channels():
    """Eight points have exactly the variances 1/4, 1, 4 and 16: the likelihood needs no more of a Gaussian."""
    points = torch.cat([side * 2 * torch.diag(torch.tensor([0.5, 1, 2, 4])) for side in (1, -1)])
    step = still(4, dense())
    optimizer = torch.optim.Adam([step.scale, step.shift], 0.3)
    for _ in range(300):
        optimizer.zero_grad()
        latent, change = step(points)
        loss = (2 * math.log(2 * math.pi) + latent.square().sum(1) / 2 - change).mean()
        loss.backward()
        optimizer.step()
    entropy = 2 * math.log(2 * math.pi * math.e) + math.log(0.25 * 1 * 4 * 16) / 2
    assert entropy == pytest.approx(7.0621, abs=1e-4)
    assert loss.item() == pytest.approx(entropy, abs=1e-4)
    torch.testing.assert_close(step(points)[0].square().mean(0), torch.ones(4), rtol=1e-2, atol=0)


def test_of_values_twice_as_large_each_channel_is_half_as_dense():
    built, (values, _) = flow(), data()
    halved = still(6, convolutions(1)).double()
    torch.nn.init.constant_(halved.scale, 2 * math.log(math.expm1(2.5)))  # of which the softplus is 5

    def log_density(steps, numbers):
        latent, change = steps(numbers)
        return change - latent.square().sum(1) / 2

    of_double = Flow(halved, *built.steps)
    difference = log_density(of_double, 2 * values) - log_density(built, values)
    torch.testing.assert_close(difference, torch.full((1, 3, 3), -6 * math.log(2)).double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["maps", "vectors"])
def test_an_answer_does_not_depend_on_what_else_is_in_the_batch(kind):
    built = flow(kind)
    values, condition = data(kind, 5)
    latent, change = built(values, condition)
    order = torch.tensor([3, 0, 4, 1, 2])
    turned = built(values[order], None if condition is None else condition[order])
    torch.testing.assert_close(turned[0], latent[order])
    torch.testing.assert_close(turned[1], change[order])
    alone = built(values[2:3], None if condition is None else condition[2:3])
    torch.testing.assert_close(alone[0], latent[2:3])


@pytest.mark.parametrize("kind", ["maps", "vectors"])
def test_how_channels_are_mixed_is_drawn_by_torch_and_saved(kind):
    values, condition = data(kind)
    one, same, other = flow(kind), flow(kind), flow(kind, seed=1)
    assert one(values, condition)[0].equal(same(values, condition)[0])
    assert not one(values, condition)[0].equal(other(values, condition)[0])
    other.load_state_dict(one.state_dict())
    assert other(values, condition)[0].equal(one(values, condition)[0])
    assert {name.rpartition(".")[2] for name, _ in one.named_buffers()} <= {"order", "rotation"}


def test_the_condition_matters():
    built = flow("vectors")
    values, condition = data("vectors")
    assert not torch.allclose(built(values, condition)[0], built(values, condition + 1)[0])


@pytest.mark.parametrize("channels", [2, 3, 64])
def test_a_rotation_turns_and_mirrors_nothing(channels):
    for seed in range(4):
        torch.manual_seed(seed)
        rotation = random_rotation(channels).double()
        torch.testing.assert_close(rotation @ rotation.T, torch.eye(channels).double(), atol=1e-6, rtol=0)
        assert torch.linalg.det(rotation).item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("mixing", ["permutation", "rotation"])
def test_in_half_precision_latents_and_log_determinant_stay_those_of_float32(mixing):
    torch.manual_seed(0)
    built = Flow(*(Coupling(16, convolutions(3), 2.0, mixing) for _ in range(4)))
    values = torch.randn(2, 16, 8, 8)
    exact, change = built(values)
    with torch.autocast("cpu", torch.bfloat16):
        rough, roughly = built(values)
        back = built.inverse(rough)
    assert rough.dtype == roughly.dtype == back.dtype == torch.float32
    torch.testing.assert_close(rough, exact, rtol=0, atol=5e-3)
    torch.testing.assert_close(back, values, rtol=0, atol=5e-3)
    torch.testing.assert_close(roughly.sum(), change.sum(), rtol=1e-2, atol=1e-2)
