"""Convolutional autoencoder with an L2 loss (AE-L2).

Bergmann, Löwe, Fauser, Sattlegger, Steger: Improving Unsupervised Defect Segmentation by Applying Structural
Similarity to Autoencoders, 2018; the baseline of MVTec AD (CVPR 2019). A network that must squeeze an image
through a few numbers learns to reproduce what it has seen, and leaves a residual where it has not.
"""

from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.parameter import Parameter

from anomaly_lab.core.types import Batch, Images, Prediction
from anomaly_lab.methods.base.method import Method
from anomaly_lab.methods.base.schedule import cosine
from anomaly_lab.methods.base.tiling import Tiling
from anomaly_lab.networks.autoencoder import Autoencoder


class CAE(Method):
    """Reconstruct, and call abnormal what was not reconstructed."""

    def __init__(
        self,
        network: Autoencoder,
        optimizer: Callable[[Iterable[Parameter]], torch.optim.Optimizer],
        tiling: Tiling,
        schedule: Literal["constant", "cosine"] = "constant",
    ) -> None:
        super().__init__(tiling)
        self.network = network
        self.optimizer = optimizer
        self.schedule = schedule

    def loss(self, images: Images, reconstructions: Images) -> Float[Tensor, ""]:
        """Mean squared difference. The paper sums over pixels, which under Adam only weighs the weight decay."""
        return (images - reconstructions).square().mean()

    def residual(self, images: Images, reconstructions: Images) -> Float[Tensor, "batch 1 height width"]:
        """Squared difference at each pixel, averaged over the channels."""
        return (images - reconstructions).square().mean(dim=1, keepdim=True)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One step down the loss."""
        loss = self.loss(batch.image, self.network(batch.image).float())
        self.log("train/loss", loss, on_step=True, on_epoch=True, batch_size=len(batch.image))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The loss on held-out normal images, unaugmented."""
        images = self.tiling.training_like(batch.image)
        self.log("validation/loss", self.loss(images, self.network(images).float()), batch_size=len(batch.image))

    def predict(self, images: Images) -> Prediction:
        """The paper defines a map and no score."""
        reconstructions = self.network(images)
        return Prediction(self.residual(images, reconstructions), None, reconstructions.clamp(0, 1))

    def embed(self, images: Images) -> Float[Tensor, "batch feature"]:
        """The code of each image, for a map of them."""
        return self.network.encoder(images).flatten(1)

    def configure_optimizers(self) -> Any:
        """Adam, 2e-4, weight decay 1e-5, constant in the paper; `schedule=cosine` falls to zero over the run."""
        optimizer = self.optimizer(self.network.parameters())
        if self.schedule == "constant":
            return optimizer
        return [optimizer], [cosine(optimizer, self.trainer)]
