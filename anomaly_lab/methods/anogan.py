"""AnoGAN: search the picture that a generator of normal images can draw most like the photo.

Schlegl, Seeböck, Waldstein, Schmidt-Erfurth, Langs: Unsupervised Anomaly Detection with Generative Adversarial Networks
to Guide Marker Discovery, IPMI 2017. Networks, order of the steps and defaults follow the public implementation with
which the MVTec AD paper (CVPR 2019) ran it: images of 128 px, 64 latent numbers, 300 steps of the search.
"""

from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn.parameter import Parameter

from anomaly_lab.core.console import counted
from anomaly_lab.core.types import Batch, Images, Prediction
from anomaly_lab.methods.base.adversarial import (
    descend,
    look_at_gradients,
    lower_learning_rates,
    refuse_one_image,
    refuse_other_images,
    refuse_unlike,
)
from anomaly_lab.methods.base.method import Method
from anomaly_lab.methods.base.tiling import Tiling
from anomaly_lab.networks.dcgan import cross_entropy

ImageSize = Annotated[int, Field(ge=32, multiple_of=16)]
Codes = Float[Tensor, "batch latent"]
TRAINING, VALIDATION, SEARCH, SAMPLES = 1, 2, 3, 4  # what random codes are for: no two of them share any
PerImage = Float[Tensor, " batch"]


class Generator(nn.Module):
    """Draw images in (-1, 1) from codes: a linear layer, then four transposed 5 x 5 convolutions that double the side.

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
        """Draw one image a code."""
        return self.network(codes)


class Discriminator(nn.Module):
    """Tell photos from drawn images in [-1, 1]: four 5 x 5 convolutions that halve the side, then a linear layer.

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
        """Logits: large for what looks like a photo."""
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


class AnoGAN(Method):
    """Learn to draw normal images; what the best drawing of a photo lacks is abnormal.

    Codes are uniform in [-1, 1]; a search may leave that cube, as published. Every draw follows from `seed` and the
    number of the step, and processes take rows of one draw, so that their number changes nothing.
    """

    def __init__(
        self,
        generator: Generator,
        discriminator: Discriminator,
        optimizer: Callable[[Iterable[Parameter]], torch.optim.Optimizer],
        tiling: Tiling,
        generator_steps: PositiveInt = 2,
        feature_weight: Annotated[float, Field(ge=0, le=1)] = 0.1,
        search_steps: PositiveInt = 300,
        search_rate: PositiveFloat = 0.02,
        restarts: PositiveInt = 1,
        residual: Literal["l2", "l1"] = "l2",
        schedule: Literal["constant", "cosine"] = "constant",
        gradient_clip: PositiveFloat | None = None,
        log_gradient_norms: bool = False,
        seed: NonNegativeInt = 0,
    ) -> None:
        super().__init__(tiling)
        refuse_unlike(generator=generator, discriminator=discriminator)
        self.automatic_optimization = False
        self.generator = generator
        self.discriminator = discriminator
        self.optimizer = optimizer
        self.generator_steps = generator_steps
        self.feature_weight = feature_weight
        self.search_steps = search_steps
        self.search_rate = search_rate
        self.restarts = restarts
        self.residual = residual
        self.schedule = schedule
        self.gradient_clip = gradient_clip
        self.log_gradient_norms = log_gradient_norms
        self.seed = seed

    # Training (section 2.1): a generator and a discriminator of normal images.

    def discriminator_losses(self, real: Images, drawn: Images) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Cross entropy of calling photos photos, and of calling drawn images drawn."""
        return cross_entropy(self.discriminator(real), True), cross_entropy(self.discriminator(drawn), False)

    def generator_loss(self, codes: Codes) -> Float[Tensor, ""]:
        """Cross entropy of having drawn images called photos (the form that does not saturate)."""
        return cross_entropy(self.discriminator(self.generator(codes)), True)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """One step of the discriminator, then `generator_steps` of the generator with the same codes."""
        refuse_one_image(batch.image, self)
        refuse_other_images(batch.image, self.generator.channels, self.generator.image_size)
        discriminator_optimizer, generator_optimizer = two(self.optimizers())
        codes = self.codes(len(batch.image), generator_at(self.seed, TRAINING, self.current_epoch, batch_idx))

        with discriminator_optimizer.toggle_model():
            with torch.no_grad():
                drawn = self.generator(codes)
            on_real, on_drawn = self.discriminator_losses(signed(batch.image), drawn)
            descend(self, discriminator_optimizer, on_real + on_drawn)

        for _ in range(self.generator_steps):
            with generator_optimizer.toggle_model():
                adversarial = self.generator_loss(codes)
                descend(self, generator_optimizer, adversarial)
        if self.schedule == "cosine":
            epochs = self.current_epoch + (batch_idx + 1) / int(self.trainer.num_training_batches)
            lower_learning_rates(self.trainer.optimizers, epochs / (self.trainer.max_epochs or 1))

        losses = {"generator/adversarial": adversarial, "discriminator/real": on_real, "discriminator/fake": on_drawn}
        self.log_dict(losses, on_step=False, on_epoch=True, sync_dist=True, batch_size=len(batch.image))
        self.log("train/loss", adversarial, on_step=True, on_epoch=True, sync_dist=True, batch_size=len(batch.image))

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip and tell gradients: here they are unscaled, whatever the precision."""
        of_generator = optimizer.param_groups[0]["params"][0] is next(self.generator.parameters())
        look_at_gradients(self, optimizer, "generator" if of_generator else "discriminator")

    def rehearse(self, images: Images) -> Float[Tensor, ""]:
        """The losses of a step."""
        codes = self.codes(len(images), generator_at(self.seed, TRAINING))
        on_real, on_drawn = self.discriminator_losses(signed(images), self.generator(codes).detach())
        return on_real + on_drawn + self.generator_steps * self.generator_loss(codes)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The loss of the discriminator on held-out photos: it rises when training images are learnt by heart."""
        real = signed(self.tiling.training_like(batch.image))
        drawn = self.generator(self.codes(len(real), generator_at(self.seed, VALIDATION, batch_idx), alone=True))
        losses = self.discriminator_losses(real, drawn)
        self.log("validation/loss", losses[0] + losses[1], batch_size=len(batch.image))

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Adam, 2e-4, first moment 0.5, for both."""
        return [self.optimizer(self.discriminator.parameters()), self.optimizer(self.generator.parameters())]

    # Inspection (sections 2.2 and 2.3): the code whose drawing is most like the photo.

    def search_loss(
        self, photos: Images, features: Float[Tensor, "batch feature _ _"] | None, drawn: Images
    ) -> PerImage:
        """(1 - w) sum |x - G(z)| + w sum |f(x) - f(G(z))| of every image (eq. 5), f: what the discriminator sees last.

        Sums, not means, in [-1, 1]: `feature_weight` w balances two sums of different length. Without a weight the
        features are None and the discriminator is left out.
        """
        residual = (photos - drawn).abs().flatten(1).sum(dim=1)
        if features is None:
            return residual
        difference = (features - self.discriminator.features(drawn)).abs().flatten(1).sum(dim=1)
        return (1 - self.feature_weight) * residual + self.feature_weight * difference

    def search(self, photos: Images) -> tuple[Codes, PerImage, PerImage]:
        """The codes whose drawings are most like the photos, their loss, and the loss of the codes at the start.

        All images and restarts are searched as one batch. Adam works number by number and the loss is a sum over
        images, so that this is the search of each image alone. Every image starts from the same random codes, one a
        restart, so that an answer depends on its batch, and its place in it, by rounding only. Only codes are
        differentiated.
        """
        restarts, count = self.restarts, len(photos)
        with torch.no_grad():
            features = self.discriminator.features(photos) if self.feature_weight else None
        photos = photos.repeat(restarts, 1, 1, 1)
        features = None if features is None else features.repeat(restarts, 1, 1, 1)
        start = self.codes(restarts, generator_at(self.seed, SEARCH), alone=True)
        codes = start.repeat_interleave(count, dim=0).requires_grad_()
        optimizer = torch.optim.Adam([codes], lr=self.search_rate, betas=(0.5, 0.999))
        first: Tensor | None = None
        for _ in counted(self._trainer, self.search_steps, "latent search"):
            losses = self.search_loss(photos, features, self.generator(codes))
            first = losses.detach() if first is None else first
            (codes.grad,) = torch.autograd.grad(losses.sum(), [codes])
            optimizer.step()
        assert first is not None
        with torch.no_grad():
            losses = self.search_loss(photos, features, self.generator(codes)).view(restarts, count)
            losses = losses.where(losses.isfinite(), torch.inf)  # NaN would be the least
        best = losses.argmin(dim=0) * count + torch.arange(count, device=losses.device)
        return codes.detach()[best], losses.flatten()[best], first[best]

    def predict(self, images: Images) -> Prediction:
        """Score: the loss after the search (eq. 6). Map: squared difference from the drawing, or with `l1` its size.

        Both in the range of the network, [-1, 1], the map averaged over channels. The paper maps |x - G(z)|, the
        MVTec AD paper the squared difference.
        """
        refuse_other_images(images, self.generator.channels, self.generator.image_size)
        with torch.inference_mode(False), torch.enable_grad():  # the test loop forbids gradients, the search needs them
            photos = signed(images.clone())
            codes, losses, _ = self.search(photos)
            with torch.no_grad():
                drawn = self.generator(codes)
        return Prediction(residual_map(photos, drawn, self.residual), losses, unsigned(drawn))

    @property
    def export_obstacle(self) -> str:
        """The search."""
        return f"every image is a search of {self.search_steps} gradient steps; method=f_anogan answers without one"

    def samples(self, images: Images) -> Images:
        """As many drawn images as these, in [0, 1], always from the same codes."""
        return unsigned(self.generator(self.codes(len(images), generator_at(self.seed, SAMPLES), alone=True)))

    def embed(self, images: Images) -> Float[Tensor, "batch feature"]:
        """The features of the discriminator for each image, averaged over their places, for a map of them."""
        return self.discriminator.features(signed(images)).mean(dim=(2, 3))

    def codes(self, count: int, random: torch.Generator, alone: bool = False) -> Codes:
        """Uniform in [-1, 1]; unless `alone`, this process's rows of what is drawn for the whole batch."""
        rank, world_size = (0, 1) if alone else place_of(self)
        drawn = torch.rand((count * world_size, self.generator.latent_size), generator=random)
        return (2 * drawn[rank::world_size] - 1).to(self.device)


# What f-AnoGAN, by the same authors, does in the same way.


def signed(images: Images) -> Images:
    """From [0, 1] to the [-1, 1] of a tanh."""
    return 2 * images - 1


def unsigned(images: Images) -> Images:
    """From [-1, 1] to [0, 1]."""
    return (images.float() + 1) / 2


def residual_map(photos: Images, drawn: Images, kind: Literal["l2", "l1"]) -> Float[Tensor, "batch 1 height width"]:
    """Squared (`l2`) or absolute (`l1`) difference at each pixel, averaged over the channels."""
    difference = photos - drawn
    return (difference.square() if kind == "l2" else difference.abs()).mean(dim=1, keepdim=True)


def generator_at(seed: int, purpose: int, *where: int) -> torch.Generator:
    """A generator on the host whose draws follow from the seed, what they are for and the place in the run."""
    return torch.Generator().manual_seed(
        int(np.random.SeedSequence((seed, purpose, *where)).generate_state(1, np.uint64)[0])
    )


def place_of(method: Method) -> tuple[int, int]:
    """Rank of this process and number of processes; alone without a trainer."""
    return (0, 1) if method._trainer is None else (method.trainer.global_rank, method.trainer.world_size)


def two(optimizers: Any) -> tuple[Any, Any]:
    """Lightning's list of optimizers as a pair."""
    first, second = optimizers
    return first, second
