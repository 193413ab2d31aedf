"""CAVGA: a variational autoencoder that is trained to look at all of a good image; a defect is where it does not look.

Venkataramanan, Peng, Singh, Mahalanobis: Attention Guided Anomaly Localization in Images, ECCV 2020. Attention is
Grad-CAM of the code on the last maps of the encoder. CAVGA-u knows good images alone. CAVGA-w, the form with some
labelled defective images (`data.labelled_abnormal`), looks for the class `good` instead of for the code.

The authors have published no code, and many of its readers cite it without having run it. Sizes and settings here are
those of the paper as far as it gives them.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from anomaly_lab.core.errors import UserError
from anomaly_lab.core.types import Batch, Images, Prediction
from anomaly_lab.functional.attention import grad_cam
from anomaly_lab.methods.base.adversarial import AdversarialMethod, Turn, residual_map, unsigned
from anomaly_lab.methods.base.method import Scalar
from anomaly_lab.methods.ganomaly import Discriminator
from anomaly_lab.networks.backbone import Backbone
from anomaly_lab.networks.dcgan import Decoder, ImageSize, cross_entropy, initialise, trunk
from anomaly_lab.networks.latent import GaussianHead, kl_to_standard_normal, sample

Features = Float[Tensor, "batch feature rows columns"]
Codes = Float[Tensor, "batch latent _ _"]
Maps = Float[Tensor, "batch 1 rows columns"]
GOOD, DEFECTIVE = 0, 1  # the classes, as labels are
NARROWEST = 8  # channels of the residual decoder


class Autoencoder(nn.Module):
    """Images in [0, 1] to features, features to a Gaussian of codes, codes to the logits of images."""

    encoder: nn.Module
    head: GaussianHead
    decoder: nn.Module
    classifier: nn.Linear | None  # of CAVGA-w

    @abstractmethod
    def features(self, images: Images) -> Features:
        """The last maps of the encoder, in full precision."""

    def codes(self, features: Features) -> tuple[Codes, Codes]:
        """Mean and log variance of the code of each image, at every place of its maps or once."""
        mean, log_variance = self.head(features)
        return mean.float(), log_variance.float()

    def decode(self, codes: Codes) -> Images:
        """Logits of images in [0, 1]."""
        return self.decoder(codes).float()


class ResidualAutoencoder(Autoencoder):
    """CAVGA-R: a ResNet, a code at every place, and residual blocks that double the side and halve the channels."""

    def __init__(self, backbone: Backbone, image_size: PositiveInt, channels: int, latent_size: PositiveInt) -> None:
        super().__init__()
        self.encoder = backbone
        self.head = GaussianHead(backbone.channels[-1], latent_size, 1)
        reduction = backbone.reductions[-1]
        if image_size % reduction or reduction & (reduction - 1):
            raise UserError(
                f"data.image_size: expected a multiple of {reduction} px, which a place of "
                f"method.backbone.layers={list(backbone.layers)} covers, found {image_size}"
            )
        halved = (max(NARROWEST, latent_size >> step) for step in range(1, reduction.bit_length()))
        widths = [latent_size, *halved]
        blocks = [ResidualBlock(*pair) for pair in pairwise(widths)]
        self.decoder = nn.Sequential(*blocks, nn.Conv2d(widths[-1], channels, 3, 1, 1))

    def features(self, images: Images) -> Features:
        """The maps of the deepest layer."""
        return self.encoder(images)[-1].float()


class ResidualBlock(nn.Module):
    """Twice the side by the nearest place, then two convolutions beside one of 1 x 1, as in BigGAN."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Upsample(scale_factor=2),
            nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, 1, 1),
        )
        self.skip = nn.Sequential(nn.Conv2d(inputs, outputs, 1), nn.Upsample(scale_factor=2))

    def forward(self, maps: Features) -> Float[Tensor, "batch output twice_rows twice_columns"]:
        """The sum of both."""
        return self.body(maps) + self.skip(maps)


class ConvolutionalAutoencoder(Autoencoder):
    """CAVGA-D: discriminator and generator of the DCGAN, with one code for the whole image."""

    def __init__(
        self, image_size: ImageSize, channels: Literal[1, 3], latent_size: PositiveInt, width: PositiveInt
    ) -> None:
        super().__init__()
        self.encoder = trunk(image_size, channels, width)
        self.head = GaussianHead(width * image_size // 8, latent_size, 4)
        self.decoder = Decoder(image_size, channels, latent_size, width).layers[:-1]  # logits, no tanh
        initialise(self)

    def features(self, images: Images) -> Features:
        """4 x 4 places."""
        return self.encoder(2 * images - 1).float()


class CAVGA(AdversarialMethod):
    """Where the network does not look is defective: the map is 1 - A, with attention A in (0, 1) at every place.

    `backbone`: the encoder of CAVGA-R, whose weights are trained on; null: CAVGA-D, of `width` channels after the
    first convolution. `map=residual`: the absolute difference instead of the attention. The score is the mean of that
    difference, or with `score=map` the default one of the map.

    The paper scales the scores of the test to [0, 1] and calls an image defective above 0.5. That needs the test set,
    so it is reported as `oracle_cavga_*` and decides nothing. Pixels are defective above 0.5 (`threshold=own`).

    Decisions, where the paper is silent or at odds with itself:

    - A is the logistic function of `gain` times Grad-CAM without its ReLU: with both A was never below .5, and the
      published threshold would never be passed. The number whose gradient is taken is the sum of the mean code by the
      root of its channels: the sum alone is so large that A is 0 or 1 from the start, whatever the image.
    - Cross entropy and divergence are divided by the number of values of an image. With their sums the weight of the
      attention, .01, would be that of nothing. The published weight of the discriminator, 1, is then too large: it
      wins, and the map is the same for every photo (experiments/borders). Ours is .01.
    - The autoencoder wants its images taken for real. The loss that the paper prints adds that of the discriminator to
      it, and would help the discriminator.
    - The networks against each other start from DCGAN's random weights; those of CelebA, the paper's, are not public
      (`substitutes`).
    - CAVGA-w: the classes are told apart from the mean code, and all images are reconstructed.

    The attention is computed as a gradient, which is not exported. The code is linear in the last maps, so that it is
    one mixture of their channels for all images. `threshold=own` draws the line of the attention: `map=residual` has
    none, and `score=map` has no `oracle_cavga_*`.

    `autoencoder/attention` has to rise; where `attention_deviation` is zero, it is the same everywhere.

    Raises UserError for a frozen backbone.
    """

    labelled: ClassVar = True
    own_line: ClassVar[float | None] = 0.5
    own_line_for: ClassVar = {"map": "attention"}
    scaled_line: float | None = 0.5
    leaders = ("autoencoder",)

    def __init__(
        self,
        image_size: ImageSize,
        channels: Literal[1, 3],
        backbone: Backbone | None,
        latent_size: PositiveInt = 128,
        width: PositiveInt = 64,
        adversarial_weight: NonNegativeFloat = 0.01,
        attention_weight: NonNegativeFloat = 0.01,
        classification_weight: NonNegativeFloat = 0.001,
        gain: PositiveFloat = 1.0,
        score: Literal["residual", "map"] = "residual",
        map: Literal["attention", "residual"] = "attention",
        labelled: bool = False,
        **training: Any,
    ) -> None:
        super().__init__(**training)
        if backbone is not None and not backbone.trainable:
            raise UserError(
                "method.backbone.fine_tuned: expected true, because the encoder is what learns where to look, found "
                "false; method.backbone=null has an encoder of its own"
            )
        self.image_size, self.channels = image_size, channels
        self.adversarial_weight, self.attention_weight = adversarial_weight, attention_weight
        self.classification_weight = classification_weight
        self.gain, self.score, self.map = gain, score, map
        if score == "map":
            self.scaled_line = None
        if backbone is None:
            self.autoencoder: Autoencoder = ConvolutionalAutoencoder(image_size, channels, latent_size, width)
            places = 1
        else:
            self.autoencoder = ResidualAutoencoder(backbone, image_size, channels, latent_size)
            places = (image_size // backbone.reductions[-1]) ** 2
        self.autoencoder.classifier = nn.Linear(latent_size * places, 2) if labelled else None
        self.discriminator = Discriminator(image_size, channels, width)
        initialise(self.discriminator)
        for network in (self.autoencoder, self.discriminator):
            network.to(memory_format=torch.channels_last)  # faster on a CPU, and in half precision on a GPU
        self._defective: Bool[Tensor, " batch"] | None = None  # images of the step at hand

    @property
    def substitutes(self) -> Sequence[str]:
        """What the networks against each other start from."""
        encoder = "" if isinstance(self.autoencoder, ResidualAutoencoder) else "encoder, "
        return [f"{encoder}decoder and discriminator: random weights; published: those of a training on CelebA"]

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Scalar]:
        """A step that knows which images are defective."""
        self._defective = batch.label == DEFECTIVE
        return super().training_step(batch, batch_idx)

    def turns(self, images: Images, stage: int, step: int, random: torch.Generator) -> Iterator[Turn]:
        """Sections 3.1 to 3.3. A discriminator that can tell nothing has a loss of 1.386."""
        photos = unsigned(images)
        features = self.autoencoder.features(photos)
        mean, log_variance = self.autoencoder.codes(features)
        noise = self.random_rows(torch.randn, *mean.shape, random=random)
        logits = self.autoencoder.decode(sample(mean, log_variance, noise))
        made = 2 * logits.sigmoid() - 1

        parts = {
            "reconstruction": functional.binary_cross_entropy_with_logits(logits, photos),
            "kl": kl_to_standard_normal(mean, log_variance).mean() / images[0].numel(),
            "adversarial": cross_entropy(self.discriminator(made)[0], True),
        }
        loss = parts["reconstruction"] + parts["kl"] + self.adversarial_weight * parts["adversarial"]
        guided, found = self.guidance(features, mean)
        yield Turn("autoencoder", loss + guided, parts | found)

        real, fake = (cross_entropy(self.discriminator(x)[0], x is images) for x in (images, made.detach()))
        yield Turn("discriminator", real + fake, {"real": real, "fake": fake})

    def guidance(self, features: Features, mean: Codes) -> tuple[Scalar, dict[str, Scalar]]:
        """The weighted losses of attention and classes, and what is logged of them."""
        classify = self.autoencoder.classifier
        if classify is None:
            attention = self.attention(features, self.looked_for(mean), create_graph=True)
            loss = self.attention_weight * (1 - attention).mean()
            return loss, {"attention": attention.mean(), "attention_deviation": attention.std()}
        logits = classify(mean.flatten(1)).float()
        labels = torch.zeros(len(mean), dtype=torch.int64, device=mean.device)
        labels = labels if self._defective is None else self._defective.long()
        good, bad = (self.attention(features, logits[:, kind], create_graph=True) for kind in (GOOD, DEFECTIVE))
        complementary = (1 - good + bad).mean(dim=(1, 2, 3)) * ((labels == GOOD) & (logits.argmax(dim=1) == GOOD))
        classes = functional.cross_entropy(logits, labels)
        loss = self.attention_weight * complementary.mean() + self.classification_weight * classes
        spread = {"attention": good.mean(), "attention_deviation": good.std()}
        return loss, {"classes": classes, "complementary": complementary.mean(), **spread}

    def looked_for(self, mean: Codes) -> Float[Tensor, " batch"]:
        """A number of each mean code: of CAVGA-R's, if they were drawn from the prior, it varies by 1 a place."""
        return mean.flatten(1).sum(dim=1) / mean.shape[1] ** 0.5

    def attention(self, features: Features, numbers: Float[Tensor, " batch"], create_graph: bool = False) -> Maps:
        """Where a number of each image comes from, in (0, 1)."""
        return (self.gain * grad_cam(features, numbers, rectify=None, create_graph=create_graph)).sigmoid()

    def validation_losses(self, images: Images, stage: int, random: torch.Generator) -> dict[str, Scalar]:
        """The cross entropy of the mean codes' reconstructions."""
        photos = unsigned(images)
        logits = self.autoencoder.decode(self.autoencoder.codes(self.autoencoder.features(photos))[0])
        return {"loss": functional.binary_cross_entropy_with_logits(logits, photos)}

    def predict(self, images: Images) -> Prediction:
        """Map, score and the reconstruction of the mean code."""
        if self.map == "attention":
            return self.attended(images)
        return self.compared(images, self.autoencoder.codes(self.autoencoder.features(images))[0])

    def compared(self, images: Images, mean: Codes) -> Prediction:
        """The difference of the images from what their mean codes decode to, with the score."""
        made = self.autoencoder.decode(mean).sigmoid()
        difference = residual_map(images, made, "l1")
        score = difference.mean(dim=(1, 2, 3)) if self.score == "residual" else None
        return Prediction(difference, score, made)

    @torch.inference_mode(False)  # the test loop forbids gradients
    def attended(self, images: Images) -> Prediction:
        """The same with the map of the attention: one backward pass, for all images at once."""
        with torch.no_grad():
            features = self.autoencoder.features(images.clone())
        with torch.enable_grad():
            mean, _ = self.autoencoder.codes(features.requires_grad_())
            classify = self.autoencoder.classifier
            numbers = self.looked_for(mean) if classify is None else classify(mean.flatten(1))[:, GOOD]
            attention = self.attention(features, numbers).detach()
        with torch.no_grad():
            return self.compared(images, mean)._replace(anomaly_map=1 - attention)

    @property
    def export_obstacle(self) -> str | None:
        """The gradient."""
        return "its map is a gradient; method.map=residual needs none" if self.map == "attention" else None

    def samples(self, images: Images) -> Images | None:
        """Reconstructions in [0, 1]."""
        return self.predict(images).reconstruction

    def embed(self, images: Images) -> Float[Tensor, "batch feature"]:
        """The mean code of each image, averaged over its places."""
        return self.autoencoder.codes(self.autoencoder.features(images))[0].mean(dim=(2, 3))
