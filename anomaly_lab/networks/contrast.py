"""Images whose brightness and contrast are alike, in the range of the training images."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from anomaly_lab.core.types import Images

FLAT = 1e-4  # mean absolute deviation of an image without contrast: a fortieth of a gray level


class Contrast(nn.Module):
    """Global contrast normalisation, as Deep SVDD and FCDD do it, then the range of the training images to [0, 1].

    An image loses its mean and is divided by its mean absolute deviation, both over all pixels and channels. What is
    then the smallest and the largest value of the training images becomes 0 and 1; other images may go beyond. An
    image of one colour has only zeros before that. A factor or an offset of an image changes nothing.
    """

    low: Tensor
    high: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.ones(()))

    def learn(self, images: Iterable[Images]) -> None:
        """Find the range of batches of training images."""
        ends = [torch.stack(normalised(batch).aminmax()) for batch in images]
        if ends:
            low, high = torch.stack(ends).unbind(dim=1)
            self.low.copy_(low.amin())
            self.high.copy_(high.amax())

    def forward(self, images: Images) -> Images:
        """The images, in float32."""
        return (normalised(images) - self.low) / (self.high - self.low).clamp_min(FLAT)


def normalised(images: Images) -> Images:
    """Images with a mean of 0 and a mean absolute value of 1."""
    centred = images.float() - images.float().mean(dim=(1, 2, 3), keepdim=True)
    return centred / centred.abs().mean(dim=(1, 2, 3), keepdim=True).clamp_min(FLAT)
