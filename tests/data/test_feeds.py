"""Feeds: the same rows whatever the processes and the resumes; every image once; what training sees of them."""

import math

import numpy as np
import pytest
import torch

from anomaly_lab.core.errors import UserError
from anomaly_lab.data.augmentation import Augmentation
from anomaly_lab.data.feeds import ImageFeed, PatchFeed
from anomaly_lab.data.store import Decoded, Masks

NONE = Augmentation()
CPU = torch.device("cpu")
BOXES = np.tile([0, 0, 32, 32], (7, 1))
IMAGES = torch.randint(0, 256, (7, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
STORE = Decoded(IMAGES, [], [])


def patches(count=64, batch_size=16, augmentation=NONE, seed=0, kind="object", redraw=True):
    return PatchFeed(BOXES, 32, augmentation, batch_size, seed, kind, 32 if kind == "object" else 8, count, redraw)


def images(batch_size=3, augmentation=NONE, shuffled=True):
    return ImageFeed(BOXES, 32, augmentation, batch_size, 0, shuffled)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_processes_together_see_the_batch_of_one(world_size):
    shares = [list(patches(100).loader(3, rank, world_size)) for rank in range(world_size)]
    assert [len(share) for share in shares] == [6] * world_size
    plan = patches(100).plan(3)
    for step in range(6):
        together = sorted(i for share in shares for i in share[step].number.tolist())
        assert together == list(range(16 * step, 16 * step + 16))
        for share in shares:
            assert share[step].epoch == 3
            assert torch.equal(share[step].plan.image, plan.image[share[step].number])


def test_a_batch_that_cannot_be_shared_is_refused():
    with pytest.raises(UserError, match="expected a multiple of the 2 processes .* found 15"):
        patches(batch_size=15).loader(0, 0, 2)


@pytest.mark.parametrize("feed", [patches(28, 7), images(2)], ids=["patches", "images"])
def test_a_loader_resumes_after_the_batches_that_were_handed_out(feed):
    whole = [rows.number.tolist() for rows in feed.loader(0)]
    loader = feed.loader(0)
    iterator = iter(loader)
    next(iterator), next(iterator)
    resumed = feed.loader(0)
    resumed.load_state_dict(loader.state_dict())
    assert [rows.number.tolist() for rows in resumed] == whole[2:]
    assert [rows.number.tolist() for rows in resumed] == whole
    finished = feed.loader(0)
    finished.load_state_dict({"done": len(finished)})
    assert len(list(finished)) == len(whole)


def test_patches_change_with_the_epoch_unless_they_are_kept():
    assert not torch.equal(patches().plan(0).image, patches().plan(1).image)
    kept = patches(redraw=False)
    assert torch.equal(kept.plan(1).image, patches().plan(0).image)
    assert not torch.equal(patches(seed=1).plan(0).image, patches().plan(0).image)


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("shuffled", [True, False])
def test_an_epoch_of_images_shows_each_of_them_once(world_size, shuffled):
    shares = [list(images(shuffled=shuffled).loader(0, rank, world_size)) for rank in range(world_size)]
    assert len({len(share) for share in shares}) == 1
    loader = images(shuffled=shuffled).loader(0, 0, world_size)
    assert [loader.size(i) for i in range(len(loader))] == [
        sum(len(rows.number) for rows in batch) for batch in zip(*shares, strict=True)
    ]
    seen = [i for share in shares for rows in share for i in rows.plan.image.tolist()]
    assert sorted(seen) == list(range(7))
    order = [images(shuffled=shuffled).plan(epoch).image.tolist() for epoch in (0, 0, 1)]
    assert order[0] == order[1]
    assert (order[0] != order[2]) == shuffled == (order[0] != list(range(7)))


def test_more_processes_than_images_are_refused():
    with pytest.raises(UserError, match="trainer.devices: expected at most 7, the number of training images, found 8"):
        images().loader(0, 0, 8)


def test_whole_images_are_what_they_are_unless_they_are_augmented():
    plain, varied = images(), images(augmentation=Augmentation(rotation=180, brightness=0.1))
    (rows,) = images(7).loader(1)
    batch = plain.render(rows, STORE, CPU)
    assert torch.equal(batch.image, IMAGES[rows.plan.image].float() / 255)
    assert torch.equal(batch.index, rows.plan.image)
    assert torch.equal(batch.row, torch.arange(7))
    assert batch.label.tolist() == [0] * 7
    assert batch.clean is batch.defect is None
    first, second = (varied.render(next(iter(varied.loader(epoch))), STORE, CPU).image for epoch in (0, 1))
    assert first.shape == second.shape == (4, 3, 32, 32)
    assert not torch.equal(first, second)


def test_only_objects_have_parts_that_are_not_shown():
    for feed in (patches(), images()):
        assert feed.shown(next(iter(feed.loader(0))), CPU).all()
    texture = patches(kind="texture")
    assert texture.shown(next(iter(texture.loader(0))), CPU) is None
    assert texture.render(next(iter(texture.loader(0))), STORE, CPU).image.shape == (16, 3, 8, 8)


BLOBS = torch.from_numpy(np.kron(np.random.default_rng(1).random((3, 1, 8, 8)) < 0.3, np.ones((4, 4)))) > 0
MASKS = Masks(255 * BLOBS.to(torch.uint8), torch.tensor([-1, 0, -1, -1, 1, 2, -1]))
MOVED = Augmentation(180, True, 0.2, True, True, brightness=0.3, contrast=0.3)


def moved_slowly(mask, plan, row, side=32):
    """Pixel by pixel: mirrored, turned and shifted about the middle, bilinear, the border repeated."""
    flip_y, flip_x = (1 - 2 * plan.flip[row].double()).tolist()
    angle, (y, x) = plan.angle[row].item(), plan.center[row].tolist()
    out = np.empty((side, side))
    for v in range(side):
        for u in range(side):
            right, down = flip_x * (u + 0.5 - side / 2), flip_y * (v + 0.5 - side / 2)
            at_x = float(np.clip(x + math.cos(angle) * right - math.sin(angle) * down - 0.5, 0, side - 1))
            at_y = float(np.clip(y + math.sin(angle) * right + math.cos(angle) * down - 0.5, 0, side - 1))
            left, top = min(int(at_x), side - 2), min(int(at_y), side - 2)
            a, b, c, d = mask[top, left], mask[top, left + 1], mask[top + 1, left], mask[top + 1, left + 1]
            upper, lower = a + (at_x - left) * (b - a), c + (at_x - left) * (d - c)
            out[v, u] = upper + (at_y - top) * (lower - upper)
    return out


@pytest.mark.parametrize("feed", [patches(21, 21, MOVED), images(7, MOVED)], ids=["patches", "images"])
def test_a_mask_is_turned_flipped_and_shifted_with_its_photo(feed):
    rows = next(iter(feed.loader(0)))
    marked = feed.marked(rows, MASKS, CPU)
    assert (marked.shape[1:], marked.dtype) == ((1, 32, 32), torch.bool)
    seen = 0
    for row, image in enumerate(rows.plan.image.tolist()):
        place = MASKS.place[image].item()
        if place < 0:
            assert not marked[row].any()
            continue
        expected = moved_slowly(BLOBS[place, 0].double().numpy(), rows.plan, row)
        clear = abs(expected - 0.5) > 1e-3
        assert np.array_equal(marked[row, 0].numpy()[clear], (expected > 0.5)[clear])
        seen += 1
    assert seen > 2


def test_a_mask_of_an_image_that_stays_as_it_is_stays_as_it_is():
    (rows,) = images(7).loader(1)
    marked = images(7).marked(rows, MASKS, CPU)
    for row, image in enumerate(rows.plan.image.tolist()):
        place = MASKS.place[image].item()
        assert torch.equal(marked[row], BLOBS[place] if place >= 0 else torch.zeros(1, 32, 32, dtype=torch.bool))


def test_two_processes_have_the_masks_of_one():
    feed = patches(16, 16, MOVED)
    (whole,) = feed.loader(2)
    expected, found = feed.marked(whole, MASKS, CPU), {}
    for rank in range(2):
        (rows,) = feed.loader(2, rank, 2)
        found |= dict(zip(rows.number.tolist(), feed.marked(rows, MASKS, CPU), strict=True))
    assert torch.equal(torch.stack([found[number] for number in range(16)]), expected)
