"""CS-Flow, fully convolutional cross-scale flows: Rudolph, Wehrbein, Rosenhahn and Wandt, WACV 2022 (arXiv 2110.02855).

One normalizing flow learns the distribution of the feature maps of a good image at three sizes together: what it does
with one map follows from the others. A place whose latent vector is long is unlikely.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from anomaly_lab.core.errors import UserError
from anomaly_lab.core.types import Batch, Images, Prediction
from anomaly_lab.functional.pyramid import pyramid
from anomaly_lab.methods.base.gradient import GradientMethod
from anomaly_lab.methods.base.method import OptimizerFactory, Scalar
from anomaly_lab.methods.base.schedule import Schedule
from anomaly_lab.methods.base.tiling import Tiling, enlarge
from anomaly_lab.networks.backbone import Backbone
from anomaly_lab.networks.glow import Block, Glow, cross_scale

Maps = Sequence[Float[Tensor, "batch feature _ _"]]
Numbers = Float[Tensor, " batch"]


class CSFlow(GradientMethod):
    """The third stage of a ResNet-18 at 384, 192 and 96 px, and one flow of four blocks over its three maps.

    - The paper takes EfficientNet-B5 at 768, 384 and 192 px: maps as large, of 304 channels instead of 256.
    - The smaller images are means over 2 x 2 px. The authors' code leaves out every second row and column.
    - `kernels`: the side of the convolutions, block by block. `hidden`: the channels between them; published: 1024.
    - `map`: `finest`, the mean square of the latent vectors of the finest scale, as the paper has it; `product`, of the
      maps of all scales, as others have it. Neither is smoothed.

    The score is half the mean square over all places, channels and scales.

    Raises UserError for a backbone with more than one layer, and for images whose maps do not halve from scale to
    scale, or whose smallest size has not one place.
    """

    version: ClassVar = 1
    sees: ClassVar = "images"
    augmented: ClassVar = False

    def __init__(
        self,
        tiling: Tiling,
        backbone: Backbone,
        optimizer: OptimizerFactory,
        image_size: PositiveInt,
        scales: PositiveInt,
        kernels: Annotated[Sequence[Literal[1, 3, 5]], Field(min_length=1)],
        hidden: PositiveInt,
        clamp: PositiveFloat,
        map: Literal["finest", "product"],
        schedule: Schedule = "constant",
    ) -> None:
        super().__init__(tiling, optimizer, schedule)
        if len(backbone.layers) > 1:
            raise UserError(f"method.backbone.layers: expected one layer, found {', '.join(backbone.layers)}")
        unit = backbone.reductions[0] * 2 ** (scales - 1)
        sizes = [-(-image_size // 2**scale) for scale in range(scales if image_size >= unit else 0)]
        sides = [backbone.shapes(size)[0][1] for size in sizes]
        if image_size < unit or any(coarse != -(-fine // 2) for fine, coarse in pairwise(sides)):
            maps = f" with maps of {', '.join(str(side) for side in sides)} places" if sides else ""
            raise UserError(
                f"data.image_size: expected a multiple of {unit} px, so that the maps of {scales} scales halve, found "
                f"{image_size} px{maps}"
            )
        self.backbone = backbone
        self.scales = scales
        (channels,) = backbone.channels
        self.flow = Glow(*(Block(channels, cross_scale(scales, hidden, kernel), clamp, scales) for kernel in kernels))
        self.map = map

    def maps(self, images: Images) -> Maps:
        """The feature map at each scale."""
        return [self.backbone(shown)[0].float() for shown in pyramid(images, self.scales)]

    def losses(self, batch: Batch) -> dict[str, Scalar]:
        """The negative log-likelihood of an image, divided by its numbers, without its constant."""
        latent, log_determinant = self.flow(self.maps(batch.image))
        return {"loss": (half_mean_square(latent) - log_determinant / numbers(latent)).mean()}

    def predict(self, images: Images) -> Prediction:
        """Score and map of the latent vectors."""
        latent, _ = self.flow(self.maps(images))
        squares = [part.square().mean(dim=1, keepdim=True) for part in latent]
        anomaly_map = enlarge(squares[0], images)
        if self.map == "product":
            anomaly_map = math.prod((enlarge(square, images) for square in squares[1:]), start=anomaly_map)
        return Prediction(anomaly_map, half_mean_square(latent), None)


def numbers(maps: Maps) -> int:
    """How many of them an image has."""
    return sum(part[0].numel() for part in maps)


def half_mean_square(maps: Maps) -> Numbers:
    """Half the mean square of all numbers of each image."""
    squares = torch.stack([part.square().sum(dim=(1, 2, 3)) for part in maps])
    return squares.sum(dim=0) / (2 * numbers(maps))
