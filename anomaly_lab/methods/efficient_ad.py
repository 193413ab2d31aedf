"""EfficientAD: Batzner, Heckler and Koenig, WACV 2024 (arXiv 2303.14535).

A student of four convolutions learns to repeat a teacher of the same size on good images, where it is worst, and not to
repeat it on images of anything else. An autoencoder learns the same from whole images, and a second half of the student
repeats the autoencoder: where these two differ, single parts are good and their arrangement is not.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from anomaly_lab.core.errors import UserError
from anomaly_lab.core.types import Batch, Images, Prediction
from anomaly_lab.data.listing import PROCEDURAL
from anomaly_lab.data.noise import Keys, batch_keys, blend, derive, procedural_texture, scalars
from anomaly_lab.data.photo_folder import PhotoFolder
from anomaly_lab.functional.colour import luminance
from anomaly_lab.functional.moments import Moments
from anomaly_lab.methods.base.gradient import GradientMethod, summed
from anomaly_lab.methods.base.method import OptimizerFactory, Scalar
from anomaly_lab.methods.base.schedule import Schedule
from anomaly_lab.methods.base.tiling import Tiling
from anomaly_lab.networks.patch_network import PatchNetwork, PatchTeacher, normalise

Maps = Float[Tensor, "batch _ _ _"]
EASY = 0.999  # share of the differences from which the student does not learn (section 3.2)
USUAL, RARE = 0.9, 0.995  # quantiles of good pixels that become 0 and 0.1 (section 3.4)
BORDER = 4  # places around the map that the networks, which do not pad, leave out


class Autoencoder(nn.Module):
    """A code of 64 numbers of the whole image, and from it the teacher's map (table 8).

    For 256 px. At other sizes the map before the code is resized to the 8 x 8 places that it has at 256 px, and the
    maps of the decoder are in proportion.
    """

    def __init__(self, channels: PositiveInt) -> None:
        super().__init__()
        sides = [3, 32, 32, 64, 64, 64]
        self.encoder = nn.Sequential(*(layer for pair in pairwise(sides) for layer in halving(*pair)))
        self.code = nn.Conv2d(64, 64, 8)
        self.decoder = nn.ModuleList(
            nn.Sequential(nn.Conv2d(64, 64, 4, padding=2), nn.ReLU(), nn.Dropout(0.2)) for _ in range(6)
        )
        self.output = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, channels, 3, padding=1))
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Images, grid: torch.Size) -> Maps:
        """The map, with the places of the teacher's."""
        height, width = images.shape[-2:]
        code = self.code(resized(self.encoder(images), (8, 8)))
        for number, layers in enumerate(self.decoder):  # to 3, 8, 15, 32, 63, 127 places
            less = (number + 1) % 2 if number < 4 else 1
            code = layers(resized(code, tuple(max(1, side // (64 >> number) - less) for side in (height, width))))
        return self.output(resized(code, tuple(grid)))


class EfficientAD(GradientMethod):
    """The small network (PDN-S), whose teacher is a file: of `python -m anomaly_lab teacher` or of a re-implementation.

    We know of no code and no weights of the authors; the re-implementation meant here is nelson1425/EfficientAD.

    - `foreign_images`: the images that the student must not learn to imitate. The paper takes ImageNet's. A folder: up
      to 1000 of its photos, at twice the size of the images, of which the middle is shown. `procedural`: textures,
      drawn anew at every step. null: this loss is left out.
    - The hardest features are those of each image, not of the whole batch, which is one image as published.
    - One of brightness, contrast and saturation changes by up to a fifth in what the autoencoder sees.
    - Quantiles are those of the held-out good images, of which the threshold comes too. Where the two are equal, the
      map is only shifted.

    The score is the maximum of the map on its own grid; the re-implementation takes it after enlarging.

    Raises UserError for images smaller than the teacher's patch, for a teacher that is no PDN, without weights or with
    those of another network, and for a folder without photos.
    """

    version: ClassVar = 1
    sees: ClassVar = "images"
    augmented: ClassVar = False

    mean: Tensor
    std: Tensor
    quantiles: Tensor

    def __init__(
        self,
        tiling: Tiling,
        teacher: PatchTeacher,
        foreign_images: Annotated[str, Field(min_length=1)] | None,
        optimizer: OptimizerFactory,
        image_size: PositiveInt,
        schedule: Schedule = "constant",
        seed: NonNegativeInt = 0,
    ) -> None:
        super().__init__(tiling, optimizer, schedule)
        if not teacher.name.startswith("pdn_"):
            raise UserError(f"method.teacher.name: expected pdn_small or pdn_medium, found {teacher.name}")
        if image_size < teacher.network.patch:
            raise UserError(
                f"data.image_size: expected at least {teacher.network.patch} px, the patch that the teacher describes, "
                f"found {image_size}"
            )
        teacher.key = "method.teacher"
        self.teacher = teacher
        self.channels = teacher.network.channels
        self.student = PatchNetwork(teacher.network.name, teacher.width, 2 * self.channels)
        self.autoencoder = Autoencoder(self.channels)
        is_folder = foreign_images not in {None, PROCEDURAL}
        folder = PhotoFolder(str(foreign_images), "method.foreign_images", image_size, zoom=2) if is_folder else None
        self.foreign = folder or (procedural_texture if foreign_images else None)
        self.seed = seed
        self.register_buffer("mean", torch.zeros(1, self.channels, 1, 1))
        self.register_buffer("std", torch.ones(1, self.channels, 1, 1))
        self.register_buffer("quantiles", torch.tensor([[0.0, 0.1], [0.0, 0.1]]))  # of either map; these change nothing

    @property
    def foreign_photos(self) -> Sequence[Path]:
        """The photos of the folder that it learns from."""
        return self.foreign.paths if isinstance(self.foreign, PhotoFolder) else []

    @property
    def substitutes(self) -> Sequence[str]:
        """What stands in for ImageNet."""
        what = "procedural textures" if self.foreign else "none"
        what = self.foreign.in_words if isinstance(self.foreign, PhotoFolder) else what
        return [f"foreign images: {what}; published: those of ImageNet"]

    def prepare(self, images: Iterable[Batch]) -> None:
        """Mean and deviation of each channel of the teacher (section 3.1)."""
        moments = Moments()
        for batch in images:
            moments.add(self.teacher.network(normalise(batch.image)))
        self.mean.copy_(moments.mean.view_as(self.mean))
        self.std.copy_(moments.deviation.view_as(self.std))

    def taught(self, normalised: Images) -> Maps:
        """What the teacher says, channel by channel with mean 0 and deviation 1 on good images."""
        with torch.no_grad():
            return (self.teacher.network(normalised) - self.mean) / self.std

    def losses(self, batch: Batch) -> dict[str, Scalar]:
        """The four losses and their sum (section 3.2 and 3.3, appendix A.2, algorithm 1)."""
        images, count = batch.image.expand(-1, 3, -1, -1), len(batch.image)
        keys = batch_keys(self.seed, self.current_epoch, batch)
        shown = [images, jittered(images, derive(keys, 0))]
        if self.foreign is not None:
            shown.append(self.drawn(derive(keys, 1), images))
        normalised = normalise(torch.cat(shown))
        teacher = self.taught(normalised[: 2 * count])
        student = self.student(normalised)
        restored = self.autoencoder(normalised[count : 2 * count], teacher.shape[-2:])
        imitation, second = student.split(self.channels, dim=1)
        parts = {
            "hard": hardest((teacher[:count] - imitation[:count]).float().square()),
            "autoencoder": (teacher[count:] - restored).float().square().mean(),
            "student_of_autoencoder": (restored - second[count : 2 * count]).float().square().mean(),
        }
        if self.foreign is not None:
            parts["penalty"] = imitation[2 * count :].float().square().mean()
        return summed(parts)

    def drawn(self, keys: Keys, images: Images) -> Images:
        """A foreign image for each, three in ten of them gray."""
        assert self.foreign is not None
        foreign = self.foreign(derive(keys, 0), 3, *images.shape[-2:])
        (gray,) = scalars(derive(keys, 1), 1)
        return torch.where(gray[..., None] < 0.3, luminance(foreign), foreign)

    def maps(self, images: Images) -> tuple[Maps, Maps]:
        """The mean squared difference of student and teacher, and of student and autoencoder, at every place."""
        normalised = normalise(images)
        teacher = self.taught(normalised)
        imitation, second = self.student(normalised).split(self.channels, dim=1)
        restored = self.autoencoder(normalised, teacher.shape[-2:])
        differences = teacher - imitation, restored - second
        first, last = (difference.float().square().mean(dim=1, keepdim=True) for difference in differences)
        return first, last

    def calibrate(self, normals: Iterable[Batch]) -> None:
        """The quantiles of both maps over all pixels of the held-out images (section 3.4)."""
        found = [[layer.cpu().numpy().ravel() for layer in self.maps(batch.image)] for batch in normals]
        if found:
            ends = [np.quantile(np.concatenate(values), (USUAL, RARE)) for values in zip(*found, strict=True)]
            self.quantiles.copy_(torch.tensor(np.stack(ends)))

    def predict(self, images: Images) -> Prediction:
        """The mean of both maps, on a common scale (section 3.4)."""
        low, high = self.quantiles.T.view(2, 2, 1, 1, 1, 1)
        spread = torch.where(high > low, high - low, 0.1)
        anomaly_map = (0.1 * (torch.stack(self.maps(images)) - low) / spread).mean(dim=0)
        return Prediction(functional.pad(anomaly_map, [BORDER] * 4), anomaly_map.amax(dim=(1, 2, 3)), None)

    def embed(self, images: Images) -> Float[Tensor, "batch feature"]:
        """The teacher's vectors, averaged over the places."""
        return self.taught(normalise(images)).mean(dim=(2, 3))


def hardest(differences: Maps) -> Scalar:
    """The mean of the values of an image that reach their own quantile of 0.999 (section 3.2), and of that over images.

    The published batch is one image. Image by image the loss depends neither on the batch nor on the processes.
    """
    values = differences.flatten(1)
    count = values.shape[1]
    below = -(-round(1000 * EASY) * (count - 1) // 1000)  # values below the quantile, which is interpolated
    return values.topk(count - below, dim=1, sorted=False).values.mean()


def jittered(images: Images, keys: Keys) -> Images:
    """Brightness, contrast or saturation times 0.8 to 1.2."""
    which, factor = (number[..., None] for number in scalars(keys, 2))
    gray = luminance(images)
    middle = torch.where(which < 1 / 3, 0, torch.where(which < 2 / 3, gray.mean(dim=(2, 3), keepdim=True), gray))
    return blend(middle.expand_as(images), images, 0.8 + 0.4 * factor).clamp(0, 1)


def halving(channels: int, wanted: int) -> list[nn.Module]:
    """A 4 x 4 convolution at stride 2."""
    return [nn.Conv2d(channels, wanted, 4, 2, 1), nn.ReLU()]


def resized(maps: Maps, grid: tuple[int, ...]) -> Maps:
    """The map with so many places; as it is where it has them."""
    return maps if maps.shape[-2:] == grid else functional.interpolate(maps, grid, mode="bilinear")
