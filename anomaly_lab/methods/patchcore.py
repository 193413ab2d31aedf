"""PatchCore: Roth, Pemula, Zepeda, Schölkopf, Brox and Gehler, CVPR 2022 (arXiv 2106.08265).

The memory holds features of the patches of good images, thinned out to a coreset that covers the others. The score of
a patch of a new image is its distance from the nearest one in memory, wherever in the image that was.
"""

from typing import Annotated, ClassVar

from jaxtyping import Float
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor
from torch.nn import functional

from anomaly_lab.core.types import Images, Prediction
from anomaly_lab.methods.base.fitted import FittedMethod
from anomaly_lab.methods.base.statistics import MemoryBank
from anomaly_lab.methods.base.tiling import Tiling
from anomaly_lab.networks.backbone import Backbone, aligned


class PatchCore(FittedMethod):
    """ResNet-18's second and third stage, neighbourhoods of 3 x 3 places, 1 % of the patches kept.

    The paper and its authors' code differ; the decisions here:

    - A patch is the mean of each channel over `neighbourhood` x `neighbourhood` places (zeros outside the map are
      counted), the layers concatenated on the grid of the first, as the paper says (section 3.1). The authors' code
      averages pieces of the flattened neighbourhood, which with ResNet-18 hold one or two numbers.
    - The coreset is the exact greedy one, of the whole vectors, and starts at a row drawn by the seed. The authors
      project to 128 dimensions first, to save time that `farthest_points` does not need.
    - The score is the paper's (equation 7): the largest distance, weighted by how usual its nearest patch in memory is
      among its `neighbours` nearest. The authors' code leaves the weight out, as `neighbours: 1` does here.

    Images are not cropped by default (`experiment=patchcore_paper` crops them). `max_vectors` bounds the memory of the
    fit: where there are more patches, the coreset is selected from a uniform sample of them.
    """

    version: ClassVar = 1

    def __init__(
        self,
        tiling: Tiling,
        backbone: Backbone,
        image_size: PositiveInt,
        ratio: Annotated[float, Field(gt=0, le=1)],
        neighbours: PositiveInt,
        neighbourhood: PositiveInt,
        max_vectors: PositiveInt,
        seed: NonNegativeInt,
    ) -> None:
        super().__init__(tiling)
        self.backbone = backbone
        self.neighbours = neighbours
        self.neighbourhood = neighbourhood
        _, rows, columns = backbone.shapes(image_size)[0]
        self.bank = MemoryBank(sum(backbone.channels), max_vectors, seed, rows * columns, ratio)

    def patches(self, images: Images) -> Float[Tensor, "batch feature map_height map_width"]:
        """Locally aware patch features (section 3.1)."""
        size = self.neighbourhood
        maps = [functional.avg_pool2d(layer, size, 1, size // 2) for layer in self.backbone(images)]
        return aligned(maps)

    def rows(self, image: Images) -> dict[str, Float[Tensor, "row feature"]]:
        """All patches; the bank keeps the coreset of them (section 3.2)."""
        return {"bank": self.patches(image)[0].flatten(1).T}

    def predict(self, images: Images) -> Prediction:
        """The distance of every patch from the memory, and the score (section 3.3)."""
        maps = self.patches(images)
        queries, grid = maps.flatten(2).mT.flatten(0, 1), maps.shape[2:]
        distance, entry = (found[:, 0].unflatten(0, (-1, grid.numel())) for found in self.bank.nearest(queries))
        score, place = distance.max(dim=1)
        number = min(self.neighbours, len(self.bank.bank))
        if number > 1:
            patch = maps.flatten(2).gather(2, place[:, None, None].expand(-1, maps.shape[1], 1)).mT
            usual = self.bank.bank[entry.gather(1, place[:, None])[:, 0]]
            _, around = self.bank.nearest(usual, number)  # itself among them
            far = (patch - self.bank.bank[around]).norm(dim=2)
            score = score * reweighted(score, far)
        return Prediction(distance.unflatten(1, (1, *grid)), score, None)


def reweighted(distance: Float[Tensor, " batch"], around: Float[Tensor, "batch neighbour"]) -> Float[Tensor, " batch"]:
    """1 - exp(distance) / sum of exp(around), equation 7: small where the patches `around` the nearest are as near."""
    return 1 - (distance - around.logsumexp(dim=1)).exp()
