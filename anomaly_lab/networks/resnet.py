"""ResNet-18 for small images, as contrastive papers train it on CIFAR-10 (Chen et al. 2020, appendix B.9)."""

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from timm.models.resnet import BasicBlock
from torch import Tensor, nn


class MeanFeatures(nn.Module):
    """Images of any size to the mean of the last map of some layers, whose convolutions start as those of He et al."""

    def __init__(self, layers: list[nn.Module], features: int) -> None:
        super().__init__()
        self.layers, self.features = nn.Sequential(*layers), features
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out")
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Float[Tensor, "batch channel side side"]) -> Float[Tensor, "batch feature"]:
        """The features of the images, in full precision."""
        return self.layers(images.contiguous(memory_format=torch.channels_last)).mean(dim=(2, 3)).float()


class ResNet18(MeanFeatures):
    """Images of any size to a vector of 8 `width` features: the mean of the last map.

    The stem is one convolution of 3 x 3 without a stride or a pooling, so that a map of 32 px is left of 32 px. Groups
    have 1, 2, 4 and 8 times `width` channels; all but the first halve the side.
    """

    def __init__(self, width: PositiveInt, channels: Literal[1, 3]) -> None:
        layers: list[nn.Module] = [
            nn.Conv2d(channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        ]
        before = width
        for factor, stride in ((1, 1), (2, 2), (4, 2), (8, 2)):
            outputs = factor * width
            layers += [block(before, outputs, stride), block(outputs, outputs, 1)]
            before = outputs
        super().__init__(layers, before)


def block(inputs: int, outputs: int, stride: int) -> BasicBlock:
    """Two convolutions beside a shortcut, which is a convolution of 1 x 1 where the shape changes."""
    changes = inputs != outputs or stride != 1
    shortcut = *strided(inputs, outputs, stride), nn.BatchNorm2d(outputs)
    return BasicBlock(inputs, outputs, stride, nn.Sequential(*shortcut) if changes else None)


def strided(inputs: int, outputs: int, stride: int) -> tuple[nn.Module, nn.Module]:
    """A convolution of 1 x 1 with a stride, as a pooling and a convolution.

    In one, with few channels and weights in `channels_last`, PyTorch 2.15 writes beyond its memory on a CPU.
    """
    return nn.AvgPool2d(1, stride), nn.Conv2d(inputs, outputs, 1, bias=False)
