"""How well anomaly maps find the defective pixels: exact AUROC, AUPR, F1-max and AU-PRO."""

import warnings
from collections.abc import Iterable

import cv2
import numpy as np
from jaxtyping import Bool, Float

from anomaly_lab.metrics.ranking import Ranking, rank


class PixelMetrics:
    """Pool all pixels of all images; every score that occurs is a threshold.

    AU-PRO is the area under the mean per-region overlap against the false positive rate up to `pro_limit`, divided
    by `pro_limit` (Bergmann et al., CVPR 2020, section 4; the script that comes with MVTec AD): regions are
    8-connected, and the curve is linear between thresholds. It is linear in the defect pixels too, so a pixel of a
    region of n pixels simply counts 1/n. All scores are kept: 4 bytes a pixel.
    """

    def __init__(self, pro_limit: float = 0.3) -> None:
        self.pro_limit = pro_limit
        self.regions = 0
        self._normal: list[np.ndarray] = []
        self._defect: list[np.ndarray] = []
        self._weight: list[np.ndarray] = []

    def update(
        self,
        maps: Iterable[Float[np.ndarray, "_ _"]],
        masks: Iterable[Bool[np.ndarray, "_ _"]],
    ) -> None:
        """Add maps and masks, pairwise of one size; sizes may differ between pairs.

        Raises ValueError where sizes differ within a pair or a score is not a number.
        """
        for anomaly_map, mask in zip(maps, masks, strict=True):
            if anomaly_map.shape != mask.shape:
                raise ValueError(f"expected a map of the size of its mask, {mask.shape}, found {anomaly_map.shape}")
            if count := int(np.isnan(anomaly_map).sum()):
                raise ValueError(f"expected scores that are numbers, found {count} NaN in a map of {mask.shape}")
            self._normal.append(anomaly_map[~mask])
            if not mask.any():
                continue
            count, regions = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
            areas = np.bincount(regions.ravel(), minlength=count)
            self.regions += count - 1
            self._defect.append(anomaly_map[mask])
            self._weight.append((1 / areas)[regions[mask]])

    def compute(self) -> dict[str, float]:
        """`auroc`, `aupr`, `f1max`, `f1max_threshold`, `aupro`, `regions`; nan, with one warning, without defects."""
        normal, defect, weight = (_join(parts) for parts in (self._normal, self._defect, self._weight))
        if not len(defect) or not len(normal):
            warnings.warn("pixel metrics need normal and defective pixels: all are nan", stacklevel=2)
            undefined = dict.fromkeys(("auroc", "aupr", "f1max", "f1max_threshold", "aupro"), float("nan"))
            return {**undefined, "regions": self.regions}
        order = np.argsort(-defect, kind="stable")
        ranking = rank(normal, defect)
        overlap = np.cumsum(weight[order])[ranking.true_positives - 1] / self.regions
        f1max, threshold = ranking.f1max()
        return {
            "auroc": ranking.auroc(),
            "aupr": ranking.aupr(),
            "f1max": f1max,
            "f1max_threshold": threshold,
            "aupro": _aupro(ranking, overlap, self.pro_limit),
            "regions": self.regions,
        }


def _join(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.float32)


def _aupro(ranking: Ranking, overlap: Float[np.ndarray, " threshold"], limit: float) -> float:
    """Normalised area under the piecewise linear curve of overlap against false positive rate, from 0 to `limit`.

    At a threshold the curve first moves right along the normal scores above it, then to the point that includes
    the scores tied with it.
    """
    before = np.concatenate([[0.0], overlap[:-1]])
    rate = np.stack([ranking.false_positives_above, ranking.false_positives], axis=1).ravel() / ranking.normal
    height = np.stack([before, overlap], axis=1).ravel()
    rate, height = np.concatenate([[0.0], rate, [1.0]]), np.concatenate([[0.0], height, [1.0]])
    inside = rate <= limit
    end = np.interp(limit, rate, height) if not inside.all() else height[-1]
    rate, height = np.append(rate[inside], limit), np.append(height[inside], end)
    return float(np.trapezoid(height, rate) / limit)
