"""MKD, Multiresolution Knowledge Distillation: Salehi, Sadjadi, Baselizadeh, Rohban and Rabiee, CVPR 2021 (2011.11108).

A small cloner learns to repeat what a large pretrained source says of good images on several critical layers: the
direction of their values and their size. How far the two are apart is the score; its gradient by the pixels is the map.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from anomaly_lab.core.errors import UserError
from anomaly_lab.core.types import Batch, Images, Prediction
from anomaly_lab.functional.blur import gaussian_blur
from anomaly_lab.functional.feature_distance import cosine_distance
from anomaly_lab.methods.base.gradient import GradientMethod, summed
from anomaly_lab.methods.base.method import OptimizerFactory, Scalar
from anomaly_lab.methods.base.schedule import Schedule
from anomaly_lab.methods.base.tiling import Tiling
from anomaly_lab.networks.backbone import Backbone

Maps = Float[Tensor, "batch _ _ _"]
THIN = 16  # channels of every convolution of the cloner but those that give a critical layer
SIGMA = 4 / 128  # of the map's smoothing, by the side of the image


class Cloner(nn.Module):
    """A thin VGG: blocks of 3 x 3 convolutions, a pooling after each, the critical layers behind some of them.

    Two convolutions a block, three from the third block on, as VGG-16 has them. None has a bias, and all but the last
    of a block have a batch norm. For VGG-16's four last poolings: 343 984 parameters.

    `wanted`: channels of the critical layers by their strides in px, powers of two.
    """

    def __init__(self, wanted: dict[int, int]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList()
        before = 3
        for number in range(1, 1 + max(wanted).bit_length() - 1):
            last = wanted.get(2**number, THIN)
            sides = [before, *[THIN] * (1 if number < 3 else 2), last]
            layers: list[nn.Module] = []
            for channels, made in pairwise(sides):
                convolution = nn.Conv2d(channels, made, 3, padding=1, bias=False)
                nn.init.xavier_uniform_(convolution.weight)
                layers += [convolution, nn.BatchNorm2d(made), nn.ReLU()]
            self.blocks.append(nn.Sequential(*layers[:-2], nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True)))
            before = last
        self.critical = sorted(wanted)

    def forward(self, images: Images) -> list[Maps]:
        """The critical layers."""
        maps = []
        for number, block in enumerate(self.blocks, start=1):
            images = block(images)
            if 2**number in self.critical:
                maps.append(images)
        return maps


class MKD(GradientMethod):
    """A ResNet-18 as source, and a thin cloner of its first three stages.

    - `pooled`: the critical layers are those of the backbone after a max pooling, as the paper's are with VGG-16.
    - `normalise`: by the mean and deviation of ImageNet. The authors' code does not for MVTec AD.
    - `scoring`: so many of the deepest layers make the score. The paper says all, the authors' code takes three of
      four.
    - `localisation`: `gradient`, the absolute gradient of the score by the pixels, the largest of the channels,
      smoothed by a Gaussian of 4 px at 128 px (section 3.3). `none`: a score without a map, in one forward pass. The
      code scales every map to its own largest value, which changes the order of pixels of different images, and opens
      it morphologically: neither is done here. Its other two gradients (SmoothGrad, guided) are not offered.

    The pixel figures of the paper are of defective images only.

    Raises UserError for layers whose strides are not ascending powers of two, and where more layers are to score than
    there are.
    """

    version: ClassVar = 1
    sees: ClassVar = "images"
    augmented: ClassVar = False

    def __init__(
        self,
        tiling: Tiling,
        backbone: Backbone,
        optimizer: OptimizerFactory,
        size_weight: NonNegativeFloat,
        scoring: PositiveInt,
        localisation: Literal["gradient", "none"],
        pooled: bool,
        normalise: bool,
        schedule: Schedule = "constant",
    ) -> None:
        super().__init__(tiling, optimizer, schedule)
        strides = [stride * (2 if pooled else 1) for stride in backbone.reductions]
        if any(fine >= coarse for fine, coarse in pairwise(strides)) or any(s < 2 or s & (s - 1) for s in strides):
            raise UserError(
                "method.backbone.layers: expected layers with strides that are powers of two, each larger than the one "
                f"before, found {', '.join(map(str, strides))} px"
            )
        if scoring > len(strides):
            raise UserError(f"method.scoring: expected at most {len(strides)}, the number of layers, found {scoring}")
        self.backbone = backbone
        self.cloner = Cloner(dict(zip(strides, backbone.channels, strict=True)))
        self.size_weight = size_weight
        self.scoring = scoring
        self.localises = localisation == "gradient"
        self.pooled = pooled
        self.normalise = normalise

    def distances(self, images: Images) -> list[Float[Tensor, " batch"]]:
        """What an image loses on each layer: 1 - cos of the whole maps, and the mean squared difference."""
        shown = self.backbone.normalise(images) if self.normalise else images.expand(-1, 3, -1, -1)
        source: Sequence[Maps] = self.backbone.extract(shown)
        if self.pooled:
            source = [functional.max_pool2d(layer, 2, ceil_mode=True) for layer in source]
        found = []
        for known, cloned in zip(source, self.cloner(shown), strict=True):
            one, other = known.float().flatten(1), cloned[..., : known.shape[2], : known.shape[3]].float().flatten(1)
            size = (one - other).square().mean(dim=1)
            found.append(cosine_distance(one, other)[:, 0] + self.size_weight * size)
        return found

    def losses(self, batch: Batch) -> dict[str, Scalar]:
        """The mean over the images of each layer, and their sum (section 3.2, equations 1 to 3)."""
        each = [layer.mean() for layer in self.distances(batch.image)]
        return summed(dict(zip(self.backbone.layers, each, strict=True)))

    def score(self, images: Images) -> Float[Tensor, " batch"]:
        """The sum over the layers that score."""
        return torch.stack(self.distances(images)[-self.scoring :]).sum(dim=0)

    def predict(self, images: Images) -> Prediction:
        """The score, and its gradient by the pixels (section 3.3)."""
        if not self.localises:
            score = self.score(images)
            return Prediction(score.view(-1, 1, 1, 1), score, None)
        with torch.inference_mode(False), torch.enable_grad():  # the test loop forbids gradients
            shown = images.clone().requires_grad_()
            score = self.score(shown)
            (gradient,) = torch.autograd.grad(score.sum(), shown)
        steepest = gradient.abs().amax(dim=1, keepdim=True)
        return Prediction(gaussian_blur(steepest, SIGMA * max(images.shape[-2:])), score.detach(), None)

    @property
    def export_obstacle(self) -> str | None:
        """The gradient."""
        return "its map is a gradient; method.localisation=none gives a score alone" if self.localises else None
