"""An autoencoder of rows of a table: tutorials on fraud with credit cards, such as Ellison 2018.

Rows that it reconstructs badly are abnormal. It is here because it is quoted; on the tables of the experiments the
distance of a row from the mean finds as much (`method=table_control`).
"""

from collections.abc import Iterable
from typing import Annotated, ClassVar, Literal

from jaxtyping import Float
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from anomaly_lab.core.types import Batch, Images, Prediction
from anomaly_lab.methods.base.gradient import GradientMethod, summed
from anomaly_lab.methods.base.method import OptimizerFactory, Scalar
from anomaly_lab.methods.base.schedule import Schedule
from anomaly_lab.methods.base.tiling import Tiling
from anomaly_lab.networks.standardise import Rows, Standardise


class TableAutoencoder(GradientMethod):
    """Layers of `hidden[0]` (tanh), `hidden[1]` (ReLU), `hidden[2]` (tanh) and as many units as there are columns.

    The loss is the mean squared error of the standardised columns and `activity` times the sum of the absolute values
    of the first layer, averaged over the rows. The score is the squared error, averaged over the columns.

    `output`: `relu` as in the tutorial. It cannot answer a negative number, which half of the values of a standardised
    column are: of a symmetric column half of the variance is never reconstructed, whatever is learnt. `linear`, the
    default, has no such floor.
    """

    reads: ClassVar[tuple[str, ...]] = ("tables",)
    sees = "images"
    augmented = False
    localises = False

    def __init__(
        self,
        channels: PositiveInt,
        optimizer: OptimizerFactory,
        tiling: Tiling,
        hidden: Annotated[list[PositiveInt], Field(min_length=3, max_length=3)],
        output: Literal["linear", "relu"] = "linear",
        activity: NonNegativeFloat = 1e-7,
        schedule: Schedule = "constant",
    ) -> None:
        super().__init__(tiling, optimizer, schedule)
        first, code, last = hidden
        self.activity = activity
        self.standardise = Standardise(channels)
        self.first = nn.Sequential(nn.Linear(channels, first), nn.Tanh())
        self.rest = nn.Sequential(
            nn.Linear(first, code), nn.ReLU(), nn.Linear(code, last), nn.Tanh(), nn.Linear(last, channels)
        )
        if output == "relu":
            self.rest.append(nn.ReLU())

    def prepare(self, images: Iterable[Batch]) -> None:
        """The scale of the columns."""
        self.standardise.learn(batch.image for batch in images)

    def losses(self, batch: Batch) -> dict[str, Scalar]:
        """Squared error and activity."""
        rows = self.standardise(batch.image)
        active = self.first(rows)
        error = (self.rest(active) - rows).square().mean()
        return summed({"error": error, "activity": self.activity * active.abs().sum(dim=1).mean()})

    def predict(self, images: Images) -> Prediction:
        """One number a row."""
        rows = self.standardise(images)
        score = (self.reconstruct(rows) - rows).square().mean(dim=1)
        return Prediction(score[:, None, None, None], score, None)

    def reconstruct(self, rows: Rows) -> Rows:
        """What the network makes of standardised rows."""
        return self.rest(self.first(rows))

    def embed(self, images: Images) -> Float[Tensor, "batch feature"]:
        """The code."""
        return self.rest[:2](self.first(self.standardise(images)))
