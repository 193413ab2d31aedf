"""Where in a network's features a number comes from: Grad-CAM (Selvaraju et al., ICCV 2017)."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Rectify = Literal["abs", "relu"]


def grad_cam(
    features: Float[Tensor, "batch feature rows columns"],
    scalar: Float[Tensor, " batch"],
    rectify: Rectify | None = "abs",
    create_graph: bool = False,
) -> Float[Tensor, "batch 1 rows columns"]:
    """Channels added up at each place, weighted by the mean gradient of an image's number by the channel.

    Of the sum its absolute value, or what is positive of it (`relu`, as published), or with None all of it. Never
    rescaled, so maps of several images compare. One backward pass for the batch: the number of an image must not depend
    on the others. With `create_graph` gradients of the maps reach what made the features and the numbers.
    """
    (gradient,) = torch.autograd.grad(scalar.sum(), features, create_graph=create_graph)
    seen = features if create_graph else features.detach()
    weighted = (gradient.mean(dim=(2, 3), keepdim=True) * seen).sum(dim=1, keepdim=True)
    return {"abs": weighted.abs, "relu": weighted.relu, None: lambda: weighted}[rectify]()
