"""GANomaly: encode, decode, encode again, and compare the two codes.

Akçay, Atapour-Abarghouei, Breckon: GANomaly: Semi-Supervised Anomaly Detection via Adversarial Training, ACCV 2018,
and the code of the authors. A generator that has learnt normal images rebuilds any image as a normal one; the code of
what it built then differs from the code of what it saw. A discriminator keeps the rebuilt images sharp.

Where paper and code differ this is the code: means over all elements for the norms, features compared image by image
(the paper's formula subtracts the mean feature of the batch), learning rate 2e-4 (paper: 2e-3). One default of
`conf/method/ganomaly.yaml` is ours: the learning rate falls to zero. At the constant one of the code the scores of
held-out normal images change their order from epoch to epoch (experiments/adversarial). `budget.schedule=constant` is
the code's.
"""

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any, Literal

import torch
from jaxtyping import Float
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from anomaly_lab.core.types import Images, Prediction
from anomaly_lab.methods.base.adversarial import AdversarialMethod, AsyncScalar, Turn, residual_map, unsigned
from anomaly_lab.methods.base.method import Scalar
from anomaly_lab.networks.dcgan import Code, Decoder, Encoder, ImageSize, batch_statistics, cross_entropy, initialise

WON = 1e-5  # the discriminator has won where its loss is below, and starts anew


class Generator(nn.Module):
    """Encoder, decoder and a second encoder of the same layers with its own weights (paper, section 3.1)."""

    def __init__(self, image_size: ImageSize, channels: Literal[1, 3], latent_size: int, width: int) -> None:
        super().__init__()
        self.encoder = Encoder(image_size, channels, latent_size, width)
        self.decoder = Decoder(image_size, channels, latent_size, width)
        self.second_encoder = Encoder(image_size, channels, latent_size, width)

    def forward(self, images: Images) -> tuple[Images, Code, Code]:
        """Reconstructions in (-1, 1), codes of the images, codes of the reconstructions."""
        codes = self.encoder(images)
        reconstructions = self.decoder(codes)
        return reconstructions, codes, self.second_encoder(reconstructions)


class Discriminator(nn.Module):
    """An encoder to one number, the logit of being real."""

    def __init__(self, image_size: ImageSize, channels: Literal[1, 3], width: int) -> None:
        super().__init__()
        self.encoder = Encoder(image_size, channels, 1, width)

    def forward(self, images: Images) -> tuple[Float[Tensor, " batch"], Float[Tensor, "batch feature 4 4"]]:
        """Logits, and the features before the last convolution."""
        features = self.encoder.features(images)
        return self.encoder.head(features).flatten(), features


class ReconstructionGAN(AdversarialMethod):
    """A generator that reconstructs against a discriminator, as in both papers of the authors.

    Both losses come from one pass of each network: the discriminator sees the images once and the reconstructions
    once. So nothing is computed twice, and the discriminator descends the loss that it had before the step of the
    generator, as in the code of the authors. `test_batchnorm`: whether batch norm normalises test images by its running
    statistics or, as the code of the authors, by the batch.
    """

    image_size: ImageSize
    channels: Literal[1, 3]
    reinitialisations: Tensor
    pending_loss: Tensor

    def __init__(
        self,
        image_size: ImageSize,
        channels: Literal[1, 3],
        latent_size: PositiveInt = 100,
        width: PositiveInt = 64,
        adversarial_weight: NonNegativeFloat = 1.0,
        contextual_weight: NonNegativeFloat = 50.0,
        test_batchnorm: Literal["running", "batch"] = "running",
        **training: Any,
    ) -> None:
        super().__init__(**training)
        self.image_size, self.channels = image_size, channels
        self.adversarial_weight, self.contextual_weight = adversarial_weight, contextual_weight
        self.test_batchnorm = test_batchnorm
        self.generator, self.discriminator = self.build(latent_size, width)
        for network in (self.generator, self.discriminator):
            initialise(network)
            network.to(memory_format=torch.channels_last)  # faster on a CPU, and in half precision on a GPU
        # Buffers, so that a resumed run goes on with both.
        self.register_buffer("reinitialisations", torch.zeros((), dtype=torch.int64))
        self.register_buffer("pending_loss", torch.tensor(torch.inf))  # of the discriminator, not yet compared with WON

    @abstractmethod
    def build(self, latent_size: int, width: int) -> tuple[nn.Module, nn.Module]:
        """The generator and the discriminator, for images of `image_size` and `channels`."""

    def signed(self, images: Images) -> Images:
        """From [0, 1] to [-1, 1], in the memory format of the weights."""
        return super().signed(images).contiguous(memory_format=torch.channels_last)

    def validation_losses(self, images: Images, stage: int, random: torch.Generator) -> dict[str, Scalar]:
        """The loss of the generator, with the running statistics of batch norm."""
        return {"loss": next(self.turns(images, stage, 0, random)).loss}

    def on_train_start(self) -> None:
        """Take up the loss of the last step of a resumed run."""
        super().on_train_start()
        self._last_loss = AsyncScalar(self.pending_loss)

    def after_turns(self, losses: dict[str, Scalar]) -> None:
        """Initialise a discriminator again that has won, keep the moments of its optimizer, and count it.

        The authors compare the loss after each step. Here it is the loss of the step before, which has reached the host
        meanwhile: no step waits for an accelerator, and the result is the same on every device.
        """
        if self._last_loss.item() < WON:
            initialise(self.discriminator)
            if self.trainer.world_size > 1:  # each process has drawn its own
                for parameter in self.discriminator.parameters():
                    torch.distributed.broadcast(parameter.detach(), 0)
            self.reinitialisations += 1
            self.pending_loss.fill_(torch.inf)  # the loss of this step is that of the old weights
        else:
            mean = self.trainer.strategy.reduce(losses["discriminator"].clone(), reduce_op="mean")
            self.pending_loss.copy_(mean)
        self._last_loss = AsyncScalar(self.pending_loss)
        self.log_epoch({"discriminator/reinitialisations": self.reinitialisations.float()}, reduce_fx="max")

    def samples(self, images: Images) -> Images | None:
        """Reconstructions in [0, 1]."""
        return self.predict(images).reconstruction

    def statistics(self) -> Any:
        """The context in which batch norm works on test images as `test_batchnorm` says."""
        return batch_statistics(self.generator, self.discriminator) if self.test_batchnorm == "batch" else nullcontext()

    @property
    def export_obstacle(self) -> str | None:
        """A prediction that depends on the rest of its batch."""
        reason = "method.test_batchnorm=batch: an answer depends on the images beside it; running can be exported"
        return reason if self.test_batchnorm == "batch" else None


class GANomaly(ReconstructionGAN):
    """The distance of the two codes is the score, the reconstruction error at each pixel the map.

    The cosine of `conf/method/ganomaly.yaml` is ours: at the constant rate of the authors the scores of normal images
    change their order from epoch to epoch (experiments/adversarial). The largest value of the smoothed map
    (`score="map"`) is steadier early in a training, but worse at its end. The generator has 38 million weights at
    128 px and 144 million at 256 px.
    """

    generator: Generator

    def __init__(
        self, encoder_weight: NonNegativeFloat = 1.0, score: Literal["latent", "map"] = "latent", **options: Any
    ) -> None:
        super().__init__(**options)
        self.encoder_weight = encoder_weight
        self.score = score

    def build(self, latent_size: int, width: int) -> tuple[nn.Module, nn.Module]:
        """Three networks in the generator, one in the discriminator."""
        size, channels = self.image_size, self.channels
        return Generator(size, channels, latent_size, width), Discriminator(size, channels, width)

    def turns(self, images: Images, stage: int, step: int, random: torch.Generator) -> Iterator[Turn]:
        """Paper, equations 1 to 4; the weights of the code.

        The generator has to match features of the discriminator, the image, and its own code. The discriminator has to
        tell images from reconstructions; half the sum, 0.693 where it cannot.
        """
        reconstructions, codes, codes_again = self.generator(images)
        real, real_features = self.discriminator(images)
        fake, fake_features = self.discriminator(reconstructions)

        adversarial = (real_features.float() - fake_features.float()).square().mean()
        contextual = (images - reconstructions.float()).abs().mean()
        encoder = (codes.float() - codes_again.float()).square().mean()
        loss = (
            self.adversarial_weight * adversarial + self.contextual_weight * contextual + self.encoder_weight * encoder
        )
        parts = {"adversarial": adversarial, "contextual": contextual, "encoder": encoder}
        yield Turn("generator", loss, parts, keep_graph=True)

        on_real, on_fake = cross_entropy(real, True), cross_entropy(fake, False)
        yield Turn("discriminator", (on_real + on_fake) / 2, {"real": on_real, "fake": on_fake})

    def predict(self, images: Images) -> Prediction:
        """Map: the absolute difference in [-1, 1], averaged over the channels (the paper has none).

        Score: the mean squared difference of the codes, or with `score=map` the default one of the map.
        """
        images = self.signed(images)
        with self.statistics():
            reconstructions, codes, codes_again = self.generator(images)
        score = (codes - codes_again).square().mean(dim=(1, 2, 3)) if self.score == "latent" else None
        return Prediction(residual_map(images, reconstructions, "l1"), score, unsigned(reconstructions))

    def embed(self, images: Images) -> Float[Tensor, "batch feature"]:
        """The code of each image."""
        with self.statistics():
            return self.generator.encoder(self.signed(images)).flatten(1)
