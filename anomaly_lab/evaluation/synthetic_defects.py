"""Metrics on synthetic defects in held-out normal images: an objective without the test set."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytorch_lightning as pl
import torch
from pydantic import NonNegativeInt, PositiveInt

from anomaly_lab.core.console import say
from anomaly_lab.core.files import write_csv
from anomaly_lab.core.randomness import seed
from anomaly_lab.core.types import Batch, Placement
from anomaly_lab.data.corruption import KINDS, AtLeast, Blob, Corruption, other_corruptions
from anomaly_lab.data.datamodule import DataModule, ImageLoader, data_of
from anomaly_lab.data.noise import Keys, row_keys
from anomaly_lab.data.placement import content
from anomaly_lab.data.variation import VARIATIONS, varied
from anomaly_lab.evaluation.maps import counted, localises
from anomaly_lab.evaluation.painted_pictures import GOOD, painted_pictures_of
from anomaly_lab.methods.base.method import Method
from anomaly_lab.metrics.pixel_metrics import PixelMetrics
from anomaly_lab.metrics.ranking import rank

FILE = "synthetic.csv"
COLUMNS = ("photo", "change", "label", "score")
STREAM = 3  # of random numbers, after core.randomness.PREDICTION: what a method draws while it looks at these images


class SyntheticDefects(pl.Callback):
    """After training, predict the held-out normal images, and `copies` copies of each with one synthetic defect.

    `metrics`: `synthetic_image_auroc` of the scores; `synthetic_pixel_auroc` and `synthetic_pixel_aupro` of the raw
    maps at the working size, if the method has maps. Kinds of defects (`data.corruption`) alternate from image to
    image, without those that the method is trained with. The defects depend on `defect_seed`, the number of the image
    and the kind, not on the seed of the run or on the other kinds: all trials of a search see the same ones. Where a
    method leaves out kinds there are fewer copies, so that with as many copies as kinds (4), or twice as many, all
    methods see the same defects of the kinds that they share. No other image is read and no other metric changes.
    Every process predicts all images.

    `synthetic.csv` has the score of every image: photo, change (none, or the kind of the defect), label (1: defective).
    With `variations`, each held-out image is also shown shifted a little, in another light and with noise
    (`data.variation`), with label 0: how steady is a score? These enter no metric of this callback. Beside a callback
    `PaintedPictures` some of the images are kept as pictures.
    """

    decides: ClassVar[str] = "result"  # the key of the run that it enters

    def __init__(self, copies: PositiveInt = 3, defect_seed: NonNegativeInt = 0, variations: bool = False) -> None:
        self.copies = copies
        self.defect_seed = defect_seed
        self.variations = variations
        self.metrics: dict[str, float] = {}

    def setup(self, trainer: pl.Trainer, pl_module: Method, stage: str) -> None:
        """Raise UserError before training if no kind of defect is left for this callback."""
        corruptions_for(pl_module, data_of(trainer))

    def on_predict_end(self, trainer: pl.Trainer, pl_module: Method) -> None:
        """Predict all images after training; the state of torch's generators is restored."""
        data = data_of(trainer)
        corruptions = corruptions_for(pl_module, data)
        rows: list[tuple[str, str, int, float]] = []
        pictures = painted_pictures_of(trainer)
        pixels = PixelMetrics(sync_on_compute=False)  # every process has seen all of them
        devices = [pl_module.device] if pl_module.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            for number, (changes, batch) in enumerate(self.batches(data, corruptions, pl_module.device)):
                seed(self.defect_seed, STREAM, number)
                prediction = pl_module.test_step(batch, number)
                assert prediction.score is not None
                photos = [str(data.held_out_samples[index].path) for index in batch.index.tolist()]
                rows += zip(photos, changes, batch.label.tolist(), prediction.score.tolist(), strict=True)
                if pictures:
                    pictures.keep(data.held_out_samples, changes, batch, prediction, localises(pl_module))
                for i, change in enumerate(changes):
                    if change not in VARIATIONS:
                        anomaly_map = prediction.anomaly_map[i, 0].float().cpu().numpy()
                        pixels.update(*counted(anomaly_map, batch.mask[i][0].numpy(), batch.placement[i]))
        if trainer.is_global_zero:
            write_csv(Path(trainer.default_root_dir) / FILE, COLUMNS, rows)
            if pictures:
                pictures.write(Path(trainer.default_root_dir))
        scores = {
            GOOD: np.array([score for _, change, _, score in rows if change == GOOD]),
            "defect": np.array([score for *_, label, score in rows if label]),
        }
        values = pixels.compute()
        self.metrics = {"synthetic_image_auroc": rank(scores[GOOD], scores["defect"]).auroc().value}
        if localises(pl_module):
            self.metrics |= {f"synthetic_pixel_{name}": values[name] for name in ("auroc", "aupro")}
        shown = frozenset[str]().union(*(corruption.kinds for corruption in corruptions))
        if trainer.is_global_zero and (left_out := [kind for kind in KINDS if kind not in shown]):
            say(
                f"synthetic defects: the figures are of {', '.join(sorted(shown))}; left out, because the method is "
                f"trained with them: {', '.join(left_out)}"
            )

    def copies_of(self, kinds: int) -> int:
        """Copies of an image: where kinds are left out, so many fewer that none of the others comes more often."""
        return self.copies if kinds == len(KINDS) else min(self.copies, kinds * max(1, self.copies // len(KINDS)))

    def batches(
        self, data: DataModule, corruptions: Sequence[Corruption], device: torch.device
    ) -> Iterator[tuple[list[str], Batch]]:
        """The held-out images in [0, 1] on the device, each batch followed by its copies; with what was changed.

        Masks (on the host) have the working size, and so do the photos in the placements: nothing is enlarged.
        """
        stain = next((each for each in corruptions if isinstance(each, Blob)), None)
        for batch in ImageLoader(data.held_out_samples, data.decoding, data.test_batch_size, data.workers):
            images, index = batch.image.to(device).float() / 255, batch.index.to(device)
            inside = content(batch.placement, images)
            inside = torch.ones_like(images[:, :1], dtype=torch.bool) if inside is None else inside
            placement = tuple(at_working_size(place, data.decoding.image_size) for place in batch.placement)
            clean = torch.zeros(images.shape[-2:], dtype=torch.bool)[None]
            good = batch._replace(image=images, mask=(clean,) * len(images), placement=placement)
            yield [GOOD] * len(images), good
            for copy in range(self.copies_of(len(corruptions))):
                changed, defect, kinds = images.clone(), torch.zeros_like(inside), [""] * len(images)
                for turn, corruption in enumerate(corruptions):
                    here = (batch.index + copy) % len(corruptions) == turn
                    if here.any():
                        turns = _turn_among_all(corruption, index[here], copy // len(corruptions))
                        keys = row_keys(self.defect_seed, turns, index[here])
                        painted = AtLeast(corruption, otherwise=stain)
                        changed[here], defect[here] = painted(images[here], keys, inside[here])
                    for i in here.nonzero().flatten().tolist():
                        kinds[i] = "+".join(sorted(corruption.kinds))
                yield kinds, Batch(changed, tuple(defect.cpu()), torch.ones_like(batch.label), batch.index, placement)
            for variation in VARIATIONS if self.variations else ():
                keys = row_keys(self.defect_seed, 0, index)
                yield [variation] * len(images), good._replace(image=varied(variation, images, keys, inside))


def _turn_among_all(corruption: Corruption, index: Keys, again: int) -> Keys:
    """The copy of each image that would have this kind for the `again`-th time if no kind were left out."""
    return (KINDS.index(min(corruption.kinds)) - index) % len(KINDS) + len(KINDS) * again


def corruptions_for(method: Method, data: DataModule) -> tuple[Corruption, ...]:
    """One corruption per kind of defect that the method is not trained with. Raises UserError if there is none."""
    trained = method.synthetic if data.corruption is None else method.synthetic | data.corruption.kinds
    return other_corruptions(trained)


def at_working_size(place: Placement, image_size: int) -> Placement:
    """The same placement for a photo of the working size, so that no map is enlarged."""
    top, left, height, width = inner = place.target
    white = None if place.valid is None else place.valid[top : top + height, left : left + width]
    return Placement((image_size, image_size), inner, inner, inner, white, place.valid)
