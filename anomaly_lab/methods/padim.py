"""PaDiM: Defard, Setkov, Loesch and Audigier, ICPR 2020 workshops (arXiv 2011.08785).

Each place of the image has a Gaussian, fitted to the features that a pretrained network computes there in good images.
The map is the Mahalanobis distance of each place of a new image from its Gaussian.
"""

from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from anomaly_lab.core.errors import UserError
from anomaly_lab.core.types import Images, Prediction
from anomaly_lab.methods.base.fitted import FittedMethod
from anomaly_lab.methods.base.statistics import RunningGaussian
from anomaly_lab.methods.base.tiling import Tiling
from anomaly_lab.networks.backbone import Backbone, aligned


class PaDiM(FittedMethod):
    """100 channels of ResNet-18's first three stages, on the grid of the first.

    `features` channels are drawn once, by the seed, from those of all layers (null: all are kept, as the paper does
    with EfficientNet-B5). Two points that the paper leaves open are decided as its two best-known implementations
    decide them: maps of deeper layers are resized to the grid of the first by repeating places (`nearest`), and the
    covariance is the unbiased one. Differences: images are not cropped by default (`experiment=padim_paper` crops
    them), and the map is enlarged bilinearly (paper: bicubic). The score is the paper's, which is the default here: the
    maximum of the smoothed map.

    Features are added exactly, on a grid from -`largest` to `largest` (`RunningGaussian`). One training image has no
    covariance: then the ridge alone counts.

    Raises UserError for more channels than the layers have and, at the end of the training, for features that are not
    below `largest`.
    """

    version: ClassVar = 1

    mean: Tensor  # (place, feature)
    whitener: Tensor  # (place, feature, feature): the inverse of the lower Cholesky factor of the covariance

    def __init__(
        self,
        tiling: Tiling,
        backbone: Backbone,
        image_size: PositiveInt,
        features: PositiveInt | None,
        ridge: PositiveFloat,
        largest: PositiveFloat,
        seed: NonNegativeInt,
    ) -> None:
        super().__init__(tiling)
        total = sum(backbone.channels)
        features = features or total
        if features > total:
            raise UserError(
                f"method.features: expected at most {total}, the channels of {', '.join(backbone.layers)}, found "
                f"{features}"
            )
        self.backbone = backbone
        self.ridge = ridge
        drawn = torch.zeros(total, dtype=torch.bool)
        drawn[np.random.default_rng(seed).choice(total, features, replace=False)] = True
        for i, layer in enumerate(drawn.split(backbone.channels)):
            self.register_buffer(f"channels_{i}", layer.nonzero()[:, 0])
        self.side = backbone.shapes(image_size)[0][-1]
        self.gaussian = RunningGaussian(features, self.side**2, largest)
        self.register_buffer("mean", torch.zeros(1, features))
        self.register_buffer("whitener", torch.eye(features)[None])

    @property
    def channels(self) -> list[Int[Tensor, " channel"]]:
        """The numbers of the drawn channels of each layer, ascending."""
        return [getattr(self, f"channels_{i}") for i in range(len(self.backbone.channels))]

    def embedding(self, images: Images) -> Float[Tensor, "batch feature side side"]:
        """The drawn channels of all layers, on the grid of the first (section III.A)."""
        maps = self.backbone(images)
        kept = [layer[:, channels] for layer, channels in zip(maps, self.channels, strict=True)]  # then enlarged
        return aligned(kept, mode="nearest")

    def rows(self, image: Images) -> dict[str, Float[Tensor, "row feature"]]:
        """A row for every place."""
        return {"gaussian": self.embedding(image)[0].flatten(1).T}

    def fit(self) -> None:
        """Mean and covariance of every place, with `ridge` on the diagonal (section III.B, equation 1)."""
        places, features = self.side**2, self.mean.shape[1]
        self.mean = self.mean.new_zeros(places, features)
        self.whitener = self.whitener.new_zeros(places, features, features)
        try:
            for here, mean, covariance in self.gaussian.moments_by_part():
                covariance.diagonal(dim1=1, dim2=2).add_(self.ridge)
                upper = torch.linalg.cholesky(covariance.float()).mT
                identity = torch.eye(features, device=upper.device)
                self.mean[here] = mean
                # The transpose of the inverse: libraries count column by column, so that this is copied row by row.
                self.whitener[here] = torch.linalg.solve_triangular(upper, identity.expand_as(upper), upper=True).mT
        except UserError:
            raise
        except ValueError as error:
            raise UserError(
                f"method.largest: {error}; a power of two above the features of {self.backbone.name} makes the grid "
                f"coarser on which they are added exactly"
            ) from error

    def predict(self, images: Images) -> Prediction:
        """The Mahalanobis distance of every place from its Gaussian (section III.C, equation 2)."""
        maps = self.embedding(images)
        places = maps.flatten(2).permute(2, 1, 0).contiguous()  # place, feature, image: small products need it in order
        centred = places - self.mean[:, :, None]
        distance = torch.bmm(self.whitener.expand(len(centred), -1, -1), centred).norm(dim=1)
        return Prediction(distance.T.reshape(-1, 1, *maps.shape[2:]), None, None)
