"""f-AnoGAN: the search of AnoGAN replaced by an encoder that is trained after the generator.

Schlegl, Seeböck, Waldstein, Langs, Schmidt-Erfurth: f-AnoGAN: Fast unsupervised anomaly detection with generative
adversarial networks, Medical Image Analysis 2019; layers, initialisation and optimisers from the authors' code. Their
images have 64 px (`experiment=f_anogan_paper`: patches of that size); at 128 px the networks have one block more.
"""

import time
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any, Literal

import torch
from jaxtyping import Float
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parameter import Parameter

from anomaly_lab.core.console import duration, say
from anomaly_lab.core.errors import UserError
from anomaly_lab.core.types import Batch, Images, Prediction
from anomaly_lab.methods.anogan import (
    SAMPLES,
    TRAINING,
    VALIDATION,
    Codes,
    PerImage,
    generator_at,
    place_of,
    residual_map,
    signed,
    unsigned,
)
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

ImageSize = Literal[32, 64, 128, 256]
Features = Float[Tensor, "batch feature"]
Scalar = Float[Tensor, ""]
STAGES = ("adversarial training", "encoder training")


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions after norm and ReLU, added to a 1 x 1 convolution; doubles or halves the side.

    Upwards both branches repeat every pixel before their first convolution, downwards they average 2 x 2 pixels at
    their end.
    """

    def __init__(
        self, inputs: PositiveInt, outputs: PositiveInt, direction: Literal["up", "down"],
        norm: Callable[[int], nn.Module],
    ) -> None:  # fmt: skip
        super().__init__()
        up = direction == "up"
        middle = outputs if up else inputs
        before = nn.Upsample(scale_factor=2, mode="nearest") if up else nn.Identity()
        after = nn.Identity() if up else nn.AvgPool2d(2)
        self.residual = nn.Sequential(
            norm(inputs), nn.ReLU(inplace=True), before,
            _uniform(nn.Conv2d(inputs, middle, 3, padding=1, bias=False), 4),
            norm(middle), nn.ReLU(inplace=True), _uniform(nn.Conv2d(middle, outputs, 3, padding=1), 4), after,
        )  # fmt: skip
        self.shortcut = nn.Sequential(before, after, _uniform(nn.Conv2d(inputs, outputs, 1), 2))

    def forward(
        self, images: Float[Tensor, "batch inputs height width"]
    ) -> Float[Tensor, "batch outputs new_height new_width"]:
        """Add both branches."""
        return self.shortcut(images) + self.residual(images)


class Generator(nn.Module):
    """Draw images in (-1, 1) from codes: a linear layer to 4 x 4 px, then one block a doubling of the side.

    Channels: 8 times `width` up to an eighth of the full side, then halved by each block. 8 540 483 weights at 64 px,
    128 latent numbers and 3 channels.
    """

    def __init__(
        self, image_size: ImageSize, channels: Literal[1, 3], latent_size: PositiveInt = 128, width: PositiveInt = 64
    ) -> None:
        super().__init__()
        self.image_size, self.channels, self.latent_size = image_size, channels, latent_size
        widths = _widths(image_size, width)[::-1]
        blocks = pairwise(widths)
        self.network = nn.Sequential(
            _glorot(nn.Linear(latent_size, widths[0] * 4 * 4)), nn.Unflatten(1, (widths[0], 4, 4)),
            *[ResidualBlock(inputs, outputs, "up", batch_norm) for inputs, outputs in blocks],
            batch_norm(width), nn.ReLU(inplace=True),
            _uniform(nn.Conv2d(width, channels, 3, padding=1), 4), nn.Tanh(),
        )  # fmt: skip

    def forward(self, codes: Codes) -> Images:
        """Draw one image a code."""
        return self.network(codes)


class Critic(nn.Module):
    """Rate how much an image in [-1, 1] looks like a photo; layer norm, because the penalty looks at single images.

    7 491 841 weights at 64 px and 3 channels.
    """

    def __init__(self, image_size: ImageSize, channels: Literal[1, 3], width: PositiveInt = 64) -> None:
        super().__init__()
        self.image_size, self.channels = image_size, channels
        self.features = _trunk(image_size, channels, width, layer_norm)
        self.decision = _glorot(nn.Linear(8 * width * 4 * 4, 1))

    def forward(self, images: Images) -> PerImage:
        """Large for what looks like a photo, without bounds."""
        return self.decision(self.features(images))[:, 0]


class Encoder(nn.Module):
    """Find the code of an image in [-1, 1]; codes end in a tanh, although those of the generator are normal.

    8 532 352 weights at 64 px, 128 latent numbers and 3 channels.
    """

    def __init__(
        self, image_size: ImageSize, channels: Literal[1, 3], latent_size: PositiveInt = 128, width: PositiveInt = 64
    ) -> None:
        super().__init__()
        self.image_size, self.channels, self.latent_size = image_size, channels, latent_size
        self.network = nn.Sequential(
            _trunk(image_size, channels, width, batch_norm),
            _glorot(nn.Linear(8 * width * 4 * 4, latent_size)), nn.Tanh(),
        )  # fmt: skip

    def forward(self, images: Images) -> Codes:
        """One code an image, in (-1, 1)."""
        return self.network(images)


def batch_norm(channels: int) -> nn.Module:
    """With TensorFlow's constants, as in the authors' code."""
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


def layer_norm(channels: int) -> nn.Module:
    """Over channels and pixels of an image, scaled by channel."""
    return nn.GroupNorm(1, channels, eps=1e-5)


def _widths(image_size: int, width: int) -> list[int]:
    """Channels at every side from the image down to 4 px."""
    halvings = (image_size // 4).bit_length() - 1
    return [min(2**halving, 8) * width for halving in range(halvings + 1)]


def _trunk(image_size: int, channels: int, width: int, norm: Callable[[int], nn.Module]) -> nn.Sequential:
    widths = _widths(image_size, width)
    blocks = pairwise(widths)
    return nn.Sequential(
        _uniform(nn.Conv2d(channels, width, 3, padding=1), 2),
        *[ResidualBlock(inputs, outputs, "down", norm) for inputs, outputs in blocks],
        nn.Flatten(),
    )


def _uniform(convolution: nn.Conv2d, gain: int) -> nn.Conv2d:
    """Uniform weights of variance gain / (inputs + outputs): 4 before a ReLU, else 2; no bias."""
    area = convolution.kernel_size[0] ** 2
    bound = (3 * gain / (area * (convolution.in_channels + convolution.out_channels))) ** 0.5
    nn.init.uniform_(convolution.weight, -bound, bound)
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
    return convolution


def _glorot(linear: nn.Linear) -> nn.Linear:
    nn.init.xavier_uniform_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


class FAnoGAN(Method):
    """Learn to draw normal images, then to find their codes; what the drawing of an image's code lacks is abnormal.

    One run, two stages: the last `encoder_epochs` epochs (None: half of them) train the encoder, those before generator
    and critic. Every draw follows from `seed` and the number of the step, and processes take rows of one draw.
    """

    def __init__(
        self,
        generator: Generator,
        critic: Critic,
        encoder: Encoder,
        optimizer: Callable[[Iterable[Parameter]], torch.optim.Optimizer],
        encoder_optimizer: Callable[[Iterable[Parameter]], torch.optim.Optimizer],
        tiling: Tiling,
        encoder_epochs: PositiveInt | None = None,
        critic_steps: PositiveInt = 5,
        penalty_weight: NonNegativeFloat = 10.0,
        encoder_loss: Literal["izi_f", "izi", "ziz"] = "izi_f",
        feature_weight: NonNegativeFloat = 1.0,
        residual: Literal["l2", "l1"] = "l2",
        schedule: Literal["constant", "cosine"] = "constant",
        gradient_clip: PositiveFloat | None = None,
        log_gradient_norms: bool = False,
        seed: NonNegativeInt = 0,
    ) -> None:
        super().__init__(tiling)
        refuse_unlike(generator=generator, critic=critic, encoder=encoder)
        self.automatic_optimization = False
        self.generator = generator
        self.critic = critic
        self.encoder = encoder
        self.optimizer = optimizer
        self.encoder_optimizer = encoder_optimizer
        self.encoder_epochs = encoder_epochs
        self.critic_steps = critic_steps
        self.penalty_weight = penalty_weight
        self.encoder_loss = encoder_loss
        self.feature_weight = feature_weight
        self.residual = residual
        self.schedule = schedule
        self.gradient_clip = gradient_clip
        self.log_gradient_norms = log_gradient_norms
        self.seed = seed
        self._seconds = [0.0, 0.0]  # of each stage, up to the last checkpoint or epoch
        self._since = 0.0

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """A step of the stage that the epoch belongs to."""
        refuse_one_image(batch.image, self)
        refuse_other_images(batch.image, self.generator.channels, self.generator.image_size)
        photos = signed(batch.image)
        step = self._adversarial_step if self.stage == 0 else self._encoder_step
        if self.schedule == "cosine":  # once in each stage
            lower_learning_rates(self.trainer.optimizers, self._share_of_stage(batch_idx))
        loss = step(photos, batch_idx)
        self.log("train/loss", loss, on_step=True, on_epoch=True, sync_dist=True, batch_size=len(photos))

    # Stage 1 (section 2.1): a Wasserstein GAN with gradient penalty.

    def critic_losses(self, photos: Images, drawn: Images, mix: Float[Tensor, "batch 1 1 1"]) -> tuple[Scalar, ...]:
        """Mean rating of photos, mean rating of drawn images, and the penalty on mixtures of both."""
        rating = self.critic(torch.cat([photos, drawn])).float()  # it looks at images one by one: once over both
        on_photos, on_drawn = rating.split(len(photos))
        return on_photos.mean(), on_drawn.mean(), self.gradient_penalty(photos, drawn, mix)

    def gradient_penalty(self, photos: Images, drawn: Images, mix: Float[Tensor, "batch 1 1 1"]) -> Scalar:
        """Mean of (|gradient of the rating by the image| - 1)^2 at photo + mix (drawn - photo), in float32.

        The gradient is part of the graph, so that a single backward pass of the whole loss suffices.
        """
        between = (photos + mix * (drawn.to(photos) - photos)).detach().requires_grad_()
        with torch.enable_grad(), torch.autocast(between.device.type, enabled=False):
            (gradient,) = torch.autograd.grad(self.critic(between).sum(), [between], create_graph=True)
        return (torch.linalg.vector_norm(gradient.flatten(1), dim=1) - 1).square().mean()

    def critic_loss(self, on_photos: Scalar, on_drawn: Scalar, penalty: Scalar) -> Scalar:
        """Minus the estimated Wasserstein distance, plus the penalty."""
        return on_drawn - on_photos + self.penalty_weight * penalty

    def _adversarial_step(self, photos: Images, batch_idx: int) -> Scalar:
        """One step of the critic on new images; in steps 5, 10, ... (of 0, 1, ...) one of the generator before it.

        That is the authors' loop, in which a step of the generator (none in the first round) is followed by five of the
        critic, each with a batch of its own.
        """
        critic_optimizer, generator_optimizer, _ = three(self.optimizers())
        step = self.current_epoch * int(self.trainer.num_training_batches) + batch_idx
        random = generator_at(self.seed, TRAINING, step)
        if step and step % self.critic_steps == 0:
            with generator_optimizer.toggle_model():
                adversarial = -self.critic(self.generator(self.codes(len(photos), random))).float().mean()
                descend(self, generator_optimizer, adversarial)
            self.log(
                "generator/adversarial",
                adversarial,
                on_step=False,
                on_epoch=True,
                sync_dist=True,
                batch_size=len(photos),
            )

        with critic_optimizer.toggle_model():
            with torch.no_grad():
                drawn = self.generator(self.codes(len(photos), random))
            on_photos, on_drawn, penalty = self.critic_losses(photos, drawn, self.mixture(len(photos), random))
            loss = self.critic_loss(on_photos, on_drawn, penalty)
            descend(self, critic_optimizer, loss)
        ratings = {"discriminator/real": on_photos, "discriminator/fake": on_drawn}
        losses = {**ratings, "discriminator/gradient_penalty": penalty}
        self.log_dict(losses, on_step=False, on_epoch=True, sync_dist=True, batch_size=len(photos))
        return loss

    # Stage 2 (section 2.2): an encoder for the generator, which is frozen like the critic.

    def encoder_losses(self, photos: Images, codes: Codes | None = None) -> dict[str, Scalar]:
        """The terms of the encoder's loss, means over all numbers.

        `izi` compares images with the drawings of their codes, `izi_f` their features in the critic too, weighted
        by `feature_weight`; `ziz` compares `codes` with those found in their drawings.
        """
        if self.encoder_loss == "ziz":
            assert codes is not None
            return {"encoder/latent": (codes - self.encoder(self.generator(codes)).float()).square().mean()}
        on_image, on_features = self.differences(photos, self.generator(self.encoder(photos)))
        losses = {"encoder/image": on_image.mean()}
        return losses | {"encoder/features": on_features.mean()} if self.encoder_loss == "izi_f" else losses

    def differences(self, photos: Images, drawn: Images) -> tuple[PerImage, PerImage]:
        """Mean squared difference of every image, and of its features in the critic."""
        features = self.critic.features(photos).float(), self.critic.features(drawn).float()
        on_image = (photos - drawn.float()).square().flatten(1).mean(dim=1)
        return on_image, (features[0] - features[1]).square().mean(dim=1)

    def whole_encoder_loss(self, losses: dict[str, Scalar]) -> Scalar:
        """The weighted sum of the terms."""
        weights = {"encoder/features": self.feature_weight}
        return torch.stack([weights.get(name, 1.0) * loss for name, loss in losses.items()]).sum()

    def _encoder_step(self, photos: Images, batch_idx: int) -> Scalar:
        optimizer = three(self.optimizers())[2]
        self.generator.eval()  # batch norm as at test time; the optimizer of the encoder leaves their weights alone
        self.critic.eval()
        codes = self.codes(len(photos), generator_at(self.seed, TRAINING, self.current_epoch, batch_idx))
        with optimizer.toggle_model():
            losses = self.encoder_losses(photos, codes)
            loss = self.whole_encoder_loss(losses)
            descend(self, optimizer, loss)
        self.log_dict(losses, on_step=False, on_epoch=True, sync_dist=True, batch_size=len(photos))
        return loss

    # Inspection (section 2.3).

    def predict(self, images: Images) -> Prediction:
        """Score: difference of the image from its drawing plus `feature_weight` times that of their features (eq. 5).

        Map: squared difference, or with `l1` its size, in the range of the network, [-1, 1], averaged over channels.
        The paper maps the size, the MVTec AD paper the square.
        """
        refuse_other_images(images, self.generator.channels, self.generator.image_size)
        photos = signed(images)
        drawn = self.generator(self.encoder(photos))
        on_image, on_features = self.differences(photos, drawn)
        score = on_image + self.feature_weight * on_features
        return Prediction(residual_map(photos, drawn, self.residual), score, unsigned(drawn))

    def samples(self, images: Images) -> Images:
        """As many drawings, in [0, 1]: from codes that stay the same; while the encoder learns, of these images."""
        if self._trainer and self.stage == 1:
            return unsigned(self.generator(self.encoder(signed(images))))
        return unsigned(self.generator(self.codes(len(images), generator_at(self.seed, SAMPLES), alone=True)))

    def embed(self, images: Images) -> Float[Tensor, "batch feature"]:
        """The code of each image, for a map of them."""
        return self.encoder(signed(images))

    # What both stages need.

    @property
    def stage(self) -> Literal[0, 1]:
        """0: generator and critic learn, 1: the encoder."""
        return 0 if self.current_epoch < self.ends[0] else 1

    @property
    def ends(self) -> tuple[int, int]:
        """How many epochs are done at the end of each stage."""
        epochs = self.trainer.max_epochs or 0
        return epochs - (self.encoder_epochs or epochs // 2), epochs

    def _share_of_stage(self, batches: int) -> float:
        """How much of its stage is done after so many batches of this epoch, 0 to 1."""
        start, end = (0, *self.ends)[self.stage : self.stage + 2]
        return (self.current_epoch - start + batches / int(self.trainer.num_training_batches)) / (end - start)

    def on_fit_start(self) -> None:
        """Refuse a training that has no room for both stages."""
        epochs = self.trainer.max_epochs or 0
        if epochs < 2:
            raise UserError(
                f"budget.epochs: expected at least 2, one of the GAN and one of the encoder, found {epochs}"
            )
        if self.encoder_epochs is not None and self.encoder_epochs >= epochs:
            raise UserError(
                f"method.encoder_epochs: expected 1 to {epochs - 1}, so that some of the {epochs} of budget.epochs are "
                f"left for the GAN, found {self.encoder_epochs}"
            )

    def codes(self, count: int, random: torch.Generator, alone: bool = False) -> Codes:
        """Normal; unless `alone`, this process's rows of what is drawn for the whole batch."""
        rank, world_size = (0, 1) if alone else place_of(self)
        drawn = torch.randn((count * world_size, self.generator.latent_size), generator=random)
        return drawn[rank::world_size].to(self.device)

    def mixture(self, count: int, random: torch.Generator) -> Float[Tensor, "count 1 1 1"]:
        """Uniform in [0, 1], this process's rows of what is drawn for the whole batch."""
        rank, world_size = place_of(self)
        return torch.rand((count * world_size, 1, 1, 1), generator=random)[rank::world_size].to(self.device)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip and tell gradients: here they are unscaled, whatever the precision."""
        first = optimizer.param_groups[0]["params"][0]
        networks = {"discriminator": self.critic, "generator": self.generator, "encoder": self.encoder}
        (name,) = (name for name, network in networks.items() if first is next(network.parameters()))
        look_at_gradients(self, optimizer, name)

    def rehearse(self, images: Images) -> Scalar:
        """The losses of a step of the first stage, which costs more than one of the second."""
        photos, random = signed(images), generator_at(self.seed, TRAINING)
        drawn = self.generator(self.codes(len(images), random))
        losses = self.critic_losses(photos, drawn.detach(), self.mixture(len(images), random))
        return self.critic_loss(*losses) - self.critic(drawn).mean() / self.critic_steps

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The loss of the critic without penalty, or of the encoder, on held-out photos.

        With the latter `validation/latent`: mean squared distance of a photo's code from that of its drawing.
        """
        photos = signed(self.tiling.training_like(batch.image))
        codes = self.codes(len(photos), generator_at(self.seed, VALIDATION, batch_idx), alone=True)
        if self.stage == 0:
            loss = (self.critic(self.generator(codes)) - self.critic(photos)).float().mean()
        else:
            loss = self.whole_encoder_loss(self.encoder_losses(photos, codes))
            found = self.encoder(photos)
            distance = functional.mse_loss(found.float(), self.encoder(self.generator(found)).float())
            self.log("validation/latent", distance, batch_size=len(photos))
        self.log("validation/loss", loss, batch_size=len(photos))

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Adam, 1e-4, no first moment, for critic and generator; RMSprop, 5e-5, for the encoder."""
        adversarial = [self.optimizer(self.critic.parameters()), self.optimizer(self.generator.parameters())]
        return [*adversarial, self.encoder_optimizer(self.encoder.parameters())]

    # The time of each stage.

    def on_train_start(self) -> None:
        """Start the clock; say where the generator will learn nothing."""
        steps = self.ends[0] * int(self.trainer.num_training_batches)
        if steps <= self.critic_steps and self.trainer.is_global_zero:
            say(
                f"the generator learns nothing: it takes a step after {self.critic_steps} of the critic "
                f"(method.critic_steps), and the GAN is trained for {steps}; raise data.patches or budget.epochs",
            )
        self._since = time.perf_counter()

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """After the last batch of a stage tell how long it took."""
        if not self.trainer.is_last_batch or self.current_epoch + 1 not in self.ends:
            return
        self._stop_clock()
        seconds, name = self._seconds[self.stage], STAGES[self.stage]
        key = f"seconds/{name.replace(' ', '_')}"
        self.log(key, seconds, on_step=False, on_epoch=True, rank_zero_only=True, batch_size=1)
        if self.trainer.is_global_zero:
            say(f"{name}: done in {duration(seconds)}")

    def on_train_epoch_end(self) -> None:
        """Add what is left of the epoch, its validation, to its stage."""
        self._stop_clock()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the time that each stage took so far."""
        if self.trainer.training:
            self._stop_clock()
        checkpoint["stage_seconds"] = list(self._seconds)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on from there."""
        self._seconds = list(checkpoint["stage_seconds"])

    def _stop_clock(self) -> None:
        now = time.perf_counter()
        self._seconds[self.stage] += now - self._since
        self._since = now


def three(optimizers: Any) -> tuple[Any, Any, Any]:
    """Lightning's list of optimizers as a triple."""
    first, second, third = optimizers
    return first, second, third
