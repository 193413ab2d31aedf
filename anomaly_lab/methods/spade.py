"""SPADE: Cohen and Hoshen, Sub-Image Anomaly Detection with Deep Pyramid Correspondences (arXiv 2005.02357).

The training images that look most like a new image are found, and every place of the new image is compared with all
places of these: it is abnormal as far as it lies from the nearest.
"""

from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor

from anomaly_lab.core.errors import UserError
from anomaly_lab.core.types import Images, Prediction
from anomaly_lab.functional.nearest_rows import nearest_rows
from anomaly_lab.methods.base.fitted import FittedMethod
from anomaly_lab.methods.base.statistics import MemoryBank
from anomaly_lab.methods.base.tiling import Tiling, enlarge
from anomaly_lab.networks.backbone import Backbone, aligned


class Spade(FittedMethod):
    """50 nearest images, and the nearest place of their pyramids.

    The vector of an image is the mean of the last layer of the backbone (published: `layer4`; the default here is
    `layer3`, which is part of the pyramid, too). The paper's K is 50 images and kappa 1 place; of fewer training images
    all are taken. It writes the mean of squared distances in one place and of distances in another: distances here.
    `search`: the layers of `pyramid` concatenated on the grid of the first, as published, or each searched on its own
    grid and the maps averaged (`separate`), which is a sixth of the work. The score is the distance of the image.

    Raises UserError for a layer of `pyramid` that the backbone does not give.
    """

    version: ClassVar = 1

    def __init__(
        self,
        tiling: Tiling,
        backbone: Backbone,
        image_size: PositiveInt,
        pyramid: Annotated[list[str], Field(min_length=1)],
        images: PositiveInt,
        search: Literal["concatenated", "separate"],
        seed: NonNegativeInt,
        max_images: PositiveInt = 2000,
    ) -> None:
        super().__init__(tiling)
        known = {f"stride{stride}": i for i, stride in enumerate(backbone.reductions)}
        known |= {layer: i for i, layer in enumerate(backbone.layers)}
        if unknown := [layer for layer in pyramid if layer not in known]:
            raise UserError(
                f"method.pyramid: expected some of method.backbone.layers ({', '.join(known)}), found {unknown[0]}"
            )
        self.backbone = backbone
        self.layers = [known[layer] for layer in pyramid]
        self.images = images
        self.search = search
        shapes = backbone.shapes(image_size)
        self.shapes = [shapes[layer] for layer in self.layers]
        self.vectors = MemoryBank(backbone.channels[-1], max_images, seed, rows=1)
        for layer, (channels, height, width) in zip(self.layers, self.shapes, strict=True):
            # One row an image, drawn as those of `vectors` are: the same images in the same order.
            self.add_module(f"maps_{layer}", MemoryBank(channels * height * width, max_images, seed, rows=1))

    def rows(self, image: Images) -> dict[str, Float[Tensor, "1 feature"]]:
        """The vector and the pyramid of an image."""
        maps = self.backbone(image)
        return {"vectors": described(maps), **{f"maps_{layer}": maps[layer].flatten(1) for layer in self.layers}}

    def predict(self, images: Images) -> Prediction:
        """The distance of the image from its nearest images (section 3.2), of a place from theirs (section 3.3)."""
        pyramids = self.backbone(images)
        distance, nearest = self.vectors.nearest(described(pyramids), min(self.images, len(self.vectors.bank)))
        maps = [
            self._map([pyramids[layer][i : i + 1] for layer in self.layers], numbers, images[i : i + 1])
            for i, numbers in enumerate(nearest)
        ]
        return Prediction(torch.cat(maps), distance.mean(dim=1), None)

    def _map(self, pyramid: list[Tensor], numbers: Tensor, image: Images) -> Float[Tensor, "1 1 height width"]:
        """How far the places of an image lie from all places of the images with these numbers."""
        known = [
            getattr(self, f"maps_{layer}").bank[numbers].unflatten(1, shape)
            for layer, shape in zip(self.layers, self.shapes, strict=True)
        ]
        if self.search == "concatenated":
            pyramid, known = [aligned(pyramid)], [aligned(known)]
        parts = [
            nearest_rows(layer[0].flatten(1).T, gallery.flatten(2).mT.flatten(0, 1))[0].view(1, 1, *layer.shape[2:])
            for layer, gallery in zip(pyramid, known, strict=True)
        ]
        return torch.stack([enlarge(part, image) for part in parts]).mean(dim=0)

    @property
    def export_obstacle(self) -> str:
        """The maps of the training images."""
        return "it keeps the maps of all training images, and each image is compared with others of them"


def described(maps: tuple[Tensor, ...]) -> Float[Tensor, "batch feature"]:
    """The vector of an image: the mean of the deepest map."""
    return maps[-1].mean(dim=(2, 3))
