"""FastFlow: Yu, Zheng, Wang, Li, Wu, Zhao and Wu, 2021 (arXiv 2111.07677).

A normalizing flow of convolutions learns the distribution of the feature maps of good images, layer by layer. A place
whose latent vector is long is unlikely.
"""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from anomaly_lab.core.types import Batch, Images, Prediction
from anomaly_lab.methods.base.gradient import GradientMethod, summed
from anomaly_lab.methods.base.method import OptimizerFactory, Scalar
from anomaly_lab.methods.base.schedule import Schedule
from anomaly_lab.methods.base.tiling import Tiling, enlarge
from anomaly_lab.networks.backbone import Backbone
from anomaly_lab.networks.flow import Coupling, Flow, convolutions

Plane = Float[Tensor, "batch _ _"]


class FastFlow(GradientMethod):
    """Three stages of a ResNet-18, and a flow of eight steps for each.

    The paper leaves open how its maps enter a flow; the decisions here, as the code of others has them:

    - Each map is normalised over all of its numbers (`layer_norm`). `affine`: with learnt factors and offsets.
    - `map`: `probability`, minus exp(-m / 2) of the mean square m of the latent vector, as in the code of
      others; `energy`, m / 2, which never underflows; `density`, the negative log-likelihood per channel.
    - The score is the maximum of the map.

    `kernels` alternate from step to step, `[3]` for ResNet-18 and `[3, 1]` for larger backbones. `hidden_ratio`: the
    channels between the two convolutions of a step, as a factor of those that it sees.
    """

    version: ClassVar = 1
    sees: ClassVar = "images"
    augmented: ClassVar = False

    def __init__(
        self,
        tiling: Tiling,
        backbone: Backbone,
        optimizer: OptimizerFactory,
        image_size: PositiveInt,
        steps: PositiveInt,
        kernels: Annotated[Sequence[Literal[1, 3, 5]], Field(min_length=1)],
        clamp: PositiveFloat,
        affine: bool,
        map: Literal["probability", "energy", "density"],
        hidden_ratio: PositiveFloat = 1.0,
        schedule: Schedule = "constant",
    ) -> None:
        super().__init__(tiling, optimizer, schedule)
        self.backbone = backbone
        subnets = [convolutions(kernels[step % len(kernels)], hidden_ratio) for step in range(steps)]
        self.flows = nn.ModuleList(
            Flow(*(Coupling(channels, subnet, clamp, "permutation") for subnet in subnets))
            for channels in backbone.channels
        )
        shapes = backbone.shapes(image_size) if affine else []
        self.norms = nn.ModuleList(nn.LayerNorm(list(shape)) for shape in shapes)
        self.map = map

    def energies(self, images: Images) -> list[tuple[Plane, Plane]]:
        """At every place of each layer: half the squared length of the latent vector, and the log-determinant."""
        found = []
        norms = self.norms or [lambda maps: functional.layer_norm(maps, maps.shape[1:])] * len(self.flows)
        for maps, norm, flow in zip(self.backbone(images), norms, self.flows, strict=True):
            latent, log_determinant = flow(norm(maps.float()))
            found.append((latent.square().sum(dim=1) / 2, log_determinant))
        return found

    def losses(self, batch: Batch) -> dict[str, Scalar]:
        """The negative log-likelihood of each layer, without its constant, and their sum (equations 1 to 3)."""
        each = [(energy - change).sum(dim=(1, 2)).mean() for energy, change in self.energies(batch.image)]
        return summed(dict(zip(self.backbone.layers, each, strict=True)))

    def predict(self, images: Images) -> Prediction:
        """The mean of the maps of the layers (section 3.3)."""
        maps = []
        for (energy, change), channels in zip(self.energies(images), self.backbone.channels, strict=True):
            value = {"probability": -torch.exp(-energy / channels), "energy": energy / channels,
                     "density": (energy - change) / channels}[self.map]  # fmt: skip
            maps.append(enlarge(value[:, None], images))
        anomaly_map = torch.stack(maps).mean(dim=0)
        return Prediction(anomaly_map, anomaly_map.amax(dim=(1, 2, 3)), None)
