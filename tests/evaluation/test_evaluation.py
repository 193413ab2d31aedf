"""Scores, decisions and metrics from predictions and batches, without a trainer that trains."""

import csv
import json
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from scipy.ndimage import gaussian_filter
from sklearn.metrics import roc_auc_score

from anomaly_lab.core.errors import UserError
from anomaly_lab.core.remarks import Remark
from anomaly_lab.core.types import Batch, Prediction
from anomaly_lab.data.datamodule import DataModule
from anomaly_lab.data.images import Decoding
from anomaly_lab.data.placement import place
from anomaly_lab.data.samples import Sample
from anomaly_lab.evaluation.evaluation import Evaluation, report_remarks, scaled
from anomaly_lab.evaluation.maps import PIXEL_NAMES, PixelEvaluation, counted, inner_map
from anomaly_lab.metrics.thresholds import Area, FalseAlarms, just_above
from tests.conftest import stand_in

EMPTY = Batch(torch.zeros(0, 1, 1, 1), (), torch.zeros(0).long(), torch.zeros(0).long(), ())
RANDOM = np.random.default_rng(0)


def sample(i, label, mask=True):
    defect = "hole" if label == 1 else "good"
    return Sample(Path(f"{defect}/{i}.png"), Path("m.png") if label == 1 and mask else None, label, defect, str(i))


def evaluate(
    samples,
    maps,
    masks,
    scores,
    tmp_path,
    held_out=(0.5,),
    placement=None,
    strategy=None,
    localises=True,
    scaled_line=None,
):
    """Run the callback over two batches and return the metrics."""
    trainer = stand_in(
        pl.Trainer,
        datamodule=stand_in(DataModule, test_samples=samples),
        is_global_zero=True,
        default_root_dir=str(tmp_path),
    )
    module = stand_in(pl.LightningModule, localises=localises, scaled_line=scaled_line)
    evaluation = Evaluation(strategy or FalseAlarms(0.001, 0.01))
    count = len(held_out)
    normals = EMPTY._replace(placement=tuple([place(8, 8, 8, "stretch")] * count))
    prediction = Prediction(torch.zeros(count, 1, 8, 8), torch.tensor(held_out), None)
    evaluation.on_predict_batch_end(trainer, module, prediction, normals)
    evaluation.on_predict_end(trainer, module)
    placement = placement or [place(*mask.shape, maps.shape[-1], "stretch") for mask in masks]
    for rows in (slice(0, 2), slice(2, None)):
        index = torch.arange(len(samples))[rows]
        label = torch.tensor([s.label for s in samples])[rows]
        batch = Batch(
            torch.zeros(len(index), 3, *maps.shape[-2:]), tuple(torch.from_numpy(m)[None] for m in masks[rows]),
            label, index, tuple(placement[rows]),
        )  # fmt: skip
        prediction = Prediction(torch.from_numpy(maps[rows]), torch.tensor(scores)[rows], None)
        evaluation.on_test_batch_end(trainer, module, prediction, batch)
    evaluation.on_test_epoch_end(trainer, module)
    return evaluation.metrics


def set_of(count=6, side=32):
    samples = [sample(i, int(i >= count // 2)) for i in range(count)]
    masks = [np.zeros((side, side), bool) for _ in samples]
    for mask in masks[count // 2 :]:
        mask[4:12, 6:20] = True
    maps = RANDOM.normal(size=(count, 1, side, side)).astype(np.float32) + np.stack(masks)[:, None]
    return samples, maps, masks, [0.1, 0.6, 0.3, 0.55, 0.9, 0.4][:count]


def test_one_number_an_image_is_scored_as_an_image_alone(tmp_path):
    samples, maps, masks, scores = set_of()
    with_map = evaluate(samples, maps, masks, scores, tmp_path)
    without = evaluate(samples, maps, masks, scores, tmp_path, localises=False)
    assert {name for name in with_map if name.startswith("pixel_")} == with_map.keys() - without
    assert without["image_auroc"] == with_map["image_auroc"]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_no_threshold_and_no_figure_come_from_what_is_no_number(tmp_path, bad):
    samples, maps, masks, scores = set_of()
    with pytest.raises(UserError, match="expected a finite map and score of a held-out image, found NaN or infinity"):
        evaluate(samples, maps, masks, scores, tmp_path, held_out=(0.2, bad))
    with pytest.raises(UserError, match="expected a finite map and score of good/1.png, found NaN or infinity"):
        evaluate(samples, maps, masks, [0.1, bad, *scores[2:]], tmp_path)
    maps[4, 0, 3, 3] = bad
    with pytest.raises(UserError, match="expected a finite map and score of hole/4.png, found NaN or infinity"):
        evaluate(samples, maps, masks, scores, tmp_path)


def test_the_auroc_against_all_classes_is_the_mean_of_those_against_each_if_they_are_of_one_size(tmp_path):
    random = np.random.default_rng(0)
    good, scores = 7, random.random(7 + 9 * 4).tolist()
    samples = [sample(i, 0) for i in range(good)]
    samples += [sample(i, 1, mask=False)._replace(defect=f"digit {i % 9}") for i in range(9 * 4)]
    maps, masks = np.zeros((len(samples), 1, 8, 8), np.float32), [np.zeros((8, 8), bool)] * len(samples)
    metrics = evaluate(samples, maps, masks, scores, tmp_path, localises=False)
    with (tmp_path / "defects.csv").open() as file:
        each = [float(row["auroc"]) for row in csv.DictReader(file) if row["auroc"]]
    assert len(each) == 9
    assert min(each) < max(each)
    assert sum(each) / 9 == pytest.approx(metrics["image_auroc"], abs=1e-6)


def test_metrics_equal_scikit_learn_raw_and_smoothed(tmp_path):
    samples, maps, masks, scores = set_of()
    metrics = evaluate(samples, maps, masks, scores, tmp_path)
    labels = [s.label for s in samples]
    pixels = np.concatenate([mask.ravel() for mask in masks])
    assert metrics["image_auroc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-6)
    assert metrics["image_auroc_mean"] == pytest.approx(roc_auc_score(labels, maps.mean((1, 2, 3))), abs=1e-6)
    assert metrics["pixel_auroc"] == pytest.approx(roc_auc_score(pixels, maps.ravel()), abs=1e-9)
    sigma = 4 * 32 / 256
    weight = gaussian_filter(np.ones((32, 32)), sigma, mode="constant", truncate=4)
    smooth = [gaussian_filter(m[0].astype(float), sigma, mode="constant", truncate=4) / weight for m in maps]
    assert metrics["pixel_auroc_smoothed"] == pytest.approx(roc_auc_score(pixels, np.ravel(smooth)), abs=1e-5)


def test_decisions_follow_from_the_held_out_images_and_stand_in_the_table(tmp_path):
    samples, maps, masks, scores = set_of()
    metrics = evaluate(samples, maps, masks, scores, tmp_path, held_out=(0.2, 0.5))
    assert metrics["threshold"] == just_above(0.5)
    assert metrics["image_accuracy_normal"] == pytest.approx(2 / 3)  # 0.1, 0.6, 0.3
    assert metrics["image_accuracy_abnormal"] == pytest.approx(2 / 3)  # 0.55, 0.9, 0.4
    with (tmp_path / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["decision"] for row in rows] == ["normal", "abnormal", "normal", "abnormal", "abnormal", "normal"]
    assert [float(row["score"]) for row in rows] == pytest.approx(scores)
    assert [float(row["scaled"]) for row in rows] == pytest.approx([(s - 0.1) / 0.8 for s in scores], abs=1e-6)
    assert metrics["image_balanced_accuracy"] == pytest.approx(2 / 3)
    (line,) = json.loads((tmp_path / "threshold.json").read_text())
    assert (line["name"], line["image"], line["normals"]) == ("false_alarms", just_above(0.5), 2)
    with (tmp_path / "defects.csv").open() as file:
        good, hole = csv.DictReader(file)
    assert (good["defect"], good["images"], good["auroc"]) == ("good", "3", "")
    assert float(hole["auroc"]) == pytest.approx(metrics["image_auroc"])


def test_a_line_through_the_scaled_scores_of_the_test_is_reported_and_decides_nothing(tmp_path):
    samples, maps, masks, scores = set_of()  # good: 0.1, 0.6, 0.3; defective: 0.55, 0.9, 0.4
    plain = evaluate(samples, maps, masks, scores, tmp_path)
    metrics = evaluate(samples, maps, masks, scores, tmp_path, scaled_line=0.5)  # half of 0.1 to 0.9: 0.5
    oracle = {name: value for name, value in metrics.items() if name not in plain}
    assert {name.partition("_accuracy")[0] for name in oracle if "accuracy_" in name} == {"oracle_mock"}
    assert oracle["oracle_mock_accuracy_normal"] == oracle["oracle_mock_accuracy_abnormal"] == pytest.approx(2 / 3)
    assert {name: value for name, value in metrics.items() if name in plain} == plain


def test_scores_that_are_all_equal_are_scaled_to_nothing():
    assert scaled(np.array([3.0, 3.0])).tolist() == [0, 0]
    assert scaled(np.array([1.0, 2.0, 5.0])).tolist() == [0, 0.25, 1]


def test_with_a_line_through_the_map_the_largest_region_decides(tmp_path):
    samples, maps, masks, scores = set_of()
    maps[:] = 0
    maps[4, 0, 4:8, 6:10] = 3  # 16 px
    maps[5, 0, 4, 6:10] = 3  # 4 px
    metrics = evaluate(samples, maps, masks, scores, tmp_path, strategy=Area(10 / 32**2))
    with (tmp_path / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["decision"] for row in rows] == ["normal"] * 4 + ["abnormal", "normal"]
    assert [float(row["decision_score"]) for row in rows] == [0, 0, 0, 0, 3, 0]
    assert metrics["threshold"] == metrics["pixel_threshold"] == just_above(0)
    assert metrics["pixel_recall"] == pytest.approx(20 / (3 * 8 * 14))
    assert metrics["pixel_precision"] == 1


def test_maps_are_compared_at_the_size_of_each_mask(tmp_path):
    """A perfect map at 32 px stays nearly perfect against masks of other sizes."""
    samples, _, _, scores = set_of()
    sizes = [(32, 32), (64, 64), (50, 40), (32, 32), (96, 64), (64, 128)]
    masks, maps = [], np.zeros((6, 1, 32, 32), np.float32)
    for i, (height, width) in enumerate(sizes):
        mask = np.zeros((height, width), bool)
        if i >= 3:
            mask[height // 4 : height // 2, width // 4 : width // 2] = True
            maps[i, 0, 8:16, 8:16] = 1
        masks.append(mask)
    metrics = evaluate(samples, maps, masks, scores, tmp_path)
    assert metrics["pixel_auroc"] > 0.999
    assert metrics["pixel_aupro"] > 0.99


def test_an_image_with_a_region_is_one_image_however_many_defects_it_has():
    mask = torch.zeros(1, 32, 32, dtype=torch.bool)
    mask[0, 2:4, 2:4] = mask[0, 10:12, 10:12] = True
    inspected = place(32, 32, 32, "stretch")._replace(region=(0, 0, 32, 32), white=np.ones((32, 32), bool))
    batch = Batch(torch.zeros(1, 3, 32, 32), (mask,), torch.tensor([1]), torch.tensor([0]), (inspected,))
    evaluated = PixelEvaluation()
    sample = Sample(Path("0.png"), Path("mask.png"), 1, "hole", "0")
    evaluated.update(Prediction(torch.rand(1, 1, 32, 32), None, None), batch, [sample])
    assert (evaluated.raw.images.tolist(), int(evaluated.raw.regions)) == ([0, 1], 2)


def test_without_good_images_there_is_no_aupimo():
    def compute():
        bounds = dict.fromkeys(PIXEL_NAMES, (0.5, 0.5))
        return dict.fromkeys(PIXEL_NAMES, 0.5) | {"aupimo": float("nan"), "bounds": bounds, "good_pixels": 0}

    evaluated = PixelEvaluation()
    evaluated.raw.compute = evaluated.smoothed.compute = compute
    assert not [name for name in evaluated.compute(set_of()[0]) if "aupimo" in name]
    assert evaluated.wide == []


def test_a_metric_with_wide_bounds_is_named_in_a_line_and_not_in_a_warning():
    def compute():
        warnings.warn("f1max lies between 0.1 and 0.7, wider than 0.0001: the scores crowd", stacklevel=2)
        bounds = dict.fromkeys(PIXEL_NAMES, (0.5, 0.5)) | {"f1max": (0.1, 0.7)}
        return dict.fromkeys(PIXEL_NAMES, 0.5) | {"bounds": bounds, "good_pixels": 200_000}

    evaluated = PixelEvaluation()
    evaluated.raw.compute = evaluated.smoothed.compute = compute
    assert evaluated.compute(set_of()[0])["pixel_f1max_smoothed"] == 0.5
    certain = "is certain between 0.1000 and 0.7000 only: too many scores are nearly equal"
    few = "pixel_aupimo is uncertain: it depends on the highest 2 to 20 of 200000 pixels of good images"
    assert evaluated.wide == [f"pixel_f1max {certain}", f"pixel_f1max_smoothed {certain}", few]


def test_padding_never_counts(tmp_path):
    samples, maps, masks, scores = set_of()
    placement = [place(16, 32, 32, "pad")] * 6
    masks = [mask[8:24] for mask in masks]
    inside = evaluate(samples, maps, masks, scores, tmp_path, placement=placement)
    maps = maps.copy()
    maps[:, :, :8] = 1e6
    maps[:, :, 24:] = -1e6
    outside = evaluate(samples, maps, masks, scores, tmp_path, placement=placement)
    assert outside == pytest.approx(inside, abs=1e-5)


def test_abnormal_images_without_a_mask_count_on_the_image_level_only(tmp_path):
    samples, maps, masks, scores = set_of()
    samples[3] = sample(3, 1, mask=False)
    masks[3][:] = False
    maps[3] = 1e6
    metrics = evaluate(samples, maps, masks, scores, tmp_path)
    kept = [0, 1, 2, 4, 5]
    pixels = np.concatenate([masks[i].ravel() for i in kept])
    assert metrics["pixel_auroc"] == pytest.approx(roc_auc_score(pixels, maps[kept].ravel()), abs=1e-9)
    samples[4:] = [sample(i, 1, mask=False) for i in (4, 5)]
    assert not [name for name in evaluate(samples, maps, masks, scores, tmp_path) if name.startswith("pixel_auroc")]


def test_without_abnormal_images_there_is_no_auroc(tmp_path):
    samples, maps, masks, scores = set_of()
    metrics = evaluate(samples[:3], maps[:3], masks[:3], scores[:3], tmp_path)
    assert set(metrics) == {"threshold", "pixel_threshold", "image_accuracy_normal"}


def in_region(tmp_path, write, resize="stretch", region=None, image_size=32):
    """Placements of photos of 48 x 40 px, of which a box or the white part of a mask is inspected."""
    photo = write(tmp_path / "photo.png", np.zeros((40, 48), np.uint8))
    return Decoding(image_size, 3, resize, region=region or [8, 4, 32, 32]).read(photo)[1]


def photos_around(masks, marked):
    """Masks of 32 px in photos of 48 x 40 px that are marked outside the region too."""
    around = [np.full((40, 48), marked) for _ in masks]
    for whole, mask in zip(around, masks, strict=True):
        whole[4:36, 8:40] = mask
    return around


@pytest.mark.parametrize("marked", [False, True])
def test_nothing_outside_the_region_counts(tmp_path, write, marked):
    samples, maps, masks, scores = set_of()
    alone = evaluate(samples, maps, masks, scores, tmp_path)
    placement = [in_region(tmp_path, write)] * 6
    assert evaluate(samples, maps, photos_around(masks, marked), scores, tmp_path, placement=placement) == alone


def test_what_crop_cuts_off_the_region_is_missed(tmp_path, write):
    """32 x 16 px are inspected, the central square of them is seen."""
    samples, maps, _, scores = set_of()
    maps[:] = RANDOM.random(maps.shape) + 1
    maps[:, :, :4, :4] = 1  # the lowest value of every map
    masks = [np.zeros((40, 48), bool) for _ in samples]
    for mask in masks[3:]:
        mask[5:8, 9:12] = True  # inspected, but not seen
        mask[30:, :] = True  # not inspected
    placement = [in_region(tmp_path, write, "crop", [8, 4, 32, 16])] * 6
    assert placement[0].source == (4, 16, 16, 16)
    metrics = evaluate(samples, maps, masks, scores, tmp_path, placement=placement)
    normal, seen = 3 * 512 + 3 * (512 - 9), 6 * 256
    assert metrics["pixel_auroc"] == pytest.approx((normal - seen) / normal / 2, abs=0.01)  # ties with what is not seen


def test_of_a_mask_image_only_white_pixels_count(tmp_path, write):
    samples, maps, masks, scores = set_of()
    white = np.zeros((40, 48), np.uint8)
    white[4:36, 8:40] = 255
    white[4:10, 8:18] = 0  # cuts the defects (rows 4 to 11, columns 6 to 19 of the box)
    placement = [in_region(tmp_path, write, region=str(write(tmp_path / "region.png", white)))] * 6
    inside = white[4:36, 8:40] > 0
    maps = maps.copy()
    maps[:, 0, ~inside] = 1e6
    metrics = evaluate(samples, maps, photos_around(masks, True), scores, tmp_path, placement=placement)
    labels = np.concatenate([mask[inside] for mask in masks])
    values = np.concatenate([anomaly_map[0][inside] for anomaly_map in maps])
    assert metrics["pixel_auroc"] == pytest.approx(roc_auc_score(labels, values), abs=1e-9)
    called = values >= metrics["pixel_threshold"]
    assert metrics["pixel_recall"] == pytest.approx(called[labels].mean())
    assert metrics["pixel_precision"] == pytest.approx(labels[called].mean())
    shares = [(maps[i, 0] >= metrics["pixel_threshold"])[masks[i] & inside].mean() for i in (3, 4, 5)]
    assert metrics["pixel_overlap"] == metrics["pixel_overlap_all"] == pytest.approx(np.mean(shares))
    means = [anomaly_map[0][inside].mean() for anomaly_map in maps]
    with (tmp_path / "scores.csv").open() as file:
        assert [float(row["mean"]) for row in csv.DictReader(file)] == pytest.approx(means, abs=1e-5)


def test_every_defect_of_a_mask_image_stays_a_region(tmp_path, write):
    white = np.full((40, 48), 255, np.uint8)
    white[20] = 0  # halves what crosses it
    place_ = in_region(tmp_path, write, region=str(write(tmp_path / "region.png", white)), image_size=48)
    mask = np.zeros((40, 48), bool)
    mask[10:30, 5:7] = mask[2:4, 30:33] = True
    maps, masks = counted(np.zeros((48, 48), np.float32), mask, place_)
    assert [part.shape for part in maps] == [(1, 39 * 48 - 38 - 6), (1, 6), (1, 20), (1, 18)]
    assert [part.all() for part in masks] == [False, True, True, True]
    assert [part.any() for part in masks] == [False, True, True, True]


def test_the_inner_map_has_its_lowest_value_where_nothing_is_inspected(tmp_path, write):
    white = np.zeros((40, 48), np.uint8)
    white[4:36, 8:40] = 255
    white[10:20, 10:20] = 0
    place_ = in_region(tmp_path, write, region=str(write(tmp_path / "region.png", white)))
    anomaly_map = torch.rand(1, 1, 32, 32) + 1
    anomaly_map[0, 0, 6:16, 2:12] = 99
    inner = inner_map(Prediction(anomaly_map, None, None), EMPTY._replace(placement=(place_,)), 0)
    assert inner.max() < 2
    assert (inner[6:16, 2:12] == inner.min()).all()


def test_remarks_are_told_once_a_text_with_the_names_of_the_first_images(tmp_path, capsys):
    samples, maps, _, scores = set_of()
    trainer = stand_in(
        pl.Trainer,
        datamodule=stand_in(DataModule, test_samples=samples),
        predict_dataloaders=SimpleNamespace(samples=[sample(i, 0) for i in (7, 8)]),
        is_global_zero=True,
        default_root_dir=str(tmp_path),
    )
    module, evaluation = stand_in(pl.LightningModule), Evaluation(FalseAlarms(0.001, 0.01))
    places = tuple([place(32, 32, 32, "stretch")] * 6)
    normals = Batch(torch.zeros(2, 1, 32, 32), (), torch.zeros(2).long(), torch.arange(2), places[:2])
    remarked = Prediction(torch.rand(2, 1, 32, 32), torch.rand(2), None, ("", "not aligned"))
    evaluation.on_predict_batch_end(trainer, module, remarked, normals)
    evaluation.on_predict_end(trainer, module)
    assert "of the images that set the threshold, 1 not aligned: good/8.png\n" in capsys.readouterr().out
    label = torch.tensor([s.label for s in samples])
    mask = tuple(torch.zeros(1, 32, 32, dtype=torch.bool) for _ in samples)
    batch = Batch(torch.zeros(6, 1, 32, 32), mask, label, torch.arange(6), places)
    said = ("not aligned", "", "too dark", "not aligned", "", "")
    prediction = Prediction(torch.from_numpy(maps), torch.tensor(scores), None, said)
    samples[:] = [s._replace(mask_path=None) for s in samples]
    evaluation.on_test_batch_end(trainer, module, prediction, batch)
    evaluation.on_test_epoch_end(trainer, module)
    told = capsys.readouterr().out.splitlines()
    assert told == [
        "of the test images, 2 not aligned: good/0.png, hole/3.png",
        "of the test images, 1 too dark: good/2.png",
    ]


def test_of_many_remarks_five_images_are_named(capsys):
    report_remarks([Remark(f"good/{i}.png", "not aligned") for i in range(7)])
    assert capsys.readouterr().out == (
        "7 not aligned: good/0.png, good/1.png, good/2.png, good/3.png, good/4.png, ...\n"
    )
    report_remarks([])
    assert capsys.readouterr().out == ""
