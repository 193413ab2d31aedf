"""Move an image to where a model reconstructs it, and nowhere else: the gradient descent of gamma-VAE-grad.

Dehaene, Frigo, Combrexelle, Eline: Iterative Energy-Based Projection on a Normal Data Manifold for Anomaly
Localization, ICLR 2020.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

Images = Float[Tensor, "batch channel height width"]


def misfits(images: Images, reconstructions: Images) -> Float[Tensor, " batch"]:
    """Squared difference, summed over all pixels of an image."""
    return (images - reconstructions).square().flatten(1).sum(dim=1)


def project(
    images: Images,
    reconstruct: Callable[[Images], Images],
    steps: int,
    rate: float,
    weight: float,
    enough: Float[Tensor, ""] | float = 0.0,
) -> Images:
    """Images in [0, 1], each at most so many steps down the energy |x - f(x)|^2 + weight |x - x_0|_1 from x_0 on.

    A step is `rate` times the gradient, through the model f too, times (x - f(x))^2 pixel by pixel: what is
    reconstructed well stays as it is. Then x is cut to [0, 1]. An image whose |x - f(x)|^2 is not above `enough` is
    done: each image becomes what it would become alone. Sums, not means, over pixels and without the variance of the
    likelihood, which all change what a rate means; the paper leaves them open. Gradients must be enabled.
    """
    current = images.clone()
    for _ in range(steps):
        current.requires_grad_()
        made = reconstruct(current)
        gaps = misfits(current, made)
        moves = gaps > enough
        if not moves.any():
            break
        energies = gaps + weight * (current - images).abs().flatten(1).sum(dim=1)
        (gradient,) = torch.autograd.grad(energies.sum(), current)
        with torch.no_grad():
            moved = (current - rate * gradient * (current - made).square()).clamp(0, 1)
            current = torch.where(moves.view(-1, 1, 1, 1), moved, current)
    return current.detach()
