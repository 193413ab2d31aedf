"""CutPaste: Li, Sohn, Yoon and Pfister, CVPR 2021 (arXiv 2104.04015).

A network learns to tell good images from copies in which a piece was cut out and pasted elsewhere. Its features of good
images then get a Gaussian: what lies far from it is abnormal.
"""

from collections.abc import Iterable
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from anomaly_lab.core.types import Batch, Images, Prediction
from anomaly_lab.data.corruption import Patch, Scar
from anomaly_lab.data.noise import batch_keys
from anomaly_lab.functional.whitening import FEWEST, whitening
from anomaly_lab.methods.base.gradient import GradientMethod
from anomaly_lab.methods.base.method import OptimizerFactory, Scalar
from anomaly_lab.methods.base.schedule import Schedule
from anomaly_lab.methods.base.tiling import SlidingWindow, Tiling
from anomaly_lab.networks.backbone import Backbone, refuse_weights

PASTED = {"patch": (Patch(),), "scar": (Scar(),), "three_way": (Patch(), Scar())}


class CutPaste(GradientMethod):
    """A ResNet-18 from random weights, one hidden layer of `hidden` channels, and a Gaussian of its features.

    `task`: good images against copies with a `patch` or a `scar`, or all three apart (`three_way`, section 2.2). Of a
    whole image there is one number and no map. With windows (`experiment=cutpaste_patches`) each has its number, and
    the map is their mean at every pixel (section 2.4); the paper weighs them by a Gaussian, and gives every place its
    own Gaussian of features for parts that always lie alike. The score of the image is the largest number of a window
    (`tiling.score`). The Gaussian is that of windows of the training images that do not overlap, while those of the
    test stride.

    The paper's other network, an EfficientNet from ImageNet that is trained further, is left out.

    Decisions, where the paper is silent: the head is what stands above; good images are varied as `augmentation` says;
    a piece is pasted into the image that it was cut from; the covariance of the features of the training images, after
    the last step, is shrunk by Ledoit and Wolf. The network sees all versions of an image in one batch, so that a batch
    norm cannot tell them apart.

    Raises UserError for a `backbone` that is not trained, and for fewer than two training images.
    """

    version: ClassVar = 1
    synthetic: ClassVar = frozenset({"patch", "scar"})

    mean: Tensor
    whitener: Tensor

    def __init__(
        self,
        tiling: Tiling,
        optimizer: OptimizerFactory,
        backbone: Backbone,
        task: Literal["patch", "scar", "three_way"],
        hidden: PositiveInt,
        schedule: Schedule = "constant",
        seed: NonNegativeInt = 0,
    ) -> None:
        super().__init__(tiling, optimizer, schedule)
        refuse_weights(backbone, "method.backbone")
        self.backbone = backbone
        self.pasted = PASTED[task]
        self.copies = 1 + len(self.pasted)
        features = backbone.channels[-1]
        self.head = nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, 1 + len(self.pasted)))
        self.localises = isinstance(tiling, SlidingWindow)
        self.fewest = FEWEST  # a Gaussian
        self.seed = seed
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("whitener", torch.eye(features))  # makes all variances one

    def features(self, images: Images) -> Float[Tensor, "batch feature"]:
        """The mean of the deepest map."""
        return self.backbone(images)[-1].mean(dim=(2, 3)).float()

    def losses(self, batch: Batch) -> dict[str, Scalar]:
        """Cross-entropy of which version of an image it is (section 2.1)."""
        keys = batch_keys(self.seed, self.current_epoch, batch)
        shown = torch.cat([batch.image, *(paste(batch.image, keys).image for paste in self.pasted)])
        version = torch.arange(1 + len(self.pasted), device=shown.device).repeat_interleave(len(batch.image))
        logits = self.head(self.features(shown)).float()
        return {"loss": functional.cross_entropy(logits, version)}

    def conclude(self, images: Iterable[Batch]) -> None:
        """The Gaussian of the features of the training images (section 2.3)."""
        rows = torch.cat([self.features(self.tiling.training_like(batch.image)).cpu() for batch in images])
        mean, whitener = whitening(rows)
        self.mean.copy_(mean)
        self.whitener.copy_(whitener)

    def predict(self, images: Images) -> Prediction:
        """Half the squared Mahalanobis distance of the features: the negative log-density, without its constant."""
        score = ((self.features(images) - self.mean) @ self.whitener.T).square().sum(dim=1) / 2
        return Prediction(score[:, None, None, None], score, None)

    def embed(self, images: Images) -> Float[Tensor, "batch feature"]:
        """The features."""
        return self.features(images)
