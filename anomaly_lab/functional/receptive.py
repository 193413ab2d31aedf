"""The part of an image that a place of a network's map depends on, and maps that are enlarged by it (FCDD)."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from jaxtyping import Float
from timm.layers import Conv2dSame
from torch import Tensor, nn
from torch.nn import functional


class Field(NamedTuple):
    """Receptive fields of the places of a map, in pixels; alike in both directions."""

    extent: int  # side
    jump: int  # from one field to the next
    shift: float  # middle of the first one, where 0 is the middle of the first pixel


def receptive_field(layers: Iterable[nn.Module]) -> Field:
    """The receptive field of convolutions and poolings one behind the other; other modules are taken for pointwise.

    Convolutions that pad as TensorFlow does are taken to see sides that their strides divide.
    """
    extent, jump, shift = 1, 1, 0.0
    for layer in layers:
        if not isinstance(layer, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
            continue
        dilation = getattr(layer, "dilation", 1)
        kernel, stride, padding, dilation = (
            int(value[0] if isinstance(value, tuple) else value)
            for value in (layer.kernel_size, layer.stride, layer.padding, dilation)
        )
        reach = dilation * (kernel - 1)
        if isinstance(layer, Conv2dSame):
            padding = max(reach + 1 - stride, 0) // 2  # on the left
        extent += reach * jump
        shift += (reach / 2 - padding) * jump
        jump *= stride
    return Field(extent, jump, shift)


def field_of(network: nn.Module) -> Field:
    """That of a network that lists its layers in their order, but for the shortcuts beside them (`downsample`)."""
    return receptive_field(layer for name, layer in network.named_modules() if "downsample" not in name)


def gaussian(extent: int, sigma: float) -> Float[Tensor, " extent"]:
    """A Gaussian with a peak of 1; where the extent is even, the two values in the middle are both halves of that.

    So are then all other values, as in the authors' code.
    """
    odd = extent - 1 + extent % 2
    values = torch.exp(-0.5 * ((torch.arange(odd) - odd // 2) / sigma).square())
    if extent % 2:
        return values
    return torch.cat([values[: odd // 2 + 1], values[odd // 2 :]]) / 2


def gaussian_upsample(
    maps: Float[Tensor, "batch 1 rows columns"],
    field: Field,
    kernel: Float[Tensor, " extent"],
    height: int,
    width: int,
) -> Float[Tensor, "batch 1 height width"]:
    """Add a Gaussian at each place's receptive field, as high as the value of the place (FCDD, algorithm 1).

    Nothing is normalised: there are fewer fields near the border, so a constant map becomes darker there.
    """
    enlarged = functional.conv_transpose2d(maps, kernel.view(1, 1, -1, 1), stride=(field.jump, 1))
    enlarged = functional.conv_transpose2d(enlarged, kernel.view(1, 1, 1, -1), stride=(1, field.jump))
    first = round((field.extent - 1) / 2 - field.shift)  # of the image, in these rows and columns
    missing = [max(0, first + side - found) for side, found in zip((height, width), enlarged.shape[2:], strict=True)]
    enlarged = functional.pad(enlarged, (0, missing[1], 0, missing[0]))
    return enlarged[..., first : first + height, first : first + width]
