"""Curves of a run: ROC, precision and recall, PRO, scores, and a map of its features."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor

from anomaly_lab.core.distributed import of_all_processes
from anomaly_lab.core.files import write_csv
from anomaly_lab.core.types import Batch, Prediction
from anomaly_lab.data.datamodule import data_of
from anomaly_lab.data.samples import Sample
from anomaly_lab.evaluation import figures
from anomaly_lab.evaluation.drawing import write_picture
from anomaly_lab.evaluation.evaluation import Evaluation, evaluation_of
from anomaly_lab.methods.base.method import Method
from anomaly_lab.metrics import curves
from anomaly_lab.metrics.ranking import rank
from anomaly_lab.tracking.loggers import log_pictures

BOX = ("minimum", "first_quartile", "median", "third_quartile", "maximum")
LIMIT = 0.3  # of AU-PRO
# file: the curve, the names of its axes, the metric that is the area under it
OF_IMAGES = {
    "image_roc": (curves.roc, ("false_positive_rate", "true_positive_rate"), "image_auroc"),
    "image_pr": (curves.precision_recall, ("recall", "precision"), "image_aupr"),
}
OF_PIXELS = {
    "pixel_roc": (curves.roc, ("false_positive_rate", "true_positive_rate"), "pixel_auroc"),
    "pixel_pr": (curves.precision_recall, ("recall", "precision"), "pixel_aupr"),
    "pixel_pro": (lambda ranking: curves.pro(ranking, LIMIT), ("false_positive_rate", "overlap"), "pixel_aupro"),
}


class Curves(pl.Callback):
    """Write `curves/`: every curve as CSV and PNG; the PNG files are logged too.

    If a method has `embed(images)`, one vector per image or tile, `features.csv` is a map of these vectors for at most
    `images` test images by `projection` (vectors of a sliding window are averaged).
    """

    def __init__(
        self, points: PositiveInt = 500, projection: Literal["pca", "tsne", "none"] = "pca", images: PositiveInt = 1000
    ) -> None:
        self.points = points
        self.projection = projection
        self.images = images
        self._vectors: list[tuple[int, np.ndarray]] = []

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: Method, outputs: Prediction, batch: Batch, *_: int
    ) -> None:
        """Keep the vectors of the images on the map."""
        if self.projection == "none":
            return
        on_map = drawn_images(len(data_of(trainer).test_samples), self.images)
        places = [i for i, index in enumerate(batch.index.tolist()) if index in on_map]
        if places:
            vectors = embedded(pl_module, batch.image[places])
            if vectors is not None:
                self._vectors += zip(batch.index[places].tolist(), vectors.cpu().numpy(), strict=True)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw, write and log, after the clock of the test has stopped: drawing is not measured."""
        evaluation = evaluation_of(trainer)
        vectors = sorted(of_all_processes(self._vectors), key=lambda pair: pair[0])
        vectors = [(index, vector) for index, vector in vectors if np.isfinite(vector).all()]
        with evaluation.localisation.raw.sync_context():
            pixels = evaluation.localisation.raw.ranking() if "pixel_auroc" in evaluation.metrics else None
        if not trainer.is_global_zero:
            return
        samples = data_of(trainer).test_samples
        folder = Path(trainer.default_root_dir) / "curves"
        label = np.array([samples[row.index].label for row in evaluation.rows])
        score = np.array([row.score for row in evaluation.rows])
        pictures: dict[str, np.ndarray] = {}
        if (label == 0).any() and (label == 1).any():
            images = rank(score[label == 0], score[label == 1])
            pictures |= self._draw(folder, OF_IMAGES, images, evaluation.metrics)
        if pixels is not None:
            pictures |= self._draw(folder, OF_PIXELS, pixels, evaluation.metrics)
        if any(np.isfinite(row.decision_score) for row in evaluation.rows):
            pictures["scores"] = draw_scores(folder, evaluation, samples)
        if len(vectors) > 3:
            pictures["features"] = self._draw_features(folder, vectors, samples)
        for name, picture in pictures.items():
            write_picture(folder / f"{name}.png", picture)
        log_pictures(trainer.loggers, {f"curves/{name}": {"": picture} for name, picture in pictures.items()})

    def _draw(self, folder: Path, wanted: dict, ranking: Any, metrics: Mapping[str, float]) -> dict[str, np.ndarray]:
        """CSV and picture of some curves of a ranking."""
        pictures = {}
        for name, (make, axes, metric) in wanted.items():
            curve = make(ranking).thinned(self.points)
            rows = zip(curve.x.tolist(), curve.y.tolist(), curve.threshold.tolist(), strict=True)
            write_csv(folder / f"{name}.csv", (*axes, "threshold"), rows)
            limit = LIMIT if name == "pixel_pro" else 1.0
            title = f"{name.replace('_', ' ')}, {metric} {metrics[metric]:.4f}"
            labels = (axes[0].replace("_", " "), axes[1].replace("_", " "))
            pictures[name] = figures.curve(curve.x, curve.y, title, labels, limit, chance=metric.endswith("auroc"))
        return pictures

    def _draw_features(self, folder: Path, vectors: list[tuple[int, np.ndarray]], samples: list[Sample]) -> np.ndarray:
        """CSV and picture of the map of features."""
        points, names = projected(np.stack([vector for _, vector in vectors]), self.projection)
        shown = [samples[index] for index, _ in vectors]
        columns = ("pc1", "pc2") if self.projection == "pca" else ("tsne1", "tsne2")
        rows = [(sample.place, sample.defect, sample.label, *point) for sample, point in
                zip(shown, points.tolist(), strict=True)]  # fmt: skip
        write_csv(folder / "features.csv", ("path", "defect", "label", *columns), rows)
        label = np.array([sample.label for sample in shown])
        return figures.feature_map(points, label, "features of the test images", names)


def drawn_images(count: int, most: int) -> set[int]:
    """The test images on the map: all, or a fixed random selection of `most`."""
    if count <= most:
        return set(range(count))
    return set(np.random.default_rng(0).choice(count, most, replace=False).tolist())


def embedded(
    method: Method, images: Float[Tensor, "batch channel height width"]
) -> Float[Tensor, "batch feature"] | None:
    """One vector per image, for a sliding window the mean over its windows; None if the method has none."""
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        vectors = method.embed(method.tiling.training_like(images))
    if vectors is None:
        return None
    return vectors.view(-1, len(images), vectors.shape[1]).mean(dim=0)  # window by window, each of all images


def projected(
    vectors: Float[np.ndarray, "image feature"], projection: Literal["pca", "tsne", "none"]
) -> tuple[Float[np.ndarray, "image 2"], tuple[str, str]]:
    """Two coordinates per vector, and the names of the axes.

    `pca`: the first two principal components, with their share of the variance. `tsne`: initialised by these, with
    perplexity 30 or a third of the images; distances between groups mean nothing there.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    vectors = vectors.astype(np.float64)
    if vectors.shape[1] == 1:
        vectors = np.concatenate([vectors, np.zeros_like(vectors)], axis=1)
    if projection == "pca":
        model = PCA(n_components=2, svd_solver="full")
        with warnings.catch_warnings(), np.errstate(invalid="ignore"):  # all vectors are equal: no variance to explain
            warnings.simplefilter("ignore", RuntimeWarning)
            points = model.fit_transform(vectors)
            share = np.nan_to_num(model.explained_variance_ratio_)
        return points, (f"component 1, {share[0]:.0%} of the variance", f"component 2, {share[1]:.0%}")
    perplexity = min(30.0, (len(vectors) - 1) / 3)
    tsne = TSNE(n_components=2, init="pca", perplexity=perplexity, random_state=0)
    return tsne.fit_transform(vectors).astype(np.float64), ("t-SNE 1", "t-SNE 2")


def draw_scores(folder: Path, evaluation: Evaluation, samples: list[Sample]) -> np.ndarray:
    """Write `score_boxes.csv` and `score_histogram.csv` of the finite decision scores, and return their picture."""
    assert evaluation.threshold is not None
    values: dict[str, list[float]] = {}
    rows = [row for row in evaluation.rows if np.isfinite(row.decision_score)]
    for row in sorted(rows, key=lambda row: (samples[row.index].label != 0, samples[row.index].defect)):
        values.setdefault(samples[row.index].defect, []).append(row.decision_score)
    by_kind = {kind: np.array(scores) for kind, scores in values.items()}
    boxes = [
        (kind, len(scores), *np.quantile(scores, (0, 0.25, 0.5, 0.75, 1)).tolist()) for kind, scores in by_kind.items()
    ]
    write_csv(folder / "score_boxes.csv", ("defect", "images", *BOX), boxes)
    score = np.array([row.decision_score for row in rows])
    label = np.array([samples[row.index].label for row in rows])
    edges = np.histogram_bin_edges(score, bins=30)
    counts = [np.histogram(score[label == value], edges)[0].tolist() for value in (0, 1)]
    bins = zip(edges[:-1].tolist(), edges[1:].tolist(), *counts, strict=True)
    write_csv(folder / "score_histogram.csv", ("from", "to", "normal", "abnormal"), bins)
    normal = {sample.defect for sample in samples if sample.label == 0}
    return figures.scores(by_kind, normal, evaluation.threshold.image)
