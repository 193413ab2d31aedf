"""Splits, loaders and what reaches the device."""

import copy

import cv2
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import Strategy

from anomaly_lab.core.errors import UserError
from anomaly_lab.data import datamodule as module
from anomaly_lab.data.augmentation import Augmentation
from anomaly_lab.data.corruption import AnyOf, Blob, PerlinTexture
from anomaly_lab.data.datamodule import DataModule, ImageLoader
from anomaly_lab.data.feeds import ImageFeed, PatchFeed
from anomaly_lab.data.images import Decoding
from anomaly_lab.data.layouts import folder, mvtec_ad, pooled
from tests.conftest import stand_in, write_image

CPU = torch.device("cpu")


def datamodule(parts, **changes):
    settings = {
        "splits": mvtec_ad(str(parts.parent), "bar"), "augmentation": Augmentation(), "kind": "object",
        "decoding": Decoding(64, 3), "patch_size": 64, "sees": "patches", "patches": 40,
        "redraw": True,
        "batch_size": 8, "test_batch_size": 3, "workers": 0,
        "cache": "memory", "cache_dir": None, "on_error": "stop", "held_out": 0.2, "split_seed": 0, "seed": 0,
    }  # fmt: skip
    return DataModule(**settings | changes)


def test_held_out_images_are_not_trained_on(parts):
    data = datamodule(parts)
    assert len(data.train_samples) == 8
    assert len(data.held_out_samples) == 2
    assert not set(data.train_samples) & set(data.held_out_samples)


def test_a_run_with_few_good_photos_knows_no_others_and_tests_the_same(parts, capsys):
    every = datamodule(parts)
    known = []
    for number in (3, 5, 10):
        data = datamodule(parts, good_photos=number, seed=1)
        known.append({*data.train_samples, *data.held_out_samples})
        assert (len(data.train_samples), len(data.held_out_samples)) == (
            number - round(0.2 * number),
            round(number / 5),
        )
        assert data.test_samples == every.test_samples
    assert known[0] < known[1] < known[2] == {*every.train_samples, *every.held_out_samples}
    other = datamodule(parts, good_photos=5, seed=2)
    assert {*other.train_samples, *other.held_out_samples} != known[1]
    other.setup("fit")
    assert "data: 5 of 10 good photos are used, chosen by seed=2 (data.good_photos)\n" in capsys.readouterr().out
    assert len(other.store.images) == 4


def test_batches_have_the_labels_of_defective_photos_and_nothing_else_sees_these(parts, capsys):
    data = datamodule(parts, labelled_abnormal=1, threshold_images="training")
    assert (data.protocol, datamodule(parts).protocol) == ("weakly_supervised", "unsupervised")
    assert len(data.good) == len(datamodule(parts).train_samples) == len(data.train_samples) - 1
    assert data.train_samples[-1] in datamodule(parts).test_samples
    assert data.train_samples[-1] not in data.test_samples
    data.setup("fit")
    assert "data: 1 defective photo to learn from (hole 1), not among the 9 test photos" in capsys.readouterr().out
    batches = [data.rendered(rows, CPU) for rows in data.feed.loader(0)]
    index, label = (torch.cat([getattr(batch, name) for batch in batches]) for name in ("index", "label"))
    assert label.tolist() == [data.train_samples[i].label for i in index]
    assert 0 < label.sum() < len(label) / 4
    whole = torch.cat([batch.index for batch in data.whole_training_images()])
    assert whole.tolist() == list(range(len(data.good)))
    assert data.predict_dataloader().samples == data.good


def test_labelled_photos_that_cannot_be_read_are_left_out_and_end_the_run_if_none_is_left(parts, tmp_path):
    write_image(tmp_path / "more/dent/0.png", np.full((140, 140, 3), 7, np.uint8))
    (tmp_path / "more/dent/1.png").write_bytes(b"junk")
    (parts / "train/good/000.png").write_bytes(b"rubbish")
    data = datamodule(parts, labelled_abnormal=str(tmp_path / "more"), on_error="skip")
    data.setup("fit")
    assert (data.labelled, data.train_samples[-1].path.name) == (1, "0.png")
    (tmp_path / "more/dent/0.png").unlink()
    data = datamodule(parts, labelled_abnormal=str(tmp_path / "more"), on_error="skip")
    with pytest.raises(UserError, match=r"expected a defective photo that can be read, found none: .*dent/1.png: exp"):
        data.setup("fit")
    (parts / "train/good/000.png").unlink()
    with pytest.raises(UserError, match=r"dent/1.png: .*data.on_error=skip"):
        datamodule(parts, labelled_abnormal=str(tmp_path / "more")).setup("fit")


def test_the_trainer_that_comes_later_takes_the_images_to_its_device(parts, monkeypatch):
    asked = []
    monkeypatch.setattr(module, "on_device", lambda store, *where: asked.append(where) or store)
    data = datamodule(parts, cache="auto")
    data.setup("fit")  # before there is a trainer
    assert asked == []
    store = data.store
    device = torch.device("cuda", 3)
    data.trainer = stand_in(pl.Trainer, strategy=stand_in(Strategy, root_device=device))
    data.setup("fit")
    assert asked == [(device, "auto")]
    assert data.store is store


@pytest.mark.parametrize(("which", "count"), [("held_out", 2), ("training", 8)])
def test_the_threshold_sees_the_held_out_images_or_those_of_the_training(parts, which, count):
    data = datamodule(parts, threshold_images=which)
    batches = list(data.predict_dataloader())
    assert sum(len(batch.image) for batch in batches) == count
    samples = data.train_samples if which == "training" else data.held_out_samples
    first = data.decoding.read(samples[0].path)[0]
    assert np.array_equal(batches[0].image[0].numpy(), first)
    assert len(list(data.val_dataloader())) == 1  # the validation loss goes on seeing the held-out


def test_the_store_holds_the_training_images_in_their_order(parts):
    data = datamodule(parts, decoding=Decoding(140, 3))
    data.setup("fit")
    assert data.store.images.shape == (8, 3, 140, 140)
    for image, sample in zip(data.store.images, data.train_samples, strict=True):
        assert np.array_equal(image.permute(1, 2, 0).numpy(), cv2.imread(str(sample.path))[..., ::-1])


def test_the_store_does_not_depend_on_the_number_of_workers(parts):
    stores = []
    for workers in (0, 1, 3):
        data = datamodule(parts, workers=workers)
        data.setup("fit")
        stores.append(data.store.images)
    assert torch.equal(stores[0], stores[1])
    assert torch.equal(stores[0], stores[2])


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_images_and_masks_come_in_order_whatever_the_number_of_workers(parts, workers):
    data = datamodule(parts, workers=workers)
    batches = list(data.test_dataloader())
    assert len(batches) == len(data.test_dataloader()) == 4
    assert torch.cat([batch.index for batch in batches]).tolist() == list(range(10))
    assert torch.cat([batch.label for batch in batches]).tolist() == [0] * 5 + [1] * 5
    masks = [mask for batch in batches for mask in batch.mask]
    assert [int(mask.sum()) for mask in masks] == [0] * 5 + [24 * 24] * 5
    assert {mask.shape for mask in masks} == {(1, 140, 140)}
    reference = list(datamodule(parts).test_dataloader())
    assert all(torch.equal(a.image, b.image) for a, b in zip(batches, reference, strict=True))


def test_images_of_any_size_share_a_batch(parts, write):
    write(parts / "test/good/wide.png", np.full((50, 90, 3), 9, np.uint8))
    data = datamodule(parts, test_batch_size=16)
    (batch,) = data.test_dataloader()
    assert batch.image.shape == (11, 3, 64, 64)
    assert batch.mask[5].shape == (1, 50, 90)
    assert batch.placement[5].target == (14, 0, 36, 64)


def test_uint8_becomes_the_unit_interval(parts):
    data = datamodule(parts)
    batch = next(iter(data.test_dataloader()))
    assert batch.image.dtype == torch.uint8
    assert torch.equal(data.moved(batch, CPU).image, batch.image.float() / 255)


@pytest.mark.parametrize(
    ("changes", "kind", "batch_size", "shuffled"),
    [
        ({}, PatchFeed, 8, None), ({"sees": "images"}, ImageFeed, 8, True),
        ({"sees": "images", "passes": 1}, ImageFeed, 3, False),
    ],
)  # fmt: skip
def test_the_feed_follows_from_what_the_method_sees(parts, changes, kind, batch_size, shuffled):
    data = datamodule(parts, **changes, augmentation=Augmentation(rotation=5))
    data.setup("fit")
    assert type(data.feed) is kind
    assert data.feed.batch_size == batch_size
    assert getattr(data.feed, "shuffled", None) is shuffled
    assert data.feed.augmentation.rotation == 5
    assert datamodule(parts, augmented=False, augmentation=Augmentation(rotation=5)).augmentation.rotation == 0


@pytest.fixture
def corrupting(parts):
    data = datamodule(parts, corruption=AnyOf([PerlinTexture(), Blob()], 0.5), seed=3)
    data.setup("fit")
    return data


def test_training_sees_synthetic_defects_that_follow_from_the_row(corrupting):
    """In any batch; in another epoch others."""
    loader = corrupting.feed.loader(2)
    whole = corrupting.transfer_batch_to_device(loader.rows(torch.arange(12)), CPU, 0)
    again = corrupting.transfer_batch_to_device(loader.rows(torch.tensor([7, 3])), CPU, 0)
    assert torch.equal(again.image, whole.image[[7, 3]])
    assert torch.equal(again.defect, whole.defect[[7, 3]])
    assert torch.equal(whole.clean, datamodule_of(corrupting).rendered(loader.rows(torch.arange(12)), CPU).image)
    assert torch.equal(whole.defect, ((whole.image - whole.clean).abs().amax(1, keepdim=True) >= 0.5 / 255))
    assert 0 < whole.defect.flatten(1).any(1).float().mean() < 1
    other = corrupting.rendered(corrupting.feed.loader(1).rows(torch.arange(12)), CPU)
    assert not torch.equal(other.defect, whole.defect)


def datamodule_of(data):
    """The same one without corruption."""
    clean = copy.copy(data)
    clean.corruption = None
    return clean


def test_validation_sees_the_same_defects_every_time_and_the_test_none(corrupting):
    batch = next(iter(corrupting.val_dataloader()))
    found = {}
    for state in ("validating", "sanity_checking", "testing", "predicting"):
        states = {"validating": False, "sanity_checking": False, state: True}
        corrupting.trainer = stand_in(pl.Trainer, **states)
        found[state] = corrupting.transfer_batch_to_device(batch, CPU, 0)
    assert torch.equal(found["validating"].defect, found["sanity_checking"].defect)
    assert torch.equal(found["validating"].clean, batch.image.float() / 255)
    for state in ("testing", "predicting"):
        assert found[state].defect is found[state].clean is None
        assert torch.equal(found[state].image, batch.image.float() / 255)


def test_defects_do_not_lie_in_the_padding(parts, write):
    write(parts / "train/good/000.png", np.full((50, 90, 3), 90, np.uint8))
    write(parts / "train/good/001.png", np.full((50, 90, 3), 90, np.uint8))
    data = datamodule(parts, corruption=PerlinTexture(), sees="images", passes=1, test_batch_size=10)
    data.setup("fit")
    (rows,) = data.feed.loader(0)
    batch = data.rendered(rows, CPU)
    wide = [i for i, box in enumerate(data.store.boxes) if box != (0, 0, 64, 64)]
    assert wide
    assert batch.defect[wide, :, 14:50].any()
    assert not batch.defect[wide, :, :14].any()
    assert not batch.defect[wide, :, 50:].any()


def test_a_mask_of_another_size_is_named_before_training(parts, write):
    write(parts / "ground_truth/hole/002_mask.png", np.full((70, 70), 255, np.uint8))
    with pytest.raises(UserError, match="002_mask.png: expected a mask of the size of its image, 140 x 140, found 70"):
        datamodule(parts).setup("fit")


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("which", ["train_samples", "held_out_samples", "test_samples"])
def test_an_unreadable_image_is_named_before_training(parts, which, workers):
    """Also where only its end is missing, which no header tells."""
    data = datamodule(parts, workers=workers)
    path = getattr(data, which)[1].path
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match=f"{path.name}: expected a readable image"):
        data.setup("fit")


def test_the_loader_reads_only_a_few_images_ahead(parts):
    opened = []

    class Watched(ImageLoader):
        def _read(self, index):
            opened.append(index)
            return super()._read(index)

    data = datamodule(parts)
    loader = Watched(data.test_samples * 10, Decoding(32, 3), batch_size=2, workers=2)
    next(iter(loader))
    assert 2 <= len(opened) <= 2 + 2 * 2 + 1


def test_images_that_cannot_be_read_are_left_out_where_that_is_asked_for(parts, capsys):
    data = datamodule(parts)
    lost = [data.train_samples[2].path, data.held_out_samples[0].path, data.test_samples[1].path]
    for path in lost:
        path.write_bytes(f"junk {path}".encode())
    data = datamodule(parts, on_error="skip")
    data.setup("fit")
    told = capsys.readouterr().out
    assert [len(data.train_samples), len(data.held_out_samples), len(data.test_samples)] == [7, 1, 9]
    assert all(path.name in told for path in lost)
    assert not {str(path) for path in lost} & {
        str(sample.path) for sample in (*data.train_samples, *data.held_out_samples, *data.test_samples)
    }
    assert len(data.feed.boxes) == 7


def test_without_any_store_patches_are_the_same(parts):
    patches = []
    for kept in ("memory", "none"):
        data = datamodule(parts, cache=kept)
        data.setup("fit")
        patches.append(data.rendered(data.feed.loader(0).rows(torch.arange(16)), CPU))
    assert torch.equal(patches[0].image, patches[1].image)
    assert torch.equal(patches[0].index, patches[1].index)


def test_the_remarks_of_the_layout_and_inverted_masks_are_printed_once(parts, write, capsys):
    for number in range(5):
        mask = parts / f"ground_truth/hole/{number:03d}_mask.png"
        write(mask, 255 - cv2.imread(str(mask), cv2.IMREAD_GRAYSCALE))
    (parts / "test/good/000.png").write_bytes((parts / "train/good/003.png").read_bytes())
    datamodule(parts).setup("fit")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("data: ")]
    assert lines == [
        "data: byte copies of training images among the test images, whose scores say little: 1, such as "
        f"{parts / 'test/good/000.png'} of {parts / 'train/good/003.png'}",
        f"data: 5 of 5 masks mark most of their photo, such as {parts / 'ground_truth/hole/000_mask.png'}; if black "
        "marks the defects there, they are inverted, and pixel metrics say nothing",
    ]


SHOWN = Augmentation(rotation=180, horizontal_flip=True, vertical_flip=True, shift=0.1)


def rendered(data, epoch=0):
    """All batches of an epoch as one."""
    return [data.rendered(rows, CPU) for rows in data.feed.loader(epoch)]


def test_batches_have_the_masks_of_labelled_photos_moved_with_them(parts):
    """A defect is the only thing that is white, at the size of the photo."""
    data = datamodule(parts, labelled_abnormal=3, masks=True, augmentation=SHOWN, decoding=Decoding(140, 3))
    data.setup("fit")
    batches = rendered(data)
    assert all(batch.clean is None for batch in batches)
    image, defect, label = (
        torch.cat([getattr(batch, name) for batch in batches]) for name in ("image", "defect", "label")
    )
    assert label.sum() > 3
    white = image.amin(dim=1, keepdim=True) > 200 / 255
    assert not defect[label == 0].any()
    assert (defect[label == 1].flatten(1).sum(dim=1) > 200).all()
    assert (white[label == 1] != defect[label == 1]).float().mean() < 0.1 * defect[label == 1].float().mean()


@pytest.mark.parametrize("changes", [{}, {"masks": True}, {"labelled_abnormal": 3}], ids=str)
def test_without_labelled_photos_or_a_method_that_asks_nothing_is_marked(parts, changes):
    plain, data = datamodule(parts), datamodule(parts, **changes)
    data.setup("fit")
    assert data.masks is None
    assert all(batch.defect is None for batch in rendered(data))
    if "labelled_abnormal" not in changes:
        plain.setup("fit")
        for ours, theirs in zip(rendered(data), rendered(plain), strict=True):
            assert torch.equal(ours.image, theirs.image)


def test_masks_change_neither_images_nor_labels(parts):
    every = []
    for masks in (False, True):
        data = datamodule(parts, labelled_abnormal=3, masks=masks, augmentation=SHOWN, corruption=Blob())
        data.setup("fit")
        every.append(rendered(data))
    for ours, theirs in zip(*every, strict=True):
        for name in ("image", "clean", "label", "index", "row"):
            assert torch.equal(getattr(ours, name), getattr(theirs, name))


def test_painted_defects_and_masks_are_marked_together(parts):
    settings = {"labelled_abnormal": 3, "augmentation": SHOWN, "corruption": Blob()}
    both, paint, masks = (
        datamodule(parts, **settings | changes)
        for changes in ({"masks": True}, {"labelled_abnormal": None}, {"masks": True, "corruption": None})
    )
    for data in (both, masks, paint):
        data.setup("fit")
    for batch, bare in zip(rendered(both), rendered(masks), strict=True):
        assert torch.equal(batch.clean, bare.image)
        changed = (batch.image - batch.clean).abs().amax(1, keepdim=True) >= 0.5 / 255
        assert torch.equal(batch.defect, changed | bare.defect)
    assert all(batch.defect.flatten(1).any(1).all() for batch in rendered(paint))


def test_of_a_photo_without_a_mask_nothing_is_marked_even_where_it_is_painted(parts, tmp_path):
    for number in range(2):
        write_image(tmp_path / f"more/dent/{number}.png", np.full((140, 140, 3), 7 + number, np.uint8))
    mask = np.zeros((140, 140), np.uint8)
    mask[:70] = 255
    write_image(tmp_path / "more/dent/1_mask.png", mask)
    data = datamodule(parts, labelled_abnormal=str(tmp_path / "more"), masks=True, corruption=Blob())
    data.setup("fit")
    names = [sample.path.name for sample in data.train_samples]
    for batch in rendered(data):
        for index, defect in zip(batch.index, batch.defect, strict=True):
            assert defect.any() == (names[index] != "0.png" or data.train_samples[index].label == 0)
            assert names[index] != "1.png" or defect[:, :32].all() or not data.train_samples[index].label
    (tmp_path / "more/dent/1_mask.png").unlink()
    data = datamodule(parts, labelled_abnormal=str(tmp_path / "more"), masks=True, corruption=Blob())
    data.setup("fit")
    for batch in rendered(data):
        assert torch.equal(batch.defect.flatten(1).any(1), batch.label == 0)


@pytest.mark.parametrize("corruption", [None, Blob()], ids=["bare", "painted"])
def test_the_validation_marks_nothing_of_good_images_but_paint(parts, corruption):
    data = datamodule(parts, labelled_abnormal=3, masks=True, corruption=corruption)
    data.setup("fit")
    data.trainer = stand_in(pl.Trainer, validating=True, sanity_checking=False, strategy=None)
    batch = data.transfer_batch_to_device(next(iter(data.val_dataloader())), CPU, 0)
    assert batch.defect.shape == (2, 1, 64, 64)
    assert batch.defect.any() == (corruption is not None)
    data.trainer = stand_in(pl.Trainer, validating=False, sanity_checking=False)
    assert data.transfer_batch_to_device(next(iter(data.val_dataloader())), CPU, 0).defect is None


def test_a_labelled_photo_whose_mask_cannot_be_used_is_named_or_left_out(parts, write):
    drawn = datamodule(parts, labelled_abnormal=2).train_samples[-2:]
    write(drawn[0].mask_path, np.full((70, 70), 255, np.uint8))
    with pytest.raises(UserError, match=r"expected a mask of the size of its image, .*data.on_error=skip"):
        datamodule(parts, labelled_abnormal=2, masks=True).setup("fit")
    data = datamodule(parts, labelled_abnormal=2, masks=True, on_error="skip")
    data.setup("fit")
    assert (data.labelled, data.train_samples[-1]) == (1, drawn[1])
    assert data.masks.place.tolist() == [-1] * 8 + [0]
    write(drawn[1].mask_path, np.full((70, 70), 255, np.uint8))
    data = datamodule(parts, labelled_abnormal=2, masks=True, on_error="skip")
    with pytest.raises(UserError, match="expected a defective photo that can be read, found none: .*_mask.png: exp"):
        data.setup("fit")
    datamodule(parts, labelled_abnormal=2).setup("fit")  # which reads no mask


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("good/000_mask.png", [0, 0, 255], True),
        ("good/000.png", [0, 0, 1], True),  # by id
        ("good/000_mask.png", [0, 0, 0], False),
        ("good/000_mask.png", None, False),  # a mask that nobody uses may be damaged
    ],
)
def test_a_mask_that_marks_a_defect_on_a_good_photo_is_a_contradiction(parts, write, capsys, name, values, said):
    file = parts / "ground_truth" / name
    file.parent.mkdir(exist_ok=True)
    if values is None:
        file.write_bytes(b"junk")
    else:
        write(file, np.repeat(np.array([values], np.uint8), 3, axis=0))
    splits = mvtec_ad(str(parts.parent), "bar")
    assert splits.good_masks == (file,)
    for found in (splits, pooled({"bar": splits})):
        datamodule(parts, splits=found).setup("fit")
        line = (
            f"data: contradictory labels, masks of good photos that mark defects: 1, such as {file}; move such a photo "
            "to a folder of defects, or remove its mask\n"
        )
        assert (line in capsys.readouterr().out) == said


def test_a_mask_beside_a_good_photo_that_marks_a_defect_is_a_contradiction(parts, write, capsys):
    write(parts / "test/good/000_mask.png", np.eye(3, dtype=np.uint8))
    datamodule(parts, splits=folder(str(parts), 0)).setup("fit")
    assert "masks of good photos that mark defects: 1, such as" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("decoding", "reason"),
    [
        ({"region": [-5, 0, 50, 50]}, "expected data.region .* inside the photo of 140 x 140 px, found .-5, 0, 50, 50"),
        ({"region": [10, 10, 500, 500]}, "expected data.region .* inside the photo of 140 x 140 px"),
        ({"region": "60x60"}, "data.region: expected x,y,width,height .* or a mask image, found no such file: 60x60"),
        ({"region": "nan,0,1,1"}, "data.region: expected x,y,width,height .*, found no such file: nan,0,1,1"),
        ({"max_pixels": 10}, r"expected at most 10 pixels \(data.max_pixels\), found 140 x 140"),
    ],
)
def test_a_key_for_which_no_photo_can_be_read_is_named_not_the_held_out_ones(parts, decoding, reason):
    data = datamodule(parts, decoding=Decoding(64, 3, **decoding), on_error="skip")
    with pytest.raises(UserError, match=f"^expected good photos that can be read, found none of 10: .*{reason}"):
        data.setup("fit")


def test_held_out_photos_that_cannot_be_read_are_named_where_others_can(parts):
    data = datamodule(parts, on_error="skip")
    for sample in data.held_out_samples:
        sample.path.write_bytes(b"junk")
    with pytest.raises(UserError, match="^data.held_out: expected a photo to set the threshold with that can be read"):
        data.setup("fit")
