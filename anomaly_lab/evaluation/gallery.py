"""A gallery of test images: defective ones with the lowest scores, good ones with the highest, some at random."""

from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
import pytorch_lightning as pl
from pydantic import NonNegativeInt, PositiveInt

from anomaly_lab.core.distributed import of_all_processes
from anomaly_lab.core.files import write_csv
from anomaly_lab.core.types import Batch, Prediction
from anomaly_lab.data.datamodule import data_of
from anomaly_lab.evaluation.drawing import Panel, color_range, heat, overlay, panel, write_webp
from anomaly_lab.evaluation.evaluation import evaluation_of
from anomaly_lab.evaluation.maps import localises
from anomaly_lab.tracking.loggers import log_pictures

Kind = Literal["lowest_defective", "highest_good", "random"]
KINDS: tuple[Kind, ...] = get_args(Kind)
HEADER = ("file", "kind", "path", "defect", "label", "decision_score", "tiles")


class GalleryItem(NamedTuple):
    """A candidate image with its sort key; those with the lowest keys are kept."""

    order: float
    index: int  # type: ignore[assignment]  # hides tuple.index
    decision_score: float
    panel: Panel


class Gallery(pl.Callback):
    """Write `gallery/`: `count` abnormal images with the lowest scores, `count` normal ones with the highest, `random`.

    One WebP per image with tiles of `side` px: image, reconstruction, map and overlay where there are such, mask of a
    defect; `index.csv` describes the files. Memory does not grow with the test. Several processes keep the same images
    as one.
    """

    def __init__(self, count: PositiveInt = 6, random: NonNegativeInt = 6, side: PositiveInt = 160) -> None:
        self.count = count
        self.random = random
        self.side = side
        self._kept: dict[Kind, list[GalleryItem]] = {kind: [] for kind in KINDS}
        self._chance = np.zeros(0, dtype=int)  # position of each image in a random order

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Prediction, batch: Batch, *_: int
    ) -> None:
        """Keep the candidates of a batch; `Evaluation` precedes this callback and has scored it."""
        samples = data_of(trainer).test_samples
        rows = evaluation_of(trainer).rows[-len(batch.index) :]
        if len(self._chance) != len(samples):
            self._chance = np.random.default_rng(0).permutation(len(samples))
        for i, row in enumerate(rows):
            sample = samples[row.index]
            orders: dict[Kind, float] = {"random": float(self._chance[row.index])}
            if sample.label in (0, 1):
                kind: Kind = "lowest_defective" if sample.label else "highest_good"
                orders[kind] = row.decision_score if sample.label else -row.decision_score
            shot: Panel | None = None
            for kind, order in orders.items():
                if not self._stays(kind, order, row.index):
                    continue
                mask = batch.mask[i] if sample.label == 0 or sample.mask_path is not None else None
                shot = shot or panel("", i, outputs, batch, self.side, mask, localises=localises(pl_module))
                self._kept[kind].append(GalleryItem(order, row.index, row.decision_score, shot))
                self._kept[kind] = self._first(kind, self._kept[kind])

    def _most(self, kind: Kind) -> int:
        return self.random if kind == "random" else self.count

    def _stays(self, kind: Kind, order: float, index: int) -> bool:
        kept = self._kept[kind]
        if len(kept) < self._most(kind):
            return True
        return bool(kept) and (order, index) < (kept[-1].order, kept[-1].index)

    def _first(self, kind: Kind, shots: list[GalleryItem]) -> list[GalleryItem]:
        return sorted(shots, key=lambda shot: (shot.order, shot.index))[: self._most(kind)]

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw, write and log the images kept by all processes."""
        kept = {kind: self._first(kind, of_all_processes(self._kept[kind])) for kind in KINDS}
        self._kept = {kind: [] for kind in KINDS}
        shots = [shot for kind in KINDS for shot in kept[kind]]
        if not trainer.is_global_zero or not shots:
            return
        samples = data_of(trainer).test_samples
        folder = Path(trainer.default_root_dir) / "gallery"
        low, high = color_range([shot.panel.anomaly_map for shot in shots])
        rows = []
        panels: dict[str, dict[str, np.ndarray]] = {}
        for kind in KINDS:
            for number, shot in enumerate(kept[kind]):
                tiles = tiles_of(shot.panel, low, high)
                name, picture = f"{kind}_{number:02d}.webp", np.concatenate(list(tiles.values()), axis=1)
                write_webp(folder / name, picture)
                sample = samples[shot.index]
                rows.append(
                    (name, kind, sample.path, sample.defect, sample.label, shot.decision_score, " ".join(tiles))
                )
                caption = f"{sample.defect} {sample.path.name}, score {shot.decision_score:.4g}: {' | '.join(tiles)}"
                panels.setdefault(f"gallery/{kind}", {})[caption] = picture
        log_pictures(trainer.loggers, panels)
        write_csv(folder / "index.csv", HEADER, rows)


def tiles_of(shown: Panel, low: float, high: float) -> dict[str, np.ndarray]:
    """The tiles of an image by name, as RGB; maps are coloured from `low` to `high`."""
    tiles = {"image": shown.image, "reconstruction": shown.reconstruction}
    if (found := shown.anomaly_map) is not None:
        tiles |= {"map": heat(found, low, high), "overlay": overlay(shown.image, found, low, high)}
    if shown.mask is not None and shown.mask.any():
        tiles["mask"] = np.repeat(shown.mask[..., None], 3, axis=2).astype(np.uint8) * 255
    return {name: tile for name, tile in tiles.items() if tile is not None}
