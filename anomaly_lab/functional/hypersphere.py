"""Losses that pull normal images to a point: those of Deep SVDD and Deep SAD (Ruff et al. 2018, 2020), and of FCDD."""

import torch
from jaxtyping import Bool, Float
from pydantic import PositiveFloat
from torch import Tensor

PerImage = Float[Tensor, " batch"]
Maps = Float[Tensor, "batch 1 height width"]
Scalar = Float[Tensor, ""]
NEAREST = 0.1  # of each number of a centre to zero
NOTHING = 1e-6  # is added to a squared distance before it is inverted
SMALLEST = 1e-31  # distance of an abnormal image


def centre(codes: Float[Tensor, "row latent"]) -> Float[Tensor, " latent"]:
    """The mean of the codes, no number of which is nearer to zero than 0.1.

    A network without biases that forgets its input gives zeros, which must not be the centre. The authors leave a
    number that is exactly zero as it is; here it becomes 0.1.
    """
    mean = codes.mean(dim=0)
    nearest = torch.where(mean < 0, -NEAREST, NEAREST).to(mean)
    return torch.where(mean.abs() < NEAREST, nearest, mean)


def squared_distances(codes: Float[Tensor, "batch latent"], centre: Float[Tensor, " latent"]) -> PerImage:
    """The squared Euclidean distance of each code from the centre."""
    return (codes - centre).square().sum(dim=1)


def radius(distances: PerImage, nu: float) -> Scalar:
    """The quantile 1 - nu of the distances whose squares these are, interpolated between two of them."""
    ordered = distances.sqrt().sort().values
    place = (1 - nu) * (len(ordered) - 1)
    lower = min(int(place), max(len(ordered) - 2, 0))
    return torch.lerp(ordered[lower], ordered[min(lower + 1, len(ordered) - 1)], place - lower)


def soft_boundary_loss(distances: PerImage, radius: Scalar, nu: float) -> Scalar:
    """R^2 and 1 / nu times the mean of what squared distances have beyond it (Deep SVDD, equation 3)."""
    return radius.square() + (distances - radius.square()).relu().mean() / nu


def semi_supervised_loss(distances: PerImage, abnormal: Bool[Tensor, " batch"], eta: PositiveFloat) -> Scalar:
    """The mean of the squared distances, of abnormal images of `eta` times their inverse (Deep SAD, equation 7)."""
    return torch.where(abnormal, eta / (distances + NOTHING), distances).mean()


def pseudo_huber(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """How far from zero: half the square near it, the absolute value far from it (FCDD, section 3)."""
    return (values.square() + 1).sqrt() - 1


def classification_loss(distances: PerImage, abnormal: Bool[Tensor, " batch"]) -> Scalar:
    """The mean of the distances, of abnormal images of their `repulsion` (FCDD, equation 2)."""
    return torch.where(abnormal, repulsion(distances), distances).mean()


def repulsion(distances: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """-log(1 - exp(-distance)), which falls from 71.4 at zero to nothing far from it.

    The authors' code has the same largest value, and no digits left below 1e-7.
    """
    return -(-torch.expm1(-distances.clamp_min(SMALLEST))).log()


def pixel_loss(heat: Maps, marked: Bool[Tensor, "batch 1 height width"]) -> PerImage:
    """Of each image: the mean of the heat that is not marked, and the `repulsion` of that of the marked heat.

    Both are means over all pixels. An image with nothing marked has no repulsion (FCDD, equation 3, and its code, as
    the equation has a pole there).
    """
    good, bad = ((heat * part).mean(dim=(1, 2, 3)) for part in (~marked, marked))
    return good + torch.where(marked.flatten(1).any(dim=1), repulsion(bad), 0.0)
