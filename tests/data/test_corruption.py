"""Synthetic defects: the same bits in any batch, masks of exactly what changed, the published sizes and colours."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from anomaly_lab.core.errors import UserError
from anomaly_lab.data import corruption as module
from anomaly_lab.data.corruption import (
    KINDS,
    VISIBLE,
    AnyOf,
    AtLeast,
    Blob,
    Corrupted,
    Corruption,
    Patch,
    PerlinTexture,
    Scar,
    other_corruptions,
    textures_of,
)
from anomaly_lab.data.noise import offsets, perlin_noise, row_keys, scalars
from anomaly_lab.data.textures import ForeignTextures

EVERY = (PerlinTexture(), Patch(), Scar(), Blob())
MIXTURE = AnyOf(EVERY, 0.8)
each_kind = pytest.mark.parametrize("corruption", EVERY, ids=KINDS)


def noisy(count, channels=3, height=48, width=48):
    return torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(5))


def keys(count, seed=0, epoch=0):
    return row_keys(seed, epoch, torch.arange(count))


def boxes(masks):
    """Top, left, height and width of what each mask covers."""
    for mask in masks[:, 0]:
        rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
        yield *(int(line[0]) for line in (rows, columns)), *(int(line[-1] - line[0]) + 1 for line in (rows, columns))


@pytest.mark.parametrize("corruption", [*EVERY, MIXTURE, AtLeast(Scar())], ids=[*KINDS, "mixture", "at_least"])
@pytest.mark.parametrize("shape", [(3, 37, 29), (1, 24, 24)])
def test_a_row_gets_the_same_bits_in_any_batch_on_any_number_of_processes_and_threads(corruption, shape, threads):
    images = noisy(6, *shape)
    rows = torch.tensor([7, 10**6, 3, 0, 2**40, 1])
    inside = noisy(6, 1, *shape[1:]) < 0.8
    threads(2)
    whole = corruption(images, row_keys(2, 5, rows), inside)
    threads(1)
    shares = [list(range(rank, 6, size)) for size in (2, 3) for rank in range(size)]
    for part in ([4], list(range(6)), *shares):
        alone = corruption(images[part], row_keys(2, 5, rows[part]), inside[part])
        assert torch.equal(alone.image, whole.image[part])
        assert torch.equal(alone.defect, whole.defect[part])


@each_kind
@pytest.mark.parametrize("channels", [1, 3])
def test_the_mask_is_exactly_what_changed_and_every_change_can_be_seen(corruption, channels):
    images = noisy(40, channels)
    before = images.clone()
    image, defect = corruption(images, keys(40))
    assert torch.equal(images, before)
    assert torch.equal(defect, (image != images).any(dim=1, keepdim=True))
    assert (image - images).abs().amax(1, keepdim=True)[defect].min() >= VISIBLE
    assert image.min() >= 0
    assert image.max() <= 1
    assert defect.any(dim=(2, 3)).float().mean() > (0.8 if corruption.kinds == {"perlin"} else 0.99)


@each_kind
def test_seed_and_epoch_and_row_each_change_the_defect(corruption):
    images = noisy(1)
    one = corruption(images, row_keys(0, 0, torch.tensor([5]))).image
    for seed, epoch, row in ((0, 0, 6), (0, 1, 5), (1, 0, 5)):
        assert not torch.equal(corruption(images, row_keys(seed, epoch, torch.tensor([row]))).image, one)


class NoReading(TorchDispatchMode):
    """Fails where the host reads a number, or where a tensor's size depends on numbers."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.overloadpacket not in READING, func
        return func(*args, **(kwargs or {}))


aten = torch.ops.aten
READING = {aten._local_scalar_dense, aten.equal, aten.nonzero, aten.masked_select, aten.lift_fresh, aten.bincount}


def test_nothing_waits_for_the_device():
    images, rows, inside = noisy(4, 3, 16, 16), keys(4), noisy(4, 1, 16, 16) < 0.9
    with NoReading():
        MIXTURE(images, row_keys(0, 0, rows), inside)
        with pytest.raises(AssertionError, match="nonzero"):
            AtLeast(MIXTURE)(images, rows, inside)


@each_kind
def test_nothing_changes_outside_the_region_and_defects_lie_all_over_it(corruption):
    inside = torch.zeros(200, 1, 48, 48, dtype=torch.bool)
    inside[:, :, 10:40, 6:26] = True
    inside[:, :, 20:30, 12:20] = False
    image, defect = corruption(noisy(200), keys(200), inside)
    assert not (defect & ~inside).any()
    assert torch.equal(image[~inside.expand_as(image)], noisy(200)[~inside.expand_as(image)])
    seen = defect.any(dim=0)[inside[0]].float().mean()
    assert seen > (0.45 if corruption.kinds == {"scar"} else 0.95)  # scars are small


@each_kind
def test_sizes_and_places_are_relative_to_the_box_of_the_region(corruption):
    """An image in a frame that must not change gets the defect of the image without the frame."""
    images = noisy(6, 3, 32, 32)
    framed = torch.zeros(6, 3, 48, 40)
    framed[:, :, 12:44, 4:36] = images
    inside = torch.zeros(6, 1, 48, 40, dtype=torch.bool)
    inside[:, :, 12:44, 4:36] = True
    if corruption.kinds == {"perlin"}:
        corruption = PerlinTexture(white)
    alone, in_frame = corruption(images, keys(6)), corruption(framed, keys(6), inside)
    assert torch.equal(in_frame.defect[:, :, 12:44, 4:36], alone.defect)
    assert torch.allclose(in_frame.image[:, :, 12:44, 4:36], alone.image, atol=1e-5)


@pytest.mark.parametrize(
    ("corruption", "most"), [(PerlinTexture(), 1 / 4), (Patch(), 0), (Scar(), 1 / 8), (Blob(), None)], ids=KINDS
)
def test_defects_are_turned_to_either_side_by_no_more_than_published(corruption, most, monkeypatch):
    seen = []
    monkeypatch.setattr(module, "offsets", lambda *given: seen.append(given[4]) or offsets(*given))
    corruption(noisy(400, 1, 8, 8), keys(400))
    low, high = (-most, most) if most is not None else (0, 1)  # a stain any way
    assert seen[0].min().item() == pytest.approx(low, abs=0.01)
    assert seen[0].max().item() == pytest.approx(high, abs=0.01)
    assert seen[0].mean().item() == pytest.approx((low + high) / 2, abs=0.05)


def test_a_stain_is_up_to_three_times_as_long_as_wide(monkeypatch):
    """Without noise its outline is an ellipse; moments tell the axes."""
    monkeypatch.setattr(module, "perlin_noise", lambda keys, y, x: torch.zeros_like(y + x))
    _, defect = Blob()(torch.full((200, 1, 128, 128), 0.5), keys(200))
    ratios = []
    for mask in defect[:, 0]:
        points = mask.nonzero().float()
        if points.amin() > 0 and points.amax() < 127:  # not cut off by the border
            short, long = torch.linalg.eigvalsh(torch.cov(points.T)).sqrt().tolist()
            ratios.append(long / short)
    assert len(ratios) > 100
    assert 1 <= min(ratios) < 1.1
    assert 2.8 < max(ratios) < 3.1


def white(keys, images):
    return torch.ones_like(images)


def test_perlin_masks_cover_what_those_of_draem_do():
    shares = torch.cat(
        [PerlinTexture(white)(torch.zeros(100, 1, 64, 64), keys(100, epoch=e)).defect.float() for e in range(5)]
    ).mean((1, 2, 3))
    assert shares.mean().item() == pytest.approx(0.049, abs=0.006)
    assert (shares == 0).float().mean().item() == pytest.approx(0.059, abs=0.03)
    assert 0.12 < shares.max() < 0.3


def test_perlin_noise_has_1_to_32_cells_along_each_axis(monkeypatch):
    seen = []
    monkeypatch.setattr(module, "perlin_noise", lambda keys, y, x: seen.append((y, x)) or perlin_noise(keys, y, x))
    PerlinTexture(white)(torch.zeros(400, 1, 48, 48), keys(400))
    sides = torch.stack([part.amax(dim=(1, 2)).ceil() for part in seen[0]])
    for side in sides:
        assert side.unique().tolist() == [1, 2, 4, 8, 16, 32]
    assert (sides[0] == sides[1]).float().mean().item() == pytest.approx(1 / 6, abs=0.06)


@pytest.mark.parametrize(("cells", "empty"), [(1, 0.66), (2, 0.20)])
def test_large_cells_often_leave_a_perlin_mask_empty(monkeypatch, cells, empty):
    drawn = torch.full((300, 1, 1), math.log2(cells) / 6 + 0.01)  # of 1, 2, 4 ... 32
    monkeypatch.setattr(module, "scalars", lambda keys, count: (drawn, drawn, *scalars(keys, count)[2:]))
    masks = PerlinTexture(white)(torch.zeros(300, 1, 64, 64), keys(300)).defect
    assert (~masks.flatten(1).any(dim=1)).float().mean().item() == pytest.approx(empty, abs=0.1)  # known from 64 draws


@pytest.mark.parametrize("shape", [(16, 48), (48, 16)])
def test_perlin_masks_lie_all_over_a_region_of_any_shape(shape):
    assert PerlinTexture(white)(torch.zeros(400, 1, *shape), keys(400)).defect.any(dim=0).float().mean() > 0.97


def test_perlin_texture_is_blended_with_an_opacity_of_a_fifth_to_one():
    images = torch.full((300, 1, 32, 32), 0.25)
    image, defect = PerlinTexture(white)(images, keys(300))
    opacity = torch.stack([each[mask].mean() for each, mask in zip(image, defect, strict=True) if mask.any()])
    opacity = (opacity - 0.25) / 0.75
    assert torch.allclose(image[defect], image.amax((1, 2, 3), keepdim=True).expand_as(image)[defect])
    assert 0.199 < opacity.min() < 0.23
    assert 0.97 < opacity.max() <= 1
    assert opacity.mean().item() == pytest.approx(0.6, abs=0.05)


def test_where_the_texture_equals_the_image_nothing_changes():
    image, defect = PerlinTexture(white)(torch.ones(20, 3, 32, 32), keys(20))
    assert not defect.any()
    assert (image == 1).all()


def test_patches_without_jitter_are_rectangles_of_the_image_in_the_published_sizes():
    y, x = torch.meshgrid(torch.arange(64) / 64, torch.arange(64) / 64, indexing="ij")
    images = torch.stack([y, x, x]).expand(100, -1, -1, -1)  # every pixel says where it lies
    image, defect = Patch(jitter=0)(images, keys(100))
    moved = torch.where(defect, image - images, -2).amax((2, 3), keepdim=True)
    assert torch.equal(image - images, torch.where(defect, moved, 0))  # by the same distance everywhere
    covered = defect[(moved != 0).any(dim=1)[:, 0, 0]]
    assert len(covered) > 95  # the others were pasted where they had been cut out
    wide = []
    for mask, (_, _, height, width) in zip(covered, boxes(covered), strict=True):
        assert mask.sum() == height * width  # all of the rectangle: a mask without holes
        assert 0.015 < height * width / 64**2 < 0.165
        assert 0.27 < width / height < 3.7
        wide.append(width > height)
    assert 0.35 < sum(wide) / len(wide) < 0.65


def test_patches_lie_anywhere():
    _, defect = Patch()(noisy(300), keys(300))
    box = torch.tensor(list(boxes(defect)))
    room = 48 - box[:, 2:]
    place = box[:, :2] / room.clamp(min=1)
    assert torch.allclose(place.mean(0), torch.tensor(0.5), atol=0.06)
    assert torch.allclose(place.std(0), torch.tensor(1 / math.sqrt(12)), atol=0.04)


@pytest.mark.parametrize(("side", "count"), [(256, 24), (512, 6)])
def test_scars_are_turned_bars_that_grow_with_the_image(side, count):
    """Moments of the mask: a bar of length l and width w has the variances l^2 / 12 and w^2 / 12 along its axes."""
    ramp = torch.linspace(0, 1, side)[:, None].expand(side, side)
    images = torch.stack([(ramp * 97) % 1, (ramp.T * 83) % 1, (ramp * 61 + ramp.T * 59) % 1]).expand(count, -1, -1, -1)
    _, defect = Scar()(images, keys(count))
    scale = side / 256
    lengths = []
    for mask in defect[:, 0]:
        points = mask.nonzero().float()
        if points.amin() == 0 or points.amax() == side - 1:
            continue  # cut off by the border
        variances, axes = torch.linalg.eigh(torch.cov(points.T))
        short, long = ((12 * variances).sqrt() / scale).tolist()
        assert 1.5 < short < 17
        assert 9.5 < long < 26
        assert int(mask.sum()) == pytest.approx(short * long * scale**2, rel=0.15)
        if long > 17:  # not the width
            down, right = axes[:, 1].abs().tolist()
            assert math.degrees(math.atan2(right, down)) < 46
            lengths.append(long)
    assert len(lengths) >= count / 6
    assert max(lengths) > 20


def test_jitter_of_a_gray_image_stays_within_its_range():
    """Brightness alone acts on one constant colour: contrast is about the piece's mean, gray has no hue."""
    images = torch.full((300, 3, 16, 16), 0.5)
    image, defect = Patch(jitter=0.1)(images, keys(300))
    values = image[defect.expand_as(image)].view(-1)
    assert 0.45 <= values.min() < 0.455
    assert 0.545 < values.max() <= 0.5501
    assert (image.amax(1) - image.amin(1)).max() < 1e-6
    assert torch.allclose(image[:, :1], Patch(jitter=0.1)(images[:, :1], keys(300)).image, atol=1e-6)


def test_jitter_turns_the_hue_and_scales_the_distance_from_gray():
    color = torch.tensor([0.6, 0.4, 0.35])
    images = color.view(1, 3, 1, 1).expand(400, -1, 16, 16)
    image, defect = Patch(jitter=0.1)(images, keys(400))
    changed = torch.stack([each[:, mask[0]].mean(1) for each, mask in zip(image, defect, strict=True)])
    brightness = changed.mean(1) / color.mean()
    away, before = changed / brightness[:, None] - color.mean(), color - color.mean()
    factor = away.norm(dim=1) / before.norm()
    turn = torch.acos((away @ before / away.norm(dim=1) / before.norm()).clamp(-1, 1)) / (2 * math.pi)
    for factors in (brightness, factor):
        assert 0.899 < factors.min() < 0.91
        assert 1.09 < factors.max() < 1.101
    assert 0.095 < turn.max() < 0.101
    assert turn.mean().item() == pytest.approx(0.05, abs=0.006)


def test_contrast_is_about_the_mean_of_the_piece():
    """The same keys cut the same piece: without jitter to compare with, from a flat image to know the brightness."""
    ramp = torch.linspace(0.25, 0.75, 64).expand(100, 1, 64, 64)
    plain, _ = Patch(jitter=0)(ramp, keys(100))
    flat, _ = Patch(jitter=0.1)(torch.full_like(ramp, 0.5), keys(100))
    jittered, defect = Patch(jitter=0.1)(ramp, keys(100))
    factors = []
    for one, other, brightness, mask in zip(jittered, plain, flat, defect, strict=True):
        piece, source = one[mask] / brightness[mask].mean() / 2, other[mask]
        whole = mask.sum() == math.prod(next(boxes(mask[None]))[2:])  # no pixel happens to be as before
        if whole and (brightness != 0.5).any():
            assert piece.mean().item() == pytest.approx(source.mean().item(), abs=0.001)
            factors.append((piece.std() / source.std()).item())
    assert len(factors) > 30
    assert 0.899 < min(factors) < 0.92
    assert 1.08 < max(factors) < 1.101


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_blob_shows_on_any_flat_image_and_fades_to_its_edge(level, channels):
    images = torch.full((200, channels, 64, 64), level)
    image, defect = Blob()(images, keys(200))
    change = (image - images).abs()
    strongest = change.amax((2, 3))
    assert strongest.min() >= 0.2 * 0.25 - 1e-6
    share = defect.float().mean((1, 2, 3))
    assert share.min() > 0.002
    assert share.max() < 0.08
    assert share.mean().item() == pytest.approx(0.0275, abs=0.006)
    fading = (change < strongest[:, :, None, None] * 0.9) & defect
    assert 0.05 < (fading[:, :1].sum() / defect.sum()) < 0.9
    assert 0 < (change[:, :1] / strongest[:, :1, None, None])[defect].min() < 0.2  # smooth: down to what can be seen


def test_the_middle_of_a_blob_is_any_pixel_of_the_region():
    inside = torch.zeros(400, 1, 32, 32, dtype=torch.bool)
    inside[:, :, [3, 20]] = True
    inside[:, :, :, 16:] = False
    images = torch.zeros(400, 1, 32, 32)
    _, defect = Blob()(images, keys(400), inside)
    assert defect.any(dim=(1, 2, 3)).all()
    upper = defect[:, 0, 3].any(dim=1)
    assert 0.4 < upper.float().mean() < 0.6
    columns = (defect.float().sum((1, 2)) * torch.arange(32)).sum(1) / defect.sum((1, 2, 3))
    assert columns.mean().item() == pytest.approx(7.5, abs=0.6)


def test_a_mixture_gives_each_row_one_kind_or_none():
    images = noisy(160, 1, 24, 24)
    image, defect = AnyOf(EVERY, probability=0.5)(images, keys(160))
    single = [corruption(images, keys(160)) for corruption in EVERY]
    same = torch.stack([(image == each.image).all(dim=(1, 2, 3)) for each in single])
    clean = ~defect.any(dim=(1, 2, 3))
    assert (same.any(dim=0) | clean).all()
    assert torch.equal(image[clean], images[clean])
    assert clean.float().mean().item() == pytest.approx(0.5, abs=0.1)
    assert same[:, ~clean].sum(1).min() > 10
    for each, rows in zip(single, same, strict=True):
        assert torch.equal(defect[rows & ~clean], each.defect[rows & ~clean])
    assert AnyOf(EVERY).kinds == set(KINDS)
    assert not AnyOf(EVERY, probability=0.0)(images, keys(160)).defect.any()


def test_clean_rows_are_as_many_as_the_probability_says():
    shares = [AnyOf((flat,), probability=0.5)(torch.zeros(4000, 1, 1, 1), keys(4000)).defect.float().mean()]
    assert shares[0].item() == pytest.approx(0.5, abs=0.02)


class Flat:
    """Paints all of every image white."""

    kinds = frozenset({"patch"})

    def __call__(self, images, keys, inside=None):
        return Corrupted(torch.ones_like(images), torch.ones_like(images[:, :1], dtype=torch.bool))


flat = Flat()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("level", [0.5, 1.0])
@each_kind
def test_at_least_a_thousandth_changes_whatever_the_image(corruption, level, channels):
    inside = torch.zeros(30, 1, 64, 64, dtype=torch.bool)
    inside[:, :, 16:, 5:60] = True
    images = torch.full((30, channels, 64, 64), level)
    image, defect = AtLeast(corruption)(images, keys(30), inside)
    assert torch.equal(defect, (image != images).any(dim=1, keepdim=True))
    assert defect.sum((1, 2, 3)).min() >= 0.001 * 48 * 55
    assert defect.float().mean((1, 2, 3)).max() < 0.3
    assert not (defect & ~inside).any()
    assert AtLeast(corruption).kinds == corruption.kinds


def test_at_least_keeps_what_is_enough_and_repeats_only_the_rest():
    images = noisy(60)
    patches = AtLeast(Patch())(images, keys(60))
    assert patches.defect.sum((1, 2, 3)).min() >= 0.02 * 48 * 48 * 0.8
    few, many = AtLeast(PerlinTexture(), share=0.001), AtLeast(PerlinTexture(), share=0.04)
    one, other = few(images, keys(60)), many(images, keys(60))
    enough = one.defect.float().mean((1, 2, 3)) >= 0.04
    assert 0.2 < enough.float().mean() < 0.8
    assert torch.equal(one.image[enough], other.image[enough])
    assert other.defect.float().mean((1, 2, 3)).min() >= 0.04
    assert other.defect.float().mean((1, 2, 3)).max() < 0.5  # another try, not the whole image


def test_a_method_that_knows_blobs_is_shown_none_in_the_place_of_a_scar_that_cannot_be_seen():
    images = torch.full((5, 3, 32, 32), 0.25)
    inside = torch.zeros(5, 1, 32, 32, dtype=torch.bool)
    inside[:, :, 8:24] = True
    image, defect = AtLeast(Scar(jitter=0.0), otherwise=None)(images, keys(5), inside)
    assert torch.equal(defect, inside)
    assert (image[defect.expand_as(image)] == 1).all()  # the whole region turns white
    assert AtLeast(Scar(jitter=0.0))(images, keys(5), inside).defect.sum() < inside.sum()


def test_a_region_of_one_pixel_gets_a_defect_and_one_of_none_stays():
    inside = torch.zeros(8, 1, 16, 16, dtype=torch.bool)
    inside[:4, :, 3, 4] = True
    images = torch.ones(8, 3, 16, 16)
    for corruption in EVERY:
        image, defect = AtLeast(corruption)(images, keys(8), inside)
        assert torch.equal(defect, inside)
        assert torch.equal((image != 1).any(dim=1, keepdim=True), inside)


def test_what_a_method_was_trained_with_is_left_out():
    assert [each.kinds for each in other_corruptions(set())] == [{kind} for kind in KINDS]
    assert [each.kinds for each in other_corruptions(AnyOf((Patch(), Scar())).kinds)] == [{"perlin"}, {"blob"}]
    with pytest.raises(UserError, match=r"callbacks=synthetic: expected .* found all .*perlin, patch, scar, blob"):
        other_corruptions(KINDS)


def test_all_of_them_are_corruptions():
    for each in (*EVERY, MIXTURE, AtLeast(Blob()), flat):
        assert isinstance(each, Corruption)


def test_the_textures_that_any_part_paints_with_are_found():
    one, other = ForeignTextures("own"), ForeignTextures()
    nested = AnyOf([Blob(), PerlinTexture(one), AtLeast(AnyOf([PerlinTexture(other), Patch()])), PerlinTexture(white)])
    assert textures_of(nested) == [one, other]
    assert textures_of(AtLeast(PerlinTexture(one))) == [one]
    assert textures_of(Patch()) == textures_of(None) == []
