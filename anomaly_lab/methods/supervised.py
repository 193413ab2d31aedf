"""A classifier of good and defective photos, from labels of both: what a detector that knows good ones alone gives up.

No paper; three networks of a set of presentation slides. It is tested in folds (`data.fold`), and no report compares it
with methods that never see a defect.
"""

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from anomaly_lab.core.distributed import sum_of_all_processes
from anomaly_lab.core.errors import UserError
from anomaly_lab.core.types import Batch, Images, Prediction
from anomaly_lab.methods.base.gradient import GradientMethod
from anomaly_lab.methods.base.method import OptimizerFactory, Scalar
from anomaly_lab.methods.base.schedule import Schedule
from anomaly_lab.methods.base.tiling import Tiling
from anomaly_lab.networks.backbone import Backbone
from anomaly_lab.networks.conv_net import SMALLEST, ConvNet


class Supervised(GradientMethod):
    """A network, and a linear layer with an answer for each of the two kinds.

    `backbone`: its deepest features, averaged over the places; null: the `ConvNet` of the slides. A photo of a kind
    costs its cross-entropy by the share of that kind among the photos seen so far, so that both weigh the same
    (`balanced`). The score is the logarithm of the odds; the slides decide at 0 (`threshold=own`). One number an image,
    no map.

    The slides keep the layers of 4096 that VGG16 has above its last map, and only replace the last: not here.

    Raises UserError for images that are too small for the `ConvNet`.
    """

    localises = False
    supervised: ClassVar = True
    own_line: ClassVar = 0.0

    seen: Tensor

    def __init__(
        self,
        tiling: Tiling,
        optimizer: OptimizerFactory,
        image_size: PositiveInt,
        channels: Literal[1, 3],
        backbone: Backbone | None = None,
        balanced: bool = True,
        schedule: Schedule = "constant",
    ) -> None:
        super().__init__(tiling, optimizer, schedule)
        if backbone is None and image_size < SMALLEST:
            raise UserError(
                f"data.image_size: expected at least {SMALLEST} px with method.backbone=null, found {image_size}"
            )
        self.backbone = backbone
        self.convolutional = ConvNet(image_size, channels) if backbone is None else None
        self.balanced = balanced
        features = ConvNet.features if backbone is None else backbone.channels[-1]
        self.head = nn.Linear(features, 2)
        self.register_buffer("seen", torch.zeros(2))  # photos of the training, good and defective

    def embed(self, images: Images) -> Float[Tensor, "batch feature"]:
        """The features."""
        if self.convolutional is not None:
            return self.convolutional(images).float()
        assert self.backbone is not None
        return self.backbone(images)[-1].mean(dim=(2, 3)).float()

    def losses(self, batch: Batch) -> dict[str, Scalar]:
        """The cross-entropy, and the share of right answers."""
        label = batch.label.clamp_min(0)
        if self.training:
            counts = torch.stack([(label == kind).sum() for kind in range(2)])
            self.seen += sum_of_all_processes(counts).to(self.seen)
        logits = self.head(self.embed(batch.image))
        costs = functional.cross_entropy(logits, label, reduction="none")
        if self.balanced:
            weights = self.seen.sum() / (2 * self.seen).clamp_min(1)
            costs = costs * weights[label]
        right = (logits.detach().argmax(dim=1) == label).float().mean()
        return {"loss": costs.mean(), "accuracy": right}

    def predict(self, images: Images) -> Prediction:
        """How much likelier a defect is than none, as the logarithm of the odds."""
        logits = self.head(self.embed(images))
        score = logits[:, 1] - logits[:, 0]
        return Prediction(score[:, None, None, None], score, None)
