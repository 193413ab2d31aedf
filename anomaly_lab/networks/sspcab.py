"""SSPCAB, a block that predicts what it does not see: Ristea et al., CVPR 2022 (arXiv 2111.09099)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

Maps = Float[Tensor, "batch channel height width"]


class SSPCAB(nn.Module):
    """Self-supervised predictive convolutional attentive block, in place of a convolution.

    Each place is predicted from four windows of `kernel` px at the corners around it, `dilation` places away from the
    middle, which stays hidden; then squeeze and excitation weighs the channels. The authors' code and the
    paper agree; there is a copy in use elsewhere that has no ReLU.
    """

    def __init__(self, channels: int, kernel: int = 1, dilation: int = 1, reduction: int = 8) -> None:
        super().__init__()
        self.border, self.kernel = kernel + dilation, kernel
        self.corners = nn.ModuleList(nn.Conv2d(channels, channels, kernel) for _ in range(4))
        hidden = max(1, channels // reduction)
        self.excitation = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))

    def forward(self, maps: Maps) -> tuple[Maps, Float[Tensor, ""]]:
        """The prediction, and the mean squared difference from the maps: the loss of the block."""
        predicted = self.predicted(maps)
        gate = self.excitation(predicted.mean(dim=(2, 3))).sigmoid()
        predicted = predicted * gate[:, :, None, None]
        return predicted, (predicted - maps).float().square().mean()

    def predicted(self, maps: Maps) -> Float[Tensor, "batch channel height width"]:
        """What four corners say of every place; outside the maps are zeros."""
        padded = functional.pad(maps, [self.border] * 4)
        height, width = maps.shape[2] + self.kernel - 1, maps.shape[3] + self.kernel - 1
        far = 2 * self.border + 1 - self.kernel  # where the window of the opposite corner starts
        places = [(0, 0), (far, 0), (0, far), (far, far)]
        answers = [
            corner(padded[..., y : y + height, x : x + width])
            for corner, (y, x) in zip(self.corners, places, strict=True)
        ]
        return torch.stack(answers).sum(dim=0).relu()
