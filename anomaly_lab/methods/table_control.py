"""Trivial detectors of rows of a table, which a method must beat. No paper: these are our own."""

from typing import ClassVar, Literal, get_args

import torch
from jaxtyping import Float, Int
from pydantic import PositiveInt
from torch import Tensor

from anomaly_lab.core.distributed import of_all_processes
from anomaly_lab.core.types import Images, Prediction
from anomaly_lab.methods.base.fitted import FittedMethod
from anomaly_lab.methods.base.tiling import Tiling

Kind = Literal["norm", "mahalanobis", "pca"]
KINDS: tuple[Kind, ...] = get_args(Kind)
EXPLAINED = 0.9  # of the variance, by the components of pca
LEAST = 1e-9  # of the largest variance: below it a direction is the rounding of columns that repeat each other


class TableControl(FittedMethod):
    """One of three squared lengths of what is left of a row without the mean of the training rows.

    `norm`: with each column divided by its deviation. `mahalanobis`: with all directions divided by their deviations;
    directions in which the training rows do not differ count nothing. `pca`: as `norm`, without the part in the
    principal components that hold 90 % of the variance.
    """

    reads: ClassVar[tuple[str, ...]] = ("tables",)
    localises = False

    mean: Tensor
    whiteners: Tensor

    def __init__(self, tiling: Tiling, channels: PositiveInt, kind: Kind) -> None:
        super().__init__(tiling)
        self.kind: Kind = kind
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("whiteners", torch.eye(channels).repeat(len(KINDS), 1, 1))  # (kind, direction, column)
        self._seen: list[tuple[Int[Tensor, " row"], Float[Tensor, "row column"]]] = []

    def memory(self, images: int) -> int:
        """The rows, in float32 and then in float64."""
        return 12 * images * len(self.mean)

    def update(self, images: Images, index: Int[Tensor, " batch"]) -> None:
        """Keep the rows."""
        self._seen.append((index.cpu(), images.flatten(1).cpu()))

    def fit(self) -> None:
        """Mean, and the directions of each kind with what they are multiplied by."""
        index, seen = (torch.cat(part) for part in zip(*of_all_processes(self._seen), strict=True))
        rows = seen[index.argsort()].double()
        self._seen = []
        mean, deviation = rows.mean(dim=0), rows.std(dim=0, correction=0)
        scale = torch.where(deviation > 0, 1 / deviation, 0.0)
        scaled = (rows - mean) * scale
        variances, vectors = torch.linalg.eigh(scaled.T @ scaled / len(rows))  # the smallest first
        varies = variances > LEAST * variances[-1]
        explained = variances.flip(0).cumsum(0) / variances.sum()
        leading = vectors[:, len(variances) - 1 - int((explained < EXPLAINED).sum()) :]
        self.mean.copy_(mean)
        whiteners: dict[Kind, Tensor] = {
            "norm": torch.diag(scale),
            "mahalanobis": torch.where(varies, variances.clamp_min(0).rsqrt(), 0.0)[:, None] * vectors.T * scale,
            "pca": (torch.eye(len(scale), dtype=torch.float64) - leading @ leading.T) * scale,
        }
        self.whiteners.copy_(torch.stack([whiteners[kind] for kind in KINDS]))

    def predict(self, images: Images) -> Prediction:
        """The number of this kind, as a map of one pixel."""
        score = self.answer(self.kind, images)
        return Prediction(score, score.flatten(), None)

    @property
    def export_obstacle(self) -> str:
        """That nobody should want it."""
        return "a control is what a method must beat, not one to rely on"

    def answer(self, kind: Kind, images: Images) -> Float[Tensor, "batch 1 1 1"]:
        """What a kind says."""
        rest = (images.flatten(1) - self.mean) @ self.whiteners[KINDS.index(kind)].T
        return rest.square().sum(dim=1)[:, None, None, None]
