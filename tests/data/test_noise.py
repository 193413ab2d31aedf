"""Random numbers against the published generator, Perlin noise by its closed forms, textures by their ranges."""

import math

import pytest
import torch

from anomaly_lab.core.types import Batch
from anomaly_lab.data.noise import (
    LATTICE,
    batch_keys,
    blend,
    derive,
    direction,
    normal,
    offsets,
    perlin_noise,
    procedural_texture,
    row_keys,
    scalars,
    smooth_step,
    uniform,
)

ROWS = torch.arange(400)


def test_the_numbers_are_those_of_split_mix_64():
    """The first five outputs of the reference implementation for the seed 1234567."""
    published = (
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    )
    assert uniform(torch.tensor([1234567]), 5)[0].tolist() == [(number >> 40) / 2**24 for number in published]


def test_keys_equal_a_slow_version_with_whole_numbers():
    def finish(number):
        number = (number ^ number >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        number = (number ^ number >> 27) * 0x94D049BB133111EB % 2**64
        return number ^ number >> 31

    for seed, epoch, row in ((0, 0, 0), (5, 3, 999), (2**62 + 1, 0, 10**9)):
        key = seed
        for number in (epoch, row):
            key = finish((finish(key) + number) % 2**64)
        assert row_keys(seed, epoch, torch.tensor([row])).item() % 2**64 == key


def test_held_out_images_have_the_same_keys_in_every_epoch_whatever_the_batch():
    batch = Batch.of(torch.rand(2, 1, 4, 4))._replace(row=torch.tensor([7, 9]), index=torch.tensor([4, 6]))
    assert torch.equal(batch_keys(5, 3, batch), row_keys(5, 3, torch.tensor([7, 9])))
    assert torch.equal(batch_keys(5, 3, batch._replace(row=None)), row_keys(5, 0, torch.tensor([4, 6])))


def test_rows_epochs_seeds_and_streams_have_unrelated_uniform_numbers():
    keys = row_keys(0, 0, ROWS)
    others = (row_keys(0, 1, ROWS), row_keys(1, 0, ROWS), derive(keys, 0), derive(keys, 1), row_keys(0, 0, ROWS + 1))
    numbers = [uniform(each, 50) for each in (keys, *others)]
    for each in numbers:
        assert each.min() >= 0
        assert each.max() < 1
        assert each.mean().item() == pytest.approx(0.5, abs=4 / math.sqrt(12 * each.numel()))
        assert each.var().item() == pytest.approx(1 / 12, abs=0.003)
        assert each.histc(16, 0, 1).std() < 2 * math.sqrt(each.numel() / 16)
        assert torch.corrcoef(torch.stack([each[:, :-1].flatten(), each[:, 1:].flatten()]))[0, 1].abs() < 0.03
    assert (torch.corrcoef(torch.stack(numbers).flatten(1)) - torch.eye(6)).abs().max() < 0.03
    assert len(torch.cat([row_keys(0, epoch, ROWS) for epoch in range(50)]).unique()) == 50 * len(ROWS)


def test_the_first_numbers_do_not_depend_on_how_many_are_taken():
    keys = row_keys(0, 0, ROWS)
    assert torch.equal(uniform(keys, 9)[:, :4], uniform(keys, 4))
    assert torch.equal(torch.stack(scalars(keys, 3), dim=1)[..., 0, 0], uniform(keys, 3))


def test_normal_numbers_have_the_moments_of_a_normal_distribution_and_are_finite(monkeypatch):
    numbers = normal(row_keys(0, 0, ROWS), 500)
    moments = [(numbers**order).mean().item() for order in (1, 2, 3, 4)]
    assert moments == pytest.approx([0, 1, 0, 3], abs=0.03)
    assert (numbers.abs() > 1.959964).float().mean().item() == pytest.approx(0.05, abs=0.002)
    ends = torch.tensor([[0, 1 - 2**-24]])
    monkeypatch.setattr("anomaly_lab.data.noise.uniform", lambda keys, count: ends)
    assert normal(torch.tensor([0]), 2)[0].tolist() == pytest.approx([-5.42, 5.42], abs=0.01)


def test_directions_are_those_of_cosine_and_sine_to_a_4096th_turn():
    turns = torch.tensor([0.0, 0.25, 0.5, -0.25, 1.125, 0.3])
    cos, sin = direction(turns)
    assert torch.allclose(cos, (2 * math.pi * turns).cos(), atol=2 * math.pi / 4096)
    assert torch.allclose(sin, (2 * math.pi * turns).sin(), atol=2 * math.pi / 4096)
    assert cos[0] == 1
    assert sin[0] == 0


def test_offsets_count_from_the_middles_of_pixels():
    zero = torch.zeros(1, 1, 1)
    down, right = offsets(2, 3, zero + 0.5, zero + 1.5, zero)
    assert down[0].tolist() == [[0, 0, 0], [1, 1, 1]]
    assert right[0].tolist() == [[-1, 0, 1], [-1, 0, 1]]
    turned_down, turned_right = offsets(2, 3, zero + 0.5, zero + 1.5, zero + 0.25)
    assert torch.allclose(turned_down, right, atol=1e-6)
    assert torch.allclose(turned_right, -down, atol=1e-6)


def test_the_smooth_step_and_the_blend_leave_their_inputs():
    step = torch.tensor([0.0, 0.25, 0.5, 1.0])
    assert smooth_step(step).tolist() == [0, pytest.approx(0.103515625), 0.5, 1]
    first, second = torch.rand(4), torch.rand(4)
    before = first.clone(), second.clone()
    assert torch.equal(blend(first, second, torch.zeros(4)), first)
    assert torch.allclose(blend(first, second, step), first + step * (second - first))
    assert torch.equal(first, before[0])
    assert torch.equal(second, before[1])
    assert step.tolist() == [0, 0.25, 0.5, 1]


def grid(points, rows):
    y, x = torch.meshgrid(points, points, indexing="ij")
    return y.expand(rows, -1, -1), x.expand(rows, -1, -1)


def test_perlin_noise_has_its_closed_forms():
    keys = row_keys(0, 0, torch.arange(8))
    assert perlin_noise(keys, *grid(torch.arange(33.0), 8)).abs().max() == 0
    middles = torch.arange(32) + 0.5
    at_middles = perlin_noise(keys, *grid(middles, 8))
    assert at_middles.var().item() == pytest.approx(1 / 8, abs=0.006)
    between = perlin_noise(keys, *grid(torch.arange(0, 32, 0.13), 8))
    assert between.abs().max() <= 1
    assert between.mean().abs() < 0.01
    # 8 A B, with A and B the integrals of (1 - f)^2 x^2 and of (1 - f)^2, f being the fade function
    x = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    rest = (1 - smooth_step(x)) ** 2
    variance = 8 * (rest * x**2).mean() * rest.mean()
    assert variance.item() == pytest.approx(0.09306, abs=1e-5)
    assert between.var().item() == pytest.approx(variance.item(), abs=0.004)


def test_perlin_noise_equals_a_slow_version_point_by_point():
    keys = row_keys(3, 0, torch.arange(2))
    y, x = torch.rand(2, 4, 5) * 32, torch.rand(2, 4, 5) * 32
    noise = perlin_noise(keys, y, x)
    angles = (uniform(keys, LATTICE * LATTICE) * 4096).floor() * (2 * math.pi / 4096)

    def fade(t):
        return 6 * t**5 - 15 * t**4 + 10 * t**3

    for row in range(2):
        for i in range(4):
            for j in range(5):
                v, u = y[row, i, j].item(), x[row, i, j].item()
                expected = 0.0
                for corner_y in (math.floor(v), math.floor(v) + 1):
                    for corner_x in (math.floor(u), math.floor(u) + 1):
                        angle = angles[row, corner_y * LATTICE + corner_x].item()
                        ramp = math.cos(angle) * (u - corner_x) + math.sin(angle) * (v - corner_y)
                        expected += ramp * fade(1 - abs(u - corner_x)) * fade(1 - abs(v - corner_y))
                assert noise[row, i, j].item() == pytest.approx(math.sqrt(2) * expected, abs=1e-5)


def test_textures_vary_in_colour_contrast_and_grain():
    textures = procedural_texture(row_keys(0, 0, torch.arange(200)), 3, 48, 40)
    assert textures.shape == (200, 3, 48, 40)
    assert textures.min() >= 0
    assert textures.max() <= 1
    means, contrasts = textures.mean((1, 2, 3)), textures.std((2, 3)).mean(1)
    assert means.mean().item() == pytest.approx(0.5, abs=0.06)
    assert means.std() > 0.1
    assert contrasts.quantile(0.05) < 0.07
    assert 0.15 < contrasts.quantile(0.9) < 0.35
    grain = (textures[..., 1:] - textures[..., :-1]).std((1, 2, 3)) / contrasts
    assert grain.quantile(0.9) > 4 * grain.quantile(0.1)


@pytest.mark.parametrize("size", [(7, 130), (16, 16), (2, 3)])
def test_a_gray_texture_has_one_channel_of_any_size(size):
    texture = procedural_texture(row_keys(0, 0, torch.arange(3)), 1, *size)
    assert texture.shape == (3, 1, *size)
    assert texture.std((2, 3)).min() > 0.001
    assert procedural_texture(row_keys(0, 0, torch.arange(3)), 1, 1, 1).isfinite().all()
