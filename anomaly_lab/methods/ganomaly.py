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
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn.parameter import Parameter

from anomaly_lab.core.types import Batch, Images, Prediction
from anomaly_lab.methods.base.adversarial import (
    look_at_gradients,
    lower_learning_rates,
    refuse_one_image,
    refuse_other_images,
)
from anomaly_lab.methods.base.method import Method
from anomaly_lab.methods.base.tiling import Tiling
from anomaly_lab.networks.dcgan import Code, Decoder, Encoder, ImageSize, batch_statistics, cross_entropy, initialise

Optimizer = Callable[[Iterable[Parameter]], torch.optim.Optimizer]
WON = 1e-5  # the discriminator has won where its loss is below, and starts anew


class Generator(nn.Module):
    """Encoder, decoder and the second encoder, of the same make and with weights of its own (paper, section 3.1)."""

    def __init__(
        self, image_size: ImageSize, channels: Literal[1, 3], latent_size: PositiveInt, width: PositiveInt
    ) -> None:
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

    def __init__(self, image_size: ImageSize, channels: Literal[1, 3], width: PositiveInt) -> None:
        super().__init__()
        self.encoder = Encoder(image_size, channels, 1, width)

    def forward(self, images: Images) -> tuple[Float[Tensor, " batch"], Float[Tensor, "batch feature 4 4"]]:
        """Logits, and the features before the last convolution."""
        features = self.encoder.features(images)
        return self.encoder.head(features).flatten(), features


class Losses(NamedTuple):
    """What the two networks of an adversarial method descend, and its parts under readable names."""

    generator: Float[Tensor, ""]
    discriminator: Float[Tensor, ""]
    parts: dict[str, Tensor]


class Adversarial(Method):
    """A generator against a discriminator, each with an optimizer of its own, as the two papers of the authors do it.

    Both losses come from one pass of each network: the discriminator sees the images once and the reconstructions
    once. Its answers serve both losses, and each loss goes back to the weights of its own network only. So nothing is
    computed twice, and no gradient is computed that nobody uses; the discriminator descends the loss that it had
    before the step of the generator, as in the code of the authors.
    """

    reinitialisations: Tensor
    loss_not_looked_at: Tensor

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        image_size: int,
        channels: int,
        optimizer: Optimizer,
        tiling: Tiling,
        test_batchnorm: Literal["running", "batch"],
        schedule: Literal["constant", "cosine"],
        gradient_clip: float | None,
        log_gradient_norms: bool,
    ) -> None:
        super().__init__(tiling)
        self.automatic_optimization = False
        self.generator = generator
        self.discriminator = discriminator
        for network in (generator, discriminator):
            initialise(network)
            network.to(memory_format=torch.channels_last)  # faster on a CPU, and in half precision on a GPU
        self.image_size = image_size
        self.channels = channels
        self.optimizer = optimizer
        self.test_batchnorm = test_batchnorm
        self.schedule = schedule
        self.gradient_clip = gradient_clip
        self.log_gradient_norms = log_gradient_norms
        # Buffers, so that a resumed run goes on with both.
        self.register_buffer("reinitialisations", torch.zeros((), dtype=torch.int64))
        self.register_buffer("loss_not_looked_at", torch.tensor(torch.inf))
        self._on_its_way: OnItsWay | None = None

    @abstractmethod
    def losses(self, images: Images) -> Losses:
        """Both losses of images in [-1, 1]; one pass of each network."""

    def normalised(self, images: Images) -> Images:
        """From [0, 1] to [-1, 1], the range of the generator.

        Raises UserError where the network was built for other images.
        """
        refuse_other_images(images, self.channels, self.image_size)
        return (2 * images - 1).contiguous(memory_format=torch.channels_last)

    def on_train_start(self) -> None:
        """Forget what was on its way."""
        self._on_its_way = None  # of another run; what a resumed one needs is in the buffer

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """One step of the generator, then one of the discriminator, whose loss is returned."""
        refuse_one_image(batch.image, self)
        losses = self.losses(self.normalised(batch.image))
        of_generator, of_discriminator = self.optimizers()  # type: ignore[attr-defined]
        # A loss scaler changes its scale with every step: each loss goes back right before its own.
        for optimizer, network, loss in (
            (of_generator, self.generator, losses.generator),
            (of_discriminator, self.discriminator, losses.discriminator),
        ):
            optimizer.zero_grad()
            shared = network is self.generator  # the discriminator's part of the graph is needed once more
            self.manual_backward(loss, inputs=list(network.parameters()), retain_graph=shared)
            optimizer.step()
        if self.schedule == "cosine":
            epochs = self.current_epoch + (batch_idx + 1) / int(self.trainer.num_training_batches)
            lower_learning_rates(self.trainer.optimizers, epochs / (self.trainer.max_epochs or 1))
        self._start_anew_if_won(losses.discriminator.detach())
        size = len(batch.image)
        self.log("train/loss", losses.generator.detach(), on_step=True, on_epoch=True, sync_dist=True, batch_size=size)
        self.log_dict(
            {name: part.detach() for name, part in losses.parts.items()}, on_step=False, on_epoch=True, sync_dist=True,
            batch_size=size,
        )  # fmt: skip
        self.log(
            "discriminator/reinitialisations", self.reinitialisations.float(), on_step=False, on_epoch=True,
            reduce_fx="max", sync_dist=True, batch_size=size,
        )  # fmt: skip
        return {"discriminator": losses.discriminator.detach()}

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip, and log the norm from before."""
        of_generator = optimizer.param_groups[0]["params"][0] is next(self.generator.parameters())
        look_at_gradients(self, optimizer, "generator" if of_generator else "discriminator")

    def _start_anew_if_won(self, loss: Float[Tensor, ""]) -> None:
        """Draw the weights of a discriminator anew that has won, keep the moments of its optimizer, and count it.

        The authors ask after each step for the loss of that step. This asks for the one of the step before, whose
        number has reached the host meanwhile: no step waits for an accelerator, and a run does the same on all.
        """
        before = self.loss_not_looked_at.item() if self._on_its_way is None else self._on_its_way.number()
        if before >= WON or before != before:
            loss = self.trainer.strategy.reduce(loss.clone(), reduce_op="mean")
            self.loss_not_looked_at.copy_(loss)
            self._on_its_way = OnItsWay(loss)
            return
        initialise(self.discriminator)
        if self.trainer.world_size > 1:  # each process has drawn its own
            for parameter in self.discriminator.parameters():
                torch.distributed.broadcast(parameter.detach(), 0)
        self.reinitialisations += 1
        self.loss_not_looked_at.fill_(torch.inf)  # this step's loss is of the old weights
        self._on_its_way = None

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The loss of the generator on held-out normal images, with the running statistics of batch norm."""
        images = self.normalised(self.tiling.training_like(batch.image))
        self.log("validation/loss", self.losses(images).generator, batch_size=len(batch.image))

    def rehearse(self, images: Images) -> Float[Tensor, ""]:
        """Both losses of a step."""
        losses = self.losses(self.normalised(images))
        return losses.generator + losses.discriminator

    def samples(self, images: Images) -> Images:
        """What the generator makes of these images, in [0, 1]."""
        reconstruction = self.predict(images).reconstruction
        assert reconstruction is not None
        return reconstruction

    def statistics(self) -> Any:
        """How batch norm looks at test images: by what it has learnt, or by the batch (the code of the authors)."""
        return batch_statistics(self.generator, self.discriminator) if self.test_batchnorm == "batch" else nullcontext()

    @property
    def export_obstacle(self) -> str | None:
        """An answer that depends on the images beside it."""
        if self.test_batchnorm == "running":
            return None
        return (
            "with method.test_batchnorm=batch an answer depends on the images beside it; only running can be exported"
        )

    def configure_optimizers(self) -> Any:
        """Adam, 2e-4, beta1 0.5 for each network, constant; `schedule=cosine` falls to zero over the run."""
        return [self.optimizer(network.parameters()) for network in (self.generator, self.discriminator)]


class GANomaly(Adversarial):
    """The distance of the two codes is the score, the reconstruction error at each pixel the map."""

    generator: Generator

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
        encoder_weight: NonNegativeFloat = 1.0,
        score: Literal["latent", "map"] = "latent",
        test_batchnorm: Literal["running", "batch"] = "running",
        schedule: Literal["constant", "cosine"] = "constant",
        gradient_clip: PositiveFloat | None = None,
        log_gradient_norms: bool = False,
    ) -> None:
        super().__init__(
            Generator(image_size, channels, latent_size, width), Discriminator(image_size, channels, width),
            image_size, channels, optimizer, tiling, test_batchnorm, schedule, gradient_clip, log_gradient_norms,
        )  # fmt: skip
        self.weights = adversarial_weight, contextual_weight, encoder_weight
        self.score = score

    def losses(self, images: Images) -> Losses:
        """Paper, equations 1 to 4; the weights of the code.

        The generator is to match features of the discriminator, the image, and its own code. The discriminator is to
        tell images from reconstructions; half the sum, 0.693 where it cannot.
        """
        reconstructions, codes, codes_again = self.generator(images)
        real, real_features = self.discriminator(images)
        fake, fake_features = self.discriminator(reconstructions)

        adversarial = (real_features.float() - fake_features.float()).square().mean()
        contextual = (images - reconstructions.float()).abs().mean()
        encoder = (codes.float() - codes_again.float()).square().mean()
        parts = zip(self.weights, (adversarial, contextual, encoder), strict=True)
        on_real, on_fake = cross_entropy(real, True), cross_entropy(fake, False)
        return Losses(
            sum((weight * part for weight, part in parts), torch.zeros_like(contextual)),
            (on_real + on_fake) / 2,
            {
                "generator/adversarial": adversarial, "generator/contextual": contextual, "generator/encoder": encoder,
                "discriminator/real": on_real, "discriminator/fake": on_fake,
            },
        )  # fmt: skip

    def predict(self, images: Images) -> Prediction:
        """Map: the absolute difference in [-1, 1], averaged over the channels (the paper has none).

        Score: the mean squared difference of the codes, or with `score=map` the default one of the map.
        """
        images = self.normalised(images)
        with self.statistics():
            codes = self.generator.encoder(images)
            reconstructions = self.generator.decoder(codes)
            score = None
            if self.score == "latent":
                score = (codes - self.generator.second_encoder(reconstructions)).square().mean(dim=(1, 2, 3))
        difference = (images - reconstructions).abs().mean(dim=1, keepdim=True)
        return Prediction(difference, score, (reconstructions + 1) / 2)

    def embed(self, images: Images) -> Float[Tensor, "batch feature"]:
        """The code of each image, for a map of them."""
        with self.statistics():
            return self.generator.encoder(self.normalised(images)).flatten(1)


class OnItsWay:
    """A number that an accelerator copies to the host while it works on."""

    def __init__(self, value: Float[Tensor, ""]) -> None:
        self._value = value.to("cpu", non_blocking=value.is_cuda)
        self._arrived = torch.cuda.Event() if value.is_cuda else None
        if self._arrived is not None:
            self._arrived.record()

    def number(self) -> float:
        """The number, once it is there."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._value.item()
