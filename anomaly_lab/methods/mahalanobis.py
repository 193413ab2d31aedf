"""Mahalanobis AD: Rippel, Mertens and Merhof, ICPR 2020 (arXiv 2005.14140).

The features of each level of a pretrained network, averaged over the image, have a Gaussian. The score of an image is
its Mahalanobis distance from these Gaussians. It shows that something is wrong, not where.
"""

from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field, NonNegativeInt, PositiveInt
from sklearn.covariance import ledoit_wolf
from torch import Tensor

from anomaly_lab.core.errors import UserError
from anomaly_lab.core.types import Images, Prediction
from anomaly_lab.methods.base.fitted import FittedMethod
from anomaly_lab.methods.base.statistics import MemoryBank
from anomaly_lab.methods.base.tiling import Tiling
from anomaly_lab.networks.backbone import Backbone


class Mahalanobis(FittedMethod):
    """The sum of the Mahalanobis distances of all levels (section III), shrunk by Ledoit and Wolf.

    `components`: all principal components of a level, those of the largest variances that hold a share `variance` of
    it together, or those of the smallest, from one before that share on (PCA and NPCA, section III.C). The authors
    average the levels instead of adding them, which ranks alike, and report means over five folds: here all training
    images are used but those that are held out for the threshold. The map is the score at every pixel.

    Raises UserError, at the end of the training, for a level whose means are the same in all images.
    """

    version: ClassVar = 2  # 1 had pixel metrics, of the number of the image at every pixel
    localises = False

    mean: Tensor

    def __init__(
        self,
        tiling: Tiling,
        backbone: Backbone,
        components: Literal["all", "leading", "trailing"],
        variance: Annotated[float, Field(gt=0, lt=1)],
        seed: NonNegativeInt,
        max_images: PositiveInt = 100_000,
    ) -> None:
        super().__init__(tiling)
        self.backbone = backbone
        self.components = components
        self.variance = variance
        self.seen = MemoryBank(sum(backbone.channels), max_images, seed, rows=1)
        self.register_buffer("mean", torch.zeros(sum(backbone.channels)))
        for i, channels in enumerate(backbone.channels):
            self.register_buffer(f"whitener_{i}", torch.eye(channels))  # (component, channel)

    @property
    def whiteners(self) -> list[Tensor]:
        """For each level, what makes its variances one: the norm of a product is a distance."""
        return [getattr(self, f"whitener_{i}") for i in range(len(self.backbone.channels))]

    def vectors(self, images: Images) -> Float[Tensor, "batch feature"]:
        """The means of the maps of all levels."""
        return torch.cat([layer.mean(dim=(2, 3)) for layer in self.backbone(images)], dim=1)

    def rows(self, image: Images) -> dict[str, Float[Tensor, "1 feature"]]:
        """One row an image."""
        return {"seen": self.vectors(image)}

    def fit(self) -> None:
        """A Gaussian for each level."""
        rows = self.seen.sample()
        self.mean = rows.double().mean(dim=0).to(self.mean)
        for i, part in enumerate(rows.double().split(self.backbone.channels, dim=1)):
            level = part.numpy()
            if not level.std(axis=0).any():
                raise UserError(
                    f"method.backbone.layers: expected layers that differ between images, found "
                    f"{self.backbone.layers[i]} the same in all of {len(level)} training images; leave it out"
                )
            values, vectors = np.linalg.eigh(ledoit_wolf(level)[0])  # ascending
            kept = selected(values[::-1], self.components, self.variance)
            whitener = (vectors / np.sqrt(values)).T[::-1][kept]
            setattr(self, f"whitener_{i}", torch.from_numpy(np.ascontiguousarray(whitener)).to(self.mean))

    def predict(self, images: Images) -> Prediction:
        """The sum of the distances of all levels."""
        levels = (self.vectors(images) - self.mean).split(self.backbone.channels, dim=1)
        distances = [(level @ whitener.T).norm(dim=1) for level, whitener in zip(levels, self.whiteners, strict=True)]
        score = torch.stack(distances).sum(dim=0)
        return Prediction(score[:, None, None, None], score, None)

    def embed(self, images: Images) -> Float[Tensor, "batch feature"]:
        """The means."""
        return self.vectors(images)


def selected(
    variances: Float[np.ndarray, " component"], components: Literal["all", "leading", "trailing"], share: float
) -> slice:
    """Which components are kept, of descending variances."""
    reached = int(np.searchsorted(np.cumsum(variances) / variances.sum(), share))  # with this one the share is held
    match components:
        case "all":
            return slice(None)
        case "leading":
            return slice(reached + 1)
        case "trailing":
            return slice(max(0, reached - 1), None)
