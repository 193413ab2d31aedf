"""Skip-GANomaly: a U-Net as the generator, codes from the discriminator.

Akçay, Atapour-Abarghouei, Breckon: Skip-GANomaly: Skip Connected and Adversarially Trained Encoder-Decoder Anomaly
Detection, IJCNN 2019, and the code of the authors. Skip connections reconstruct fine detail that GANomaly loses (and,
at worst, the defect too); the features of the discriminator differ between an image and its reconstruction.

Where paper and code differ this is the code: weight 50 of the reconstruction, constant learning rate 2e-4. The code
lets the loss of the discriminator flow back through weights that were changed meanwhile, which PyTorch refuses today;
here it descends the same loss at the weights from before.
"""

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field, NonNegativeFloat
from torch import Tensor, nn

from anomaly_lab.core.types import Images, Prediction
from anomaly_lab.methods.base.adversarial import Turn, residual_map, unsigned
from anomaly_lab.methods.ganomaly import ReconstructionGAN
from anomaly_lab.networks.dcgan import Code, Encoder, ImageSize, cross_entropy
from anomaly_lab.networks.pix2pix import UNet


class Discriminator(nn.Module):
    """An encoder to `latent_size` features and a convolution that makes a logit of them."""

    def __init__(self, image_size: ImageSize, channels: Literal[1, 3], latent_size: int, width: int) -> None:
        super().__init__()
        self.encoder = Encoder(image_size, channels, latent_size, width)
        self.classifier = nn.Conv2d(latent_size, 1, 3, 1, 1, bias=False)

    def forward(self, images: Images) -> tuple[Float[Tensor, " batch"], Code]:
        """Logits of being real, and the features."""
        features = self.encoder(images)
        return self.classifier(features).flatten(), features


class SkipGANomaly(ReconstructionGAN):
    """A weighted sum of reconstruction error and distance of the discriminator's features is the score."""

    version: ClassVar = 2  # the bias of the output starts at 0, the discriminator's latent term has its weight

    def __init__(
        self,
        latent_weight: NonNegativeFloat = 1.0,
        latent_in_discriminator: bool = True,
        score_weight: Annotated[float, Field(ge=0, le=1)] = 0.9,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.latent_weight = latent_weight
        self.latent_in_discriminator = latent_in_discriminator
        self.score_weight = score_weight

    def build(self, latent_size: int, width: int) -> tuple[nn.Module, nn.Module]:
        """A U-Net, and an encoder with a classifier."""
        size, channels = self.image_size, self.channels
        return UNet(size, channels, width), Discriminator(size, channels, latent_size, width)

    def turns(self, images: Images, stage: int, step: int, random: torch.Generator) -> Iterator[Turn]:
        """Paper, equations 1 to 4; the weights of the code.

        The generator has to be taken for real, and to match the image and the features of the discriminator. The
        discriminator has to tell images from reconstructions (1.386 where it cannot), and in the code it descends the
        weighted distance of its features as well.
        """
        reconstructions = self.generator(images)
        real, real_features = self.discriminator(images)
        fake, fake_features = self.discriminator(reconstructions)

        adversarial = cross_entropy(fake, True)
        contextual = (images - reconstructions.float()).abs().mean()
        latent = (real_features.float() - fake_features.float()).square().mean()
        loss = self.adversarial_weight * adversarial + self.contextual_weight * contextual + self.latent_weight * latent
        parts = {"adversarial": adversarial, "contextual": contextual, "latent": latent}
        yield Turn("generator", loss, parts, keep_graph=True)

        on_real, on_fake = cross_entropy(real, True), cross_entropy(fake, False)
        loss = on_real + on_fake + (self.latent_weight * latent if self.latent_in_discriminator else 0)
        yield Turn("discriminator", loss, {"real": on_real, "fake": on_fake})

    def predict(self, images: Images) -> Prediction:
        """Map: the absolute difference in [-1, 1], averaged over the channels (the paper has none).

        Score: 0.9 R + 0.1 L (paper, equation 5), R the mean squared difference of the images in [-1, 1], L that of the
        discriminator's features.
        """
        images = self.signed(images)
        with self.statistics():
            reconstructions = self.generator(images)
            _, features = self.discriminator(images)
            _, features_again = self.discriminator(reconstructions)
        reconstruction = (images - reconstructions).square().mean(dim=(1, 2, 3))
        latent = (features - features_again).square().mean(dim=(1, 2, 3))
        score = self.score_weight * reconstruction + (1 - self.score_weight) * latent
        return Prediction(residual_map(images, reconstructions, "l1"), score, unsigned(reconstructions))

    def embed(self, images: Images) -> Float[Tensor, "batch feature"]:
        """The features of the discriminator."""
        with self.statistics():
            return self.discriminator(self.signed(images))[1].flatten(1)
