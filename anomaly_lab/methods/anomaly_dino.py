"""AnomalyDINO: Damm, Laszkiewicz, Lederer and Fischer, WACV 2025 (arXiv 2405.14529).

The memory holds the patch tokens that DINOv2 computes for a few good images. The score of a patch is the cosine
distance of its token from the nearest one in memory.
"""

from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor
from torch.nn import functional

from anomaly_lab.core.types import Images, Prediction
from anomaly_lab.methods.base.fitted import FittedMethod
from anomaly_lab.methods.base.statistics import MemoryBank
from anomaly_lab.methods.base.tiling import Tiling
from anomaly_lab.networks.backbone import Backbone

TOP = 0.01  # of the places, whose mean is the score


class AnomalyDino(FittedMethod):
    """Tokens of ViT-S/14 after the last norm, at 448 px, every training image as it is.

    A distance is 1 - cosine. `rotations: 8` also keeps every image turned by multiples of 45 degrees, with mirrored
    borders: the paper's `agnostic` augmentation, for few images. The paper masks the background in five categories of
    MVTec AD, chosen by hand; there is no mask here. The map is smoothed as all maps are, not at the size of the photo.
    `ratio` below 1 keeps the coreset of PatchCore.
    """

    version: ClassVar = 1

    def __init__(
        self,
        tiling: Tiling,
        backbone: Backbone,
        image_size: PositiveInt,
        rotations: Literal[1, 8],
        ratio: Annotated[float, Field(gt=0, le=1)],
        max_vectors: PositiveInt,
        seed: NonNegativeInt,
    ) -> None:
        super().__init__(tiling)
        self.backbone = backbone
        self.rotations = rotations
        _, rows, columns = backbone.shapes(image_size)[0]
        self.bank = MemoryBank(sum(backbone.channels), max_vectors, seed, rows * columns * rotations, ratio)

    def tokens(self, images: Images) -> Float[Tensor, "batch feature map_height map_width"]:
        """Patch tokens of length 1 (section 3.1)."""
        return functional.normalize(torch.cat(self.backbone(images), dim=1), dim=1)

    def rows(self, image: Images) -> dict[str, Float[Tensor, "row feature"]]:
        """All tokens of an image, and of its rotations (section 3.3)."""
        turned = [image if not k else rotated(image, 45.0 * k) for k in range(self.rotations)]
        return {"bank": torch.cat([self.tokens(each)[0].flatten(1).T for each in turned])}

    def predict(self, images: Images) -> Prediction:
        """1 - cosine of the nearest token in memory; the score is the mean of the largest 1 % (section 3.1)."""
        tokens = self.tokens(images)
        grid = tokens.shape[2:]
        distance, _ = self.bank.nearest(tokens.flatten(2).mT.flatten(0, 1))
        distance = distance[:, 0].square().unflatten(0, (-1, grid.numel())) / 2  # of vectors of length 1
        count = max(1, int(TOP * distance.shape[1]))
        score = distance.topk(count, dim=1).values.mean(dim=1)
        return Prediction(distance.unflatten(1, (1, *grid)), score, None)


def rotated(images: Images, degrees: float) -> Images:
    """Images turned about their centre; what comes from outside is mirrored."""
    angle = torch.deg2rad(torch.tensor(degrees))
    cosine, sine = angle.cos(), angle.sin()
    turn = torch.stack([torch.stack([cosine, -sine]), torch.stack([sine, cosine])])
    matrix = torch.cat([turn, torch.zeros(2, 1)], dim=1).to(images).expand(len(images), -1, -1)
    grid = functional.affine_grid(matrix, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
