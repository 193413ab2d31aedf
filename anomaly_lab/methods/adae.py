"""ADAE: Vu, Ueta, Hashimoto, Maeno, Pranata, Shen: Anomaly Detection with Adversarial Dual Autoencoders, 2019.

A GAN whose discriminator is an autoencoder, too: it reproduces good images and must fail on what the generator makes
of them. A test image passes through both, and a defect is to suffer in each. Nobody uses it today; it is here because
the tables of its time name it.

arXiv:1902.06924; there is no code of the authors. Their layers, and a rule that balances the learning rates of the two
networks, are not disclosed: the autoencoders here are of GANomaly's encoder and decoder, and the rates are not
balanced.
"""

from collections.abc import Iterator
from typing import Any, Literal

import torch
from jaxtyping import Float
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from anomaly_lab.core.types import Images, Prediction
from anomaly_lab.methods.base.adversarial import AdversarialMethod, PerImage, Turn, residual_map, unsigned
from anomaly_lab.methods.base.method import Scalar
from anomaly_lab.networks.dcgan import Decoder, Encoder, ImageSize, batch_statistics, initialise

MEMORY = 0.99  # what the running mean of an error keeps in a turn


class ADAE(AdversarialMethod):
    """Two autoencoders that take turns, batch by batch: the generator G in even steps, the discriminator D in odd ones.

    As published D gains by mangling what G made, as far as the range of the images allows. Here an image counts up to
    `margin` times the running mean of D's error on good images; `discriminator/binds` is the share of the images beyond
    that. With a margin above 1, D may lose on good images what it gains elsewhere, and the limit rises with its error.
    `margin` None is as published.

    A turn changes its own network alone, the running statistics of batch norm included.
    """

    image_size: ImageSize
    channels: Literal[1, 3]
    usual_error: Tensor

    def __init__(
        self,
        image_size: ImageSize,
        channels: Literal[1, 3],
        latent_size: PositiveInt = 128,
        width: PositiveInt = 64,
        margin: PositiveFloat | None = 0.5,
        **training: Any,
    ) -> None:
        super().__init__(**training)
        self.image_size, self.channels, self.margin = image_size, channels, margin
        sizes = image_size, channels, latent_size, width
        self.generator = nn.Sequential(Encoder(*sizes), Decoder(*sizes))
        self.discriminator = nn.Sequential(Encoder(*sizes), Decoder(*sizes))
        for network in (self.generator, self.discriminator):
            initialise(network)
            network.to(memory_format=torch.channels_last)  # faster on a CPU, and in half precision on a GPU
        self.register_buffer("usual_error", torch.tensor(-1.0))  # of D on good images; below 0: none was seen

    def signed(self, images: Images) -> Images:
        """From [0, 1] to [-1, 1], in the memory format of the weights."""
        return super().signed(images).contiguous(memory_format=torch.channels_last)

    def turns(self, images: Images, stage: int, step: int, random: torch.Generator) -> Iterator[Turn]:
        """G: |x - G(x)| + |G(x) - D(G(x))|; D: |x - D(x)| - |G(x) - D(G(x))|, the last one up to the margin.

        Means over all elements for the paper's norms.
        """
        if step % 2 == 0:
            with batch_statistics(self.discriminator):
                parts = self.generator_losses(images)
            yield Turn("generator", parts["contextual"] + parts["adversarial"], parts)
            return
        with torch.no_grad(), batch_statistics(self.generator):
            generated = self.generator(images).float()
        real = difference(images, self.discriminator(images)).mean()
        fake, limit = difference(generated, self.discriminator(generated)), self.limit(real)
        parts = {"real": real, "fake": fake.mean(), "binds": (fake > limit).float().mean()}
        # The limit is for each image: means over the shares of several processes then have the mean of the batch.
        yield Turn("discriminator", real - torch.minimum(fake, limit).mean(), parts)

    def generator_losses(self, images: Images) -> dict[str, Scalar]:
        """How well G reproduces good images, and D what G made of them."""
        generated = self.generator(images).float()
        contextual, adversarial = difference(images, generated), difference(generated, self.discriminator(generated))
        return {"contextual": contextual.mean(), "adversarial": adversarial.mean()}

    def limit(self, error: Scalar) -> Scalar:
        """Take an error into the running mean, the same in all processes; `margin` times that mean."""
        if self.margin is None:
            return torch.full_like(error, torch.inf)
        error = error.detach().clone()
        if self._trainer is not None:
            error = self.trainer.strategy.reduce(error, reduce_op="mean")
        mean = torch.where(self.usual_error < 0, error, torch.lerp(error, self.usual_error, MEMORY))
        self.usual_error.copy_(mean)
        return self.margin * mean

    def validation_losses(self, images: Images, stage: int, random: torch.Generator) -> dict[str, Scalar]:
        """The loss of G."""
        return {"loss": torch.stack(list(self.generator_losses(images).values())).sum()}

    def predict(self, images: Images) -> Prediction:
        """Map: the squared difference of x and D(G(x)) in [-1, 1], averaged over the channels; score: its mean."""
        images = self.signed(images)
        reproduced = self.discriminator(self.generator(images))
        anomaly_map = residual_map(images, reproduced, "l2")
        return Prediction(anomaly_map, anomaly_map.mean(dim=(1, 2, 3)), unsigned(reproduced))

    def samples(self, images: Images) -> Images | None:
        """What both make of them, in [0, 1]."""
        return self.predict(images).reconstruction

    def embed(self, images: Images) -> Float[Tensor, "batch feature"]:
        """The code of each image in G."""
        return self.generator[0](self.signed(images)).flatten(1)


def difference(images: Images, others: Images) -> PerImage:
    """The mean absolute difference of each image, in float32."""
    return (images - others.float()).abs().mean(dim=(1, 2, 3))
