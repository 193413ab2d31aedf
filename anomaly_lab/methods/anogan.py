"""AnoGAN: search the latent space of a GAN of normal images for the image most like the photo.

Schlegl, Seeböck, Waldstein, Schmidt-Erfurth, Langs: Unsupervised Anomaly Detection with Generative Adversarial Networks
to Guide Marker Discovery, IPMI 2017. Networks, order of the steps and defaults follow the public implementation with
which the MVTec AD paper (CVPR 2019) ran it: images of 128 px, 64 latent numbers, 300 steps of the search.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from anomaly_lab.core.console import counted
from anomaly_lab.core.types import Images, Prediction
from anomaly_lab.methods.base.adversarial import (
    AdversarialMethod,
    Codes,
    PerImage,
    Residual,
    Turn,
    refuse_unlike,
    residual_map,
    unsigned,
)
from anomaly_lab.methods.base.method import Scalar
from anomaly_lab.networks.dcgan import cross_entropy

ImageSize = Annotated[int, Field(ge=32, multiple_of=16)]
Features = Float[Tensor, "batch feature _ _"]


class Generator(nn.Module):
    """Codes to images in (-1, 1): a linear layer, then four transposed 5 x 5 convolutions that double the side.

    DCGAN with 8, 4, 2 and 1 times `width` channels. 6 437 891 weights at 128 px, 64 latent numbers and 3 channels.
    """

    def __init__(
        self, image_size: ImageSize, channels: Literal[1, 3], latent_size: PositiveInt = 64, width: PositiveInt = 64
    ) -> None:
        super().__init__()
        self.image_size, self.channels, self.latent_size = image_size, channels, latent_size
        side = image_size // 16
        self.network = nn.Sequential(
            nn.Linear(latent_size, 8 * width * side * side), nn.Unflatten(1, (8 * width, side, side)),
            nn.BatchNorm2d(8 * width), nn.ReLU(inplace=True),
            _up(8 * width, 4 * width), nn.BatchNorm2d(4 * width), nn.ReLU(inplace=True),
            _up(4 * width, 2 * width), nn.BatchNorm2d(2 * width), nn.ReLU(inplace=True),
            _up(2 * width, width), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
            _up(width, channels), nn.Tanh(),
        )  # fmt: skip
        self.apply(_initialise)

    def forward(self, codes: Codes) -> Images:
        """One image per code."""
        return self.network(codes)


class Discriminator(nn.Module):
    """Tell photos from generated images in [-1, 1]: four 5 x 5 convolutions that halve the side, then a linear layer.

    4 341 121 weights at 128 px and 3 channels.
    """

    def __init__(self, image_size: ImageSize, channels: Literal[1, 3], width: PositiveInt = 64) -> None:
        super().__init__()
        self.image_size, self.channels = image_size, channels
        side = image_size // 16
        self.features = nn.Sequential(
            _down(channels, width), nn.LeakyReLU(0.2, inplace=True),
            _down(width, 2 * width), nn.BatchNorm2d(2 * width), nn.LeakyReLU(0.2, inplace=True),
            _down(2 * width, 4 * width), nn.BatchNorm2d(4 * width), nn.LeakyReLU(0.2, inplace=True),
            _down(4 * width, 8 * width), nn.BatchNorm2d(8 * width), nn.LeakyReLU(0.2, inplace=True),
        )  # fmt: skip
        self.decision = nn.Linear(8 * width * side * side, 1)
        self.apply(_initialise)

    def forward(self, images: Images) -> PerImage:
        """Logits of being a photo."""
        return self.decision(self.features(images).flatten(1))[:, 0]


def _up(inputs: int, outputs: int) -> nn.Module:
    return nn.ConvTranspose2d(inputs, outputs, 5, stride=2, padding=2, output_padding=1)


def _down(inputs: int, outputs: int) -> nn.Module:
    return nn.Conv2d(inputs, outputs, 5, stride=2, padding=2)


def _initialise(module: nn.Module) -> None:
    """Normal weights of deviation 0.02, those of convolutions cut at two deviations; no bias."""
    if isinstance(module, nn.Conv2d):
        nn.init.trunc_normal_(module.weight, std=0.02, a=-0.04, b=0.04)
    elif isinstance(module, nn.ConvTranspose2d | nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
    else:
        return
    assert module.bias is not None
    nn.init.zeros_(module.bias)


class AnoGAN(AdversarialMethod):
    """A GAN of normal images; the difference between a photo and its best generated counterpart is abnormal.

    Codes are uniform in [-1, 1]; a search may leave that cube, as published.
    """

    def __init__(
        self,
        generator: Generator,
        discriminator: Discriminator,
        generator_steps: PositiveInt = 2,
        feature_weight: Annotated[float, Field(ge=0, le=1)] = 0.1,
        search_steps: PositiveInt = 300,
        search_rate: PositiveFloat = 0.02,
        restarts: PositiveInt = 1,
        residual: Residual = "l2",
        **training: Any,
    ) -> None:
        super().__init__(**training)
        refuse_unlike(generator=generator, discriminator=discriminator)
        self.image_size, self.channels = generator.image_size, generator.channels
        self.generator = generator
        self.discriminator = discriminator
        self.generator_steps = generator_steps
        self.feature_weight = feature_weight
        self.search_steps = search_steps
        self.search_rate = search_rate
        self.restarts = restarts
        self.residual = residual

    # Training (section 2.1): a generator and a discriminator of normal images.

    def turns(self, images: Images, stage: int, step: int, random: torch.Generator) -> Iterator[Turn]:
        """One step of the discriminator, then `generator_steps` of the generator with the same codes."""
        codes = self.codes(len(images), random)
        with torch.no_grad():
            generated = self.generator(codes)
        on_real, on_fake = self.discriminator_losses(images, generated)
        yield Turn("discriminator", on_real + on_fake, {"real": on_real, "fake": on_fake})
        for _ in range(self.generator_steps):
            adversarial = self.generator_loss(codes)
            yield Turn("generator", adversarial, {"adversarial": adversarial})

    def discriminator_losses(self, photos: Images, generated: Images) -> tuple[Scalar, Scalar]:
        """Cross entropy of calling photos photos, and of calling generated images generated."""
        return cross_entropy(self.discriminator(photos), True), cross_entropy(self.discriminator(generated), False)

    def generator_loss(self, codes: Codes) -> Scalar:
        """Cross entropy of having generated images called photos (the form that does not saturate)."""
        return cross_entropy(self.discriminator(self.generator(codes)), True)

    def validation_losses(self, images: Images, stage: int, random: torch.Generator) -> dict[str, Scalar]:
        """The loss of the discriminator: it rises when training images are learnt by heart."""
        generated = self.generator(self.codes(len(images), random, alone=True))
        on_real, on_fake = self.discriminator_losses(images, generated)
        return {"loss": on_real + on_fake}

    # Inspection (sections 2.2 and 2.3): the code whose image is most like the photo.

    def search_loss(self, photos: Images, features: Features | None, generated: Images) -> PerImage:
        """(1 - w) sum |x - G(z)| + w sum |f(x) - f(G(z))| per image (eq. 5), f: last features of the discriminator.

        Sums, not means, in [-1, 1]: `feature_weight` w balances two sums of different length. Without a weight the
        features are None and the discriminator is left out.
        """
        residual = (photos - generated).abs().flatten(1).sum(dim=1)
        if features is None:
            return residual
        difference = (features - self.discriminator.features(generated)).abs().flatten(1).sum(dim=1)
        return (1 - self.feature_weight) * residual + self.feature_weight * difference

    def search(self, photos: Images) -> tuple[Codes, PerImage]:
        """For each photo in [-1, 1] the code whose image is most like it, and its loss.

        All photos and restarts are searched as one batch. Adam works number by number and the loss is a sum over
        images, so that this is the search of each photo alone. Every photo starts from the same random codes, one per
        restart, so that a result depends on its batch, and its place in it, by rounding only. Only codes are
        differentiated.
        """
        restarts, count = self.restarts, len(photos)
        with torch.no_grad():
            features = self.discriminator.features(photos).repeat(restarts, 1, 1, 1) if self.feature_weight else None
        photos = photos.repeat(restarts, 1, 1, 1)
        start = self.codes(restarts, self.random_at("search"), alone=True)
        codes = start.repeat_interleave(count, dim=0).requires_grad_()
        optimizer = torch.optim.Adam([codes], lr=self.search_rate, betas=(0.5, 0.999))
        for _ in counted(self._trainer, self.search_steps, "latent search"):
            loss = self.search_loss(photos, features, self.generator(codes)).sum()
            (codes.grad,) = torch.autograd.grad(loss, [codes])
            optimizer.step()
        with torch.no_grad():
            losses = self.search_loss(photos, features, self.generator(codes)).view(restarts, count)
            losses = losses.where(losses.isfinite(), torch.inf)  # NaN would be the least
        best = losses.argmin(dim=0) * count + torch.arange(count, device=losses.device)
        return codes.detach()[best], losses.flatten()[best]

    def predict(self, images: Images) -> Prediction:
        """Score: the loss after the search (eq. 6). Map: squared or (`l1`) absolute difference from what was generated.

        Both in the range of the network, [-1, 1], the map averaged over channels. The paper maps |x - G(z)|, the
        MVTec AD paper the squared difference.
        """
        with torch.inference_mode(False), torch.enable_grad():  # the test loop forbids gradients, the search needs them
            photos = self.signed(images.clone())
            codes, losses = self.search(photos)
            with torch.no_grad():
                generated = self.generator(codes)
        return Prediction(residual_map(photos, generated, self.residual), losses, unsigned(generated))

    @property
    def export_obstacle(self) -> str:
        """The search."""
        return f"every image is a search of {self.search_steps} gradient steps; method=f_anogan answers without one"

    def samples(self, images: Images) -> Images:
        """As many generated images as these, in [0, 1], always from the same codes."""
        return unsigned(self.generator(self.codes(len(images), self.random_at("samples"), alone=True)))

    def embed(self, images: Images) -> Float[Tensor, "batch feature"]:
        """Features of the discriminator, averaged over the pixels."""
        return self.discriminator.features(self.signed(images)).mean(dim=(2, 3))

    def codes(self, count: int, random: torch.Generator, alone: bool = False) -> Codes:
        """Uniform in [-1, 1]; with `alone` the same in every process."""
        return 2 * self.random_rows(torch.rand, count, self.generator.latent_size, random=random, alone=alone) - 1
