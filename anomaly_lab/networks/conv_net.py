"""A small convolutional network for photos of about a thousand pixels."""

from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

SMALLEST = 200  # px of a photo of which a place is left


class ConvNet(nn.Module):
    """The network of a set of presentation slides: images to 84 features.

    Convolutions of 5 x 5 without padding to 6, 16 and 32 channels, with poolings of 4, 5 and 5, then layers of 120 and
    84. Photos of 1000 to 1099 px leave 9 x 9 places before the first of those, as in the slides (1024 px); smaller ones
    fewer, 200 px one.
    """

    features = 84

    def __init__(self, image_size: Annotated[int, Field(ge=SMALLEST)], channels: Literal[1, 3]) -> None:
        super().__init__()
        self.maps = nn.Sequential(
            nn.Conv2d(channels, 6, 5), nn.ReLU(inplace=True), nn.MaxPool2d(4),
            nn.Conv2d(6, 16, 5), nn.ReLU(inplace=True), nn.MaxPool2d(5),
            nn.Conv2d(16, 32, 5), nn.ReLU(inplace=True), nn.MaxPool2d(5),
        )  # fmt: skip
        places = self.maps(torch.zeros(1, channels, image_size, image_size)).shape[-1]
        self.vectors = nn.Sequential(
            nn.Linear(32 * places**2, 120), nn.ReLU(inplace=True), nn.Linear(120, self.features), nn.ReLU(inplace=True)
        )

    def forward(self, images: Float[Tensor, "batch channel side side"]) -> Float[Tensor, "batch feature"]:
        """The features of the images."""
        return self.vectors(self.maps(images).flatten(1))
