"""Scores, decisions and metrics from predictions and batches, without a trainer that trains."""

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from scipy.ndimage import gaussian_filter
from sklearn.metrics import roc_auc_score

from anomaly_lab.callbacks.evaluation import Evaluation
from anomaly_lab.data.images import place
from anomaly_lab.data.layouts import Sample
from anomaly_lab.metrics.thresholds import Area, FalseAlarms, just_above
from anomaly_lab.types import Batch, Prediction
from tests.conftest import stand_in

EMPTY = Batch(torch.zeros(0, 1, 1, 1), (), torch.zeros(0).long(), torch.zeros(0).long(), ())
RANDOM = np.random.default_rng(0)


def sample(i, label, mask=True):
    defect = "hole" if label == 1 else "good"
    return Sample(Path(f"{defect}/{i}.png"), Path("m.png") if label == 1 and mask else None, label, defect, str(i))


def evaluate(samples, maps, masks, scores, tmp_path, held_out=(0.5,), placement=None, strategy=None):
    """Run the callback over two batches and return the metrics."""
    trainer = stand_in(
        pl.Trainer,
        datamodule=SimpleNamespace(test_samples=samples),
        is_global_zero=True,
        default_root_dir=str(tmp_path),
    )
    module = stand_in(pl.LightningModule)
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
    assert (line["strategy"], line["image"], line["normals"]) == ("false_alarms", just_above(0.5), 2)
    with (tmp_path / "defects.csv").open() as file:
        good, hole = csv.DictReader(file)
    assert (good["defect"], good["images"], good["auroc"]) == ("good", "3", "")
    assert float(hole["auroc"]) == pytest.approx(metrics["image_auroc"])


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
