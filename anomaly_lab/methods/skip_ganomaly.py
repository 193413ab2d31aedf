"""Skip-GANomaly: a U-Net as the generator, codes from the discriminator.

Akçay, Atapour-Abarghouei, Breckon: Skip-GANomaly: Skip Connected and Adversarially Trained Encoder-Decoder Anomaly
Detection, IJCNN 2019, and the code of the authors. Skip connections rebuild fine detail that GANomaly loses (and, at
worst, the defect too); what the discriminator sees in image and reconstruction tells them apart.

Where paper and code differ this is the code: weight 50 of the reconstruction, constant learning rate 2e-4. The code
lets the loss of the discriminator flow back through weights that were changed meanwhile, which PyTorch refuses today;
here it descends the same loss at the weights from before.
"""

from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, relu

from anomaly_lab.core.types import Images, Prediction
from anomaly_lab.methods.base.tiling import Tiling
from anomaly_lab.methods.ganomaly import Adversarial, Losses, Optimizer
from anomaly_lab.networks.dcgan import Code, Encoder, ImageSize, cross_entropy


class UNet(nn.Module):
    """Images in [-1, 1] to reconstructions in (-1, 1): down to one pixel and up again, joined at every level.

    The generator of pix2pix without dropout: log2(image_size) levels, the channels double up to 8 * width. (In the code
    of pix2pix a skip carries what has passed the LeakyReLU, which works in place: the same, a ReLU follows.)
    """

    def __init__(self, image_size: ImageSize, channels: Literal[1, 3], width: PositiveInt) -> None:
        super().__init__()
        levels = image_size.bit_length() - 1
        widths = [width * min(2**level, 8) for level in range(levels)]
        self.down = nn.ModuleList([nn.Conv2d(channels, widths[0], 4, 2, 1, bias=False)])
        for level in range(1, levels):
            convolution = nn.Conv2d(widths[level - 1], widths[level], 4, 2, 1, bias=False)
            innermost = level == levels - 1
            self.down.append(convolution if innermost else nn.Sequential(convolution, nn.BatchNorm2d(widths[level])))
        self.up = nn.ModuleList()  # from the innermost to the outermost
        for level in reversed(range(1, levels)):
            joined = widths[level] * (1 if level == levels - 1 else 2)
            self.up.append(
                nn.Sequential(
                    nn.ConvTranspose2d(joined, widths[level - 1], 4, 2, 1, bias=False),
                    nn.BatchNorm2d(widths[level - 1]),
                )
            )
        self.output = nn.ConvTranspose2d(2 * widths[0], channels, 4, 2, 1)

    def forward(self, images: Images) -> Images:
        """The reconstructions."""
        inner = self.down[0](images)
        skips = []
        for down in self.down[1:]:
            skips.append(leaky_relu(inner, 0.2))
            inner = down(skips[-1])
        for up, skip in zip(self.up, reversed(skips), strict=True):
            inner = torch.cat([skip, up(relu(inner))], dim=1)
        return self.output(relu(inner)).tanh()


class Discriminator(nn.Module):
    """An encoder to `latent_size` features and a convolution that makes a logit of them."""

    def __init__(
        self, image_size: ImageSize, channels: Literal[1, 3], latent_size: PositiveInt, width: PositiveInt
    ) -> None:
        super().__init__()
        self.encoder = Encoder(image_size, channels, latent_size, width)
        self.classifier = nn.Conv2d(latent_size, 1, 3, 1, 1, bias=False)

    def forward(self, images: Images) -> tuple[Float[Tensor, " batch"], Code]:
        """Logits of being real, and the features."""
        features = self.encoder(images)
        return self.classifier(features).flatten(), features


class SkipGANomaly(Adversarial):
    """Reconstruction error and distance of the discriminator's features, weighed, are the score."""

    def __init__(
        self,
        image_size: ImageSize,
        channels: Literal[1, 3],
        optimizer: Optimizer,
        tiling: Tiling,
        latent_size: PositiveInt = 100,
        width: PositiveInt = 64,
        adversarial_weight: NonNegativeFloat = 1.0,
        contextual_weight: NonNegativeFloat = 50.0,
        latent_weight: NonNegativeFloat = 1.0,
        latent_in_discriminator: bool = True,
        score_weight: Annotated[float, Field(ge=0, le=1)] = 0.9,
        test_batchnorm: Literal["running", "batch"] = "running",
        schedule: Literal["constant", "cosine"] = "constant",
        gradient_clip: PositiveFloat | None = None,
        log_gradient_norms: bool = False,
    ) -> None:
        super().__init__(
            UNet(image_size, channels, width), Discriminator(image_size, channels, latent_size, width),
            image_size, channels, optimizer, tiling, test_batchnorm, schedule, gradient_clip, log_gradient_norms,
        )  # fmt: skip
        self.weights = adversarial_weight, contextual_weight, latent_weight
        self.latent_in_discriminator = latent_in_discriminator
        self.score_weight = score_weight

    def losses(self, images: Images) -> Losses:
        """Paper, equations 1 to 4; the weights of the code.

        The generator is to be taken for real, and to match the image and the features of the discriminator. The
        discriminator is to tell images from reconstructions (1.386 where it cannot), and in the code its features are
        drawn together as well, unweighted.
        """
        reconstructions = self.generator(images)
        real, real_features = self.discriminator(images)
        fake, fake_features = self.discriminator(reconstructions)

        adversarial = cross_entropy(fake, True)
        contextual = (images - reconstructions.float()).abs().mean()
        latent = (real_features.float() - fake_features.float()).square().mean()
        parts = zip(self.weights, (adversarial, contextual, latent), strict=True)
        on_real, on_fake = cross_entropy(real, True), cross_entropy(fake, False)
        return Losses(
            sum((weight * part for weight, part in parts), torch.zeros_like(contextual)),
            on_real + on_fake + (latent if self.latent_in_discriminator else 0),
            {
                "generator/adversarial": adversarial, "generator/contextual": contextual, "generator/latent": latent,
                "discriminator/real": on_real, "discriminator/fake": on_fake,
            },
        )  # fmt: skip

    def predict(self, images: Images) -> Prediction:
        """Map: the absolute difference in [-1, 1], averaged over the channels (the paper has none).

        Score: 0.9 R + 0.1 L (paper, equation 5), R the mean squared difference of the images in [-1, 1], L that of the
        discriminator's features.
        """
        images = self.normalised(images)
        with self.statistics():
            reconstructions = self.generator(images)
            _, features = self.discriminator(images)
            _, features_again = self.discriminator(reconstructions)
        reconstruction = (images - reconstructions).square().mean(dim=(1, 2, 3))
        latent = (features - features_again).square().mean(dim=(1, 2, 3))
        score = self.score_weight * reconstruction + (1 - self.score_weight) * latent
        difference = (images - reconstructions).abs().mean(dim=1, keepdim=True)
        return Prediction(difference, score, (reconstructions + 1) / 2)

    def embed(self, images: Images) -> Float[Tensor, "batch feature"]:
        """The features of the discriminator for each image, for a map of them."""
        with self.statistics():
            return self.discriminator(self.normalised(images))[1].flatten(1)
