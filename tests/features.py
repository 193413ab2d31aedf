"""A stand-in for a pretrained network whose maps are means of pixels."""

from torch import Tensor, nn
from torch.nn import functional

from anomaly_lab.networks.backbone import Backbone


class Pixels(Backbone):
    """Two layers: the means of 2 x 2 and of 4 x 4 pixels, of three channels each."""

    def __init__(self, layers: tuple[str, ...] = ("fine", "coarse")) -> None:
        nn.Module.__init__(self)
        self.name, self.trainable, self.layers = "pixels", False, layers
        self.channels, self.reductions = (3,) * len(layers), (2, 4)[: len(layers)]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        images = images.expand(-1, 3, -1, -1)
        return tuple(functional.avg_pool2d(images, size) for size in self.reductions)
