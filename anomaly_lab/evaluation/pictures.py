"""Pictures of test images: image | reconstruction | anomaly map | outlines of what was found and of the mask.

Those of a method without a map: image | reconstruction.
"""

from collections import Counter
from pathlib import Path

import pytorch_lightning as pl
from pydantic import PositiveInt

from anomaly_lab.core.distributed import of_all_processes
from anomaly_lab.core.types import Batch, Prediction
from anomaly_lab.data.datamodule import data_of
from anomaly_lab.data.samples import Sample, file_names
from anomaly_lab.evaluation.drawing import SIDE, Panel, color_range, panel, stack, write_picture
from anomaly_lab.evaluation.evaluation import evaluation_of
from anomaly_lab.evaluation.maps import localises
from anomaly_lab.tracking.loggers import log_pictures


class Pictures(pl.Callback):
    """Write the first `per_defect` test images of every defect type, and one overview, to `pictures/`.

    All maps of a run share one colour range, so that colours mean the same in every picture.
    """

    def __init__(self, per_defect: PositiveInt = 4, side: PositiveInt = SIDE) -> None:
        self.per_defect = per_defect
        self.side = side
        self._names: list[str] = []
        self._shown: set[int] = set()
        self._panels: list[tuple[int, Panel]] = []

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Prediction, batch: Batch, *_: int
    ) -> None:
        """Keep the first images of each defect type; `Evaluation` precedes this callback and has scored them."""
        samples, evaluation = data_of(trainer).test_samples, evaluation_of(trainer)
        rows = evaluation.rows[-len(batch.index) :]
        self._names = self._names or file_names(samples)
        self._shown = self._shown or set(first_of_each(samples, self.per_defect))
        for i, index in enumerate(batch.index.tolist()):
            if index not in self._shown:
                continue
            sample = samples[index]
            mask = batch.mask[i] if sample.label == 0 or sample.mask_path is not None else None
            name = f"{sample.defect}_{self._names[index]}"
            about = (name, i, outputs, batch, self.side, mask, evaluation.threshold, rows[i].decision_score)
            self._panels.append((index, panel(*about, localises=localises(pl_module))))

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw, write and log the images kept by all processes."""
        kept = dict(sorted(of_all_processes(self._panels), key=lambda pair: pair[0]))
        if not trainer.is_global_zero or not kept:
            return
        overview = first_of_each(data_of(trainer).test_samples, 1)[:6]
        folder = Path(trainer.default_root_dir) / "pictures"
        low, high = color_range([panel.anomaly_map for panel in kept.values()])
        pictures = {panel.name: panel.draw(low, high) for panel in kept.values()}
        for name, picture in pictures.items():
            write_picture(folder / f"{name}.png", picture)
        write_picture(folder / "overview.png", stack([kept[index].captioned(low, high) for index in overview]))
        log_pictures(trainer.loggers, {"pictures/first": pictures})


def first_of_each(samples: list[Sample], count: int) -> list[int]:
    """The positions of the first `count` images of every defect type."""
    seen: Counter[str] = Counter()
    places = []
    for place, sample in enumerate(samples):
        seen[sample.defect] += 1
        if seen[sample.defect] <= count:
            places.append(place)
    return places
