"""Networks that tell how an image was transformed, and that are at a loss with objects that they do not know.

GEOM: Golan and El-Yaniv, Deep Anomaly Detection Using Geometric Transformations, NeurIPS 2018. `objective=separate`:
Hendrycks, Mazeika, Kadavath and Song, Using Self-Supervised Learning Can Improve Model Robustness and Uncertainty,
NeurIPS 2019. `objective=triplet` is GOAD: Bergman and Hoshen, Classification-Based Anomaly Detection for General Data,
ICLR 2020.

They answer whether an image shows another kind of object (`data=one_class`), not whether a part has a defect.
"""

import math
from collections.abc import Iterable
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from anomaly_lab.core.errors import UserError
from anomaly_lab.core.types import Batch, Images, Prediction
from anomaly_lab.data.noise import batch_keys, uniform
from anomaly_lab.functional.dirichlet import concentrations
from anomaly_lab.functional.transformations import STATES, Kinds, combinations, refuse_repeated, transformed
from anomaly_lab.methods.base.gradient import GradientMethod, summed
from anomaly_lab.methods.base.method import OptimizerFactory, Scalar
from anomaly_lab.methods.base.schedule import Schedule
from anomaly_lab.methods.base.tiling import Tiling
from anomaly_lab.networks.projected_rows import ProjectedRows
from anomaly_lab.networks.wide_resnet import WideResNet

Features = Float[Tensor, "transformation batch feature"]
Logarithms = Float[Tensor, "transformation batch guess"]

LEAST = math.log(1e-12)  # of the logarithm of a probability


class TransformationClassifier(GradientMethod):
    """A network and a linear layer that guess the transformation of an image among all combinations of some `kinds`.

    - `objective`: `joint`, cross-entropy of the combination (GEOM). `separate`, the mean of the cross-entropies of the
      kinds, each guessed alone. `triplet`, cross-entropy of the combination, `triplet_weight` times how far features
      are from the batch mean of their own transformation beyond that of the next one less `margin`, and `norm_weight`
      times the mean square of the features (GOAD; the code's, whose block applies a convolution twice: not here).
    - `copies` of an image in a step, of so many of its transformations; null: of all, as `triplet` needs them.
    - `score`, a mean over all transformations of an image, negative: `probability`, that of the right guess;
      `log_probability`, its logarithm; `dirichlet`, how likely all guesses are under a Dirichlet distribution of those
      of the training images (GEOM, section 4.2); `distance`, the logarithm of the probability that follows from the
      squared distances between the features and their means over the training images, as the network sees these at the
      end (GOAD; the code takes means over the last epoch, while weights still change, and gives squared distances a
      small floor).

    Probabilities count as 10^-12 at least. Images are not augmented: flips and turns are what is learnt.

    Rows of a table (`data=table`) have random `projections`, with a network of their own, instead of `network` and
    `kinds` (GOAD, section 4; `experiment=goad_table`).

    Raises UserError for a score that the objective does not give, for both networks or none, and for fewer than two
    training images.
    """

    reads: ClassVar[tuple[str, ...]] = ("photos", "tables")
    augmented = False
    localises = False
    fewest = 2  # a distribution

    states: Tensor
    order: Tensor
    alpha: Tensor
    centres: Tensor

    def __init__(
        self,
        network: WideResNet | None,
        optimizer: OptimizerFactory,
        tiling: Tiling,
        kinds: Kinds,
        schedule: Schedule = "constant",
        objective: Literal["joint", "separate", "triplet"] = "joint",
        score: Literal["probability", "log_probability", "dirichlet", "distance"] = "dirichlet",
        copies: PositiveInt | None = None,
        triplet_weight: NonNegativeFloat = 0.1,
        margin: NonNegativeFloat = 1.0,
        norm_weight: NonNegativeFloat = 10.0,
        projections: ProjectedRows | None = None,
        seed: NonNegativeInt = 0,
    ) -> None:
        super().__init__(tiling, optimizer, schedule)
        self.kinds, self.objective, self.score = kinds, objective, score
        seen = the_network(network, projections, objective, copies)
        states = combinations(kinds) if isinstance(seen, WideResNet) else torch.arange(seen.count)[:, None]
        count = len(states)
        refuse_repeated(kinds)
        if objective == "separate" and score == "dirichlet":
            raise UserError(
                "method.score: expected probability, log_probability or distance with method.objective=separate, which "
                "has no probabilities of all transformations together, found dirichlet"
            )
        if copies and (objective == "triplet" or copies > count):
            expected = "null with method.objective=triplet" if objective == "triplet" else f"1 to {count}"
            raise UserError(f"method.copies: expected {expected}, found {copies}")
        self.copies = copies or count
        self.triplet_weight, self.margin, self.norm_weight = triplet_weight, margin, norm_weight
        self.seed = seed
        self.network = seen
        guesses = [STATES[kind] for kind in kinds] if objective == "separate" else [count]
        features = seen.features
        self.head = nn.Linear(features, sum(guesses)) if isinstance(seen, WideResNet) else seen.head()
        self.guesses = guesses
        self.register_buffer("states", states, persistent=False)
        self.register_buffer("order", torch.arange(count), persistent=False)
        self.register_buffer("alpha", 1 + torch.eye(count))  # (transformation, guess); so far the right one decides
        self.register_buffer("centres", torch.zeros(count, features))

    def prepare(self, images: Iterable[Batch]) -> None:
        """The scale of the columns of a table."""
        if isinstance(self.network, ProjectedRows):
            self.network.standardise.learn(batch.image for batch in images)

    def losses(self, batch: Batch) -> dict[str, Scalar]:
        """The losses of some copies of each image, all in one batch, so that a batch norm sees all transformations."""
        images, count = batch.image, len(self.states)
        drawn = self.order.expand(len(images), -1)
        if self.copies < count:
            keys = batch_keys(self.seed, self.current_epoch, batch)
            drawn = uniform(keys, count).argsort(dim=1, stable=True)[:, : self.copies]
        features = self.features(images, drawn.T)
        logits = self.head(features.flatten(0, 1)).split(self.guesses, dim=1)
        right = self.right[drawn.T.flatten()].unbind(1)
        entropy = torch.stack([functional.cross_entropy(*pair) for pair in zip(logits, right, strict=True)]).mean()
        if self.objective != "triplet":
            return {"loss": entropy}
        triplet = self.triplet_weight * triplet_loss(features, self.margin)
        return summed({"entropy": entropy, "triplet": triplet, "norm": self.norm_weight * features.square().mean()})

    @property
    def right(self) -> Int[Tensor, "transformation head"]:
        """The right guess of every head for each transformation."""
        return self.states if self.objective == "separate" else self.order[:, None]

    def features(self, images: Images, shown: Int[Tensor, "transformation batch"]) -> Features:
        """The features of the images under the transformations `shown`; of rows under all of them."""
        if isinstance(self.network, ProjectedRows):
            return self.network(images)
        copies = transformed(images.repeat(len(shown), 1, 1, 1), self.kinds, self.states[shown.flatten()])
        return self.network(copies).unflatten(0, (len(shown), -1))

    def all_features(self, images: Images) -> Features:
        """Those under all transformations."""
        return self.features(images, self.order[:, None].expand(-1, images.shape[0]))

    def log_probabilities(self, features: Features) -> list[Logarithms]:
        """The logarithms of the probabilities of all guesses, for each head."""
        heads = self.head(features).split(self.guesses, dim=2)
        return [head.log_softmax(dim=2).clamp_min(LEAST) for head in heads]

    def conclude(self, images: Iterable[Batch]) -> None:
        """The means of the features of the training images, and the Dirichlet distributions of their guesses."""
        features, guesses, logarithms, count = 0.0, 0.0, 0.0, 0
        for batch in images:
            seen = self.all_features(self.tiling.training_like(batch.image))
            logs = self.log_probabilities(seen)[0].double().cpu()
            features = features + seen.double().cpu().sum(dim=1)
            guesses, logarithms = guesses + logs.exp().sum(dim=1), logarithms + logs.sum(dim=1)
            count += seen.shape[1]
        if count < 2:
            raise UserError(f"data: expected two training images at least, for a distribution, found {count}")
        self.centres.copy_(torch.as_tensor(features) / count)
        if self.objective != "separate":
            self.alpha.copy_(concentrations(torch.as_tensor(guesses) / count, torch.as_tensor(logarithms) / count))

    def predict(self, images: Images) -> Prediction:
        """One number an image, of all its copies in one batch."""
        features = self.all_features(images)
        match self.score:
            case "distance":
                # one mean after the other: all at once are as many differences as transformations squared
                squares = torch.stack([(features - mean).square().sum(dim=2) for mean in self.centres], dim=2)
                score = -diagonal((-squares).log_softmax(dim=2))
            case "dirichlet":
                score = ((1 - self.alpha[:, None]) * self.log_probabilities(features)[0]).sum(dim=2).mean(dim=0)
            case _:
                heads = zip(self.log_probabilities(features), self.right.unbind(1), strict=True)
                logs = torch.stack([guessed[torch.arange(len(right)), :, right] for guessed, right in heads])
                score = -(logs.exp() if self.score == "probability" else logs).sum(dim=0).mean(dim=0)
        return Prediction(score[:, None, None, None], score, None)

    def embed(self, images: Images) -> Float[Tensor, "batch feature"]:
        """The features of the image as it is, or of a row under its first projection."""
        features = self.network(images)
        return features[0] if isinstance(self.network, ProjectedRows) else features


def the_network(
    network: WideResNet | None, projections: ProjectedRows | None, objective: str, copies: int | None
) -> WideResNet | ProjectedRows:
    """The network of photos or that of rows. Raises UserError for both, for neither, and for what rows cannot have."""
    if network is not None and projections is None:
        return network
    if network is not None or projections is None:
        found = "both" if network else "neither"
        raise UserError(f"method.network: expected a network of photos or method.projections of rows, found {found}")
    if objective == "separate":
        raise UserError("method.objective: expected joint or triplet with method.projections, found separate")
    if copies:
        raise UserError(f"method.copies: expected null with method.projections, which are all seen, found {copies}")
    return projections


def triplet_loss(features: Features, margin: float) -> Scalar:
    """How much nearer than `margin` another transformation's mean is than one's own, as squared distances; the mean.

    Means are over the batch, of each process alone.
    """
    means = features.mean(dim=1)
    squares = (features[:, :, None] - means).square().sum(dim=3)
    own = squares.diagonal(dim1=0, dim2=2)
    same = torch.eye(len(features), dtype=torch.bool, device=features.device)[:, None]
    others = squares.masked_fill(same, math.inf).amin(dim=2).T
    return (own + margin - others).clamp_min(0).mean()


def diagonal(values: Logarithms) -> Float[Tensor, " batch"]:
    """The mean over the transformations of what is said of the right guess."""
    return values.diagonal(dim1=0, dim2=2).mean(dim=1)
