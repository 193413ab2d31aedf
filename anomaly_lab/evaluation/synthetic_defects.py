"""Metrics on synthetic defects in held-out normal images: an objective without the test set."""

from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np
import pytorch_lightning as pl
import torch
from pydantic import NonNegativeInt, PositiveInt

from anomaly_lab.core.randomness import seed
from anomaly_lab.core.types import Batch, Placement
from anomaly_lab.data.corruption import AtLeast, Corruption, other_corruptions
from anomaly_lab.data.datamodule import DataModule, ImageLoader, data_of
from anomaly_lab.data.noise import row_keys
from anomaly_lab.data.placement import content
from anomaly_lab.evaluation.maps import counted
from anomaly_lab.methods.base.method import Method
from anomaly_lab.metrics.pixel_metrics import PixelMetrics
from anomaly_lab.metrics.ranking import rank

STREAM = 3  # of random numbers, after core.randomness.PREDICTION: what a method draws while it looks at these images


class SyntheticDefects(pl.Callback):
    """After training, predict the held-out normal images, and `copies` copies of each with one synthetic defect.

    `metrics`: `synthetic_image_auroc` of the scores; `synthetic_pixel_auroc` and `synthetic_pixel_aupro` of the raw
    maps at the working size. Kinds of defects (`data.corruption`) alternate from image to image, without those that the
    method is trained with. The defects depend on `defect_seed` and the number of the image, not on the seed of the run:
    all trials of a search see the same ones. No other image is read and no other metric changes. Every process predicts
    all images.
    """

    decides: ClassVar[str] = "result"  # the key of the run that it enters

    def __init__(self, copies: PositiveInt = 3, defect_seed: NonNegativeInt = 0) -> None:
        self.copies = copies
        self.defect_seed = defect_seed
        self.metrics: dict[str, float] = {}

    def setup(self, trainer: pl.Trainer, pl_module: Method, stage: str) -> None:
        """Raise UserError before training if no kind of defect is left for this callback."""
        corruptions_for(pl_module, data_of(trainer))

    def on_predict_end(self, trainer: pl.Trainer, pl_module: Method) -> None:
        """Predict all images after training; the state of torch's generators is restored."""
        data = data_of(trainer)
        corruptions = corruptions_for(pl_module, data)
        scores: dict[bool, list[float]] = {False: [], True: []}
        pixels = PixelMetrics(sync_on_compute=False)  # every process has seen all of them
        devices = [pl_module.device] if pl_module.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            for number, batch in enumerate(self.batches(data, corruptions, pl_module.device)):
                seed(self.defect_seed, STREAM, number)
                prediction = pl_module.test_step(batch, number)
                assert prediction.score is not None
                for i, score in enumerate(prediction.score.tolist()):
                    scores[bool(batch.label[i])].append(score)
                    anomaly_map = prediction.anomaly_map[i, 0].float().cpu().numpy()
                    pixels.update(*counted(anomaly_map, batch.mask[i][0].numpy(), batch.placement[i]))
        values = pixels.compute()
        self.metrics = {
            "synthetic_image_auroc": rank(np.array(scores[False]), np.array(scores[True])).auroc().value,
            "synthetic_pixel_auroc": values["auroc"],
            "synthetic_pixel_aupro": values["aupro"],
        }

    def batches(self, data: DataModule, corruptions: Sequence[Corruption], device: torch.device) -> Iterator[Batch]:
        """The held-out images in [0, 1] on the device, each batch followed by its copies with defects.

        Masks (on the host) have the working size, and so do the photos in the placements: nothing is enlarged.
        """
        for batch in ImageLoader(data.held_out_samples, data.decoding, data.test_batch_size, data.workers):
            images, index = batch.image.to(device).float() / 255, batch.index.to(device)
            inside = content(batch.placement, images)
            inside = torch.ones_like(images[:, :1], dtype=torch.bool) if inside is None else inside
            placement = tuple(at_working_size(place, data.decoding.image_size) for place in batch.placement)
            clean = torch.zeros(images.shape[-2:], dtype=torch.bool)[None]
            yield batch._replace(image=images, mask=(clean,) * len(images), placement=placement)
            for copy in range(self.copies):
                changed, defect = images.clone(), torch.zeros_like(inside)
                for turn, corruption in enumerate(corruptions):
                    here = (batch.index + copy) % len(corruptions) == turn
                    if here.any():
                        keys = row_keys(self.defect_seed, copy, index[here])
                        changed[here], defect[here] = AtLeast(corruption)(images[here], keys, inside[here])
                yield Batch(changed, tuple(defect.cpu()), torch.ones_like(batch.label), batch.index, placement)


def corruptions_for(method: Method, data: DataModule) -> tuple[Corruption, ...]:
    """One corruption per kind of defect that the method is not trained with. Raises UserError if there is none."""
    trained = method.synthetic if data.corruption is None else method.synthetic | data.corruption.kinds
    return other_corruptions(trained)


def at_working_size(place: Placement, image_size: int) -> Placement:
    """The same placement for a photo of the working size, so that no map is enlarged."""
    top, left, height, width = inner = place.target
    white = None if place.valid is None else place.valid[top : top + height, left : left + width]
    return Placement((image_size, image_size), inner, inner, inner, white, place.valid)
