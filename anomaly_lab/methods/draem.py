"""DRAEM: Zavrtanik, Kristan and Skocaj, ICCV 2021 (arXiv 2108.07610).

Textures are painted into good images. One network learns to remove them, a second to find them by comparing the image
with what the first made of it. A defect is found as what was painted is.
"""

from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import PositiveInt
from torch import Tensor
from torch.nn import functional

from anomaly_lab.core.errors import UserError
from anomaly_lab.core.types import Batch, Images, Prediction
from anomaly_lab.functional.blur import odd
from anomaly_lab.functional.ssim import ssim_map
from anomaly_lab.methods.base.gradient import GradientMethod, summed
from anomaly_lab.methods.base.method import OptimizerFactory, Scalar, refuse_unpainted
from anomaly_lab.methods.base.schedule import Schedule
from anomaly_lab.methods.base.tiling import Tiling
from anomaly_lab.networks.unet import discriminative, reconstructive

SMALLEST = 32  # px: the second network halves the image five times
WINDOW = 21 / 256  # side of the window of the score, of that of the image
FOCUS = 2.0  # gamma of the focal loss
OF_BLOCK = 0.1  # weight of the loss of an SSPCAB


class DRAEM(GradientMethod):
    """A reconstructive network of `width` channels and a discriminative one of `segmentation_width`.

    `data.corruption` paints half of the images (`PerlinTexture`, `data.foreign_images`). `block=sspcab` puts an SSPCAB
    in the place of the second convolution of the last stage of both decoders (Ristea et al., CVPR 2022); its loss has
    a weight of 0.1.

    Paper and authors' code differ; the decisions here:

    - The texture has an opacity of 0.2 to 1, as in the code.
    - SSIM reflects the border and knows that values lie in [0, 1]; the code fills up with zeros and guesses the range.
    - The focal loss knows no smoothing; the code keeps its targets 1e-5 away from 0 and 1 and adds as much to p.
    - The score is the largest mean of the map over a window of 21 px at 256 px, as in the code. The window grows
      with the image, and is odd. Zeros around the map count.
    - Good images are varied as `augmentation` says. The code turns three in ten by up to 90 degrees.

    Raises UserError for images smaller than 32 px, and where nothing is painted.
    """

    version: ClassVar = 1
    sees: ClassVar = "images"

    def __init__(
        self,
        tiling: Tiling,
        optimizer: OptimizerFactory,
        image_size: PositiveInt,
        channels: Literal[1, 3],
        width: PositiveInt,
        segmentation_width: PositiveInt,
        block: Literal["none", "sspcab"],
        schedule: Schedule = "constant",
    ) -> None:
        super().__init__(tiling, optimizer, schedule)
        if image_size < SMALLEST:
            raise UserError(f"data.image_size: expected at least {SMALLEST} px for draem, found {image_size}")
        self.reconstructive = reconstructive(channels, width, block)
        self.discriminative = discriminative(channels, segmentation_width, block)
        self.block = block
        self.window = odd(WINDOW * image_size)

    def check_training(self, epochs: int, painted: bool) -> None:
        """Refuse good images alone."""
        refuse_unpainted("draem", painted)

    def losses(self, batch: Batch) -> dict[str, Scalar]:
        """Mean squared difference, 1 - SSIM and focal loss, added (sections 3.1 and 3.2)."""
        assert batch.clean is not None
        assert batch.defect is not None
        reconstructions, logits, of_blocks = self.answer(batch.image)
        parts = {
            "squared": (reconstructions - batch.clean).square().mean(),
            "ssim": 1 - ssim_map(reconstructions, batch.clean).mean(),
            "focal": focal_loss(logits, batch.defect),
        }
        if self.block != "none":
            parts["blocks"] = OF_BLOCK * of_blocks
        return summed(parts)

    def answer(self, images: Images) -> tuple[Images, Float[Tensor, "batch 2 height width"], Scalar]:
        """Reconstructions, the logits of good and defective at every pixel, and the losses of the blocks."""
        reconstructions, first = self.reconstructive(images)
        logits, second = self.discriminative(torch.cat([reconstructions, images], dim=1))
        return reconstructions.float(), logits.float(), first + second

    def predict(self, images: Images) -> Prediction:
        """The probability of a defect at every pixel and its largest mean over a window (section 3.4)."""
        reconstructions, logits, _ = self.answer(images)
        anomaly_map = logits.softmax(dim=1)[:, 1:]
        means = functional.avg_pool2d(anomaly_map, self.window, stride=1, padding=self.window // 2)
        return Prediction(anomaly_map, means.amax(dim=(1, 2, 3)), reconstructions.clamp(0, 1))

    def samples(self, images: Images) -> Images:
        """The reconstructions."""
        return self.reconstructive(images)[0].clamp(0, 1)


def focal_loss(logits: Float[Tensor, "batch 2 height width"], defect: Bool[Tensor, "batch 1 height width"]) -> Scalar:
    """Cross-entropy, less of it for pixels that are right already: (1 - p)^2 log p of the true class (Lin et al. 2017).

    Whoever knows nothing but that 2.45 % of the pixels are painted, 4.9 % of half of the images, gets 0.034.
    """
    log_true = logits.log_softmax(dim=1).gather(1, defect.long())
    return -((1 - log_true.exp()) ** FOCUS * log_true).mean()
