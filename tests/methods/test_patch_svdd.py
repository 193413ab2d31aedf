"""Patch SVDD: codes of all patches in one pass, pairs that lie as they are said to lie, memories, spread distances."""

import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional

from anomaly_lab.core.errors import UserError
from anomaly_lab.core.types import Batch
from anomaly_lab.data.noise import row_keys, uniform
from anomaly_lab.methods.base.tiling import WholeImage
from anomaly_lab.methods.patch_svdd import (
    LARGE,
    SIDES,
    SMALL,
    Encoder,
    PatchSVDD,
    around,
    beside,
    classifier,
    close,
    count,
    cut,
    noisy,
    spread,
)

DIRECTIONS = [(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)]  # of the authors' labels 0 to 7
EXACT = "donot_use_mm_for_euclid_dist"


def patch_svdd(image_size=128, channels=3, **changes):
    torch.manual_seed(0)
    return PatchSVDD(WholeImage(), partial(torch.optim.Adam, lr=1e-3), image_size, channels, **changes)


def photos(count, side=128, seed=0):
    """Waves of random directions, so that patches differ."""
    random = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    angle, length = torch.rand(2, count, 3, 1, 1, generator=random)
    wave = (torch.cos(6 * angle) * x + torch.sin(6 * angle) * y) / (3 + 9 * length)
    return 0.5 + 0.3 * wave.sin() + 0.1 * torch.rand(count, 3, side, side, generator=random)


def remembering(method, images):
    """The method with its memories of these images."""
    batch = Batch.of(images)
    with torch.no_grad():
        method.prepare([batch])
        method.conclude([batch])
    return method.eval()


def draws(pairs, numbers):
    return uniform(row_keys(0, 0, torch.arange(pairs)), numbers)


# The networks.


def test_the_networks_have_the_weights_of_the_authors():
    encoder = Encoder(3)
    weights = [sum(weight.numel() for weight in part.parameters()) for part in (encoder.small, encoder.large)]
    assert weights == [360_832, 41_152]
    assert sum(weight.numel() for weight in classifier().parameters()) == 25_864


def test_a_large_code_is_that_of_four_quarters():
    torch.manual_seed(0)
    encoder, patches = Encoder(3), torch.rand(5, 3, 64, 64)
    rows = [torch.cat([encoder.small(patches[:, :, y : y + 32, x : x + 32]) for x in (0, 32)], dim=3) for y in (0, 32)]
    torch.testing.assert_close(encoder(patches), encoder.large(torch.cat(rows, dim=2)).flatten(1))
    small = patches[..., 5:37, 9:41]
    torch.testing.assert_close(encoder(small), encoder.small(small).flatten(1))


@pytest.mark.parametrize(
    ("number", "shape", "strides"),
    [(1, (80, 84), (4, 16)), (2, (79, 102), (16, 8)), (1, (99, 108), (8, 32)), (1, (68, 66), (2, 2))],
)
def test_one_pass_over_an_image_gives_the_codes_of_all_patches(number, shape, strides):
    torch.manual_seed(0)
    encoder = Encoder(3).double()  # in single precision sums in another order differ by up to 2e-6
    images = torch.rand(number, 3, *shape, dtype=torch.float64)
    with torch.no_grad():
        for found, side, stride in zip(encoder.dense(images, *strides), SIDES, strides, strict=True):
            patches = images.unfold(2, side, stride).unfold(3, side, stride).permute(0, 2, 3, 1, 4, 5)
            expected = encoder(patches.flatten(0, 2)).unflatten(0, patches.shape[:3]).permute(0, 3, 1, 2)
            assert found.shape == expected.shape == (number, 64, *(count(length, side, stride) for length in shape))
            assert expected.std(dim=(0, 2, 3)).mean() > 1e-3
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-6, check_dtype=False)


def test_codes_of_patches_differ_from_the_start():
    """With PyTorch's weights the deviation of a number over the patches of a photo is less than a hundredth of that."""
    torch.manual_seed(0)
    encoder, photo = Encoder(3), torch.rand(1, 3, 128, 128) - 0.5

    def deviations():
        with torch.no_grad():
            return torch.stack([codes.std(dim=(2, 3)).mean() for codes in encoder.dense(photo, 8, 32)])

    ours = deviations()
    assert ours.min() > 0.1
    for layer in encoder.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.reset_parameters()
    assert (deviations() < ours / 100).all()


def test_the_published_strides_have_as_many_codes_as_the_authors():
    assert [(count(256, SMALL, 4)), count(256, LARGE, 16)] == [57, 13]


# The pairs.


def test_the_eight_directions_and_their_numbers():
    assert around(torch.arange(8), 1).tolist() == [list(each) for each in DIRECTIONS]
    grid = [(y, x) for y in range(-2, 3) for x in range(-2, 3) if (y, x) != (0, 0)]
    assert around(torch.arange(24), 2).tolist() == [list(each) for each in grid]


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("room", [(127, 127), (256, 140)])
def test_the_second_patch_lies_in_its_direction_and_both_are_in_the_image(side, room):
    direction, first, second = beside(draws(20_000, 5), side, torch.Size(room))
    for corner in (first, second):
        assert (corner >= 0).all()
        assert (corner <= torch.tensor(room) - side).all()
    away = second - first
    assert torch.equal(away.sign(), torch.tensor(DIRECTIONS)[direction])
    lengths = away.abs()[away != 0]
    assert lengths.unique().tolist() == list(range(3 * side // 4, side))  # 3/4 of the side, up to the side itself
    assert direction.bincount(minlength=8) / 20_000 == pytest.approx(torch.full((8,), 1 / 8), abs=0.01)


def test_first_patches_lie_everywhere():
    direction, first, second = beside(draws(50_000, 5), LARGE, torch.Size((130, 130)))
    for corner in (first, second):
        assert [int(corner.min()), int(corner.max())] == [0, 130 - LARGE]
    upright = first[direction == 1]  # the second one above: anywhere along the other axis
    assert sorted(upright[:, 1].unique().tolist()) == list(range(130 - LARGE + 1))
    assert (upright[:, 0] >= 3 * LARGE // 4).all()


@pytest.mark.parametrize(("side", "reach"), [(32, 1), (64, 2)])
def test_close_patches_nearly_coincide_and_never_do(side, reach):
    first, second = close(draws(20_000, 3), side, torch.Size((127, 127)))
    away = second - first
    expected = [[y, x] for y in range(-reach, reach + 1) for x in range(-reach, reach + 1) if (y, x) != (0, 0)]
    assert sorted(away.unique(dim=0).tolist()) == expected
    for corner in (first, second):
        assert [int(corner.min()), int(corner.max())] == [0, 127 - side]


def test_patches_are_cut_from_their_images():
    images, number = torch.rand(3, 3, 40, 50), torch.tensor([2, 0, 2, 1])
    corner = torch.tensor([[0, 0], [8, 18], [3, 7], [5, 1]])
    expected = [images[i, :, y : y + 32, x : x + 32] for i, (y, x) in zip(number, corner, strict=True)]
    assert torch.equal(cut(images, number, corner, 32), torch.stack(expected))


def test_noise_is_of_colours_and_of_pixels():
    added = noisy(torch.zeros(400, 3, 32, 32), row_keys(0, 0, torch.arange(400)))
    colour = added.mean(dim=(2, 3), keepdim=True)
    assert colour.std().item() == pytest.approx(0.02, rel=0.05)
    assert (added - colour).std().item() == pytest.approx(0.02, rel=0.01)
    assert torch.corrcoef(colour[..., 0, 0].T).triu(1).abs().max() < 0.2


# The losses.


class Corner(nn.Module):
    """Codes that are where a patch lies: the first pixel of each of two channels."""

    def forward(self, patches):
        return functional.pad(patches[:, :2, 0, 0], (0, 62))


def coordinates(side=128):
    """An image whose pixels are their row and column."""
    rows = torch.arange(float(side))
    return torch.stack([rows[:, None].expand(side, side), rows.expand(side, side), rows.expand(side, side)])[None]


def test_a_classifier_that_knows_nothing_has_the_logarithm_of_eight():
    method = patch_svdd(pairs=2)
    for weight in method.classifiers.parameters():
        nn.init.zeros_(weight)
    losses = method.losses(Batch.of(photos(2)))
    assert [losses[f"direction_{side}"].item() for side in SIDES] == pytest.approx([math.log(8)] * 2)
    sums = [sum(losses[f"{name}_{side}"].item() for side in SIDES) for name in ("direction", "distance")]
    assert losses["loss"].item() == pytest.approx(sums[0] + 1e-3 * sums[1])
    heavy = patch_svdd(pairs=2, svdd_weight=10.0).losses(Batch.of(photos(2)))
    sums = [sum(heavy[f"{name}_{side}"].item() for side in SIDES) for name in ("direction", "distance")]
    assert heavy["loss"].item() == pytest.approx(sums[0] + 10 * sums[1])


def test_the_distance_is_not_squared_and_has_no_noise():
    method = patch_svdd(pairs=250)
    method.encoder = Corner()
    losses = method.losses(Batch.of(coordinates()))
    for side, reach in ((32, 1), (64, 2)):
        places = around(torch.arange((2 * reach + 1) ** 2 - 1), reach).float()
        assert losses[f"distance_{side}"].item() == pytest.approx(places.norm(dim=1).mean().item(), rel=0.05)


def test_the_classifier_sees_the_difference_of_two_noisy_patches():
    method, seen = patch_svdd(pairs=300), []
    method.encoder = Corner()
    for part in method.classifiers.values():
        part.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    method.losses(Batch.of(coordinates()))
    for difference, side in zip(seen, SIDES, strict=True):
        away = difference[:, :2].round()
        assert (away.abs().amax(dim=1) >= 3 * side // 4).all()
        assert (away.abs().amax(dim=1) < side).all()
        noise = difference[:, :2] - away
        assert noise.std().item() == pytest.approx(2 * 0.02, rel=0.1)  # colour and pixel, of two patches


def test_what_is_drawn_follows_from_seed_epoch_and_row(monkeypatch):
    images = photos(1).expand(2, -1, -1, -1)
    method = patch_svdd(pairs=2)

    def loss(method=method, **changes):
        return method.losses(Batch.of(images)._replace(**changes))["direction_32"].item()

    here = loss()
    assert loss(row=torch.tensor([1, 0])) == pytest.approx(here)
    assert loss(row=torch.tensor([2, 3])) != here
    assert loss(patch_svdd(pairs=2, seed=1)) != here
    assert loss(row=None) == here  # held out
    monkeypatch.setattr(PatchSVDD, "current_epoch", 1)
    assert loss() != here


@pytest.mark.slow
def test_directions_are_learnt_where_an_image_shows_them():
    """A ramp: what lies below and to the right is brighter, which noise hides at times."""
    method = patch_svdd()
    optimizer, losses = torch.optim.Adam(method.parameters(), 1e-3), []
    for step in range(30):
        keys = row_keys(0, step, torch.arange(16))
        loss = method.direction(coordinates() / 128, torch.zeros_like(keys), keys, SMALL)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(math.log(8), abs=0.05)
    assert sum(losses[-10:]) / 10 < 1.85


@pytest.mark.slow
@pytest.mark.parametrize("told", [False, True])
def test_distances_alone_let_all_codes_collapse_and_directions_hold_them_apart(told):
    method, images = patch_svdd(pairs=1), photos(2)
    optimizer = torch.optim.Adam(method.parameters(), 1e-3)

    def deviations():
        with torch.no_grad():
            maps = method.encoder.dense(images, 32, 32)
        return torch.stack([codes.std(dim=(0, 2, 3)).norm() for codes in maps])

    before = deviations()
    for step in range(12):
        if told:
            loss = method.losses(Batch.of(images)._replace(row=torch.arange(2) + 2 * step))["loss"]
        else:
            keys = row_keys(0, step, torch.arange(2))
            loss = 1000 * sum(method.distance(method.centred(images), torch.arange(2), keys, side) for side in SIDES)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = deviations()
    assert (after > before / 10).all() if told else (after < before / 100).all()


# The map.


def test_the_mean_image_is_subtracted():
    method, images = patch_svdd(), photos(5)
    method.prepare([Batch.of(part) for part in images.split(2)])
    torch.testing.assert_close(method.mean, images.mean(dim=0))
    assert method.centred(torch.zeros(1, 3, 130, 140)).mean().item() == pytest.approx(
        -method.mean.mean().item(), rel=1e-2
    )
    seen = []
    method.encoder.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    same = images.mean(dim=0, keepdim=True)
    method.distance(same - method.mean, torch.tensor([0]), row_keys(0, 0, torch.tensor([0])), 32)
    assert seen[0].abs().max() < 1e-6
    dense, _ = method.codes(same)[0]
    torch.testing.assert_close(dense, dense[..., :1, :1].expand_as(dense))


def test_images_that_are_remembered_have_a_map_of_zeros_and_others_have_not():
    images = photos(3)
    method = remembering(patch_svdd(), images)
    assert [len(bank.bank) for bank in (method.small_bank, method.large_bank)] == [3 * 25**2, 3 * 5**2]
    with torch.no_grad():
        known, new = method.predict(images), method.predict(photos(2, seed=1))
    assert known.anomaly_map.abs().max() < 1e-10
    assert new.anomaly_map.shape == (2, 1, 128, 128)
    assert (new.anomaly_map.amin(dim=(1, 2, 3)) > 0).all()
    assert torch.equal(new.score, new.anomaly_map.amax(dim=(1, 2, 3)))


def test_the_map_is_the_product_of_both_sizes_by_hand():
    method, image = remembering(patch_svdd(small_stride=32, large_stride=32), photos(2)), photos(1, seed=1)
    expected = torch.ones(128, 128)
    with torch.no_grad():
        shifted = image - method.mean
        for side, bank in zip(SIDES, (method.small_bank.bank, method.large_bank.bank), strict=True):
            total, lies = torch.zeros(2, 128, 128)
            for y in range(0, 128 - side + 1, 32):
                for x in range(0, 128 - side + 1, 32):
                    code = method.encoder(shifted[..., y : y + side, x : x + side])
                    total[y : y + side, x : x + side] += (code - bank).norm(dim=1).min()
                    lies[y : y + side, x : x + side] += 1
            expected *= total / lies
        torch.testing.assert_close(method.predict(image).anomaly_map[0, 0], expected, rtol=1e-3, atol=0)


@pytest.mark.parametrize(("side", "stride"), [(32, 4), (64, 16), (32, 32), (64, 8)])
@pytest.mark.parametrize("shape", [(128, 128), (131, 150)])
def test_a_constant_spreads_to_the_constant_at_borders_too(side, stride, shape):
    grid = [count(length, side, stride) for length in shape]
    found = spread(torch.full((2, 1, *grid), 0.3), side, stride, torch.Size(shape))
    torch.testing.assert_close(found, torch.full((2, 1, *shape), 0.3))


def test_a_pixel_has_the_mean_of_the_patches_over_it():
    distances = torch.rand(1, 1, 5, 6)
    total, lies = torch.zeros(2, 48, 52)
    for row in range(5):
        for column in range(6):
            here = slice(4 * row, 4 * row + 32), slice(4 * column, 4 * column + 32)
            total[here] += distances[0, 0, row, column]
            lies[here] += 1
    torch.testing.assert_close(spread(distances, 32, 4, torch.Size((48, 52)))[0, 0], total / lies)


def test_a_sample_is_kept_of_more_codes_than_the_memory_has_room_for(caplog):
    images = photos(3)
    method = remembering(patch_svdd(max_vectors=100), images)
    assert [len(bank.bank) for bank in (method.small_bank, method.large_bank)] == [100, 75]
    with torch.no_grad():
        small, large = (codes.flatten(2).mT.flatten(0, 1) for codes, _ in method.codes(images))
    assert torch.cdist(method.small_bank.bank, small, compute_mode=EXACT).min(dim=1).values.max() < 1e-5
    assert torch.cdist(large, method.large_bank.bank, compute_mode=EXACT).min(dim=1).values.max() < 1e-5
    assert "of 1,875 feature vectors a uniform sample of 100 is kept (method.max_vectors=100)" in caplog.text
    with torch.no_grad():
        again = patch_svdd(max_vectors=100)
        again.load_state_dict(method.state_dict())
        assert torch.equal(again.eval().predict(images).anomaly_map, method.predict(images).anomaly_map)
        before = {name: value.clone() for name, value in method.state_dict().items()}
        method.conclude(Batch.of(image)._replace(index=torch.tensor([n])) for n, image in enumerate(images.split(1)))
    assert all(torch.equal(before[name], value) for name, value in method.state_dict().items())


def test_images_in_which_two_patches_find_no_room_are_refused():
    with pytest.raises(UserError, match="data.image_size: expected at least 127 px, .*, found 126"):
        patch_svdd(126)
    assert patch_svdd(127, pairs=1).losses(Batch.of(photos(1, 127)))["loss"].isfinite()
