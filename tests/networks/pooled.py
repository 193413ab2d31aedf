"""A stand-in for a pretrained network in the tests of methods."""

import torch
from torch.nn.functional import avg_pool2d

from anomaly_lab.networks.backbone import Backbone
from anomaly_lab.networks.pretrained import PretrainedNetwork


class Pooled(Backbone):
    """A backbone without weights: means of the images over squares of 4 and of 8 px, and their squares."""

    def __init__(self, *reductions):
        PretrainedNetwork.__init__(self)
        self.name, self.trainable, self.reductions = "pooled", False, reductions or (4, 8)
        self.layers = tuple(f"layer{number}" for number in range(1, 1 + len(self.reductions)))
        self.channels = (6,) * len(self.reductions)

    def forward(self, images):
        pooled = [avg_pool2d(images.expand(-1, 3, -1, -1), side) for side in self.reductions]
        return tuple(torch.cat([layer, layer.square()], dim=1) for layer in pooled)

    def load(self):
        return []
