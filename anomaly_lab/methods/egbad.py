"""EGBAD: Zenati, Foo, Lecouat, Manek, Chandrasekhar: Efficient GAN-Based Anomaly Detection, ICLR workshop 2018.

A bidirectional GAN: beside the generator of images from codes stands an encoder of images to codes, and the
discriminator sees pairs of both. Where it cannot tell them apart, the encoder inverts the generator, and the search of
AnoGAN becomes one forward pass. ALAD and f-AnoGAN have replaced it; today it is history, a row of tables. Layers, order
of the steps and constants are those of the authors' code for MNIST; their network for tables (KDD) is not here.
"""

from collections.abc import Iterator
from copy import deepcopy
from typing import Annotated, Any, Literal, cast

import torch
from jaxtyping import Float
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from anomaly_lab.core.types import Images, Prediction
from anomaly_lab.methods.base.adversarial import AdversarialMethod, Codes, Turn, residual_map, unsigned
from anomaly_lab.methods.base.method import Scalar
from anomaly_lab.networks.bigan import Discriminator, Encoder, Generator, ImageSize
from anomaly_lab.networks.dcgan import batch_statistics, cross_entropy


class EGBAD(AdversarialMethod):
    """A GAN of pairs; the difference between a photo and the generated image of its code is abnormal.

    What answers is a moving average of all weights. Batch norm of each network learns in its own steps alone, with
    TensorFlow's constants, and that of the generator from codes of photos too, as in the authors' code.

    Decisions here:

    - Images above 32 px: more layers of the published kind. The networks of CBiGAN for MVTec AD have neither batch norm
      nor dropout; they were made for a Wasserstein loss with a gradient penalty, which is not this method.
    - Generator and encoder step on the photos of the discriminator's step, with new codes. The authors walk through two
      shuffles of the same photos, so that each sees all of them once an epoch, as here.
    - The average forgets its start: after t steps its decay is (1 + t) / (10 + t), until that reaches `decay`, the
      published constant, after 9000 steps. After 500 steps 61 % of a constant .999 would be the random start.
    - The paper has no map.

    `difference`: what the discriminator adds to the score (section 3): the distance of its features, or the cross
    entropy of having the generated image called a photo.
    """

    def __init__(
        self,
        image_size: ImageSize,
        channels: Literal[1, 3],
        latent_size: PositiveInt = 200,
        width: Annotated[int, Field(ge=2, multiple_of=2)] = 64,
        feature_weight: Annotated[float, Field(ge=0, le=1)] = 0.1,
        difference: Literal["features", "cross_entropy"] = "features",
        decay: Annotated[float, Field(ge=0, lt=1)] = 0.999,
        **training: Any,
    ) -> None:
        super().__init__(**training)
        self.image_size, self.channels, self.latent_size = image_size, channels, latent_size
        self.feature_weight, self.difference, self.decay = feature_weight, difference, decay
        self.discriminator = Discriminator(image_size, channels, latent_size, width)
        self.generator = Generator(image_size, channels, latent_size, width)
        self.encoder = Encoder(image_size, channels, latent_size, width // 2)
        averages = {name: deepcopy(network) for name, network in self.networks().items()}
        self.averages = nn.ModuleDict(averages).requires_grad_(False)

    def networks(self) -> dict[str, nn.Module]:
        """Those that learn; their averages have no optimizer."""
        return {"discriminator": self.discriminator, "generator": self.generator, "encoder": self.encoder}

    # Training (section 2).

    def turns(self, images: Images, stage: int, step: int, random: torch.Generator) -> Iterator[Turn]:
        """A step of the discriminator, then one of the generator and one of the encoder, which do not see each other.

        0.693 for each kind of pair where the discriminator cannot tell them.
        """
        codes = self.codes(len(images), random)
        with torch.no_grad(), batch_statistics(self.generator, self.encoder):
            found, generated = self.encoder(images), self.generator(codes)
        on_photos, on_generated = self.discriminator_losses(images, found, generated, codes)
        yield Turn("discriminator", on_photos + on_generated, {"real": on_photos, "fake": on_generated})

        codes = self.codes(len(images), random)
        found = self.encoder(images)
        with torch.no_grad():
            self.generator(found)  # for its batch norm
        with batch_statistics(self.discriminator):
            adversarial = cross_entropy(self.discriminator(self.generator(codes), codes), True)
        yield Turn("generator", adversarial, {"adversarial": adversarial})

        with batch_statistics(self.discriminator):
            adversarial = cross_entropy(self.discriminator(images, found), False)
        yield Turn("encoder", adversarial, {"adversarial": adversarial})

    def discriminator_losses(self, photos: Images, found: Codes, made: Images, codes: Codes) -> tuple[Scalar, Scalar]:
        """Cross entropy of calling photos with the codes found for them photos, and generated images not."""
        on_photos, on_generated = self.discriminator(photos, found), self.discriminator(made, codes)
        return cross_entropy(on_photos, True), cross_entropy(on_generated, False)

    @torch.no_grad()
    def after_turns(self, losses: dict[str, Scalar]) -> None:
        """Move the averages; the statistics of batch norm are those of the last step."""
        step = self.global_step // len(losses)  # of all optimizers
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, network in self.networks().items():
            average = self.averages[name]
            torch._foreach_lerp_(tuple(average.parameters()), tuple(network.parameters()), 1 - decay)
            for kept, found in zip(average.buffers(), network.buffers(), strict=True):
                kept.copy_(found)

    def validation_losses(self, images: Images, stage: int, random: torch.Generator) -> dict[str, Scalar]:
        """The loss of the discriminator, and the mean absolute difference in [-1, 1] that the averages leave."""
        codes = self.codes(len(images), random, alone=True)
        losses = self.discriminator_losses(images, self.encoder(images), self.generator(codes), codes)
        residual = (images - self.rebuilt(images)[1].float()).abs().mean()
        return {"loss": torch.stack(losses).sum(), "residual": residual}

    # Inspection (section 3).

    def rebuilt(self, photos: Images) -> tuple[Codes, Images]:
        """The codes of photos in [-1, 1], and their images."""
        codes = self.averages["encoder"](photos)
        return codes, self.averages["generator"](codes)

    def predict(self, images: Images) -> Prediction:
        """Score: (1 - w) sum |x - G(E(x))| + w sum |f(x, E(x)) - f(G(E(x)), E(x))|, f: features of the discriminator.

        Sums, not means, in [-1, 1], w: `feature_weight`. Map: the absolute difference in [-1, 1], averaged over the
        channels.
        """
        photos = self.signed(images)
        codes, rebuilt = self.rebuilt(photos)
        discriminator = cast(Discriminator, self.averages["discriminator"])
        if self.difference == "features":
            features = discriminator.features(photos, codes) - discriminator.features(rebuilt, codes)
            difference = features.abs().sum(dim=1)
        else:
            difference = functional.softplus(-discriminator(rebuilt, codes))
        residual = (photos - rebuilt).abs().flatten(1).sum(dim=1)
        score = (1 - self.feature_weight) * residual + self.feature_weight * difference
        return Prediction(residual_map(photos, rebuilt, "l1"), score, unsigned(rebuilt))

    def samples(self, images: Images) -> Images:
        """As many generated images as these, in [0, 1], always from the same codes."""
        codes = self.codes(len(images), self.random_at("samples"), alone=True)
        return unsigned(self.averages["generator"](codes))

    def embed(self, images: Images) -> Float[Tensor, "batch feature"]:
        """The code of each image."""
        return self.averages["encoder"](self.signed(images))

    def codes(self, count: int, random: torch.Generator, alone: bool = False) -> Codes:
        """Normal; with `alone` the same in every process."""
        return self.random_rows(torch.randn, count, self.latent_size, random=random, alone=alone)
