"""Trivial detectors, through the same data and metrics as the others: what a method must beat to have shown anything.

Benchmarks are confounded. On one copy of MVTec AD's screw the good test images are darker than all others, so the mean
brightness alone reaches an image AUROC of 1.000; in chest X-rays blur does. No paper: these are our own.
"""

from typing import Literal, get_args

import cv2
import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import PositiveInt
from torch import Tensor
from torch.nn import functional

from anomaly_lab.core.distributed import of_all_processes
from anomaly_lab.core.types import Images, Prediction
from anomaly_lab.functional.ssim import ssim_map
from anomaly_lab.methods.base.fitted import FittedMethod
from anomaly_lab.methods.base.reservoir import FOLD, Reservoir
from anomaly_lab.methods.base.tiling import Tiling

Kind = Literal[
    "brightness", "sharpness", "background", "mean_image", "gray_ssim", "foreground", "pca", "nearest", "kde",
    "mean_distance", "pca_distance",
]  # fmt: skip
IMAGE_LEVEL_CONTROLS = ("brightness", "sharpness")  # a score in either direction, and no map
OF_CLASSES = ("nearest", "kde")  # of photos of several classes: a distance from the training images, and no map either
WITHOUT_MAP = (*IMAGE_LEVEL_CONTROLS, *OF_CLASSES, "mean_distance", "pca_distance")
KINDS: tuple[Kind, ...] = get_args(Kind)[:7]  # of every run whose data name no others
THUMBNAIL = 64  # px, at which principal components are computed
SMALL = 32  # px, at which images are compared with each other
COMPONENTS = 16
THUMBNAILS = 1000  # at most; of more training images a sample of that size

Maps = Float[Tensor, "batch 1 map_height map_width"]


class Control(FittedMethod):
    """One of eleven scores without any idea of a defect.

    `brightness`: mean of the image. `sharpness`: mean absolute difference of neighbouring pixels. `background`:
    distance to the median gray of the training images. `mean_image`: squared difference to their mean. `gray_ssim`:
    1 - SSIM against a constant gray 0.5. `foreground`: the side of Otsu's threshold on which the median gray does not
    lie. `pca`: squared residual after 16 principal components of the training images, at 64 px. `nearest`: distance to
    the nearest training image, at 32 px. `kde`: negative logarithm of a density of Gaussians around these, as wide as
    half the median distance of a training image to its nearest. These and `pca` look at 1000 training images at most, a
    sample of more. `mean_distance`, `pca_distance`: the mean of the map of `mean_image` or `pca`: photos of another
    class differ everywhere, those of a defect at one place.
    """

    mean_image: Tensor
    background: Tensor
    center: Tensor
    components: Tensor
    known: Tensor
    count: Tensor
    width: Tensor

    def __init__(self, tiling: Tiling, image_size: PositiveInt, channels: Literal[1, 3], kind: Kind) -> None:
        super().__init__(tiling)
        self.kind: Kind = kind
        self.localises = kind not in WITHOUT_MAP
        self.register_buffer("mean_image", torch.zeros(channels, image_size, image_size))
        self.register_buffer("background", torch.zeros(()))
        self.register_buffer("center", torch.zeros(THUMBNAIL**2))
        self.register_buffer("components", torch.zeros(COMPONENTS, THUMBNAIL**2))
        self._sum = torch.zeros(channels, image_size, image_size, dtype=torch.int64)  # of gray levels: exact
        self._levels = torch.zeros(256, dtype=torch.int64)
        self._count = 0
        self._thumbnails = Reservoir(THUMBNAILS, seed=0)
        compares = kind in OF_CLASSES
        self.register_buffer("known", torch.zeros(THUMBNAILS * compares, channels * SMALL**2))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))  # of them that are images
        self.register_buffer("width", torch.ones(()))
        self._small = Reservoir(THUMBNAILS, seed=0)

    def memory(self, images: int) -> int:
        """The thumbnails."""
        return FOLD * min(images, THUMBNAILS) * THUMBNAIL**2 * 4

    def update(self, images: Images, index: Int[Tensor, " batch"]) -> None:
        """Add to the mean, to the histogram of gray levels and to the thumbnails."""
        self._sum += (images * 255).round().long().sum(dim=0).cpu()
        gray = images.mean(dim=1, keepdim=True)
        self._levels += torch.bincount((gray * 255).round().long().flatten().cpu(), minlength=256)
        self._count += len(images)
        for i, thumbnail, small in zip(index.tolist(), thumbnails(gray), thumbnails(images, SMALL), strict=True):
            self._thumbnails.add(i, thumbnail[None])
            if len(self.known):
                self._small.add(i, small[None])

    def fit(self) -> None:
        """Mean image, median gray, principal components."""
        count = sum(of_all_processes([self._count]))
        self.mean_image.copy_(torch.stack(of_all_processes([self._sum])).sum(dim=0) / (255 * count))
        below = torch.stack(of_all_processes([self._levels])).sum(dim=0).cumsum(0)
        self.background.copy_(torch.searchsorted(below, (below[-1] + 1) // 2) / 255)
        rows = self._thumbnails.rows().double()
        self.center.copy_(rows.mean(dim=0))
        directions = torch.linalg.svd(rows - rows.mean(dim=0), full_matrices=False).Vh[:COMPONENTS]
        self.components[: len(directions)].copy_(directions)
        if len(self.known):
            images = self._small.rows()
            self.count.fill_(len(images))
            self.known[: len(images)].copy_(images)
            apart = torch.cdist(images.double(), images.double()).fill_diagonal_(torch.inf).amin(dim=1)
            least = images.shape[1] ** 0.5 / 255  # a gray level: of copies, and of a single image
            self.width.copy_(
                (apart[apart.isfinite()].median() / 2 if len(images) > 1 else apart.new_zeros(())).clamp(least)
            )

    def predict(self, images: Images) -> Prediction:
        """The map of this kind, or the one number of the image."""
        return Prediction(self.answer(self.kind, images), None, None)

    @property
    def export_obstacle(self) -> str:
        """That nobody should want it."""
        return "a control is what a method must beat, not one to rely on"

    def answer(self, kind: Kind, images: Images) -> Maps:
        """What the kind says: a map, or a 1 x 1 map where it has one number an image."""
        gray = images.mean(dim=1, keepdim=True)
        match kind:
            case "brightness":
                return gray.mean(dim=(2, 3), keepdim=True)
            case "sharpness":
                down, right = gray.diff(dim=2), gray.diff(dim=3)
                return down.abs().mean(dim=(2, 3), keepdim=True) + right.abs().mean(dim=(2, 3), keepdim=True)
            case "background":
                return (gray - self.background).abs()
            case "mean_image":
                return (images - self.mean_image).square().mean(dim=1, keepdim=True)
            case "gray_ssim":
                return 1 - ssim_map(gray, torch.full_like(gray, 0.5))
            case "foreground":
                return torch.stack([self._foreground(image) for image in gray])
            case "mean_distance":
                return (images - self.mean_image).square().mean(dim=(1, 2, 3), keepdim=True)
            case "pca":
                return self._residual(gray)
            case "pca_distance":
                return self._residual(gray).mean(dim=(2, 3), keepdim=True)
            case "nearest":
                return self._distances(images).amin(dim=1).view(-1, 1, 1, 1)
            case "kde":
                exponents = -self._distances(images).square() / (2 * self.width**2)
                return -exponents.logsumexp(dim=1).view(-1, 1, 1, 1)

    def _distances(self, images: Images) -> Float[Tensor, "batch known"]:
        rows, known = thumbnails(images, SMALL), self.known[: int(self.count)]
        return torch.cdist(rows, known, compute_mode="donot_use_mm_for_euclid_dist")  # products confuse near rows

    def _foreground(self, gray: Float[Tensor, "1 height width"]) -> Float[Tensor, "1 height width"]:
        levels = (gray * 255).round().byte().cpu().numpy()[0]
        level, _ = cv2.threshold(np.ascontiguousarray(levels), 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
        brighter = gray * 255 > level
        return (brighter if self.background * 255 <= level else ~brighter).to(gray)

    def _residual(self, gray: Float[Tensor, "batch 1 height width"]) -> Maps:
        rows = thumbnails(gray) - self.center
        rest = rows - rows @ self.components.T @ self.components
        return rest.square().view(-1, 1, THUMBNAIL, THUMBNAIL)


def thumbnails(
    images: Float[Tensor, "batch channel height width"], side: int = THUMBNAIL
) -> Float[Tensor, "batch value"]:
    """Images at `side` px, as rows."""
    return functional.interpolate(images, (side, side), mode="area").flatten(1)
