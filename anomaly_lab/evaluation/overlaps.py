"""False positives and overlaps of every test image by itself, from which AU-PRO is resampled over images."""

import math
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytorch_lightning as pl
from jaxtyping import Float, Int

from anomaly_lab.core.distributed import of_all_processes
from anomaly_lab.core.files import write_whole
from anomaly_lab.core.types import Batch, Prediction
from anomaly_lab.data.datamodule import data_of
from anomaly_lab.evaluation.maps import counted, localises, masked
from anomaly_lab.metrics.bootstrap import LIMIT

FILE = "overlaps.npz"
LEVELS = 512  # thresholds at equal steps of the false positive rate, beside 64 at very low ones
MORE = 128  # beyond them, where some image needs it
DROPPED = 12  # bits of a float32: the others tell scores apart that differ by more than a part in 2000
Counts = tuple[Int[np.ndarray, " code"], Float[np.ndarray, " code"]]  # rising codes, and how much lies at each


class Histogram(NamedTuple):
    """The scores of an image: of normal pixels, and of its regions, each of which counts as one."""

    place: int  # of the image in the test
    normal: Counts
    defect: Counts
    regions: int


class Overlaps(pl.Callback):
    """Write `overlaps.npz`: `aupro` of metrics.bootstrap takes its arrays, a row per image that pixel metrics count.

    `index` is the row of scores.csv. Nothing is written where no defect is marked, or for a method with one number an
    image. Raw maps at the size of the photos, as for `pixel_aupro`; scores are rounded to a part in 2000, and the curve
    has 576 thresholds, and up to 128 more: its last one is reached by the share `LIMIT` of the normal pixels of every
    image, so that no resample of images ends below it.
    """

    def __init__(self) -> None:
        self._images: list[Histogram] = []

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Prediction, batch: Batch, *_: int
    ) -> None:
        """Count the images of a batch."""
        if not localises(pl_module):
            return
        for i in masked(batch, data_of(trainer).test_samples):
            anomaly_map, mask = outputs.anomaly_map[i, 0].float().cpu().numpy(), batch.mask[i][0].cpu().numpy()
            parts = counted(anomaly_map, mask, batch.placement[i])
            self._images.append(histogram(int(batch.index[i]), *parts))

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Gather the images of all processes, choose the thresholds and write."""
        images = sorted(of_all_processes(self._images), key=lambda image: image.place)
        self._images = []
        if trainer.is_global_zero and any(image.regions for image in images):
            write_whole(Path(trainer.default_root_dir) / FILE, lambda part: _save(part, arrays(images)))


def _save(path: Path, found: dict[str, np.ndarray]) -> None:
    with path.open("wb") as file:  # numpy would add a suffix to the name
        np.savez_compressed(file, allow_pickle=False, **found)


def histogram(place: int, maps: list[np.ndarray], masks: list[np.ndarray]) -> Histogram:
    """Count the parts of one image."""
    normal, defect, weights, regions = [], [], [], 0
    for scores, mask in zip(maps, masks, strict=True):
        codes = codes_of(scores)
        normal.append(codes[~mask])
        count, number = cv2.connectedComponents(np.ascontiguousarray(mask).view(np.uint8), connectivity=8)
        defect.append(codes[mask])
        weights.append(1 / np.bincount(number[mask], minlength=count)[number[mask]])
        regions += count - 1
    return Histogram(place, amounts(np.concatenate(normal)), amounts(np.concatenate(defect), weights), regions)


def amounts(codes: Int[np.ndarray, " pixel"], weights: list[np.ndarray] | None = None) -> Counts:
    """The codes that occur, and how often, or the sums of these weights."""
    low = codes.min(initial=0)
    sums = np.bincount(codes - low, None if weights is None else np.concatenate(weights)).astype(float)
    (places,) = sums.nonzero()
    return places + low, sums[places]


def codes_of(scores: Float[np.ndarray, "*shape"]) -> Int[np.ndarray, "*shape"]:
    """Whole numbers in the order of the scores."""
    bits = np.ascontiguousarray(scores, np.float32).view(np.int32)
    return np.where(bits < 0, -(bits & 0x7FFFFFFF), bits) >> DROPPED


def arrays(images: list[Histogram]) -> dict[str, np.ndarray]:
    """The arrays of the file."""
    values, inverse = np.unique(np.concatenate([image.normal[0] for image in images]), return_inverse=True)
    pooled = np.bincount(inverse, weights=np.concatenate([image.normal[1] for image in images]))
    above = pooled[::-1].cumsum()  # normal pixels at the largest code, at the two largest, ...
    rates = np.union1d(np.geomspace(1e-6, 1e-3, 64), np.linspace(0, 1.5 * LIMIT, LEVELS + 1)[1:])
    wanted = rates * above[-1]  # beyond the limit, too: a resample may need it
    last = above[len(values) - 1 - np.searchsorted(values, min(map(at_limit, images)))]
    if last > wanted[-1]:  # some images lie far below the others, and a resample may be of them alone
        wanted = np.concatenate([wanted, np.linspace(wanted[-1], last, MORE + 1)[1:]])
    places = np.unique(np.minimum(np.searchsorted(above, wanted), len(values) - 1))
    levels = np.concatenate([[values[-1] + 1], values[::-1][places]])  # the first: above all normal pixels
    return {
        "index": np.array([image.place for image in images]),
        "false_positives": np.stack([reaching(image.normal, levels) for image in images]),
        "overlaps": np.stack([reaching(image.defect, levels) for image in images]),
        "normal_pixels": np.array([image.normal[1].sum() for image in images]),
        "regions": np.array([image.regions for image in images], float),
    }


def at_limit(image: Histogram) -> float:
    """The code that the share `LIMIT` of the normal pixels reaches; inf for an image without any."""
    codes, each = image.normal
    sums = each[::-1].cumsum()
    return float(codes[::-1][np.searchsorted(sums, LIMIT * sums[-1])]) if len(codes) else math.inf


def reaching(counts: Counts, levels: Int[np.ndarray, " level"]) -> Float[np.ndarray, " level"]:
    """How much lies at or above each of falling levels."""
    codes, each = counts
    sums = np.concatenate([[0.0], each[::-1].cumsum()])
    return sums[len(codes) - np.searchsorted(codes, levels)]
