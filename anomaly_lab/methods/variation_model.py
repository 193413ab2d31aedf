"""The variation model: how far each pixel lies from its mean over normal images, in standard deviations.

Steger, Ulrich and Wiedemann, Machine Vision Algorithms and Applications, section 3.4.1; set as on MVTec AD (Bergmann
et al., CVPR 2019, section 4): gray images of objects that can be aligned, 30 of them. They align by HALCON's
shape-based matching at the size of the photos; we do by `functional.alignment` at the working size.
"""

from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor

from anomaly_lab.core.types import Images, Prediction
from anomaly_lab.functional.alignment import IDENTITY, Aligner, Gray, Matrix, back, background, bring, foreground
from anomaly_lab.methods.base.fitted import FittedMethod
from anomaly_lab.methods.base.reservoir import FOLD, Reservoir
from anomaly_lab.methods.base.tiling import Tiling

NOT_ALIGNED = "not aligned"
PASSES = 2  # onto the first image, then onto the mean of what came out

Maps = Float[Tensor, "batch 1 height width"]


class Statistics(NamedTuple):
    """Mean and population standard deviation of aligned images, and which pixels enough of them show."""

    mean: Gray
    deviation: Gray
    known: Bool[np.ndarray, "height width"]


class VariationModel(FittedMethod):
    """The map is |gray - mean| / max(standard deviation, `minimum_deviation`), in [0, 1 / minimum_deviation].

    `images` of the training images are drawn (None: up to `max_images`), a sample that depends on nothing but `seed`.
    `alignment`: `none`, `translation` by whole pixels, or `rigid`; the map is brought back to the frame of the image
    and is 0 where the template does not reach. An image whose correlation with the template is below
    `minimum_correlation` is not aligned: it is left out of the statistics in training, and judged as it lies, with a
    remark, later. `region`: `foreground` leaves 0 outside the foreground of the mean (Otsu); the paper says of neither
    floor nor region what it used. HALCON itself compares with max(a, k * deviation), apart for brighter and darker.
    """

    mean: Tensor
    deviation: Tensor
    counted: Tensor

    def __init__(
        self,
        tiling: Tiling,
        image_size: PositiveInt,
        images: PositiveInt | None = None,
        alignment: Literal["none", "translation", "rigid"] = "none",
        region: Literal["whole", "foreground"] = "whole",
        minimum_deviation: Annotated[float, Field(gt=0, le=1)] = 2 / 255,
        minimum_correlation: Annotated[float, Field(ge=0, lt=1)] = 0.8,
        max_images: PositiveInt = 1000,
        seed: NonNegativeInt = 0,
    ) -> None:
        super().__init__(tiling)
        self.images = images or max_images
        self.image_size = image_size
        self.alignment: Literal["none", "translation", "rigid"] = alignment
        self.region: Literal["whole", "foreground"] = region
        self.minimum_deviation = minimum_deviation
        self.minimum_correlation = minimum_correlation
        self.register_buffer("mean", torch.zeros(image_size, image_size))
        self.register_buffer("deviation", torch.zeros(image_size, image_size))
        self.register_buffer("counted", torch.ones(image_size, image_size, dtype=torch.bool))
        self._aligner: Aligner | None = None  # made of the mean when it is needed
        self._sample = Reservoir(self.images, seed)
        self._numbers = Reservoir(self.images, seed)  # the same draws keep the numbers of the same images

    def memory(self, images: int) -> int:
        """The sample, as gray levels."""
        return FOLD * min(images, self.images) * self.image_size**2

    def update(self, images: Images, index: Int[Tensor, " batch"]) -> None:
        """Show the sample some images."""
        levels = (gray(images) * 255).round().byte().cpu()
        for i, image in zip(index.tolist(), levels, strict=True):
            self._sample.add(i, image)
            self._numbers.add(i, torch.tensor([i]))

    def fit(self) -> None:
        """Align the sample, twice, and take mean, standard deviation and region."""
        sample, numbers = self._sample.rows().numpy(), self._numbers.rows().tolist()
        found = self._statistics(sample, numbers)
        counted = found.known
        if self.region == "foreground":
            part = foreground(found.mean)
            if part.any():
                counted = counted & part
            else:
                self.say("method.region: the mean image has no foreground, the whole of it is compared")
        for buffer, values in ((self.mean, found.mean), (self.deviation, found.deviation), (self.counted, counted)):
            buffer.copy_(torch.from_numpy(values))
        self._aligner = None

    def predict(self, images: Images) -> Prediction:
        """Compare at the pose of the template; one pass an image, so that nothing depends on the batch."""
        if self.alignment == "none":
            return Prediction(self._compared(gray(images)), None, None)
        self._aligner = self._aligner or Aligner(self.alignment, self.mean.cpu().numpy())
        maps, remarks = [], []
        for image in gray(images)[:, 0].cpu().numpy():
            matrix = self._matrix(self._aligner, image)
            remarks.append(NOT_ALIGNED if matrix is None else "")
            aligned, shown = bring(image, IDENTITY if matrix is None else matrix)
            anomaly_map = self._compared(torch.from_numpy(aligned).to(self.mean)[None, None])[0, 0].cpu().numpy()
            anomaly_map[~shown] = 0
            maps.append(torch.from_numpy(anomaly_map if matrix is None else back(anomaly_map, matrix)))
        return Prediction(torch.stack(maps)[:, None].to(images), None, None, tuple(remarks))

    @property
    def export_obstacle(self) -> str | None:
        """The alignment, if there is one."""
        if self.alignment == "none":
            return None
        return (
            f"method.alignment={self.alignment} searches the pose of every image with OpenCV; only none can be exported"
        )

    def _load_from_state_dict(self, *arguments: Any) -> None:
        """What was made of another mean is of no use any more."""
        self._aligner = None
        super()._load_from_state_dict(*arguments)

    def _compared(self, images: Maps) -> Maps:
        distance = (images - self.mean).abs() / self.deviation.clamp_min(self.minimum_deviation)
        return distance * self.counted

    def _matrix(self, aligner: Aligner, image: Gray) -> Matrix | None:
        """The way from the template to the image; None where the alignment failed."""
        found = aligner(image)
        return found.matrix if found.correlation >= self.minimum_correlation else None

    def _statistics(self, sample: UInt8[np.ndarray, "image height width"], numbers: list[int]) -> Statistics:
        """Of the sample, aligned; images that cannot be aligned are named and left out.

        Where no two of them can be aligned with each other, of the sample as it is.
        """
        matrices: list[Matrix | None] = [IDENTITY] * len(sample)
        if self.alignment == "none":
            return statistics(sample, matrices)
        template, failed = scaled(sample[0]), list[int]()
        for _ in range(PASSES):
            aligner = Aligner(self.alignment, template)
            matrices = [self._matrix(aligner, scaled(image)) for image in sample]
            failed = [number for number, matrix in zip(numbers, matrices, strict=True) if matrix is None]
            if len(sample) - len(failed) < min(2, len(sample)):
                self._remark(failed, "compared as they lie")
                return statistics(sample, [IDENTITY] * len(sample))
            template = statistics(sample, matrices).mean
        self._remark(failed, "left out of the statistics")
        return statistics(sample, matrices)

    def _remark(self, failed: list[int], consequence: str) -> None:
        advice = "; parts that turn need method.alignment=rigid" if self.alignment == "translation" else ""
        self.remarks = dict.fromkeys(failed, f"training images not aligned, {consequence}{advice}")


def statistics(sample: UInt8[np.ndarray, "image height width"], matrices: list[Matrix | None]) -> Statistics:
    """Mean and population standard deviation over the images that have a matrix, each pixel over those that show it.

    Sums are float64, in the order of the sample. A pixel is known where at least half of the images show it; elsewhere
    the mean is the gray of the background, so that it can serve as a template.
    """
    total, squares, count = (np.zeros(sample.shape[1:]) for _ in range(3))
    grounds = []
    for levels, matrix in zip(sample, matrices, strict=True):
        if matrix is not None:
            grounds.append(background(scaled(levels)))
            image, shown = bring(scaled(levels), matrix)
            values = np.where(shown, image, 0).astype(np.float64)
            total += values
            squares += values**2
            count += shown
    known = 2 * count >= sum(matrix is not None for matrix in matrices)
    mean = total / np.maximum(count, 1)
    deviation = np.sqrt(np.maximum(squares / np.maximum(count, 1) - mean**2, 0))
    mean[~known] = np.median(grounds)
    return Statistics(mean.astype(np.float32), deviation.astype(np.float32), known)


def scaled(levels: UInt8[np.ndarray, "height width"]) -> Gray:
    """Gray levels -> [0, 1], as the data do it."""
    return levels.astype(np.float32) / np.float32(255)


def gray(images: Images) -> Maps:
    """Mean of the channels; of gray images the images."""
    return images.mean(dim=1, keepdim=True)
