"""Feeds: the same rows whatever the processes and the resumes; every image once; what training sees of them."""

import numpy as np
import pytest
import torch

from anomaly_lab.core.errors import UserError
from anomaly_lab.data.augmentation import Augmentation
from anomaly_lab.data.feeds import ImageFeed, PatchFeed
from anomaly_lab.data.store import Decoded

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
