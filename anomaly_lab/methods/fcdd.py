"""FCDD: Liznerski, Ruff, Vandermeulen, Franks, Kloft, Müller: Explainable Deep One-Class Classification, ICLR 2021.

A convolutional network answers near zero at the places of good images and far from it at those of abnormal ones; its
answer is the map. The abnormal images are made: good ones with confetti, or foreign photos. arXiv 2007.01760.

It is in MATLAB's library for visual inspection. It shows defects that look like what was painted, and may get worse on
others while the loss falls: `callbacks=synthetic` looks at kinds that were not painted.
"""

from collections.abc import Iterable
from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import PositiveFloat
from torch import Tensor, nn

from anomaly_lab.core.errors import UserError
from anomaly_lab.core.types import Batch, Images, Prediction
from anomaly_lab.functional.hypersphere import classification_loss, pixel_loss, pseudo_huber, repulsion
from anomaly_lab.functional.receptive import field_of, gaussian, gaussian_upsample
from anomaly_lab.methods.base.gradient import GradientMethod
from anomaly_lab.methods.base.method import OptimizerFactory, Scalar, refuse_unpainted
from anomaly_lab.methods.base.schedule import Schedule
from anomaly_lab.methods.base.tiling import Tiling
from anomaly_lab.networks.backbone import Backbone
from anomaly_lab.networks.contrast import Contrast

Cells = Float[Tensor, "batch 1 rows columns"]


class FCDD(GradientMethod):
    """A pretrained network up to the second of two layers, of which what lies above the first is trained on.

    Then a 1 x 1 convolution with a bias to one channel, phi, of which A = sqrt(phi^2 + 1) - 1 is the heat of a place.
    The score is the mean of A. The map is a Gaussian of `sigma` px at every place, as high as A. There are fewer places
    around a pixel near the border of the image, so that the map is darker there; that is of the kernel, not of
    the network, and stays as published.

    `data.corruption` makes the abnormal images, half of all: `Confetti` or `ForeignPhoto` (`data/outliers.py`), or any
    other. An image in which nothing changed counts as good.

    With labelled abnormal photos (`data.labelled_abnormal`) it is the semi-supervised form of the paper (equation 3):
    the map is pulled to zero where nothing is marked, in good images too, and its marked part is pushed away. Masks
    mark, and so does paint. Of a photo without a mask nothing is marked: it is abnormal as a whole, as without masks
    (equation 2). Where a run has neither masks nor paint, all images are.

    Decisions: ResNet-18 up to its second stage, because its weights are at hand; the paper has VGG11 with batch norm up
    to its sixth convolution (`experiment=fcdd_paper`). Batch norm keeps learning statistics below the first layer, too,
    as published. Images are normalised as in the paper, with one range for all channels where it has one for each. A
    labelled photo is shown as often as any other, beside painted defects; in the authors' code every second image is
    one, and nothing is painted.

    Raises UserError for a backbone that is not trained on from its weights, has not two layers, or is no chain of
    convolutions, and where there is nothing abnormal to learn from.
    """

    version: ClassVar = 1
    labelled: ClassVar = True
    masks: ClassVar = True
    control_untrained: ClassVar = True

    kernel: Tensor

    def __init__(
        self,
        tiling: Tiling,
        optimizer: OptimizerFactory,
        backbone: Backbone,
        sigma: PositiveFloat = 12.0,
        labelled: bool = False,
        schedule: Schedule = "constant",
    ) -> None:
        super().__init__(tiling, optimizer, schedule)
        if len(backbone.layers) != 2 or not backbone.fine_tuned:
            raise UserError(
                "method.backbone: expected fine_tuned=true and two layers, trained above the first, found "
                f"fine_tuned={str(backbone.fine_tuned).lower()} and layers={list(backbone.layers)}"
            )
        self.field = field_of(backbone.network)
        if self.field.jump != backbone.reductions[-1]:
            raise UserError(
                "method.backbone.name: expected a chain of convolutions such as a ResNet or VGG, whose receptive field "
                f"can be computed, found {backbone.name}"
            )
        freeze(backbone)
        self.contrast, self.backbone = Contrast(), backbone
        self.head = nn.Conv2d(backbone.channels[-1], 1, 1)
        self.labelled_photos = labelled
        self.register_buffer("kernel", gaussian(self.field.extent, sigma), persistent=False)

    def prepare(self, images: Iterable[Batch]) -> None:
        """The range of the training images."""
        self.contrast.learn(self.tiling.training_like(batch.image) for batch in images)

    def check_training(self, epochs: int, painted: bool) -> None:
        """Refuse good images alone."""
        if not self.labelled_photos:
            refuse_unpainted("fcdd", painted)

    def cells(self, images: Images) -> Cells:
        """A at every place."""
        shown = self.contrast(images).expand(-1, 3, -1, -1)
        return pseudo_huber(self.head(self.backbone.extract(shown)[-1]).float())

    def losses(self, batch: Batch) -> dict[str, Scalar]:
        """Equation 2, of the mean over the places, or 3, of the map; all images in one mean."""
        cells = self.cells(batch.image)
        heat, abnormal = cells.mean(dim=(1, 2, 3)), batch.label == 1
        if batch.defect is None:
            return {"loss": classification_loss(heat, abnormal)}
        marked = batch.defect.flatten(1).any(dim=1)
        if not self.labelled_photos:
            return {"loss": classification_loss(heat, abnormal | marked)}
        with torch.autocast(self.device.type, enabled=False):  # sums over hundreds of places
            by_pixel = pixel_loss(self.enlarged(cells, batch.image), batch.defect)
        return {"loss": torch.where(abnormal & ~marked, repulsion(heat), by_pixel).mean()}

    def predict(self, images: Images) -> Prediction:
        """A, enlarged by Gaussians (section 3.2), and its mean."""
        cells = self.cells(images)
        return Prediction(self.enlarged(cells, images), cells.mean(dim=(1, 2, 3)), None)

    def enlarged(self, cells: Cells, images: Images) -> Float[Tensor, "batch 1 height width"]:
        """A as a map of the images."""
        return gaussian_upsample(cells, self.field, self.kernel, images.shape[2], images.shape[3])

    def embed(self, images: Images) -> Float[Tensor, "batch feature"]:
        """The features of the last convolution but one, averaged over the places."""
        return self.backbone.extract(self.contrast(images).expand(-1, 3, -1, -1))[-1].mean(dim=(2, 3))


def freeze(backbone: Backbone) -> None:
    """Let no weight up to the first of its layers be trained."""
    layer, reached = backbone.layers[0], False
    for name, module in backbone.network.named_modules():
        inside = f"{name}.".startswith(f"{layer}.")
        if reached and not inside:
            return
        reached = inside
        for weight in module.parameters(recurse=False):
            weight.requires_grad_(False)
