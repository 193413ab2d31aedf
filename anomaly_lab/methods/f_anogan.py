"""f-AnoGAN: the search of AnoGAN replaced by an encoder that is trained after the generator.

Schlegl, Seeböck, Waldstein, Langs, Schmidt-Erfurth: f-AnoGAN: Fast unsupervised anomaly detection with generative
adversarial networks, Medical Image Analysis 2019; layers, initialisation and optimisers from the authors' code. Their
images have 64 px (`experiment=f_anogan_paper`: patches of that size); at 128 px the networks have one block more.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from anomaly_lab.core.errors import UserError
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
from anomaly_lab.methods.base.method import OptimizerFactory, Scalar
from anomaly_lab.networks.dcgan import batch_statistics
from anomaly_lab.networks.wgan import ResidualBlock, batch_norm, glorot, layer_norm, trunk, uniform, widths

ImageSize = Literal[32, 64, 128, 256]
Mixture = Float[Tensor, "batch 1 1 1"]


class Generator(nn.Module):
    """Codes to images in (-1, 1): a linear layer to 4 x 4 px, then one block per doubling of the side.

    Channels: 8 times `width` up to an eighth of the full side, then halved by each block. 8 540 483 weights at 64 px,
    128 latent numbers and 3 channels.
    """

    def __init__(
        self, image_size: ImageSize, channels: Literal[1, 3], latent_size: PositiveInt = 128, width: PositiveInt = 64
    ) -> None:
        super().__init__()
        self.image_size, self.channels, self.latent_size = image_size, channels, latent_size
        upwards = widths(image_size, width)[::-1]
        self.network = nn.Sequential(
            glorot(nn.Linear(latent_size, upwards[0] * 4 * 4)), nn.Unflatten(1, (upwards[0], 4, 4)),
            *[ResidualBlock(inputs, outputs, "up", batch_norm) for inputs, outputs in pairwise(upwards)],
            batch_norm(width), nn.ReLU(inplace=True),
            uniform(nn.Conv2d(width, channels, 3, padding=1), 4), nn.Tanh(),
        )  # fmt: skip

    def forward(self, codes: Codes) -> Images:
        """One image per code."""
        return self.network(codes)


class Critic(nn.Module):
    """Rate how much an image in [-1, 1] looks like a photo; layer norm, because the penalty is of single images.

    7 491 841 weights at 64 px and 3 channels.
    """

    def __init__(self, image_size: ImageSize, channels: Literal[1, 3], width: PositiveInt = 64) -> None:
        super().__init__()
        self.image_size, self.channels = image_size, channels
        self.features = trunk(image_size, channels, width, layer_norm)
        self.decision = glorot(nn.Linear(8 * width * 4 * 4, 1))

    def forward(self, images: Images) -> PerImage:
        """Large for what looks like a photo, without bounds."""
        return self.decision(self.features(images))[:, 0]


class Encoder(nn.Module):
    """Images in [-1, 1] to codes that end in a tanh, although those of the generator are normal.

    8 532 352 weights at 64 px, 128 latent numbers and 3 channels.
    """

    def __init__(
        self, image_size: ImageSize, channels: Literal[1, 3], latent_size: PositiveInt = 128, width: PositiveInt = 64
    ) -> None:
        super().__init__()
        self.image_size, self.channels, self.latent_size = image_size, channels, latent_size
        self.network = nn.Sequential(
            trunk(image_size, channels, width, batch_norm),
            glorot(nn.Linear(8 * width * 4 * 4, latent_size)), nn.Tanh(),
        )  # fmt: skip

    def forward(self, images: Images) -> Codes:
        """One code per image, in (-1, 1)."""
        return self.network(images)


class FAnoGAN(AdversarialMethod):
    """A GAN of normal images, then an encoder for it; what differs in the image of a photo's code is abnormal.

    One run, two stages: the last `encoder_epochs` epochs (None: half of them) train the encoder, those before generator
    and critic. Of 20 epochs of 100 000 patches, the 10 of the GAN are the 100 of 10 000 in Bergmann et al. 2021; the 10
    of the encoder are 15 620 steps, a third of the published 50 000. The authors use TensorFlow's RMSprop: its mean
    square starts at 1, as here, and it has its epsilon of 1e-10 under the root; the 1e-5 of `conf/method/f_anogan.yaml`
    stands outside of it.
    """

    version: ClassVar = 2  # batch norm learns in steps of the generator only, the mean square of RMSprop starts at 1
    rates: ClassVar = ("optimizer", "encoder_optimizer")
    stages = ("adversarial training", "encoder training")
    leaders = ("discriminator", "encoder")

    def __init__(
        self,
        generator: Generator,
        critic: Critic,
        encoder: Encoder,
        encoder_optimizer: OptimizerFactory,
        encoder_epochs: PositiveInt | None = None,
        critic_steps: PositiveInt = 5,
        penalty_weight: NonNegativeFloat = 10.0,
        encoder_loss: Literal["izi_f", "izi", "ziz"] = "izi_f",
        feature_weight: NonNegativeFloat = 1.0,
        residual: Residual = "l2",
        **training: Any,
    ) -> None:
        super().__init__(**training)
        refuse_unlike(generator=generator, critic=critic, encoder=encoder)
        self.image_size, self.channels = generator.image_size, generator.channels
        self.generator, self.critic, self.encoder = generator, critic, encoder
        self.encoder_optimizer, self.encoder_epochs = encoder_optimizer, encoder_epochs
        self.critic_steps, self.penalty_weight, self.encoder_loss = critic_steps, penalty_weight, encoder_loss
        self.feature_weight, self.residual = feature_weight, residual

    def networks(self) -> dict[str, nn.Module]:
        """The critic logs as the discriminator that it replaces."""
        return {"discriminator": self.critic, "generator": self.generator, "encoder": self.encoder}

    def turns(self, images: Images, stage: int, step: int, random: torch.Generator) -> Iterator[Turn]:
        """Critic and generator, later the encoder."""
        return self.encoder_turn(images, random) if stage else self.adversarial_turns(images, step)

    # Stage 1 (section 2.1): a Wasserstein GAN with gradient penalty.

    def adversarial_turns(self, photos: Images, step: int) -> Iterator[Turn]:
        """One step of the critic on new images; in steps 5, 10, ... (of 0, 1, ...) one of the generator before it.

        That is the authors' loop, in which a step of the generator (none in the first round) is followed by five of the
        critic, each with a batch of its own. The running statistics of the generator's batch norm move in its own steps
        alone.
        """
        count, random = len(photos), self.random_at("training", step)  # by the number of the step, as in our results
        if step and step % self.critic_steps == 0:
            adversarial = -self.critic(self.generator(self.codes(count, random))).float().mean()
            yield Turn("generator", adversarial, {"adversarial": adversarial})
        with torch.no_grad(), batch_statistics(self.generator):
            generated = self.generator(self.codes(count, random))
        on_photos, on_generated, penalty = self.critic_losses(photos, generated, self.mixture(count, random))
        parts = {"real": on_photos, "fake": on_generated, "gradient_penalty": penalty}
        yield Turn("discriminator", self.critic_loss(on_photos, on_generated, penalty), parts)

    def critic_losses(self, photos: Images, generated: Images, mix: Mixture) -> tuple[Scalar, Scalar, Scalar]:
        """Mean rating of photos, mean rating of generated images, and the penalty on mixtures of both."""
        rating = self.critic(torch.cat([photos, generated])).float()  # no batch norm: one pass for both
        on_photos, on_generated = rating.split(len(photos))
        return on_photos.mean(), on_generated.mean(), self.gradient_penalty(photos, generated, mix)

    def gradient_penalty(self, photos: Images, generated: Images, mix: Mixture) -> Scalar:
        """Mean of (|gradient of the rating by the image| - 1)^2 at photo + mix (generated - photo), in float32.

        The gradient is part of the graph, so that a single backward pass of the whole loss suffices.
        """
        between = (photos + mix * (generated.to(photos) - photos)).detach().requires_grad_()
        with torch.enable_grad(), torch.autocast(between.device.type, enabled=False):
            (gradient,) = torch.autograd.grad(self.critic(between).sum(), [between], create_graph=True)
        return (torch.linalg.vector_norm(gradient.flatten(1), dim=1) - 1).square().mean()

    def critic_loss(self, on_photos: Scalar, on_generated: Scalar, penalty: Scalar) -> Scalar:
        """Minus the estimated Wasserstein distance, plus the penalty."""
        return on_generated - on_photos + self.penalty_weight * penalty

    # Stage 2 (section 2.2): an encoder for the generator, which is frozen like the critic.

    def encoder_turn(self, photos: Images, random: torch.Generator) -> Iterator[Turn]:
        """One step of the encoder."""
        for network in (self.generator, self.critic):
            network.eval().requires_grad_(False)  # batch norm as at test time; nothing is kept for their gradients
        losses = self.encoder_losses(photos, self.codes(len(photos), random))
        yield Turn("encoder", self.whole_encoder_loss(losses), losses)

    def encoder_losses(self, photos: Images, codes: Codes) -> dict[str, Scalar]:
        """The terms of the encoder's loss, means over all numbers.

        `izi` compares images with those of their codes, `izi_f` their features in the critic too, weighted by
        `feature_weight`; `ziz` compares `codes` with those of their images.
        """
        if self.encoder_loss == "ziz":
            return {"latent": (codes - self.encoder(self.generator(codes)).float()).square().mean()}
        on_image, on_features = self.differences(photos, self.generator(self.encoder(photos)))
        losses = {"image": on_image.mean()}
        return losses | {"features": on_features.mean()} if self.encoder_loss == "izi_f" else losses

    def differences(self, photos: Images, generated: Images) -> tuple[PerImage, PerImage]:
        """Mean squared difference of each image, and of its features in the critic."""
        features = self.critic.features(photos).float() - self.critic.features(generated).float()
        return (photos - generated.float()).square().flatten(1).mean(dim=1), features.square().mean(dim=1)

    def whole_encoder_loss(self, losses: dict[str, Scalar]) -> Scalar:
        """The weighted sum of the terms."""
        weight = self.feature_weight
        return torch.stack([weight * loss if name == "features" else loss for name, loss in losses.items()]).sum()

    # Inspection (section 2.3).

    def predict(self, images: Images) -> Prediction:
        """Score: difference from the image of its code plus `feature_weight` times that of their features (eq. 5).

        Map: squared or (`l1`) absolute difference in the range of the network, [-1, 1], averaged over channels. The
        paper maps the absolute value, the MVTec AD paper the square.
        """
        photos = self.signed(images)
        generated = self.generator(self.encoder(photos))
        on_image, on_features = self.differences(photos, generated)
        score = on_image + self.feature_weight * on_features
        return Prediction(residual_map(photos, generated, self.residual), score, unsigned(generated))

    def samples(self, images: Images) -> Images:
        """As many images in [0, 1]: generated from codes that stay the same; in stage 2 reconstructions of these."""
        if self.stage == 1:
            return unsigned(self.generator(self.encoder(self.signed(images))))
        return unsigned(self.generator(self.codes(len(images), self.random_at("samples"), alone=True)))

    def embed(self, images: Images) -> Float[Tensor, "batch feature"]:
        """The code of each image."""
        return self.encoder(self.signed(images))

    # What both stages need.

    def stage_ends(self) -> tuple[int, int]:
        """The GAN leaves `encoder_epochs` epochs to the encoder."""
        epochs = self.trainer.max_epochs or 0
        return epochs - (self.encoder_epochs or epochs // 2), epochs

    def check_training(self, epochs: int, painted: bool) -> None:
        """Refuse a training that has no room for both stages."""
        if epochs < 2:
            raise UserError(f"budget.epochs: expected at least 2, for the GAN and for the encoder, found {epochs}")
        if self.encoder_epochs is not None and self.encoder_epochs >= epochs:
            raise UserError(
                f"method.encoder_epochs: expected 1 to {epochs - 1}, so that some of the {epochs} of budget.epochs are "
                f"left for the GAN, found {self.encoder_epochs}"
            )

    def on_train_start(self) -> None:
        """Warn where the generator will learn nothing."""
        super().on_train_start()
        self.requires_grad_(True)  # the training before has left two networks frozen
        steps = self.stage_ends()[0] * int(self.trainer.num_training_batches)
        if steps <= self.critic_steps:
            self.say(
                f"the generator learns nothing: it takes a step after {self.critic_steps} of the critic "
                f"(method.critic_steps), and the GAN is trained for {steps}; raise data.patches or budget.epochs"
            )

    def codes(self, count: int, random: torch.Generator, alone: bool = False) -> Codes:
        """Normal; with `alone` the same in every process."""
        return self.random_rows(torch.randn, count, self.generator.latent_size, random=random, alone=alone)

    def mixture(self, count: int, random: torch.Generator) -> Mixture:
        """Uniform in [0, 1]."""
        return self.random_rows(torch.rand, count, 1, 1, 1, random=random)

    def validation_losses(self, images: Images, stage: int, random: torch.Generator) -> dict[str, Scalar]:
        """The loss of the critic without penalty, or of the encoder.

        With the latter `latent`: the mean squared distance of a photo's code from that of its generated image.
        """
        codes = self.codes(len(images), random, alone=True)
        if stage == 0:
            return {"loss": (self.critic(self.generator(codes)) - self.critic(images)).float().mean()}
        found = self.encoder(images)
        latent = functional.mse_loss(found.float(), self.encoder(self.generator(found)).float())
        return {"loss": self.whole_encoder_loss(self.encoder_losses(images, codes)), "latent": latent}

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Adam, 1e-4, no first moment, for critic and generator; RMSprop, 5e-5, for the encoder."""
        *adversarial, _ = super().configure_optimizers()
        encoding = self.encoder_optimizer(self.encoder.parameters())
        if isinstance(encoding, torch.optim.RMSprop) and not any(map(encoding.defaults.get, ("momentum", "centered"))):
            for weight in self.encoder.parameters():
                encoding.state[weight] = {"step": torch.zeros(()), "square_avg": torch.ones_like(weight)}
        return [*adversarial, encoding]
