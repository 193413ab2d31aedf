"""DifferNet: Rudolph, Wandt and Rosenhahn, WACV 2021 (arXiv 2008.12577).

The mean features of an image at three sizes are one vector. A normalizing flow learns the distribution of the vectors
of good images, each shown at many angles. The score says how far the views of an image are from it, on average.
"""

import math
from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn import functional

from anomaly_lab.core.errors import UserError
from anomaly_lab.core.types import Batch, Images, Prediction
from anomaly_lab.data.noise import direction, row_keys, uniform
from anomaly_lab.functional.blur import gaussian_blur
from anomaly_lab.methods.base.gradient import GradientMethod
from anomaly_lab.methods.base.method import OptimizerFactory, Scalar
from anomaly_lab.methods.base.schedule import Schedule
from anomaly_lab.methods.base.tiling import Tiling
from anomaly_lab.networks.backbone import Backbone
from anomaly_lab.networks.glow import Block, Glow, layers

Vectors = Float[Tensor, "batch feature"]
Numbers = Float[Tensor, " batch"]
Directions = Float[Tensor, "#batch 2"]  # cosines and sines
SIGMA = 3 / 448  # of the map's smoothing, by the side of the image


class DifferNet(GradientMethod):
    """The third stage of a ResNet-18 at 448, 224 and 112 px, and a flow of eight blocks.

    - `rotation`: views are turned by up to so many degrees to either side. The paper turns by up to 180, even parts
      that always lie the same way. What comes from outside repeats the border; in the paper it is black.
    - `training_views` are drawn anew in every epoch; an image's own number decides, not its batch. `views` in the test
      are regular, the image as it is among them. The authors' code draws those of the score, too.
    - `map`: `none`, one number an image, and the map is the score at every pixel. `gradient`, the absolute gradient of
      the loss by the pixels of each view, turned back and smoothed, squared after the mean over views and channels. The
      paper shows such maps and has no figure for them.

    Raises UserError for images whose smallest size has not one place of the backbone's map.
    """

    version: ClassVar = 1
    sees: ClassVar = "images"
    augmented: ClassVar = False

    angles: Tensor

    def __init__(
        self,
        tiling: Tiling,
        backbone: Backbone,
        optimizer: OptimizerFactory,
        image_size: PositiveInt,
        scales: PositiveInt,
        blocks: PositiveInt,
        hidden: PositiveInt,
        clamp: PositiveFloat,
        rotation: Annotated[float, Field(ge=0, le=180)],
        training_views: PositiveInt,
        views: PositiveInt,
        map: Literal["none", "gradient"],
        schedule: Schedule = "constant",
        seed: NonNegativeInt = 0,
    ) -> None:
        super().__init__(tiling, optimizer, schedule)
        if image_size < (least := max(backbone.reductions) * 2 ** (scales - 1)):
            raise UserError(
                f"data.image_size: expected at least {least} px, for {scales} scales of places of "
                f"{max(backbone.reductions)} px, found {image_size}"
            )
        self.backbone = backbone
        self.scales = scales
        self.channels = scales * sum(backbone.channels)
        self.flow = Glow(*(Block(self.channels, layers(hidden, hidden, hidden), clamp) for _ in range(blocks)))
        self.rotation = rotation
        self.training_views = training_views if rotation else 1  # else all would be the same
        self.map = map
        self.localises = map == "gradient"
        self.seed = seed
        self.register_buffer("angles", regular(rotation, views), persistent=False)

    def vectors(self, images: Images) -> Vectors:
        """The mean features at each scale."""
        means = []
        for scale in range(self.scales):
            shown = functional.interpolate(images, [side // 2**scale for side in images.shape[2:]], mode="nearest")
            means += [layer.float().mean(dim=(2, 3)) for layer in self.backbone(shown)]
        return torch.cat(means, dim=1)

    def energies(self, images: Images) -> tuple[Numbers, Numbers]:
        """Half the mean square of the latent vector, and the log-determinant, for each number of it."""
        (latent,), log_determinant = self.flow([self.vectors(images)])
        return latent.square().mean(dim=1) / 2, log_determinant / self.channels

    def losses(self, batch: Batch) -> dict[str, Scalar]:
        """The negative log-likelihood of random views, in validation of regular ones, for each number."""
        if batch.row is None:
            directions = for_each(regular(self.rotation, self.training_views).to(batch.image), batch.image)
        else:
            keys = row_keys(self.seed, self.current_epoch, batch.row)
            turns = (2 * uniform(keys, self.training_views).flatten() - 1) * self.rotation / 360
            directions = torch.stack(direction(turns), dim=1)
        energy, change = self.energies(turned(repeated(batch.image, self.training_views), directions))
        return {"loss": (energy - change).mean()}

    def predict(self, images: Images) -> Prediction:
        """The mean square over all views and numbers, and the map."""
        if self.localises:
            return self.localised(images)
        count = len(self.angles)
        energy, _ = self.energies(turned(repeated(images, count), for_each(self.angles, images)))
        score = 2 * energy.unflatten(0, (-1, count)).mean(dim=1)
        return Prediction(score.view(-1, 1, 1, 1), score, None)

    def localised(self, images: Images) -> Prediction:
        """The score, and the gradient of the loss by the pixels."""
        scores, maps = [], []
        with torch.inference_mode(False), torch.enable_grad():  # the test loop forbids gradients
            images = images.clone()
            for angle in self.angles.split(1):
                view = turned(images, angle).requires_grad_()
                energy, change = self.energies(view)
                (gradient,) = torch.autograd.grad((energy - change).sum(), view)
                back = turned(gradient, angle * angle.new_tensor([1, -1]), "zeros").flatten(0, 1)[:, None]
                smooth = gaussian_blur(back, SIGMA * max(images.shape[2:])).view_as(images)
                maps.append(smooth.abs().mean(dim=1, keepdim=True))
                scores.append(2 * energy.detach())
        return Prediction(torch.stack(maps).mean(dim=0).square(), torch.stack(scores).mean(dim=0), None)

    def embed(self, images: Images) -> Vectors:
        """The mean features of the images as they are."""
        return self.vectors(images)

    @property
    def export_obstacle(self) -> str | None:
        """The gradient."""
        return "its map is a gradient; method.map=none gives a score alone" if self.localises else None


def regular(rotation: float, count: int) -> Directions:
    """Directions at equal distances from -rotation up to but not including +rotation degrees, 0 among them.

    They are closed under a turn by 360 / count degrees where the rotation is 180. Without a rotation one is enough.
    """
    if rotation == 0:
        count = 1
    angles = [math.radians(2 * rotation * (i - count // 2) / count) for i in range(count)]
    return torch.tensor([[math.cos(angle), math.sin(angle)] for angle in angles])


def repeated(images: Images, count: int) -> Float[Tensor, "view channel height width"]:
    """Each image so many times, one after the other."""
    return images[:, None].expand(-1, count, -1, -1, -1).flatten(0, 1)


def for_each(directions: Float[Tensor, "_ 2"], images: Images) -> Float[Tensor, "view 2"]:
    """All directions for the first image, then for the next."""
    return directions.expand(images.shape[0], -1, -1).flatten(0, 1)


def turned(images: Images, directions: Directions, outside: Literal["border", "zeros"] = "border") -> Images:
    """Square images turned about their centre, each by its angle or all by one."""
    cosine, sine = directions.unbind(dim=1)
    zero = torch.zeros_like(sine)
    matrix = torch.stack([cosine, -sine, zero, sine, cosine, zero], dim=1).unflatten(1, (2, 3))
    matrix = matrix.expand(images.shape[0], -1, -1)
    grid = functional.affine_grid(matrix, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode=outside, align_corners=False)
