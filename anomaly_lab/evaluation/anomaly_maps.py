"""The anomaly map of every test image as a TIFF, in the layout that MVTec's evaluation script reads."""

from pathlib import Path
from typing import Literal

import numpy as np
import pytorch_lightning as pl

from anomaly_lab.core.types import Batch, Prediction
from anomaly_lab.data.datamodule import data_of
from anomaly_lab.data.placement import to_photo
from anomaly_lab.data.samples import file_names
from anomaly_lab.evaluation.drawing import write_map
from anomaly_lab.evaluation.maps import localises


class AnomalyMaps(pl.Callback):
    """Write `maps/<category>/test/<defect>/<stem>.tiff`, one channel, at the size of the photo.

    In a pool of categories, `<category>` is that of the image. float32 keeps the metrics to the last digit; float16
    halves the files and rounds scores to 3 digits. A method without a map writes none.
    """

    def __init__(self, category: str, dtype: Literal["float32", "float16"] = "float32") -> None:
        self.category = category
        self.dtype = dtype
        self._names: list[str] = []

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Prediction, batch: Batch, *_: int
    ) -> None:
        """Write the maps of a batch; every process writes its own."""
        if not localises(pl_module):
            return
        folder = Path(trainer.default_root_dir) / "maps"
        samples = data_of(trainer).test_samples
        self._names = self._names or file_names(samples)
        for index, place, anomaly_map in zip(
            batch.index.tolist(), batch.placement, outputs.anomaly_map.cpu().numpy(), strict=True
        ):
            category, _, defect = samples[index].defect.rpartition("/")
            target = folder / (category or self.category) / "test" / defect / f"{self._names[index]}.tiff"
            write_map(target, to_photo(anomaly_map[0], place).astype(np.dtype(self.dtype)))
