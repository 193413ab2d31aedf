"""How well a method finds defects that were painted into held-out normal images: an objective without the test set."""

from collections.abc import Iterator

import numpy as np
import pytorch_lightning as pl
import torch
from pydantic import NonNegativeInt, PositiveInt

from anomaly_lab.core.randomness import seed
from anomaly_lab.core.types import Batch, Placement
from anomaly_lab.data.datamodule import DataModule, ImageLoader
from anomaly_lab.data.synthetic import DEFECTS, defective
from anomaly_lab.evaluation.maps import counted
from anomaly_lab.methods.base.method import Method
from anomaly_lab.metrics.pixel_metrics import PixelMetrics
from anomaly_lab.metrics.ranking import rank

DRAWING = 3  # after callbacks.seed.PREDICTION: what a method draws while it looks at these images


class SyntheticDefects(pl.Callback):
    """After training, judge the held-out normal images and `copies` defective copies of each.

    `metrics`: `synthetic_image_auroc` of the scores; `synthetic_pixel_auroc` and `synthetic_pixel_aupro` of the maps as
    they are, at the working size. The defects follow from `defect_seed` and the number of the image, not from the run's
    seed: all trials of a search are judged on the same ones. No other image is read and no other metric changes. Every
    process judges all of them.
    """

    def __init__(self, copies: PositiveInt = 3, defect_seed: NonNegativeInt = 0) -> None:
        self.copies = copies
        self.defect_seed = defect_seed
        self.metrics: dict[str, float] = {}

    def on_predict_end(self, trainer: pl.Trainer, pl_module: Method) -> None:
        """Judge them, when training is over; nothing is left of it in the generators of torch."""
        data: DataModule = trainer.datamodule  # type: ignore[attr-defined]
        scores: dict[bool, list[float]] = {False: [], True: []}
        pixels = PixelMetrics(sync_on_compute=False)  # every process has seen all of them
        devices = [pl_module.device] if pl_module.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            for number, batch in enumerate(self.batches(data)):
                seed(self.defect_seed, DRAWING, number)
                on_device = batch._replace(image=batch.image.to(pl_module.device).float() / 255)
                answer = pl_module.test_step(on_device, number)
                assert answer.score is not None
                for i, score in enumerate(answer.score.tolist()):
                    scores[bool(batch.label[i])].append(score)
                    anomaly_map = answer.anomaly_map[i, 0].float().cpu().numpy()
                    pixels.update(*counted(anomaly_map, batch.mask[i][0].numpy(), batch.placement[i]))
        values = pixels.compute()
        self.metrics = {
            "synthetic_image_auroc": rank(np.array(scores[False]), np.array(scores[True])).auroc().value,
            "synthetic_pixel_auroc": values["auroc"],
            "synthetic_pixel_aupro": values["aupro"],
        }

    def batches(self, data: DataModule) -> Iterator[Batch]:
        """The held-out images, uint8 on the host, each batch followed by its defective copies.

        Masks have the working size, and placements say that the photos have it too: nothing is enlarged.
        """
        for batch in ImageLoader(data.held_out_samples, data.decoding, data.test_batch_size, data.workers):
            placement = tuple(at_working_size(place, data.decoding.image_size) for place in batch.placement)
            clean = torch.zeros(batch.image.shape[-2:], dtype=torch.bool)[None]
            yield batch._replace(mask=(clean,) * len(batch.image), placement=placement)
            for copy in range(self.copies):
                made = [
                    defective(
                        image.numpy(),
                        place.target,
                        place.valid,
                        DEFECTS[(index + copy) % len(DEFECTS)],
                        np.random.default_rng([self.defect_seed, index, copy]),
                    )
                    for image, place, index in zip(batch.image, placement, batch.index.tolist(), strict=True)
                ]
                images, masks = (torch.from_numpy(np.stack(part)) for part in zip(*made, strict=True))
                yield Batch(
                    images, tuple(mask[None] for mask in masks), torch.ones_like(batch.label), batch.index, placement
                )


def at_working_size(place: Placement, image_size: int) -> Placement:
    """The placement of a photo that is the working image itself, of which the same part is inspected."""
    top, left, height, width = inner = place.target
    white = None if place.valid is None else place.valid[top : top + height, left : left + width]
    return Placement((image_size, image_size), inner, inner, inner, white, place.valid)
