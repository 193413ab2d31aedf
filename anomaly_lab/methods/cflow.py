"""CFLOW-AD: Gudovskiy, Ishizaka and Kozuka, WACV 2022 (arXiv 2107.12571).

A normalizing flow learns the distribution of the feature vectors of good images, told where in the image each of them
lies. All places share one flow a layer.
"""

import math
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Literal, cast

import torch
from jaxtyping import Float
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from anomaly_lab.core.types import Batch, Images, Prediction
from anomaly_lab.data.noise import Keys, row_keys, uniform
from anomaly_lab.methods.base.gradient import GradientMethod, summed
from anomaly_lab.methods.base.method import OptimizerFactory, Scalar
from anomaly_lab.methods.base.schedule import CURVES, Schedule
from anomaly_lab.methods.base.tiling import Tiling, enlarge
from anomaly_lab.networks.backbone import Backbone
from anomaly_lab.networks.flow import Coupling, Flow, dense

Maps = Float[Tensor, "batch channel height width"]
Fibres = Float[Tensor, "fibre _"]
Plane = Float[Tensor, "batch 1 _ _"]
POSITION = 128  # numbers of the code of a place


class CFlow(GradientMethod):
    """Two stages of a ResNet-18, and a flow of eight steps for each.

    A step of the optimizer takes `fibres` vectors of one layer: equally many places of every image of the batch, drawn
    anew in every epoch. All places of a batch are used once. Paper and authors' code differ; the decisions here:

    - `loss`: `log_sigmoid`, minus log sigmoid of the log-likelihood per channel, as the code has it: vectors that are
      likely already count less. `likelihood`: minus the log-likelihood per channel, as the paper says (equation 7).
    - `map`: `probability`, the number of layers less the sum of exp(l - c), where c is the largest log-likelihood of a
      layer. In the code c is that of the whole test set; here it is that of the held-out good images: an answer does
      not depend on other test images, nor on how much likelier a flow finds the images that it has learnt.
      `likelihood`: minus the sum of the log-likelihoods per channel.
    - Every layer has an optimizer of its own. In the code they share one, whose momentum also moves the other layers.
    - The learning rate falls from the start; the code's rises for two of 25 meta-epochs first.
    - Images are taken as they are; the code turns them by up to 5 degrees to either side.

    The score is the maximum of the map, which is not smoothed.
    """

    version: ClassVar = 2  # 1 turned vectors in half precision in a training of mixed precision
    sees: ClassVar = "images"
    augmented: ClassVar = False

    ceiling: Tensor

    def __init__(
        self,
        tiling: Tiling,
        backbone: Backbone,
        optimizer: OptimizerFactory,
        steps: PositiveInt,
        clamp: PositiveFloat,
        fibres: PositiveInt,
        loss: Literal["log_sigmoid", "likelihood"],
        map: Literal["probability", "likelihood"],
        schedule: Schedule = "constant",
        seed: NonNegativeInt = 0,
    ) -> None:
        super().__init__(tiling, optimizer, schedule)
        self.automatic_optimization = False
        self.backbone = backbone
        self.flows = nn.ModuleList(
            Flow(*(Coupling(channels, dense(2), clamp, "rotation", POSITION) for _ in range(steps)))
            for channels in backbone.channels
        )
        self.fibres = fibres
        self.loss = loss
        self.map = map
        self.seed = seed
        self.register_buffer("ceiling", torch.zeros(len(self.flows)))

    def log_likelihoods(self, images: Images) -> list[Plane]:
        """The log-likelihood per channel at every place of each layer (section 4.2)."""
        found = []
        for maps, flow in zip(self.backbone(images), self.flows, strict=True):
            vectors, places = fibres_of(maps.float()), fibres_of(position_code(maps))
            found.append(log_likelihood(flow, vectors, places).unflatten(0, (-1, 1, *maps.shape[2:])))
        return found

    def losses(self, batch: Batch) -> dict[str, Scalar]:
        """The mean loss of all places of each layer, and their sum."""
        planes = self.log_likelihoods(batch.image)
        return summed(dict(zip(self.backbone.layers, map(self.loss_of, planes), strict=True)))

    def loss_of(self, log_likelihoods: Tensor) -> Scalar:
        """The mean loss."""
        if self.loss == "likelihood":
            return -log_likelihoods.mean()
        return -functional.logsigmoid(log_likelihoods).mean()

    def training_step(self, batch: Batch, batch_idx: int) -> Scalar:
        """As many steps as there are groups of fibres, layer by layer."""
        self._set_rate(batch_idx)
        maps, keys = self.backbone(batch.image), row_keys(self.seed, self.current_epoch, cast(Tensor, batch.row))
        images = cast(Any, self.trainer.train_dataloader).size(batch_idx)
        sums = {}
        for name, layer, flow, optimizer in zip(
            self.backbone.layers, maps, self.flows, cast(list, self.optimizers()), strict=True
        ):
            losses = []
            for vectors, places in self.groups(layer.float(), keys, images):
                optimizer.zero_grad()
                loss = self.loss_of(log_likelihood(flow, vectors, places))
                self.manual_backward(loss, inputs=list(flow.parameters()))
                optimizer.step()
                losses.append(loss.detach() * len(vectors))
            sums[name] = torch.stack(losses).sum() / (len(layer) * layer[0, 0].numel())
        parts = summed(sums)
        self.log("train/loss", parts["loss"], on_step=True, on_epoch=True, sync_dist=True, batch_size=len(batch.image))
        self.log_dict({f"train/{name}": value for name, value in sums.items()}, on_step=False, on_epoch=True,
                      sync_dist=True, batch_size=len(batch.image))  # fmt: skip
        return parts["loss"]

    def groups(self, maps: Maps, keys: Keys, images: int) -> Iterator[tuple[Fibres, Fibres]]:
        """Vectors and codes of their places: equally many of every image, in an order that follows from its key.

        `images`: of the whole batch, of which `maps` may be the larger or the smaller share of a process: all processes
        must make the same number of steps.
        """
        count = maps[0, 0].numel()
        order = uniform(keys, count).argsort(dim=1, stable=True)  # equal numbers on all devices alike
        vectors, code = maps.flatten(2), position_code(maps[:1]).flatten(2)[0]
        for places in order.split(max(1, self.fibres // images), dim=1):
            taken = vectors.gather(2, places[:, None].expand(-1, maps.shape[1], -1))
            yield taken.mT.flatten(0, 1), code[:, places.flatten()].T

    def _set_rate(self, batch_idx: int) -> None:
        """The learning rate at this place of the run."""
        if self.schedule == "constant":
            return
        batches = int(self.trainer.num_training_batches)
        done = (self.current_epoch + batch_idx / batches) / (self.trainer.max_epochs or 1)
        for optimizer in self.trainer.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = optimizer.defaults["lr"] * CURVES[self.schedule](done)

    def configure_optimizers(self) -> Any:
        """One a layer."""
        return [self.optimizer(flow.parameters()) for flow in self.flows]

    def calibrate(self, normals: Iterable[Batch]) -> None:
        """The largest log-likelihood of each layer on the held-out images."""
        largest = [torch.stack([plane.amax() for plane in self.log_likelihoods(batch.image)]) for batch in normals]
        if largest:
            self.ceiling.copy_(torch.stack(largest).amax(dim=0))

    def predict(self, images: Images) -> Prediction:
        """The map of all layers (section 4.3)."""
        planes = self.log_likelihoods(images)
        if self.map == "likelihood":
            anomaly_map = -torch.stack([enlarge(plane, images) for plane in planes]).sum(dim=0)
        else:
            likely = [enlarge((plane - top).exp(), images) for plane, top in zip(planes, self.ceiling, strict=True)]
            anomaly_map = len(planes) - torch.stack(likely).sum(dim=0)
        return Prediction(anomaly_map, anomaly_map.amax(dim=(1, 2, 3)), None)


def log_likelihood(flow: nn.Module, vectors: Fibres, places: Fibres) -> Float[Tensor, " fibre"]:
    """The logarithm of the density of each vector, divided by the number of its channels."""
    latent, log_determinant = flow(vectors, places)
    channels = vectors.shape[1]
    constant = -channels / 2 * math.log(2 * math.pi)
    return (constant - latent.square().sum(dim=1) / 2 + log_determinant) / channels


def fibres_of(maps: Float[Tensor, "batch channel _ _"]) -> Fibres:
    """The vectors of all places, image by image and row by row."""
    return maps.flatten(2).mT.flatten(0, 1)


def position_code(maps: Float[Tensor, "batch _ height width"]) -> Float[Tensor, "batch code height width"]:
    """Sines and cosines of column and row in 32 frequencies each (section 4.1, as Vaswani et al. 2017)."""
    batch, _, height, width = maps.shape
    half = POSITION // 2
    frequencies = 10_000.0 ** (-torch.arange(0, half, 2, device=maps.device) / half)
    columns, rows = (
        torch.stack([angle.sin(), angle.cos()], dim=1).flatten(0, 1)
        for angle in (frequencies[:, None] * torch.arange(side, device=maps.device) for side in (width, height))
    )
    code = torch.cat([columns[:, None].expand(-1, height, -1), rows[:, :, None].expand(-1, -1, width)])
    return code.expand(batch, -1, -1, -1)
