"""Convolutional autoencoder with an L2 loss (AE-L2).

Bergmann, Löwe, Fauser, Sattlegger, Steger: Improving Unsupervised Defect Segmentation by Applying Structural
Similarity to Autoencoders, 2018; the baseline of MVTec AD (CVPR 2019). A network that must squeeze an image
through a few numbers learns to reproduce what it has seen, and leaves a residual where it has not.
"""

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from anomaly_lab.core.errors import UserError
from anomaly_lab.core.types import Batch, Images, Prediction
from anomaly_lab.methods.base.gradient import GradientMethod
from anomaly_lab.methods.base.method import OptimizerFactory, Scalar
from anomaly_lab.methods.base.schedule import Schedule
from anomaly_lab.methods.base.tiling import Tiling
from anomaly_lab.networks.autoencoder import Autoencoder

LEAST = 1e-7  # of a probability, as in Keras


class CAE(GradientMethod):
    """Reconstruct, and call abnormal what was not reconstructed.

    The paper descends with Adam, learning rate 2e-4, weight decay 1e-5, constant. `likelihood=bernoulli` descends the
    cross entropy of a network that ends in a sigmoid instead, as tutorials do (`experiment=keras_cae`); the map is the
    squared difference all the same.

    Raises UserError for this likelihood and another output.
    """

    def __init__(
        self,
        network: Autoencoder,
        optimizer: OptimizerFactory,
        tiling: Tiling,
        schedule: Schedule = "constant",
        likelihood: Literal["gaussian", "bernoulli"] = "gaussian",
    ) -> None:
        super().__init__(tiling, optimizer, schedule)
        if likelihood == "bernoulli" and not isinstance(network.decoder[-1], nn.Sigmoid):
            raise UserError(
                "method.network.output: expected sigmoid, whose values method.likelihood=bernoulli takes as "
                "probabilities, found linear"
            )
        self.network = network
        self.likelihood = likelihood

    def loss(self, images: Images, reconstructions: Images) -> Scalar:
        """Mean squared difference, or cross entropy.

        The paper sums over pixels, which under Adam only weighs the weight decay.
        """
        if self.likelihood == "bernoulli":
            made = reconstructions.clamp(LEAST, 1 - LEAST)
            return -(images * made.log() + (1 - images) * (1 - made).log()).mean()
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
