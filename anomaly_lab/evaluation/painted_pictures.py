"""Pictures of held-out photos, as they are and with painted defects: what a page can show that knows no label."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
from pydantic import PositiveInt

from anomaly_lab.core.files import write_csv
from anomaly_lab.core.types import Batch, Prediction
from anomaly_lab.data.corruption import KINDS
from anomaly_lab.data.samples import Sample
from anomaly_lab.data.variation import VARIATIONS
from anomaly_lab.evaluation.drawing import Panel, color_range, panel, write_webp

FOLDER = "painted"
HEADER = ("file", "photo", "change", "score")
GOOD = "none"  # as change: the photo as it is


class PaintedPictures(pl.Callback):
    """Write `painted/`: `photos` held-out photos with one defect of each kind, and four times as many as they are.

    `SyntheticDefects` hands over what it predicts, so nothing is predicted twice. The photos are evenly spaced among
    the held-out ones: runs on the same data keep the same ones, and pages can show them side by side. One WebP per
    image with tiles of `side` px: the photo, its map, and the photo with the defect outlined (green), or with its map
    if nothing is painted; of a method without a map the last one alone. `index.csv` has photo, change and score of each
    file, as `synthetic.csv` has them.
    """

    def __init__(self, photos: PositiveInt = 6, side: PositiveInt = 128) -> None:
        self.photos = photos
        self.side = side
        self._kept: dict[tuple[int, str], Panel] = {}

    def keep(
        self, samples: Sequence[Sample], changes: Sequence[str], batch: Batch, prediction: Prediction, localises: bool
    ) -> None:
        """Keep those of a batch that are shown: the first defect of each kind, and no photo that only varies."""
        painted, unchanged = evenly(len(samples), self.photos), evenly(len(samples), len(KINDS) * self.photos)
        assert prediction.score is not None
        scores = prediction.score.tolist()
        for i, (index, change) in enumerate(zip(batch.index.tolist(), changes, strict=True)):
            shown = index in (unchanged if change == GOOD else painted) and change not in VARIATIONS
            if shown and (index, change) not in self._kept:
                mask = batch.mask[i] if batch.mask[i].any() else None
                about = str(samples[index].path), i, prediction._replace(reconstruction=None), batch, self.side, mask
                self._kept[index, change] = panel(*about, decision_score=scores[i], localises=localises)

    def write(self, run: Path) -> None:
        """Write what was kept to the folder of the run, and forget it."""
        kept, self._kept = dict(sorted(self._kept.items())), {}
        low, high = color_range([each.anomaly_map for each in kept.values()])
        rows = []
        for (index, change), each in kept.items():
            name = f"{index:04d}_{change}.webp"
            write_webp(run / FOLDER / name, each.draw(low, high))
            rows.append((name, each.name, change, each.decision_score))
        write_csv(run / FOLDER / "index.csv", HEADER, rows)


def evenly(count: int, most: int) -> frozenset[int]:
    """At most so many of the numbers below `count`, evenly spaced."""
    return frozenset(np.linspace(0, count - 1, min(most, count)).round().astype(int).tolist())


def painted_pictures_of(trainer: pl.Trainer) -> PaintedPictures | None:
    """The callback of this run; None: it keeps no such pictures."""
    return next((each for each in trainer.callbacks if isinstance(each, PaintedPictures)), None)  # type: ignore[attr-defined]
