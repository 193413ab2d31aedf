"""Colours of images on the device."""

from jaxtyping import Float
from torch import Tensor

LUMINANCE = 0.299, 0.587, 0.114  # of red, green and blue (ITU-R 601)


def luminance(images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 1 height width"]:
    """The gray image of a colour image."""
    return (images * images.new_tensor(LUMINANCE).view(-1, 1, 1)).sum(dim=1, keepdim=True)
