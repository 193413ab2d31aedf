"""Curves of a run: a map of features, files that agree with the metrics."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from anomaly_lab.data.samples import Sample
from anomaly_lab.evaluation.curves import draw_scores, drawn_images, embedded, projected
from anomaly_lab.evaluation.evaluation import Evaluation, Row
from anomaly_lab.methods.base.method import Method
from anomaly_lab.methods.base.tiling import SlidingWindow, WholeImage
from anomaly_lab.metrics.thresholds import Threshold
from tests.conftest import stand_in
from tests.report.synthetic import read_metrics


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_map_is_that_of_the_principal_components():
    vectors = np.random.default_rng(0).normal(size=(40, 5)) * [10, 3, 1, 1, 1]
    points, names = projected(vectors, "pca")
    expected = PCA(2).fit(vectors)
    assert np.abs(points) == pytest.approx(np.abs(expected.transform(vectors)), abs=1e-8)
    assert names[0] == f"component 1, {expected.explained_variance_ratio_[0]:.0%} of the variance"


def test_t_sne_keeps_groups_together_and_is_repeatable():
    random = np.random.default_rng(0)
    vectors = np.concatenate([random.normal(size=(20, 8)), random.normal(size=(20, 8)) + 30])
    points, _ = projected(vectors, "tsne")
    assert (points == projected(vectors, "tsne")[0]).all()
    centres = points[:20].mean(axis=0), points[20:].mean(axis=0)
    spread = max(points[:20].std(), points[20:].std())
    assert np.linalg.norm(centres[0] - centres[1]) > spread


def test_vectors_that_are_equal_or_of_one_number_have_a_map_too():
    assert (projected(np.ones((5, 3)), "pca")[0] == 0).all()
    assert projected(np.arange(5.0)[:, None], "pca")[0].shape == (5, 2)


class Brightness(Method):
    """Embeds an image as its mean and its maximum."""

    training_step = predict = None

    def embed(self, images):
        return torch.stack([images.mean(dim=(1, 2, 3)), images.amax(dim=(1, 2, 3))], dim=1)


def test_windows_of_an_image_are_averaged_and_never_those_of_another():
    images = torch.rand(3, 1, 64, 64)
    whole = embedded(Brightness(WholeImage()), images)
    tiled = embedded(Brightness(SlidingWindow(32, 8)), images)
    assert whole[:, 0] == pytest.approx(images.mean(dim=(1, 2, 3)))
    assert tiled[:, 0] == pytest.approx(images.mean(dim=(1, 2, 3)), abs=1e-6)
    corners = images.unfold(2, 32, 32).unfold(3, 32, 32).amax(dim=(1, 4, 5)).mean(dim=(1, 2))
    assert tiled[:, 1] == pytest.approx(corners)


def test_of_many_images_always_the_same_few_are_drawn():
    assert drawn_images(5, 10) == set(range(5))
    assert len(drawn_images(1000, 10)) == 10
    assert drawn_images(1000, 10) == drawn_images(1000, 10)


def test_scores_that_are_no_numbers_are_left_out_of_the_plots(tmp_path):
    samples = [Sample(Path(f"{i}.png"), None, i % 2, "<b>" if i % 2 else "good", "") for i in range(6)]
    scores = [0.0, 1.0, 2.0, np.nan, np.inf, 3.0]
    rows = [Row(i, value, 0.0, value) for i, value in enumerate(scores)]
    evaluation = stand_in(Evaluation, rows=rows, threshold=stand_in(Threshold, image=1.5))
    picture = draw_scores(tmp_path, evaluation, samples)
    assert picture.ndim == 3
    boxes = rows_of(tmp_path / "score_boxes.csv")
    assert [(row["defect"], row["images"], float(row["median"])) for row in boxes] == [
        ("good", "2", 1.0),
        ("<b>", "2", 2.0),
    ]


def test_a_run_writes_curves_whose_areas_are_its_metrics(toy_run):
    """The gallery, the report and the map of features of the same run are looked at too."""
    folder = toy_run.folder
    metrics, curves = read_metrics(folder), folder / "curves"
    for name, metric in (("image_roc", "image_auroc"), ("pixel_roc", "pixel_auroc")):
        points = [
            (float(row["false_positive_rate"]), float(row["true_positive_rate"]))
            for row in rows_of(curves / f"{name}.csv")
        ]
        assert 2 < len(points) <= 501
        x, y = np.array(points).T
        assert np.trapezoid(y, x) == pytest.approx(metrics[metric], abs=2e-3)
    points = [(float(row["false_positive_rate"]), float(row["overlap"])) for row in rows_of(curves / "pixel_pro.csv")]
    x, y = np.array(points).T
    assert np.trapezoid(y, x) / 0.3 == pytest.approx(metrics["pixel_aupro"], abs=2e-3)
    scores = rows_of(folder / "scores.csv")
    boxes = {row["defect"]: row for row in rows_of(curves / "score_boxes.csv")}
    for defect, count in (("good", 6), ("hole", 5)):
        values = [float(row["decision_score"]) for row in scores if row["defect"] == defect]
        assert float(boxes[defect]["median"]) == pytest.approx(np.median(values))
        assert int(boxes[defect]["images"]) == len(values) == count
    histogram = rows_of(curves / "score_histogram.csv")
    assert (sum(int(row["normal"]) for row in histogram), sum(int(row["abnormal"]) for row in histogram)) == (6, 5)
    assert {row["path"] for row in rows_of(curves / "features.csv")} == {row["path"] for row in scores}
    names = {"image_roc", "image_pr", "pixel_roc", "pixel_pr", "pixel_pro", "scores", "losses", "features"}
    assert {path.stem for path in curves.glob("*.png")} == names

    shots = rows_of(folder / "gallery" / "index.csv")
    rising = sorted((float(row["decision_score"]), row["path"]) for row in scores if row["label"] == "1")
    assert [row["path"] for row in shots if row["kind"] == "lowest_defective"] == [path for _, path in rising]
    assert all((folder / "gallery" / row["file"]).is_file() for row in shots)
    assert shots[0]["tiles"] == "image reconstruction map overlay mask"

    assert f"report: {folder / 'report.html'}" in toy_run.said
    text = (folder / "report.html").read_text()
    assert str(metrics["image_auroc"]) in text
    assert str(toy_run.root) not in text
