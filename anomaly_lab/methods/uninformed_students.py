"""Uninformed Students: Bergmann, Fauser, Sattlegger and Steger, CVPR 2020 (arXiv 1911.02357).

Several students learn to give the vector that a teacher gives of the patch around each pixel, on good images only.
Where a defect is, they err, and they err in different ways: mistake and disagreement together are the map.
"""

from collections.abc import Iterable, Sequence
from typing import ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor, nn

from anomaly_lab.core.errors import UserError
from anomaly_lab.core.types import Batch, Images, Prediction
from anomaly_lab.functional.moments import Moments
from anomaly_lab.methods.base.gradient import GradientMethod, summed
from anomaly_lab.methods.base.method import OptimizerFactory, Scalar
from anomaly_lab.methods.base.schedule import Schedule
from anomaly_lab.methods.base.tiling import Tiling
from anomaly_lab.networks.patch_network import PatchNetwork, PatchTeacher, normalise

Maps = Float[Tensor, "batch _ _ _"]
Plane = Float[Tensor, "batch 1 _ _"]


class Answer(NamedTuple):
    """What an ensemble says at every place."""

    error: Plane  # squared distance of the students' mean from the teacher (equation 5)
    variance: Plane  # of the students about their mean, summed over the channels (equation 7)


class Ensemble(nn.Module):
    """A teacher, and students of the same architecture with random initial weights (sections 3.1 and 3.2)."""

    mean: Tensor
    std: Tensor
    scale: Tensor

    def __init__(self, teacher: PatchTeacher, students: int, stride: int) -> None:
        super().__init__()
        self.teacher = teacher
        self.students = nn.ModuleList(PatchNetwork(teacher.network.name, teacher.width) for _ in range(students))
        self.stride = stride
        self.register_buffer("mean", torch.zeros(1, teacher.network.channels, 1, 1))
        self.register_buffer("std", torch.ones(1, teacher.network.channels, 1, 1))
        self.register_buffer("scale", torch.tensor([[0.0, 1.0], [0.0, 1.0]]))  # mean, deviation of error and variance

    def said(self, images: Images) -> Maps:
        """The teacher's vectors."""
        with torch.no_grad():
            return self.teacher.network.dense(normalise(images), self.stride)

    def taught(self, images: Images) -> tuple[Maps, Float[Tensor, "student batch _ _ _"]]:
        """The teacher's vectors, each component with mean 0 and deviation 1 on good images; those of the students."""
        normalised = normalise(images)
        students = torch.stack([self.dense(student, normalised) for student in self.students])
        return (self.said(images) - self.mean) / self.std, students

    def dense(self, student: nn.Module, normalised: Images) -> Maps:
        """The vectors of one of them."""
        assert isinstance(student, PatchNetwork)
        return student.dense(normalised, self.stride)

    def loss(self, images: Images) -> Scalar:
        """The squared distance from the teacher, averaged over students, images and places (equation 4)."""
        teacher, students = self.taught(images)
        return (students - teacher).float().square().sum(dim=2).mean()

    def forward(self, images: Images) -> Answer:
        """Error and variance at every place."""
        teacher, students = self.taught(images)
        mean = students.mean(dim=0)
        variance = (
            (students - mean).square().sum(dim=2, keepdim=True).mean(dim=0)
        )  # as equation 7, without cancellation
        return Answer((mean - teacher).square().sum(dim=1, keepdim=True), variance)

    def map(self, images: Images) -> Plane:
        """Error and variance, each with mean 0 and deviation 1 on good images, added (equation 8)."""
        parts = zip(self(images), self.scale.unbind(), strict=True)
        return torch.stack([(plane - mean) / deviation for plane, (mean, deviation) in parts]).sum(dim=0)


class UninformedStudents(GradientMethod):
    """Three students for each teacher that has weights: of patches of 17, 33 and 65 px, or of some of them.

    The teachers are files of `python -m anomaly_lab teacher`; the authors published none. Differences from the paper:

    - `stride`: so many pixels from place to place; 1 is the paper's dense map. Larger ones take their share of the
      dense map, in training too, and far less time for the two larger patches.
    - Mean and deviation of error and variance come from the held-out good images, as the threshold does; the paper has
      a validation set for them.

    The maps of the receptive fields are averaged (equation 9). The score is the maximum.

    Raises UserError where no teacher has weights, and for weights of another network.
    """

    version: ClassVar = 1
    sees: ClassVar = "images"
    augmented: ClassVar = False

    def __init__(
        self,
        tiling: Tiling,
        patch17: PatchTeacher,
        patch33: PatchTeacher,
        patch65: PatchTeacher,
        students: PositiveInt,
        stride: Literal[1, 2, 4, 8],
        optimizer: OptimizerFactory,
        schedule: Schedule = "constant",
    ) -> None:
        super().__init__(tiling, optimizer, schedule)
        places = {"patch17": patch17, "patch33": patch33, "patch65": patch65}
        if wrong := next((key for key, teacher in places.items() if teacher.name != key), None):
            raise UserError(f"method.{wrong}.name: expected {wrong}, found {places[wrong].name}")
        used = {key: teacher for key, teacher in places.items() if teacher.weights is not None}
        if not used:
            raise UserError(
                "method.patch65.weights: expected the file of a teacher, here or for patch33 or patch17, found none; "
                "python -m anomaly_lab teacher network=patch65 images=FOLDER out=FILE distils one from a pretrained "
                "network, on a folder of varied photos"
            )
        self.stride = stride
        for key, teacher in used.items():
            teacher.key = f"method.{key}"
        self.ensembles = nn.ModuleDict({key: Ensemble(teacher, students, stride) for key, teacher in used.items()})

    @property
    def substitutes(self) -> Sequence[str]:
        """Which receptive fields there are, if one is missing, and a stride that is not the dense one."""
        sides = ", ".join(name.removeprefix("patch") for name in self.ensembles)
        fields = f"receptive fields: {sides} px; published: 17, 33 and 65 px together"
        stride = f"stride: {self.stride} px; published: 1 px"
        return [fields] * (len(self.ensembles) < 3) + [stride] * (self.stride > 1)

    def _named(self) -> list[tuple[str, Ensemble]]:
        return [(name, part) for name, part in self.ensembles.items() if isinstance(part, Ensemble)]

    def prepare(self, images: Iterable[Batch]) -> None:
        """Mean and deviation of the components of each teacher (section 3.2)."""
        found = [(ensemble, Moments()) for _, ensemble in self._named()]
        for batch in images:
            for ensemble, moments in found:
                moments.add(ensemble.said(batch.image))
        for ensemble, moments in found:
            ensemble.mean.copy_(moments.mean.view_as(ensemble.mean))
            ensemble.std.copy_(moments.deviation.view_as(ensemble.std))

    def losses(self, batch: Batch) -> dict[str, Scalar]:
        """The loss of each receptive field, and their sum (equation 4)."""
        return summed({name: ensemble.loss(batch.image) for name, ensemble in self._named()})

    def calibrate(self, normals: Iterable[Batch]) -> None:
        """Mean and deviation of error and variance on held-out images (section 3.3)."""
        found = [(ensemble, Moments()) for _, ensemble in self._named()]
        for batch in normals:
            for ensemble, moments in found:
                moments.add(torch.cat(ensemble(batch.image), dim=1))
        for ensemble, moments in found:
            if moments.count:
                ensemble.scale.copy_(torch.stack([moments.mean, moments.deviation], dim=1))

    def predict(self, images: Images) -> Prediction:
        """The mean over the receptive fields (equations 8 and 9)."""
        anomaly_map = torch.stack([ensemble.map(images) for _, ensemble in self._named()]).mean(dim=0)
        return Prediction(anomaly_map, anomaly_map.amax(dim=(1, 2, 3)), None)
