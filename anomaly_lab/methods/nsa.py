"""NSA: Schlueter, Liu, Hou and Kainz, Natural Synthetic Anomalies, ECCV 2022 (arXiv 2109.15222).

Pieces of good images are pasted elsewhere so that no seam shows. A network learns to say by how much every pixel was
changed; what it finds in an image that nobody changed is a defect.
"""

from itertools import pairwise
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from kornia.filters import median_blur
from pydantic import PositiveFloat
from torch import Tensor, nn
from torch.nn import functional

from anomaly_lab.core.types import Batch, Images, Prediction
from anomaly_lab.functional.blur import odd
from anomaly_lab.methods.base.gradient import GradientMethod
from anomaly_lab.methods.base.method import OptimizerFactory, Scalar, refuse_unpainted
from anomaly_lab.methods.base.schedule import Schedule
from anomaly_lab.methods.base.tiling import Tiling
from anomaly_lab.networks.backbone import Backbone, refuse_weights
from anomaly_lab.networks.unet import double

LEVELS = 255  # gray levels of a difference of 1
GRAIN = 5 / 256  # side of the median that takes single pixels out of a label, of that of the image
DECODED = (256, 128, 64, 32)  # channels of the decoder's stages

Plane = Float[Tensor, "batch 1 height width"]


class NSA(GradientMethod):
    """A ResNet-18 from random weights, a decoder, and a probability at every pixel.

    `data.corruption` paints every image (`NaturalPatch`, which says how it differs from the paper). `labels`:
    `logistic`, the logistic function of the mean difference over the channels, with `steepness` (1 / gray level) around
    `middle` (gray levels); `binary`: whether there is one. The authors choose both numbers for every category of MVTec
    AD, as they choose sizes and numbers of pieces; the defaults here are those of their function.

    Decisions: the decoder doubles the size and halves the channels four times, without connections to the encoder; the
    difference is smoothed by a median over a square of 5 px at 256 px, the code's over a disk of radius 5; the score is
    the mean of the map. The square grows with the image and is odd: in small images 5 px would erase whole pieces.
    Good images are varied as `augmentation` says; the code turns and flips them as the category allows.

    Raises UserError for a `backbone` that is not trained, and where nothing is painted.
    """

    version: ClassVar = 3  # 1 rounded labels to half precision in a training of mixed precision; 2: 5 px at any size
    sees: ClassVar = "images"

    def __init__(
        self,
        tiling: Tiling,
        optimizer: OptimizerFactory,
        backbone: Backbone,
        labels: Literal["logistic", "binary"],
        steepness: PositiveFloat,
        middle: PositiveFloat,
        schedule: Schedule = "constant",
    ) -> None:
        super().__init__(tiling, optimizer, schedule)
        refuse_weights(backbone, "method.backbone")
        self.backbone = backbone
        widths = [backbone.channels[-1], *DECODED]
        self.decoder = nn.ModuleList(double(before, width, width) for before, width in pairwise(widths))
        self.output = nn.Conv2d(DECODED[-1], 1, 3, padding=1)
        self.labels, self.steepness, self.middle = labels, steepness, middle

    def check_training(self, epochs: int, painted: bool) -> None:
        """Refuse good images alone."""
        refuse_unpainted("nsa", painted)

    def logits(self, images: Images) -> Plane:
        """The logit of a change at every pixel."""
        values = self.backbone(images)[-1]
        for layers in self.decoder:
            values = layers(functional.interpolate(values, scale_factor=2, mode="bilinear"))
        return functional.interpolate(self.output(values).float(), images.shape[2:], mode="bilinear")

    def label(self, batch: Batch) -> Plane:
        """By how much a pixel was changed, 0 to 1."""
        assert batch.clean is not None
        with torch.autocast(batch.image.device.type, enabled=False):  # a median is a convolution, which it would round
            difference = LEVELS * (batch.image - batch.clean).abs().mean(dim=1, keepdim=True)
            side = odd(GRAIN * batch.image.shape[-1])
            changed = median_blur((difference > 1).float(), side)
            if self.labels == "binary":
                return changed
            return changed * torch.sigmoid(self.steepness * (median_blur(difference, side) - self.middle))

    def losses(self, batch: Batch) -> dict[str, Scalar]:
        """Cross-entropy of all pixels."""
        return {"loss": functional.binary_cross_entropy_with_logits(self.logits(batch.image), self.label(batch))}

    def predict(self, images: Images) -> Prediction:
        """The probabilities, and their mean."""
        anomaly_map = self.logits(images).sigmoid()
        return Prediction(anomaly_map, anomaly_map.mean(dim=(1, 2, 3)), None)

    def embed(self, images: Images) -> Float[Tensor, "batch feature"]:
        """The mean of the deepest map."""
        return self.backbone(images)[-1].mean(dim=(2, 3))
