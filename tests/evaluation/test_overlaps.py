"""AU-PRO from the counts of single images, against the metric of the run."""

import cv2
import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from anomaly_lab.core.types import Batch, Prediction
from anomaly_lab.data.datamodule import DataModule
from anomaly_lab.data.placement import place
from anomaly_lab.data.samples import Sample
from anomaly_lab.evaluation.overlaps import FILE, Overlaps, amounts, arrays, codes_of, histogram, reaching
from anomaly_lab.metrics.bootstrap import LIMIT, aupro
from anomaly_lab.metrics.pixel_metrics import PixelMetrics
from tests.conftest import stand_in


def drawn(count, seed, scale=1.0, shift=0.0):
    """Maps with blobs, and masks: the first half without a defect."""
    random = np.random.default_rng(seed)
    maps = random.normal(size=(count, 40, 50)).astype(np.float32)
    masks = np.zeros(maps.shape, bool)
    for i in range(count // 2, count):
        for y, x in random.integers(0, 30, (2, 2)):
            masks[i, y : y + 6, x : x + 9] = True
        maps[i][masks[i]] += random.random() * 3
    return maps * scale + shift, masks


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (1e-6, 0.0), (1e4, -1e5), (0.02, 0.5)])
def test_without_resampling_it_is_the_aupro_of_the_run(scale, shift):
    maps, masks = drawn(12, 0, np.float32(scale), np.float32(shift))
    exact = PixelMetrics(mode="exact")
    for anomaly_map, mask in zip(maps, masks, strict=True):
        exact.update([anomaly_map], [mask], one_image=True)
    found = arrays([histogram(i, [maps[i]], [masks[i]]) for i in range(12)])
    order = np.argsort(found["index"])
    assert found["index"][order].tolist() == list(range(12))
    assert found["regions"].sum() >= 6
    rows = [found[name] for name in ("false_positives", "overlaps", "normal_pixels", "regions")]
    for times in (1.0, 2.0):
        (value,) = aupro(*rows, weights=np.full((1, 12), times))
        assert value == pytest.approx(exact.compute()["aupro"], abs=2e-3)
    twice = np.ones((1, 12))
    twice[0, 9] = 2
    again = PixelMetrics(mode="exact")
    for i in (*range(12), 9):
        again.update([maps[i]], [masks[i]], one_image=True)
    assert aupro(*rows, weights=twice)[0] == pytest.approx(again.compute()["aupro"], abs=2e-3)


def test_the_callback_writes_the_images_that_pixel_metrics_count(tmp_path):
    maps, masks = drawn(4, 1)
    marked = (None, None, tmp_path / "mask.png", None)  # an unmarked defect counts nowhere
    samples = [Sample(tmp_path / f"{i}.png", mask, int(i > 1), "x", str(i)) for i, mask in enumerate(marked)]
    places = tuple(place(40, 50, 50, "stretch") for _ in samples)
    batch = Batch(
        torch.zeros(4, 3, 50, 50), tuple(torch.from_numpy(mask)[None] for mask in masks), torch.tensor([0, 0, 1, 1]),
        torch.arange(4), places,
    )  # fmt: skip
    squares = torch.stack([torch.from_numpy(cv2.resize(each, (50, 50))) for each in maps])[:, None]
    module = stand_in(DataModule, test_samples=samples)
    trainer = stand_in(pl.Trainer, datamodule=module, is_global_zero=True, default_root_dir=tmp_path)
    for localises in (False, True):
        callback, method = Overlaps(), stand_in(pl.LightningModule, localises=localises)
        callback.on_test_batch_end(trainer, method, Prediction(squares, None, None), batch)
        callback.on_test_epoch_end(trainer, method)
        assert (tmp_path / FILE).is_file() == localises
    with np.load(tmp_path / FILE) as found:
        assert found["index"].tolist() == [0, 1, 2]
        assert found["normal_pixels"].tolist() == [2000, 2000, 2000 - masks[2].sum()]
        assert found["regions"].tolist() == [0, 0, cv2.connectedComponents(masks[2].view(np.uint8))[0] - 1]
        assert (np.diff(found["false_positives"], axis=1) >= 0).all()


def test_images_of_several_batches_come_in_their_order_and_a_test_forgets_the_one_before(tmp_path):
    shapes, samples = ((40, 50), (40, 50), (30, 60)), []
    masks = [np.zeros(shape, bool) for shape in shapes]
    masks[1][:5, :4] = True
    for i, mask_path in enumerate((None, tmp_path / "mask.png", None)):
        samples.append(Sample(tmp_path / f"{i}.png", mask_path, int(i == 1), "x", str(i)))
    module = stand_in(DataModule, test_samples=samples)
    callback, method = Overlaps(), stand_in(pl.LightningModule, localises=True)

    def tested(*batches, first=True):
        trainer = stand_in(pl.Trainer, datamodule=module, is_global_zero=first, default_root_dir=tmp_path)
        for indices in batches:
            batch = Batch(
                torch.zeros(len(indices), 3, 50, 50), tuple(torch.from_numpy(masks[i])[None] for i in indices),
                torch.tensor([int(i == 1) for i in indices]), torch.tensor(indices),
                tuple(place(*shapes[i], 50, "stretch") for i in indices),
            )  # fmt: skip
            callback.on_test_batch_end(
                trainer, method, Prediction(torch.rand(len(indices), 1, 50, 50), None, None), batch
            )
        callback.on_test_epoch_end(trainer, method)
        if not (tmp_path / FILE).is_file():
            return None
        with np.load(tmp_path / FILE) as found:
            return found["index"].tolist(), found["normal_pixels"].tolist()

    assert tested([0, 2]) is None  # no defect
    assert tested([0, 1], first=False) is None
    assert tested([2, 1], [0]) == ([0, 1, 2], [2000, 1980, 1800])
    assert tested([1]) == ([1], [1980])


def test_thresholds_begin_above_all_normal_pixels_and_end_beyond_the_limit():
    assert reaching((np.array([1, 3, 5]), np.array([1.0, 2.0, 4.0])), np.array([6, 5, 4, 3, 1])).tolist() == [
        0,
        4,
        4,
        6,
        7,
    ]
    maps, masks = drawn(12, 0)
    found = arrays([histogram(i, [maps[i]], [masks[i]]) for i in range(12)])
    counts = found["false_positives"].sum(0)
    assert counts[0] == 0 < counts[1] < 10
    assert (counts < 1e-3 * found["normal_pixels"].sum()).sum() > 5
    assert counts[-1] / found["normal_pixels"].sum() == pytest.approx(1.5 * 0.3, abs=0.01)  # for a resample


def test_resamples_of_the_dim_photos_alone_have_their_whole_curve():
    maps, masks = drawn(12, 2)
    lots = np.arange(12) % 3 == 0
    maps[lots] += 20  # another lamp: most of the highest scores lie in a third of the photos
    found = arrays([histogram(i, [maps[i]], [masks[i]]) for i in range(12)])
    reached = found["false_positives"][:, -1] / found["normal_pixels"]
    assert reached.min() >= LIMIT
    assert reached[lots].min() == 1
    assert 577 < found["overlaps"].shape[1] <= 577 + 128
    rows = [found[name] for name in ("false_positives", "overlaps", "normal_pixels", "regions")]
    exact = PixelMetrics(mode="exact")
    for i in np.flatnonzero(~lots):
        exact.update([maps[i]], [masks[i]], one_image=True)
    assert aupro(*rows, weights=1.0 * ~lots[None])[0] == pytest.approx(exact.compute()["aupro"], abs=2e-3)


def test_photos_without_normal_pixels_need_no_threshold():
    maps, masks = drawn(4, 0)
    masks[3] = True
    found = arrays([histogram(i, [maps[i]], [masks[i]]) for i in range(4)])
    assert found["normal_pixels"][3] == 0
    assert (found["false_positives"][:3, -1] / found["normal_pixels"][:3]).min() >= LIMIT


def test_codes_keep_the_order_and_equal_scores_equal():
    scores = np.array([-np.inf, -3.0, -2.9, -1e-30, -0.0, 0.0, 1e-30, 0.5, 0.501, 7.0, np.inf], np.float32)
    codes = codes_of(scores)
    assert (np.diff(codes) >= 0).all()
    assert len(np.unique(codes)) == 10  # the zeros are equal
    assert codes[4] == codes[5]


def test_regions_of_an_image_count_the_same_whatever_their_size():
    mask = np.zeros((10, 10), bool)
    mask[0, :2] = mask[5:9, 5:9] = True
    anomaly_map = np.zeros((10, 10), np.float32)
    anomaly_map[0, :2], anomaly_map[5:7, 5:9] = 1, 2
    image = histogram(0, [anomaly_map], [mask])
    assert image.regions == 2
    zero, one, two = codes_of(np.array([0, 1, 2], np.float32)).tolist()
    assert dict(zip(*image.defect, strict=True)) == {zero: 0.5, one: 1.0, two: 0.5}
    assert dict(zip(*image.normal, strict=True)) == {zero: 82}
    assert amounts(np.zeros(0, np.int64))[0].size == 0
    parts = histogram(0, [anomaly_map[:5], anomaly_map[5:]], [mask[:5], mask[5:]])
    assert (parts.regions, *(dict(zip(*part, strict=True)) for part in parts[1:3])) == (
        2, {zero: 82}, {zero: 0.5, one: 1.0, two: 0.5},
    )  # fmt: skip
    assert histogram(0, [np.zeros((3, 3), np.float32)], [np.eye(3, dtype=bool)]).regions == 1
