"""Where in a network's features a number comes from: Grad-CAM (Selvaraju et al., ICCV 2017)."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Rectify = Literal["abs", "relu"]


def grad_cam(
    features: Float[Tensor, "batch feature rows columns"], scalar: Float[Tensor, " batch"], rectify: Rectify = "abs"
) -> Float[Tensor, "batch 1 rows columns"]:
    """Channels added up at each place, weighted by the mean gradient of an image's number by the channel.

    Of the sum its absolute value, or what is positive of it (`relu`, as published). Never rescaled, so maps of several
    images compare. One backward pass for the batch: the number of an image must not depend on the others.
    """
    (gradient,) = torch.autograd.grad(scalar.sum(), features)
    weighted = (gradient.mean(dim=(2, 3), keepdim=True) * features.detach()).sum(dim=1, keepdim=True)
    return weighted.abs() if rectify == "abs" else weighted.relu()
