"""Blocks that change both halves: determinants against autograd's, the way back, what reaches which scale."""

import math

import pytest
import torch
from torch import nn
from torch.autograd.functional import jacobian

from anomaly_lab.networks.glow import Block, CrossScale, Glow, cross_scale, layers

SIDES = 4, 2, 1
MAPS = pytest.mark.parametrize("kind", ["vectors", "maps"])


def glow(kind, blocks=3, channels=4, seed=0, spread=0.3):
    """A flow in float64 whose weights are not those of the start; the factors of the networks are one."""
    torch.manual_seed(seed)
    subnet, scales = (cross_scale(3, 5, 3), 3) if kind == "maps" else (layers(7, 6), 1)
    built = Glow(*(Block(channels, subnet, 1.5, scales) for _ in range(blocks))).double()
    for name, weight in built.named_parameters():
        weight.data = torch.ones_like(weight) if name.endswith("gamma") else weight + spread * torch.randn_like(weight)
    return built


def data(kind, count=1, channels=4):
    torch.manual_seed(1)
    shapes = [(count, channels, side, side) for side in SIDES] if kind == "maps" else [(count, channels)]
    return [torch.randn(shape, dtype=torch.float64) for shape in shapes]


def flat(parts):
    return torch.cat([part.flatten() for part in parts])


@pytest.mark.parametrize(("kind", "channels"), [("vectors", 8), ("vectors", 5), ("maps", 4)])
def test_the_log_determinant_is_that_of_the_jacobian_and_the_way_back_leads_to_the_data(kind, channels):
    built, values = glow(kind, channels=channels), data(kind, channels=channels)
    latent, log_determinant = built(values)

    def of(numbers):
        parts = numbers.split([part.numel() for part in values])
        return flat(built([part.view_as(value) for part, value in zip(parts, values, strict=True)])[0])

    whole = jacobian(of, flat(values))
    assert whole.shape == (84, 84) if kind == "maps" else (channels, channels)
    assert log_determinant.shape == (1,)
    assert log_determinant.item() == pytest.approx(torch.linalg.slogdet(whole)[1].item(), abs=1e-10)
    assert abs(log_determinant.item()) > 1e-3
    for back, value in zip(built.inverse(latent), values, strict=True):
        torch.testing.assert_close(back, value, rtol=0, atol=1e-10)


def test_at_the_start_channels_of_maps_are_reordered_and_nothing_else_happens():
    torch.manual_seed(0)
    built, values = Glow(*(Block(4, cross_scale(3, 5, 3), 3.0, 3) for _ in range(3))).double(), data("maps", 2)
    latent, log_determinant = built(values)
    assert not log_determinant.any()
    for found, value in zip(latent, values, strict=True):
        assert found.sort(dim=1).values.equal(value.sort(dim=1).values)
    assert any(not found.equal(value) for found, value in zip(latent, values, strict=True))


def test_both_halves_are_changed_within_the_clamp():
    block = Block(5, lambda seen, given: nn.Linear(seen, given), 3.0).double()
    assert (block.sides, block.of_second.in_features, block.of_first.out_features) == ([2, 3], 3, 6)
    for subnet, size in ((block.of_second, 2), (block.of_first, 3)):
        nn.init.zeros_(subnet.weight)
        subnet.bias.data = torch.tensor([1e9] * size + [7.0] * size, dtype=torch.float64)
    block.order_0.copy_(torch.arange(5))
    (value,) = data("vectors", 2, 5)
    (found,), log_determinant = block([value])
    log_factor = 3 * 0.636 * torch.pi / 2  # just below 3
    torch.testing.assert_close(found, value * torch.tensor(log_factor).exp() + 7, rtol=1e-6, atol=0)
    torch.testing.assert_close(log_determinant, torch.full((2,), 5 * log_factor, dtype=torch.float64))


def test_a_small_logarithm_passes_the_clamp_with_a_factor_of_0_636():
    block = Block(2, lambda seen, given: nn.Linear(seen, given), 3.0).double()
    for subnet in (block.of_second, block.of_first):
        nn.init.zeros_(subnet.weight)
        subnet.bias.data = torch.tensor([0.3, 0.0], dtype=torch.float64)
    log_determinant = block(data("vectors", 1, 2))[1].item()
    assert log_determinant == pytest.approx(2 * 3 * 0.636 * math.atan(0.1))


def test_what_two_scales_tell_each_other_by_hand():
    network = CrossScale(2, 1, 1, 1, 1)
    for name, weight in network.named_parameters():
        weight.data.fill_(0.0 if name.endswith("bias") else 1.0)
    fine = torch.tensor([[1.0, 2, 3, 4], [-10, 0, 0, 0], [5, 0, 6, 0], [0, 0, 0, 0]]).view(1, 1, 4, 4)
    coarse = torch.tensor([[4.0, -20], [8, 12]]).view(1, 1, 2, 2)
    first, second = network(fine, coarse)
    assert second.flatten().tolist() == [4 + 1, -2 + 3, 8 + 5, 12 + 6]  # and every second place of the finer map
    assert first[0, 0, 0].tolist() == pytest.approx([1 + 4, 2 + 2.5, 3 - 0.5, 4 - 2])  # and the enlarged coarser map
    assert first[0, 0, 1, 0].item() == pytest.approx(-1 + 5)


def test_linear_layers_end_with_a_linear_one():
    kinds = [type(layer) for layer in layers(7, 6)(2, 4)]
    assert kinds == [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]


def reached(built, scale):
    """Whether each half of each scale changes with the second half of one."""
    values = data("maps")
    moved = [part.clone() for part in values]
    moved[scale][:, built.blocks[0].orders[scale][2:]] += 1
    before, after = built(values)[0], built(moved)[0]
    return [[not one.equal(other) for one, other in zip(a.split(2, dim=1), b.split(2, dim=1), strict=True)]
            for a, b in zip(before, after, strict=True)]  # fmt: skip


def test_a_scale_reaches_the_next_in_half_a_block():
    assert reached(glow("maps", blocks=1), 2) == [[False, True], [True, True], [True, True]]
    assert reached(glow("maps", blocks=1), 0) == [[True, True], [True, True], [False, True]]
    assert reached(glow("maps", blocks=2), 2) == [[True, True]] * 3


@MAPS
def test_an_answer_does_not_depend_on_what_else_is_in_the_batch(kind):
    built, values = glow(kind), data(kind, 5)
    latent, change = built(values)
    order = torch.tensor([3, 0, 4, 1, 2])
    turned = built([part[order] for part in values])
    torch.testing.assert_close(turned[1], change[order])
    alone = built([part[2:3] for part in values])
    torch.testing.assert_close(alone[1], change[2:3])
    for whole, other, single in zip(latent, turned[0], alone[0], strict=True):
        torch.testing.assert_close(other, whole[order])
        torch.testing.assert_close(single, whole[2:3])


@MAPS
def test_how_channels_are_reordered_is_drawn_by_torch_and_saved(kind):
    values = data(kind)
    one, same, other = glow(kind), glow(kind), glow(kind, seed=1)
    assert flat(one(values)[0]).equal(flat(same(values)[0]))
    assert not flat(one(values)[0]).equal(flat(other(values)[0]))
    other.load_state_dict(one.state_dict())
    assert flat(other(values)[0]).equal(flat(one(values)[0]))
    assert len(list(one.buffers())) == 3 * len(values)


@MAPS
def test_in_half_precision_the_log_determinant_stays_that_of_float32(kind):
    built, values = glow(kind, channels=16, spread=0.0).float(), [part.float() for part in data(kind, 2, channels=16)]
    exact = built(values)[1]
    with torch.autocast("cpu", torch.bfloat16):
        latent, rough = built(values)
    assert {rough.dtype, *(part.dtype for part in latent)} == {torch.float32}
    torch.testing.assert_close(rough, exact, rtol=2e-2, atol=2e-2)
