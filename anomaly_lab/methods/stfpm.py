"""STFPM, Student-Teacher Feature Pyramid Matching: Wang, Han, Ding and Huang, BMVC 2021 (arXiv 2103.04257).

A student of the same architecture learns to repeat the maps of a pretrained teacher on good images. Where it does not,
on all layers of the pyramid at once, there is something that it has never seen.
"""

import math
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from anomaly_lab.core.errors import UserError
from anomaly_lab.core.types import Batch, Images, Prediction
from anomaly_lab.functional.feature_distance import cosine_distance
from anomaly_lab.methods.base.gradient import GradientMethod, summed
from anomaly_lab.methods.base.method import OptimizerFactory, Scalar
from anomaly_lab.methods.base.schedule import Schedule
from anomaly_lab.methods.base.tiling import Tiling, enlarge
from anomaly_lab.networks.backbone import Backbone, refuse_weights


class STFPM(GradientMethod):
    """A ResNet-18 up to its third stage, and a second one with random initial weights.

    Paper and authors' code differ; the decisions here:

    - The loss of a place is the squared distance of the unit vectors. The paper halves it (equation 1), the code does
      not. It is averaged over images and places, and the layers are added.
    - The maps of the layers are multiplied on the grid of the first, and the product is enlarged, as the code does. The
      paper enlarges each of them (section 3.3).
    - The weights are those of the last epoch. The code keeps those of the epoch whose map is lowest on held-out images.

    The score is the maximum of the map, which is not smoothed. `student` may be any network whose maps have the
    channels and strides of the teacher's.

    Raises UserError for a student whose maps have others, and for one that has weights or is not trained.
    """

    version: ClassVar = 1
    sees: ClassVar = "images"
    augmented: ClassVar = False

    def __init__(
        self,
        tiling: Tiling,
        backbone: Backbone,
        student: Backbone,
        optimizer: OptimizerFactory,
        schedule: Schedule = "constant",
    ) -> None:
        super().__init__(tiling, optimizer, schedule)
        if (student.channels, student.reductions) != (backbone.channels, backbone.reductions):
            raise UserError(
                f"method.student: expected maps of {backbone.channels} channels at strides {backbone.reductions} px, as"
                f" {backbone.name} has them, found {student.channels} at {student.reductions} of {student.name}"
            )
        refuse_weights(student, "method.student")
        self.backbone = backbone
        self.student = student

    def distances(self, images: Images) -> list[Float[Tensor, "batch 1 _ _"]]:
        """The squared distance of the unit vectors of teacher and student, 0 to 4, at every place of each layer."""
        normalised = self.backbone.normalise(images)
        with torch.no_grad():
            teacher = self.backbone.extract(normalised)
        student = self.student.extract(normalised)
        return [2 * cosine_distance(*maps) for maps in zip(teacher, student, strict=True)]

    def losses(self, batch: Batch) -> dict[str, Scalar]:
        """The mean distance of each layer, and their sum (section 3.2, equations 1 to 3)."""
        layers = {
            name: distance.mean()
            for name, distance in zip(self.backbone.layers, self.distances(batch.image), strict=True)
        }
        return summed(layers)

    def predict(self, images: Images) -> Prediction:
        """The product of the distances (section 3.3)."""
        first, *deeper = self.distances(images)
        anomaly_map = math.prod((enlarge(distance, first) for distance in deeper), start=first)
        return Prediction(anomaly_map, anomaly_map.amax(dim=(1, 2, 3)), None)
