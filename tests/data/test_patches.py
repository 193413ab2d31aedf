"""The plan and its rendering: identities and known geometry."""

import math

import numpy as np
import pytest
import torch

from anomaly_lab.core.errors import UserError
from anomaly_lab.data import patches as renderers
from anomaly_lab.data.augmentation import Augmentation
from anomaly_lab.data.patches import PatchPlan, draw_plan, render, shown

ANY = Augmentation(rotation=180, horizontal_flip=True, vertical_flip=True)


def plan(kind="texture", patches=200, image_size=256, patch_size=64, augmentation=ANY, seed=(0, 0)):
    boxes = np.tile([0, 0, image_size, image_size], (5, 1))
    return draw_plan(np.random.default_rng(seed), kind, patches, boxes, image_size, patch_size, augmentation)


def one(center, angle=0.0, flip=(False, False), image=0):
    return PatchPlan(
        torch.tensor([image]), torch.tensor([center], dtype=torch.float32), torch.tensor([angle]),
        torch.tensor([flip]), torch.tensor([0.0]), torch.tensor([1.0]),
    )  # fmt: skip


STORE = torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_an_unturned_patch_is_the_crop():
    patch = render(STORE, one((40.0, 52.0), image=1), 32)
    torch.testing.assert_close(patch[0], STORE[1, :, 24:56, 36:68].float() / 255, rtol=0, atol=1e-5)


def test_flips_and_quarter_turns_are_exact():
    crop = STORE[0, :, 24:56, 36:68].float() / 255
    for flip, angle, expected in [
        ((True, False), 0.0, crop.flip(1)),
        ((False, True), 0.0, crop.flip(2)),
        ((False, False), math.pi / 2, torch.rot90(crop, 1, (1, 2))),
        ((False, False), math.pi, torch.rot90(crop, 2, (1, 2))),
    ]:
        patch = render(STORE, one((40.0, 52.0), angle, flip), 32)[0]
        torch.testing.assert_close(patch, expected, rtol=0, atol=1e-4)


def test_a_turned_patch_equals_bilinear_sampling_of_the_whole_image():
    rows = plan(image_size=96, patch_size=48, patches=20)._replace(image=torch.arange(20) % 2)
    patches = render(STORE, rows, 48)
    image = STORE.float() / 255
    u = torch.arange(48) + 0.5 - 24
    for i in range(20):
        fy, fx = (1 - 2 * rows.flip[i].float()).tolist()
        c, s = math.cos(rows.angle[i]), math.sin(rows.angle[i])
        y = rows.center[i, 0] + s * fx * u[None, :] + c * fy * u[:, None] - 0.5
        x = rows.center[i, 1] + c * fx * u[None, :] - s * fy * u[:, None] - 0.5
        y0, x0 = y.floor().long().clamp(0, 94), x.floor().long().clamp(0, 94)
        wy, wx = (y - y0).clamp(0, 1), (x - x0).clamp(0, 1)
        source = image[rows.image[i]]
        top = source[:, y0, x0] * (1 - wx) + source[:, y0, x0 + 1] * wx
        bottom = source[:, y0 + 1, x0] * (1 - wx) + source[:, y0 + 1, x0 + 1] * wx
        torch.testing.assert_close(patches[i], top * (1 - wy) + bottom * wy, rtol=0, atol=1e-4)


def test_no_fill_pixel_enters_a_texture_patch():
    """A frame of white around the image would be repeated into a patch that reaches outside."""
    store = torch.zeros(5, 1, 120, 120, dtype=torch.uint8)
    rows = plan(image_size=120, patch_size=64, patches=500)
    half = 32 * (rows.angle.cos().abs() + rows.angle.sin().abs())
    assert ((rows.center - half[:, None]) >= -1e-3).all()
    assert ((rows.center + half[:, None]) <= 120 + 1e-3).all()
    assert render(store, rows, 64).max() == 0


@pytest.mark.parametrize(("degrees", "side"), [(0, 128.0), (15, 156.8), (30, 174.9), (45, 181.0)])
def test_reach_of_a_turned_patch(degrees, side):
    assert 128 * Augmentation(rotation=degrees).reach() == pytest.approx(side, abs=0.05)


def test_crops_cover_the_whole_texture():
    rows = plan(image_size=100, patch_size=64, patches=5000, augmentation=Augmentation())
    corners = rows.center - 32
    assert corners.min() == 0
    assert corners.max() == 36
    assert torch.equal(corners, corners.round())


def test_a_texture_too_small_to_turn_in_is_refused():
    with pytest.raises(UserError, match=r"at least 92 px.* found 80; .*augmentation.rotation=0"):
        plan(image_size=80)


def test_objects_are_shown_whole_and_the_border_is_repeated():
    store = torch.full((5, 3, 64, 64), 200, dtype=torch.uint8)
    rows = plan("object", image_size=64, patch_size=64, augmentation=Augmentation(rotation=180, shift=0.1))
    assert (rows.center - 32).abs().max() <= 6.4
    assert torch.allclose(render(store, rows, 64), torch.tensor(200 / 255))


def test_ranges_and_chances_of_the_draw():
    rows = plan(patches=4000, augmentation=Augmentation(10, True, 0, True, False, 0.1, 0.2))
    turns = torch.rad2deg(rows.angle)
    assert ((turns + 10) % 90 <= 20.01).all()
    assert torch.bincount(((turns + 10) // 90).long()).tolist() == pytest.approx([1000] * 4, rel=0.15)
    assert rows.flip[:, 1].float().mean().item() == pytest.approx(0.5, abs=0.05)
    assert not rows.flip[:, 0].any()
    assert rows.brightness.abs().max() <= 0.1
    assert (rows.contrast - 1).abs().max() <= 0.2


def test_light_is_varied_patch_by_patch():
    rows = one((40.0, 52.0))._replace(brightness=torch.tensor([0.2]), contrast=torch.tensor([0.5]))
    crop = STORE[0, :, 24:56, 36:68].float() / 255
    torch.testing.assert_close(render(STORE, rows, 32)[0], (crop * 0.5 + 0.2).clamp(0, 1))


def test_the_plan_follows_from_its_seed():
    assert all(torch.equal(a, b) for a, b in zip(plan(), plan(), strict=True))
    assert not torch.equal(plan().center, plan(seed=(0, 1)).center)


@pytest.mark.parametrize("angle", [0.0, math.pi / 2, 0.4])
def test_shown_is_the_part_of_a_patch_that_is_not_padding(angle):
    """Of a photo that fills its box with white, padded with black."""
    boxes = np.array([[8, 0, 20, 32], [0, 6, 32, 13]])
    store = torch.zeros(2, 1, 32, 32, dtype=torch.uint8)
    for image, (top, left, height, width) in zip(store, boxes, strict=True):
        image[:, top : top + height, left : left + width] = 255
    for image in range(2):
        rows = one((16.0, 16.0), angle, (True, False), image)
        seen, inside = render(store, rows, 32), shown(rows, 32, boxes, torch.device("cpu"))
        assert inside.shape == (1, 1, 32, 32)
        away = (seen - 0.5).abs() > 0.499  # neither black nor white is left where a turned edge is resampled
        corner = angle == 0.4  # there the border is repeated, which is not shown
        assert away.float().mean() > 0.8
        assert not (inside & away & (seen < 0.5)).any()
        assert corner or torch.equal(inside, seen > 0.5)


def test_padding_does_not_enter_a_texture_patch():
    boxes = np.array([[20, 0, 80, 120], [0, 10, 120, 100]])
    rows = draw_plan(np.random.default_rng(0), "texture", 500, boxes, 120, 48, ANY)
    half = 24 * (rows.angle.cos().abs() + rows.angle.sin().abs())[:, None]
    top_left = torch.from_numpy(boxes[rows.image.numpy(), :2])
    bottom_right = top_left + torch.from_numpy(boxes[rows.image.numpy(), 2:])
    assert ((rows.center - half) >= top_left - 1e-3).all()
    assert ((rows.center + half) <= bottom_right + 1e-3).all()
    assert set(rows.image.tolist()) == {0, 1}


@pytest.mark.parametrize("corner", [(0, 0), (24, 36), (64, 64)], ids=str)
def test_crops_flips_and_quarter_turns_are_exact_to_the_bit_on_the_host(corner):
    y, x = corner
    crop = STORE[1, :, y : y + 32, x : x + 32].float() / 255
    for quarter in range(-4, 5):
        for flip in [(False, False), (True, False), (False, True), (True, True)]:
            patch = render(STORE, one((y + 16.0, x + 16.0), quarter * math.pi / 2, flip, image=1), 32)[0]
            mirrored = crop.flip([axis + 1 for axis in range(2) if flip[axis]])
            assert any(torch.equal(patch, torch.rot90(mirrored, turns, (1, 2))) for turns in (quarter, -quarter))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["texture", "object"])
def test_host_and_accelerator_agree(kind, channels):
    """Objects are turned and shifted until the repeated border shows."""
    rows = plan(kind, 40, 96, 64 if kind == "texture" else 96, Augmentation(180, True, 0.2, True, True))
    rows, side = rows._replace(image=rows.image % 2), 64 if kind == "texture" else 96
    store = STORE[:, :channels].contiguous()
    expected = renderers._render_windows(store, rows, side, math.sqrt(2), None)
    torch.testing.assert_close(render(store, rows, side), expected, rtol=0, atol=1e-4)
