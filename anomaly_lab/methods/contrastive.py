"""Contrastive networks: two views of an image are alike, and unlike those of all others.

CSI: Tack, Mo, Jeong and Shin, Novelty Detection via Contrastive Learning on Distributionally Shifted Instances, NeurIPS
2020. `experiment=ssl_occ`: Sohn, Li, Yoon, Jin and Pfister, Learning and Evaluating Representations for Deep One-class
Classification, ICLR 2021. `experiment=ssd`: Sehwag, Chiang and Mittal, SSD, ICLR 2021.

They answer whether an image shows another kind of object (`data=one_class`), not whether a part has a defect.
"""

from collections.abc import Iterable
from typing import Annotated, Literal

import torch
import torch.distributed.nn
from jaxtyping import Float
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from sklearn.svm import OneClassSVM
from torch import Tensor, nn
from torch.nn import functional

from anomaly_lab.core.errors import UserError
from anomaly_lab.core.types import Batch, Images, Prediction
from anomaly_lab.data.noise import Keys, batch_keys, derive, row_keys
from anomaly_lab.functional.views import Views, flipped
from anomaly_lab.functional.whitening import FEWEST, whitening
from anomaly_lab.methods.base.gradient import GradientMethod, summed
from anomaly_lab.methods.base.method import OptimizerFactory, Scalar
from anomaly_lab.methods.base.schedule import Schedule
from anomaly_lab.methods.base.statistics import resize_buffers
from anomaly_lab.methods.base.tiling import Tiling
from anomaly_lab.networks.resnet import ResNet18

Vectors = Float[Tensor, "batch feature"]
Copies = Float[Tensor, "copy channel height width"]

AREA = 0.54  # of the crops at test time (CSI, appendix; its README)
LEAST = 1e-3  # of the median deviation of a feature: one that hardly varies in the training is not divided by less
WIDTH = 10  # over the variance and the number of features: gamma of the kernels (SSL-OCC, section 4)


class Contrastive(GradientMethod):
    """A network whose projections of two views of an image are alike (NT-Xent).

    - `turns`: quarter turns of an image are images of their own, unlike it (CSI's shifted instances, SSL-OCC's
      distribution augmentation). `guess`: a linear layer tells them apart, by cross-entropy (CSI).
    - `score`: `csi`, over the turns, the similarity to the nearest training image times the norm, and the logit of the
      right turn, each relative to its mean over the training images, negative; with `draws` views of an area of 54 %,
      or of the image itself. As in the code, a network that cannot tell turns yet may have a mean of 0 or below, and
      its score means nothing. `mahalanobis`: the distance of the features, of unit length and then standardised, from a
      Gaussian of the training images (SSD; the covariance is shrunk by Ledoit and Wolf, where the code takes a
      pseudoinverse). `kde` and `ocsvm`: a density, and a support vector machine, of features of unit length (SSL-OCC).

    SSL-OCC compares every first view with the second views alone; here, as in the other two, a view is compared with
    all others. Images are not augmented otherwise. Several processes compare the images of all of them. The training
    images that a score needs stay in the checkpoint.

    Raises UserError for `guess` without `turns`, and for `csi` without `guess`.
    """

    augmented = False
    localises = False

    mean: Tensor
    whitener: Tensor
    known: Tensor
    weight: Tensor
    offset: Tensor
    gamma: Tensor
    usual: Tensor

    def __init__(
        self,
        network: ResNet18,
        optimizer: OptimizerFactory,
        tiling: Tiling,
        views: Views,
        projection: Annotated[list[PositiveInt], Field(min_length=1)],
        temperature: PositiveFloat,
        turns: bool,
        guess: bool,
        score: Literal["csi", "mahalanobis", "kde", "ocsvm"],
        draws: NonNegativeInt = 0,
        schedule: Schedule = "constant",
        seed: NonNegativeInt = 0,
    ) -> None:
        super().__init__(tiling, optimizer, schedule)
        if guess and not turns:
            raise UserError("method.guess: expected false with method.turns=false, found true")
        if score == "csi" and not guess:
            raise UserError("method.score: expected mahalanobis, kde or ocsvm with method.guess=false, found csi")
        self.network, self.views = network, views
        self.temperature, self.score, self.draws, self.seed = temperature, score, draws, seed
        self.fewest = FEWEST if score == "mahalanobis" else 1
        self.turns = 4 if turns else 1
        self.copies = self.turns  # a single one leaves its two views nothing else to be compared with
        layers, before = [], network.features
        for width in projection:
            layers += [nn.Linear(before, width), nn.ReLU(inplace=True)]
            before = width
        self.projection = nn.Sequential(*layers[:-1])
        self.turn = nn.Linear(network.features, 4) if guess else None
        self.register_buffer("mean", torch.zeros(network.features))
        self.register_buffer("whitener", torch.eye(network.features))
        self.register_buffer("known", torch.zeros(self.turns, 1, before if score == "csi" else network.features))
        self.register_buffer("weight", torch.ones(1))  # of each known image
        self.register_buffer("offset", torch.zeros(()))
        self.register_buffer("gamma", torch.ones(()))
        self.register_buffer("usual", torch.ones(2, self.turns))  # norm and logit of the training images

    def losses(self, batch: Batch) -> dict[str, Scalar]:
        """NT-Xent of two views of every turn of every image, and the cross-entropy of the turn."""
        keys = batch_keys(self.seed, self.current_epoch, batch)
        seen = torch.cat([self.view(batch.image, derive(keys, number)) for number in range(2)])
        features = self.network(seen)
        first, second = self.projection(features).chunk(2)
        if self.training:
            first, second = _of_all_processes(first), _of_all_processes(second)
        similarity = nt_xent(first, second, self.temperature)
        if self.turn is None:
            return {"loss": similarity}
        turn = torch.arange(self.turns, device=seen.device).repeat_interleave(len(keys)).repeat(2)
        return summed({"similarity": similarity, "turn": functional.cross_entropy(self.turn(features), turn)})

    def view(self, images: Images, keys: Keys, area: float | None = None) -> Copies:
        """A view of every turn of every image, flipped before it is turned."""
        turned = self.turned(flipped(images, keys))
        return self.views(turned, torch.cat([derive(keys, 1 + number) for number in range(self.turns)]), area)

    def turned(self, images: Images) -> Copies:
        """All turns of the images, those of the first turn first."""
        return torch.cat([images.rot90(number, (2, 3)) for number in range(self.turns)])

    def vectors(self, images: Images) -> Vectors:
        """The features, of unit length."""
        return functional.normalize(self.network(images), dim=1)

    def judged(self, images: Images) -> tuple[Float[Tensor, "turn batch feature"], Float[Tensor, "turn batch"]]:
        """Projections, and logits of the right turn, of every turn: means over the draws."""
        assert self.turn is not None
        keys = torch.zeros(images.shape[0], dtype=torch.long, device=images.device)  # the same draws for every image
        shown = [self.view(images, row_keys(self.seed, draw, keys), AREA) for draw in range(self.draws)]
        features = [self.network(view) for view in shown or [self.turned(images)]]
        projections = torch.stack([self.projection(part) for part in features]).mean(dim=0)
        logits = torch.stack([self.turn(part) for part in features]).mean(dim=0)
        right = [part[:, number] for number, part in enumerate(logits.unflatten(0, (self.turns, -1)))]
        return projections.unflatten(0, (self.turns, -1)), torch.stack(right)

    def conclude(self, images: Iterable[Batch]) -> None:
        """What the score needs of the training images."""
        seen = (self.tiling.training_like(batch.image) for batch in images)
        if self.score == "csi":
            projections, logits = zip(*map(self.judged, seen), strict=True)
            known, right = torch.cat(projections, dim=1), torch.cat(logits, dim=1)
            self.usual.copy_(torch.stack([known.norm(dim=2).mean(dim=1), right.mean(dim=1)]))
            self.known = functional.normalize(known, dim=2)
            return
        rows = torch.cat([self.vectors(batch).cpu() for batch in seen]).double()
        if self.score == "mahalanobis":
            spread = rows.std(dim=0, correction=0)
            spread = spread.clamp_min((LEAST * spread.median()).clamp_min(1e-10))
            mean, whitener = whitening(rows / spread)
            self.mean.copy_(mean * spread)
            self.whitener.copy_(whitener / spread)
            return
        gamma = WIDTH / (rows.var(correction=0) * rows.shape[1]).clamp_min(1e-12)
        weight, offset = rows.new_full((len(rows),), 1 / len(rows)), rows.new_zeros(())
        if self.score == "ocsvm":
            machine = OneClassSVM(gamma=gamma.item()).fit(rows.numpy())
            rows, weight = rows[machine.support_], torch.from_numpy(machine.dual_coef_[0])
            offset = torch.tensor(-machine.intercept_[0])
        self.gamma.copy_(gamma)
        self.offset.copy_(offset)
        self.known, self.weight = rows[None].to(self.known), weight.to(self.weight)

    def predict(self, images: Images) -> Prediction:
        """One number an image."""
        match self.score:
            case "csi":
                projections, logits = self.judged(images)
                similar = (projections @ self.known.mT).amax(dim=2)  # the norm times the largest cosine
                usual = self.usual[:, :, None]
                score = -(similar / usual[0] + logits / usual[1]).mean(dim=0)
            case "mahalanobis":
                score = ((self.vectors(images) - self.mean) @ self.whitener.T).square().sum(dim=1)
            case _:
                distances = (self.vectors(images)[:, None] - self.known[0]).square().sum(dim=2)
                kernels = -self.gamma * distances
                machine = self.score == "ocsvm"
                score = self.offset - kernels.exp() @ self.weight if machine else -kernels.logsumexp(dim=1)
        return Prediction(score[:, None, None, None], score, None)

    @property
    def export_obstacle(self) -> str | None:
        """The draws."""
        drawn = self.score == "csi" and self.draws
        return f"its score is of {self.draws} random views; method.draws=0 is of the image itself" if drawn else None

    def embed(self, images: Images) -> Vectors:
        """The features."""
        return self.network(images)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: object) -> None:
        resize_buffers(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def nt_xent(first: Vectors, second: Vectors, temperature: float) -> Scalar:
    """Cross-entropy of which of all other vectors is that of the same row, by cosine; a mean over both sides."""
    vectors = functional.normalize(torch.cat([first, second]).float(), dim=1)
    with torch.autocast(vectors.device.type, enabled=False):  # a cosine near 1 needs its digits
        cosines = (vectors @ vectors.T).fill_diagonal_(-torch.inf)
    partner = torch.arange(len(vectors), device=vectors.device).roll(len(first))
    return functional.cross_entropy(cosines / temperature, partner)


def _of_all_processes(vectors: Vectors) -> Vectors:
    if not torch.distributed.is_initialized():
        return vectors
    return torch.cat(torch.distributed.nn.functional.all_gather(vectors))
