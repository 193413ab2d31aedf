"""A stand-in for a pretrained network whose maps are means of pixels."""

from torch import Tensor, nn
from torch.nn import functional

from anomaly_lab.networks.backbone import Backbone


class Pixels(Backbone):
    """Two layers: the means of 2 x 2 and of 4 x 4 pixels, of three channels each."""

    def __init__(self, layers: tuple[str, ...] = ("fine", "coarse")) -> None:
        nn.Module.__init__(self)
        self.name, self.trainable, self.weights, self.layers = "pixels", False, None, layers
        self.channels, self.reductions = (3,) * len(layers), (2, 4)[: len(layers)]

    def normalise(self, images: Tensor) -> Tensor:
        return images.expand(-1, 3, -1, -1)

    def extract(self, normalised: Tensor) -> tuple[Tensor, ...]:
        return tuple(functional.avg_pool2d(normalised, size) for size in self.reductions)


class Given(Backbone):
    """The same maps for every image."""

    def __init__(self, maps: list[Tensor]) -> None:
        nn.Module.__init__(self)
        self.name, self.trainable, self.fine_tuned, self.weights = "given", False, False, None
        self.layers = tuple(f"layer{i + 1}" for i in range(len(maps)))
        self.channels, self.reductions = (maps[0].shape[1],) * len(maps), (2, 4, 8)[: len(maps)]
        self.maps = maps

    def normalise(self, images: Tensor) -> Tensor:
        return images

    def extract(self, normalised: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.maps)

    forward = extract
