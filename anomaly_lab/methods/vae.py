"""Variational autoencoder, with two maps that others made of it.

Kingma, Welling: Auto-Encoding Variational Bayes, ICLR 2014. An autoencoder whose code is a Gaussian, which must stay
near N(0, 1), so that it knows what a normal image looks like and how likely it is.

`map=projection` is gamma-VAE-grad: Dehaene, Frigo, Combrexelle, Eline: Iterative Energy-Based Projection on a Normal
Data Manifold for Anomaly Localization, ICLR 2020. `map=attention` is ADVAE: Liu, Li, Zheng, Karanam, Wu, Bhanu, Radke,
Camps: Towards Visually Explaining Variational Autoencoders, CVPR 2020. Both are history: ADVAE is cited as the first
attention of a VAE, and gamma-VAE-grad stands in tables of its time.
"""

import math
from collections.abc import Iterable
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from anomaly_lab.core.errors import UserError
from anomaly_lab.core.types import Batch, Images, Prediction
from anomaly_lab.data.noise import batch_keys, normal, row_keys
from anomaly_lab.functional.attention import Rectify, grad_cam
from anomaly_lab.functional.projection import misfits, project
from anomaly_lab.methods.base.gradient import GradientMethod
from anomaly_lab.methods.base.method import OptimizerFactory, Scalar
from anomaly_lab.methods.base.schedule import Schedule
from anomaly_lab.methods.base.tiling import Tiling
from anomaly_lab.networks.autoencoder import GaussianAutoencoder
from anomaly_lab.networks.latent import kl_to_standard_normal, sample

Codes = Float[Tensor, "batch latent 1 1"]
Maps = Float[Tensor, "batch 1 _ _"]

LEAST = -10.0  # of the logarithm of gamma: residuals of 1.7 gray levels
UNIT = 10.0  # Adam moves a weight by its rate; the logarithm of gamma, which has a long way to go, by ten times that
ACTIVE = 0.01  # least variance of a mean code over the images of a batch that counts as used


class VAE(GradientMethod):
    """An autoencoder with a Gaussian of codes; tests and pictures take its mean.

    - `likelihood`: `gaussian`, the squared difference by twice the variance `gamma`, plus half its logarithm; null: one
      `gamma` for all pixels is learnt, and not below e^-10. `bernoulli`: cross entropy, the output is logits. The
      variance of a code is not limited: where it overflows, the loss is infinite, and the run ends with that reason.
    - `score`: `map`; `elbo`, what is descended, at the mean code and with the KL divergence unweighted; `kl`, that
      alone, in nats an image. The mean likelihood of ten draws (An and Cho, 2015) is not offered: the same image would
      have another score each time, or noise of its own.
    - `map`: `residual`, the squared difference. `projection`, the absolute difference from what `search_steps` of
      gradient descent make of the image (`functional/projection.py`); an image is done at the smallest residual of the
      training images. `attention`: Grad-CAM of the sum of the mean code on 16 x 16 places, of small images on a quarter
      of the side. `rectify`: the authors' code takes the absolute value, the paper what is positive. The paper
      subtracts the mean code of the training images, which has no gradient, and draws the code, where we take the mean;
      the code divides each gradient by its size: not done here.

    The papers sum over pixels. Here loss and `elbo` are divided by the number of values of an image, the KL divergence
    as well: the same optimum, at sizes that do not depend on the image.

    Raises UserError where logits would pass a sigmoid of the network, and for a variance of them.
    """

    least_misfit: Tensor

    def __init__(
        self,
        network: GaussianAutoencoder,
        optimizer: OptimizerFactory,
        tiling: Tiling,
        schedule: Schedule = "constant",
        likelihood: Literal["gaussian", "bernoulli"] = "gaussian",
        gamma: Annotated[float, Field(ge=5e-5)] | None = None,
        beta: NonNegativeFloat = 1.0,
        score: Literal["map", "elbo", "kl"] = "map",
        map: Literal["residual", "projection", "attention"] = "residual",
        search_steps: PositiveInt = 25,
        search_rate: PositiveFloat = 0.5,
        search_weight: NonNegativeFloat = 0.05,
        rectify: Rectify = "abs",
        seed: NonNegativeInt = 0,
    ) -> None:
        super().__init__(tiling, optimizer, schedule)
        if likelihood == "bernoulli" and isinstance(network.decoder[-1], nn.Sigmoid):
            raise UserError(
                "method.network.output: expected linear, for the logits of method.likelihood=bernoulli, found sigmoid"
            )
        if likelihood == "bernoulli" and gamma is not None:
            raise UserError(f"method.gamma: expected null, because logits have no variance, found {gamma}")
        self.network = network
        self.likelihood, self.beta = likelihood, beta
        start = torch.tensor(0.0 if gamma is None else math.log(gamma) / UNIT)
        self.exponent = nn.Parameter(start, requires_grad=likelihood == "gaussian" and gamma is None)
        self.score, self.map = score, map
        self.search_steps = search_steps if map == "projection" else 0
        self.search_rate, self.search_weight = search_rate, search_weight
        self.rectify: Rectify = rectify
        self.seed = seed
        self.register_buffer("least_misfit", torch.zeros(()))

    @property
    def log_gamma(self) -> Scalar:
        """The logarithm of the variance of a pixel."""
        return UNIT * self.exponent

    def decode(self, codes: Codes) -> Images:
        """What the decoder gives: images, or their logits."""
        return self.network.decoder(codes).float()

    def restored(self, outputs: Images) -> Images:
        """Images of the decoder's outputs."""
        return outputs if self.likelihood == "gaussian" else outputs.sigmoid()

    def cost(self, images: Images, outputs: Images) -> Float[Tensor, " batch"]:
        """Negative log-likelihood of each image by value, without the constant of a Gaussian."""
        if self.likelihood == "bernoulli":
            costs = functional.binary_cross_entropy_with_logits(outputs, images, reduction="none")
            return costs.flatten(1).mean(dim=1)
        return misfits(images, outputs) / images[0].numel() / (2 * self.log_gamma.exp()) + self.log_gamma / 2

    def losses(self, batch: Batch) -> dict[str, Scalar]:
        """What an image costs with its code and without, by value; the divergence by image; how many codes are used.

        The noise of an image follows from its row in the epoch, that of a held-out image from its number alone: neither
        batches nor processes change anything. The used codes are counted in training alone: the few held-out images say
        nothing, and a single one calls every code unused.
        """
        images = batch.image
        mean, log_variance = self.network.encode(images)
        noise = normal(batch_keys(self.seed, self.current_epoch, batch), mean.shape[1])
        outputs = self.decode(sample(mean, log_variance, noise.view_as(mean)))
        cost, kl = self.cost(images, outputs).mean(), kl_to_standard_normal(mean, log_variance).mean()
        found = {"loss": cost + self.beta * kl / images[0].numel(), "cost": cost, "kl": kl}
        if self.training:
            found["active_units"] = (mean.detach().var(dim=0, correction=0) > ACTIVE).float().sum()
        return found

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Bring back a gamma that the step has moved below the least."""
        with torch.no_grad():
            self.exponent.clamp_(min=LEAST / UNIT)

    def conclude(self, images: Iterable[Batch]) -> None:
        """The smallest residual of the training images, at which a projection stops."""
        if self.map != "projection":
            return
        seen = (self.tiling.training_like(batch.image) for batch in images)
        self.least_misfit.copy_(torch.stack([misfits(x, self.reconstruct(x)).amin() for x in seen]).amin())

    def reconstruct(self, images: Images) -> Images:
        """What the mean codes of the images decode to."""
        return self.restored(self.decode(self.network.encode(images)[0]))

    def predict(self, images: Images) -> Prediction:
        """Map, score and reconstruction of the mean code; with `projection` the picture is what the image became."""
        mean, log_variance = self.network.encode(images)
        outputs = self.decode(mean)
        made, kl = self.restored(outputs), kl_to_standard_normal(mean, log_variance)
        elbo = self.cost(images, outputs) + kl / images[0].numel()
        match self.map:
            case "residual":
                anomaly_map = (images - made).square().mean(dim=1, keepdim=True)
            case "projection":
                made = self.projected(images)
                anomaly_map = (images - made).abs().mean(dim=1, keepdim=True)
            case "attention":
                anomaly_map = self.attention(images)
        score = {"map": None, "elbo": elbo, "kl": kl}[self.score]
        return Prediction(anomaly_map, score, made.clamp(0, 1))

    @torch.inference_mode(False)  # the test loop forbids gradients
    @torch.enable_grad()
    def projected(self, images: Images) -> Images:
        """The images after the search."""
        search = self.search_steps, self.search_rate, self.search_weight
        return project(images.clone(), self.reconstruct, *search, self.least_misfit)

    @torch.inference_mode(False)
    @torch.enable_grad()
    def attention(self, images: Images) -> Maps:
        """What the mean code of each image looks at, 16 x 16 places; of small images a quarter of the side."""
        layers, attended = self.network.encoder, self.network.attended
        with torch.no_grad():
            features = layers[:attended](images.clone())
        mean, _ = layers[attended:](features.requires_grad_())
        return grad_cam(features, mean.flatten(1).sum(dim=1), self.rectify)

    @property
    def export_obstacle(self) -> str | None:
        """The gradients."""
        if self.map == "residual":
            return None
        why = "is a gradient" if self.map == "attention" else f"takes {self.search_steps} gradient steps"
        return f"its map {why}; method.map=residual needs none"

    def embed(self, images: Images) -> Float[Tensor, "batch feature"]:
        """The mean code of each image."""
        return self.network.encode(images)[0].flatten(1)

    def samples(self, images: Images) -> Images:
        """As many images of codes from N(0, 1), always the same."""
        mean, _ = self.network.encode(images)
        keys = row_keys(self.seed, 0, torch.arange(len(images), device=images.device))
        return self.restored(self.decode(normal(keys, mean.shape[1]).view_as(mean))).clamp(0, 1)
