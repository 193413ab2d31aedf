"""Convolutional autoencoder with an L2 loss (AE-L2).

Bergmann, Löwe, Fauser, Sattlegger, Steger: Improving Unsupervised Defect Segmentation by Applying Structural
Similarity to Autoencoders, 2018; the baseline of MVTec AD (CVPR 2019). A network that must squeeze an image
through a few numbers learns to reproduce what it has seen, and leaves a residual where it has not.
"""

from jaxtyping import Float
from torch import Tensor

from anomaly_lab.core.types import Batch, Images, Prediction
from anomaly_lab.methods.base.gradient import GradientMethod
from anomaly_lab.methods.base.method import OptimizerFactory, Scalar
from anomaly_lab.methods.base.schedule import Schedule
from anomaly_lab.methods.base.tiling import Tiling
from anomaly_lab.networks.autoencoder import Autoencoder


class CAE(GradientMethod):
    """Reconstruct, and call abnormal what was not reconstructed.

    The paper descends with Adam, learning rate 2e-4, weight decay 1e-5, constant.
    """

    def __init__(
        self,
        network: Autoencoder,
        optimizer: OptimizerFactory,
        tiling: Tiling,
        schedule: Schedule = "constant",
    ) -> None:
        super().__init__(tiling, optimizer, schedule)
        self.network = network

    def loss(self, images: Images, reconstructions: Images) -> Scalar:
        """Mean squared difference. The paper sums over pixels, which under Adam only weighs the weight decay."""
        return (images - reconstructions).square().mean()

    def residual(self, images: Images, reconstructions: Images) -> Float[Tensor, "batch 1 height width"]:
        """Squared difference at each pixel, averaged over the channels."""
        return (images - reconstructions).square().mean(dim=1, keepdim=True)

    def losses(self, batch: Batch) -> dict[str, Scalar]:
        """The loss of the reconstructions."""
        return {"loss": self.loss(batch.image, self.network(batch.image).float())}

    def predict(self, images: Images) -> Prediction:
        """The residual as map; the paper defines no score."""
        reconstructions = self.network(images)
        return Prediction(self.residual(images, reconstructions), None, reconstructions.clamp(0, 1))

    def embed(self, images: Images) -> Float[Tensor, "batch feature"]:
        """The code of each image."""
        return self.network.encoder(images).flatten(1)
