"""RD, Reverse Distillation from a one-class embedding: Deng and Li, CVPR 2022 (arXiv 2201.10703).

A decoder learns to restore the maps of a pretrained teacher, deepest first, from one small embedding of them. What the
embedding of good images has no room for is not restored.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field, PositiveInt
from timm.models.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn

from anomaly_lab.core.errors import UserError
from anomaly_lab.core.types import Batch, Images, Prediction
from anomaly_lab.functional.feature_distance import cosine_distance
from anomaly_lab.methods.base.gradient import GradientMethod, summed
from anomaly_lab.methods.base.method import OptimizerFactory, Scalar
from anomaly_lab.methods.base.schedule import Schedule
from anomaly_lab.methods.base.tiling import Tiling, enlarge
from anomaly_lab.networks.backbone import Backbone

Maps = Float[Tensor, "batch _ _ _"]
Kind = Literal["basic", "bottleneck"]
BLOCKS: dict[Kind, type[BasicBlock] | type[Bottleneck]] = {"basic": BasicBlock, "bottleneck": Bottleneck}


class OneClassEmbedding(nn.Module):
    """Three maps of the teacher, fused on the grid of the deepest and embedded on half of that (section 3.3).

    Fusion: 3 x 3 convolutions at stride 2 bring every map to the deepest grid and its channels. Embedding: a stage of a
    ResNet with twice the channels, at stride 2. A grid of an odd side is halved upwards.
    """

    def __init__(self, channels: Sequence[int], kind: Kind, blocks: PositiveInt, base_width: PositiveInt) -> None:
        super().__init__()
        first, second, third = channels
        self.fuse = nn.ModuleList(
            [nn.Sequential(*halving(first, second), *halving(second, third)), nn.Sequential(*halving(second, third))]
        )
        shortcut = nn.Sequential(nn.Conv2d(3 * third, 2 * third, 1, 2, bias=False), nn.BatchNorm2d(2 * third))
        self.embed = stage(BLOCKS[kind], 3 * third, 2 * third, shortcut, blocks, base_width)
        initialise(self)

    def forward(self, maps: Sequence[Maps]) -> Maps:
        """The embedding."""
        *lower, deepest = maps
        fused = [convolutions(layer) for convolutions, layer in zip(self.fuse, lower, strict=True)]
        return self.embed(torch.cat([*fused, deepest], dim=1))


class Decoder(nn.Module):
    """The stages of a ResNet backwards: a transposed convolution at the start of each doubles the grid (3.2)."""

    def __init__(self, channels: Sequence[int], kind: Kind, blocks: Sequence[PositiveInt], base_width: int) -> None:
        super().__init__()
        sides = [2 * channels[-1], *reversed(channels)]
        self.stages = nn.ModuleList()
        for (deeper, wanted), count in zip(pairwise(sides), blocks, strict=True):
            shortcut = nn.Sequential(nn.ConvTranspose2d(deeper, wanted, 2, 2, bias=False), nn.BatchNorm2d(wanted))
            made = stage(BLOCKS[kind], deeper, wanted, shortcut, count, base_width)
            name = "conv1" if kind == "basic" else "conv2"  # the convolution at stride 2
            halved: Any = getattr(made[0], name)
            setattr(made[0], name, nn.ConvTranspose2d(halved.in_channels, halved.out_channels, 2, 2, bias=False))
            self.stages.append(made)
        initialise(self)

    def forward(self, embedding: Maps) -> list[Maps]:
        """The restored maps, from the lowest layer to the deepest."""
        restored = []
        for part in self.stages:
            embedding = part(embedding)
            restored.insert(0, embedding)
        return restored


class ReverseDistillation(GradientMethod):
    """ResNet-18 as teacher, up to its third stage; its embedding and decoder have random initial weights.

    Paper and authors' code differ; the decisions here:

    - `loss=flattened`: 1 - cos of the whole flattened maps of teacher and decoder, as in the code, from which the
      published figures come. `per_place`: the mean of 1 - cos over the places, as the paper says (equation 2).
    - The maps of the layers are enlarged with half-pixel centres (`align_corners=False`), added, and smoothed for the
      score, which is the default one (section 3.4). The code aligns corners.

    `block` and `blocks` are those of the decoder's stages, the deepest first: 2, 2, 2 basic blocks for ResNet-18;
    3, 4, 6 bottlenecks of `base_width` 128 for WideResNet-50-2. The code's embedding has one more convolution, which it
    does not use. Image sides need not be multiples of 32 px: of a restored map that is larger than the teacher's the
    last rows and columns are left out.

    Raises UserError where the backbone has not three layers, each at twice the stride of the one before.
    """

    version: ClassVar = 1
    sees: ClassVar = "images"
    augmented: ClassVar = False

    def __init__(
        self,
        tiling: Tiling,
        backbone: Backbone,
        optimizer: OptimizerFactory,
        loss: Literal["flattened", "per_place"],
        block: Kind,
        blocks: Annotated[Sequence[PositiveInt], Field(min_length=3, max_length=3)],
        base_width: PositiveInt,
        schedule: Schedule = "constant",
    ) -> None:
        super().__init__(tiling, optimizer, schedule)
        strides = backbone.reductions
        if len(strides) != 3 or any(2 * fine != coarse for fine, coarse in pairwise(strides)):
            raise UserError(
                "method.backbone.layers: expected three layers, each at twice the stride of the one before, found "
                f"strides {strides} of {backbone.name}"
            )
        self.backbone = backbone
        self.per_place = loss == "per_place"
        self.embedding = OneClassEmbedding(backbone.channels, block, blocks[0], base_width)
        self.decoder = Decoder(backbone.channels, block, blocks, base_width)

    def pairs(self, images: Images) -> list[tuple[Maps, Maps]]:
        """The maps of the teacher, and what the decoder makes of their embedding."""
        teacher = self.backbone(images)
        restored = self.decoder(self.embedding(teacher))
        return [
            (known, made[..., : known.shape[2], : known.shape[3]])
            for known, made in zip(teacher, restored, strict=True)
        ]

    def losses(self, batch: Batch) -> dict[str, Scalar]:
        """The distance of each layer, and their sum (section 3.1, equations 1 to 3)."""
        layers = {}
        for name, (teacher, restored) in zip(self.backbone.layers, self.pairs(batch.image), strict=True):
            maps = (teacher, restored) if self.per_place else (teacher.flatten(1), restored.flatten(1))
            layers[name] = cosine_distance(*maps).mean()
        return summed(layers)

    def predict(self, images: Images) -> Prediction:
        """The sum of the layers' distances, each enlarged to the images (section 3.4)."""
        maps = [enlarge(cosine_distance(*pair), images) for pair in self.pairs(images)]
        return Prediction(torch.stack(maps).sum(dim=0), None, None)

    def embed(self, images: Images) -> Float[Tensor, "batch feature"]:
        """The embedding, averaged over its places."""
        return self.embedding(self.backbone(images)).mean(dim=(2, 3))


def halving(channels: int, wanted: int) -> list[nn.Module]:
    """A 3 x 3 convolution at stride 2, batch norm, and what is positive of it."""
    return [nn.Conv2d(channels, wanted, 3, 2, 1, bias=False), nn.BatchNorm2d(wanted), nn.ReLU()]


def stage(
    block: type[BasicBlock] | type[Bottleneck],
    channels: int,
    wanted: int,
    shortcut: nn.Module,
    count: int,
    base_width: int,
) -> nn.Sequential:
    """`count` residual blocks, the first at stride 2."""
    planes = wanted // block.expansion
    first = block(channels, planes, 2, shortcut, base_width=base_width)
    return nn.Sequential(first, *(block(wanted, planes, base_width=base_width) for _ in range(count - 1)))


def initialise(network: nn.Module) -> None:
    """Kaiming's normal weights by the fan-out, as those of the ResNet."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
