"""Deep SVDD: Ruff, Vandermeulen, Görnitz, Deecke, Siddiqui, Binder, Müller, Kloft: Deep One-Class Classification, 2018.

A network maps good images near a point; what lies far from it is abnormal. It starts as the encoder of an
autoencoder, and nothing in it has a bias, so that it cannot simply ignore the image. ICML 2018; layers, schedule and
losses are those of the authors' code. Deep SAD (Ruff et al., ICLR 2020) pushes labelled abnormal images away.

Every library of one-class methods has it. It answers whether an image shows another kind of thing; we know of no good
figure for small defects. Compare it with `method=control`, whose principal components are close on digits.
"""

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, ClassVar, Literal, cast

import torch
from jaxtyping import Bool
from pydantic import Field, NonNegativeInt, PositiveFloat
from torch import Tensor, nn

from anomaly_lab.core.errors import UserError
from anomaly_lab.core.types import Batch, Images, Prediction
from anomaly_lab.functional import hypersphere
from anomaly_lab.methods.base.adversarial import AdversarialMethod, Codes, PerImage, Turn
from anomaly_lab.methods.base.method import OptimizerFactory, Scalar, evaluating
from anomaly_lab.networks.contrast import Contrast
from anomaly_lab.networks.lenet import ImageSize, decoder, encoder, latent_size


class DeepSVDD(AdversarialMethod):
    """The squared distance of an image's code from a centre c: one number an image, and no map.

    The first `pretraining_epochs` epochs (None: half of them; 0: none) train an autoencoder. Then c becomes the mean
    code of the good training images, as the test sees them, and stays; the encoder is trained with an optimizer of its
    own, and the decoder is left alone.

    - `boundary=hard`: the mean squared distance (equation 4). `soft`: all images within a radius R cost nothing
      (equation 3), and R^2 is subtracted from the score. R is 0 for `warm_up_epochs`, then after every step the
      quantile 1 - `nu` of the distances of the batch.
    - `labelled`: an abnormal image costs `eta` divided by its squared distance (Deep SAD). Good images are unlabelled
      ones of that paper, and c is a mean over them alone; its code has the abnormal ones in it.

    Networks above 32 px are ours. Images are normalised as in Deep SVDD (`networks/contrast.py`), with a range that
    is computed from the training images; the code of Deep SAD leaves images as they are.

    Raises UserError for labelled images with a soft boundary, and where no epoch is left behind the pretraining.
    """

    version: ClassVar = 1
    localises = False
    labelled: ClassVar = True
    control_untrained: ClassVar = True
    rates: ClassVar[tuple[str, ...]] = ("pretraining_optimizer", "optimizer")
    stages = ("pretraining", "one class")
    leaders = ("autoencoder", "encoder")
    image_size: ImageSize
    channels: Literal[1, 3]

    centre: Tensor
    radius: Tensor

    def __init__(
        self,
        image_size: ImageSize,
        channels: Literal[1, 3],
        pretraining_optimizer: OptimizerFactory,
        pretraining_epochs: NonNegativeInt | None = None,
        boundary: Literal["hard", "soft"] = "hard",
        nu: Annotated[float, Field(gt=0, lt=1)] = 0.1,
        warm_up_epochs: NonNegativeInt = 10,
        eta: PositiveFloat = 1.0,
        labelled: bool = False,
        **training: Any,
    ) -> None:
        super().__init__(**training)
        if labelled and boundary == "soft":
            raise UserError(
                "method.boundary: expected hard with data.labelled_abnormal, as Deep SAD knows no other, found soft"
            )
        self.image_size, self.channels = image_size, channels
        self.pretraining_optimizer, self.pretraining_epochs = pretraining_optimizer, pretraining_epochs
        self.boundary, self.nu, self.warm_up_epochs, self.eta = boundary, nu, warm_up_epochs, eta
        self.contrast = Contrast()
        self.encoder, self.decoder = encoder(image_size, channels), decoder(image_size, channels)
        self.register_buffer("centre", torch.zeros(latent_size(image_size)))  # as long as there is none
        self.register_buffer("radius", torch.zeros(()))
        self._centred = False  # whether this process has asked for the centre
        self._abnormal: Bool[Tensor, " batch"] | None = None  # images of the step at hand

    def networks(self) -> dict[str, nn.Module]:
        """The encoder is in both: each stage has an optimizer."""
        return {"autoencoder": nn.ModuleList([self.encoder, self.decoder]), "encoder": self.encoder}

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """One for each stage."""
        autoencoder, encoding = self.networks().values()
        return [self.pretraining_optimizer(autoencoder.parameters()), self.optimizer(encoding.parameters())]

    def prepare(self, images: Iterable[Batch]) -> None:
        """The range of the training images."""
        self.contrast.learn(self.tiling.training_like(batch.image) for batch in images)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Scalar]:
        """A step that knows which images are abnormal."""
        self._abnormal = batch.label == 1
        return super().training_step(batch, batch_idx)

    def turns(self, images: Images, stage: int, step: int, random: torch.Generator) -> Iterator[Turn]:
        """The autoencoder; later the encoder, and then the radius."""
        if stage == 0:
            yield Turn("autoencoder", self.reconstruction_loss(images), {})
            return
        distances = self.distances(images)
        loss = self.one_class_loss(distances, self._abnormal)
        soft = self.boundary == "soft"
        yield Turn("encoder", loss, {"distance": distances.mean()} | ({"radius": self.radius} if soft else {}))
        if soft and self.current_epoch - self.stage_ends()[0] >= self.warm_up_epochs:
            of_all = cast(Tensor, self.all_gather(distances.detach()))  # each process has its share of the batch
            self.radius.copy_(hypersphere.radius(of_all.flatten(), self.nu))

    def reconstruction_loss(self, images: Images) -> Scalar:
        """The squared difference of the normalised images, summed over their values."""
        shown = self.contrast(images)
        reconstructions = self.decoder(self.encoder(shown)).float()
        return (shown - reconstructions).square().flatten(1).sum(dim=1).mean()

    def distances(self, images: Images) -> PerImage:
        """The squared distance of each image from the centre, in full precision."""
        return hypersphere.squared_distances(self.encode(images), self.centre)

    def encode(self, images: Images) -> Codes:
        """The code of each image, whatever its range."""
        return self.encoder(self.contrast(images)).float()

    def one_class_loss(self, distances: PerImage, abnormal: Bool[Tensor, " batch"] | None = None) -> Scalar:
        """Equation 3 or 4 of Deep SVDD, or the loss of Deep SAD."""
        if self.boundary == "soft":
            return hypersphere.soft_boundary_loss(distances, self.radius, self.nu)
        if abnormal is None:
            return distances.mean()
        return hypersphere.semi_supervised_loss(distances, abnormal, self.eta)

    def validation_losses(self, images: Images, stage: int, random: torch.Generator) -> dict[str, Scalar]:
        """The loss of the stage."""
        return {"loss": self.one_class_loss(self.distances(images)) if stage else self.reconstruction_loss(images)}

    def predict(self, images: Images) -> Prediction:
        """The squared distance, less R^2 of a soft boundary."""
        score = self.distances(self.signed(images)) - self.radius.square()
        return Prediction(score[:, None, None, None], score, None)

    def embed(self, images: Images) -> Codes:
        """The code of each image."""
        return self.encode(images)

    # Stages.

    def stage_ends(self) -> tuple[int, int]:
        """The last epochs are those of the one-class loss."""
        epochs = self.trainer.max_epochs or 0
        return self._pretraining(epochs), epochs

    def _pretraining(self, epochs: int) -> int:
        return epochs // 2 if self.pretraining_epochs is None else self.pretraining_epochs

    def check_training(self, epochs: int, painted: bool) -> None:
        """Refuse a training that pretrains only, and a soft boundary that stays without a radius."""
        first = self._pretraining(epochs)
        if self.boundary == "soft" and epochs - first <= self.warm_up_epochs:
            raise UserError(
                f"method.warm_up_epochs: expected fewer than the {epochs - first} epochs of the one-class loss, so "
                f"that the soft boundary gets a radius, found {self.warm_up_epochs}"
            )
        if first >= epochs:
            raise UserError(
                f"method.pretraining_epochs: expected at most {epochs - 1}, so that some of the {epochs} of "
                f"budget.epochs are left for the one-class loss, found {first}"
            )

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Fix the centre before the first step of the second stage."""
        if self.stage == 0 or self._centred:
            return
        self._centred = True
        with evaluating(self), torch.no_grad():
            self.conclude(self.training_images())

    def conclude(self, images: Iterable[Batch]) -> None:
        """The centre, where there is none: before the second stage, or of a network that is not trained."""
        if not self.centre.any():  # a resumed run has it; it is never zero
            codes = [self.encode(self.tiling.training_like(batch.image)) for batch in images]
            self.centre.copy_(hypersphere.centre(torch.cat(codes)))
