"""Mixtures of Gaussians over the small patches of every level of an image pyramid.

Böttger & Ulrich 2016, "Real-time texture error detection on textured surfaces with compressed sensing", and the texture
inspection of HALCON that came of it, as the MVTec AD paper (Bergmann et al., CVPR 2019, section 4) runs it on textures:
gray, 400 px, four levels, patches of 7 x 7 px, ten training images, the negative log likelihood as the map.

Where we differ or where nothing is published: patches are not projected unless `projection` says so (the article's
compressed sensing); number and covariance of the components, ridge, novelty threshold (a quantile over normal images
that the mixtures have not seen) and the scale between median and threshold are ours. HALCON answers with regions: those
of neighbouring levels are intersected and the intersections united. Our map says the same in one number a pixel.
"""

import warnings
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Float64, Int, UInt8
from pydantic import Field, NonNegativeInt, PositiveInt
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.nn import functional

from anomaly_lab.core.errors import UserError
from anomaly_lab.core.types import Images, Prediction
from anomaly_lab.functional.distinct_rows import first_distinct
from anomaly_lab.functional.gaussian_mixture import negative_log_likelihood
from anomaly_lab.functional.pyramid import Gray, Levels, combine, pyramid
from anomaly_lab.methods.base.fitted import FittedMethod
from anomaly_lab.methods.base.reservoir import FOLD, Reservoir
from anomaly_lab.methods.base.tiling import Tiling

RIDGE = 1e-4  # of the mean variance of the vectors, added to every variance
LEAST_RIDGE = 1e-8  # of vectors that hardly vary; what rounding to 256 gray levels leaves at the fourth level is 2e-8
LEAST_SPREAD = 1.0  # nats between median and threshold; no texture with any noise comes near it
GRAY_LEVEL = 1 / 255  # keeps Weber's fraction of black patches finite
STEPS, TOLERANCE = 100, 1e-3  # of expectation maximisation
ROWS = 8192  # vectors that are scored at once: bounds the memory, 32 MB with ten components
COPIES = 4  # of its vectors that scikit-learn holds in a step


class TextureInspection(FittedMethod):
    """Negative log likelihood of the patch around each pixel, at every level, combined as HALCON combines regions.

    With s the negative log likelihood at a level, m its median and t its `quantile` over normal images, each level says
    u = (s - m) / (t - m), 1 at its threshold; the map is the largest of the smaller of two neighbouring levels, so that
    {map >= 1} is exactly the union of the intersections of their regions. One level alone speaks for itself. The map
    may be far below zero where an image is more likely than usual.

    `images` training images make the mixtures, `novelty_images` others set m and t; of more images a sample is taken.
    Fewer are shared in that proportion, at least one for each; a single image serves for both, so that t is too low.
    `vectors` patches, at most, are drawn at each level: 50 000 leave about 5000 to each Gaussian of 1275 numbers, at
    half of the cost of 100 000. `normalisation="weber"` takes the deviation of a patch from its mean, relative to that
    mean: it does not see a change of brightness. `projection` replaces the patch by so many random combinations of its
    pixels. `sensitivity` moves each threshold by that share of its distance towards the median (0.1: 10 % nearer;
    negative: further away), which multiplies the map by 1 / (1 - sensitivity).
    """

    own_line: ClassVar = 1.0  # the threshold of every level

    offsets: Tensor  # level component: log weight and constant of each Gaussian, -inf where a level has fewer
    means: Tensor  # level component length
    factors: Tensor  # level component length length: Cholesky factors of the precisions
    median: Tensor  # level
    spread: Tensor  # level
    directions: Tensor | None  # pixel length: of the projection

    def __init__(
        self,
        tiling: Tiling,
        image_size: PositiveInt,
        channels: Literal[1],
        images: PositiveInt = 10,
        novelty_images: PositiveInt = 10,
        levels: PositiveInt = 4,
        patch_size: Annotated[int, Field(ge=3)] = 7,
        components: PositiveInt = 10,
        vectors: PositiveInt = 50_000,
        normalisation: Literal["none", "weber"] = "none",
        projection: PositiveInt | None = None,
        quantile: Annotated[float, Field(gt=0.5, le=1)] = 0.999,
        sensitivity: Annotated[float, Field(lt=1)] = 0.0,
        seed: NonNegativeInt = 0,
    ) -> None:
        super().__init__(tiling)
        if patch_size % 2 == 0:
            raise UserError(
                f"method.patch_size: expected an odd number of px, so that it has a centre, found {patch_size}"
            )
        if projection is not None and projection > patch_size**2:
            raise UserError(
                f"method.projection: expected at most {patch_size**2} (pixels of a patch), or null, found {projection}"
            )
        check_size(image_size, levels, patch_size)
        self.image_size = image_size
        self.images = images
        self.novelty_images = novelty_images
        self.levels = levels
        self.patch_size = patch_size
        self.components = components
        self.vectors = vectors
        self.normalisation = normalisation
        self.quantile = quantile
        self.sensitivity = sensitivity
        self.seed = seed
        self.length = length = projection or patch_size**2
        draws = np.random.default_rng(seed).normal(size=(patch_size**2, length)) / length**0.5
        self.register_buffer("directions", torch.from_numpy(draws).float() if projection else None)
        # until it is fitted: one standard Gaussian around black
        self.register_buffer("offsets", torch.full((levels, 1), -length / 2 * np.log(2 * np.pi)))
        self.register_buffer("means", torch.zeros(levels, 1, length))
        self.register_buffer("factors", torch.eye(length).repeat(levels, 1, 1, 1))
        self.register_buffer("median", torch.zeros(levels))
        self.register_buffer("spread", torch.ones(levels))
        self._images = Reservoir(images + novelty_images, seed)

    def memory(self, images: int) -> int:
        """The images, a byte a pixel, and the vectors of a level in the fit."""
        kept = min(images, self.images + self.novelty_images)
        return FOLD * kept * self.image_size**2 + COPIES * self.vectors * self.length * 8

    def update(self, images: Images, index: Int[Tensor, " batch"]) -> None:
        """Keep some of the images, in the 256 gray levels in which they came."""
        for i, image in zip(index.tolist(), (images * 255).round().byte(), strict=True):
            self._images.add(i, image[None])

    def fit(self) -> None:
        """Mixtures of every level, then their medians and thresholds on other images."""
        images = self._images.rows()
        self.say(f"TextureInspection: mixtures of {self.levels} levels")
        of_mixtures, of_novelty = split(len(images), self.images, self.novelty_images, self.seed)
        with threadpool_limits(1), warnings.catch_warnings():  # several threads add in another order every time
            warnings.simplefilter("ignore", ConvergenceWarning)  # told below, in one line
            levels = pyramid(images[of_mixtures].double() / 255, self.levels)
            mixtures = [self._mixture(level, i) for i, level in enumerate(levels)]
            self._keep(mixtures)
            self._set_thresholds(images[of_novelty])
        self._tell(mixtures)

    def _mixture(self, images: Float64[Tensor, "batch 1 height width"], level: int) -> GaussianMixture:
        random = np.random.default_rng([self.seed, level])
        patches = images[:, 0].unfold(1, self.patch_size, 1).unfold(2, self.patch_size, 1)
        count = patches[..., 0, 0].numel()
        drawn = np.sort(random.choice(count, min(count, self.vectors), replace=False))
        chosen = np.unravel_index(drawn, tuple(patches.shape[:3]))
        vectors = self.features(patches[tuple(map(torch.from_numpy, chosen))].flatten(1)).numpy()
        if len(vectors) == 1:  # scikit-learn wants two
            vectors = np.repeat(vectors, 2, axis=0)
        mixture = GaussianMixture(
            len(first_distinct(vectors, self.components)),
            reg_covar=max(RIDGE * float(vectors.var(axis=0).mean()), LEAST_RIDGE),
            max_iter=STEPS,
            tol=TOLERANCE,
            init_params="k-means++",
            random_state=int(random.integers(2**32)),
        )
        return mixture.fit(vectors)

    def _keep(self, mixtures: list[GaussianMixture]) -> None:
        """Write the mixtures into the buffers; the components that a level has fewer than others get no weight."""
        components = max(mixture.n_components for mixture in mixtures)
        device = self.means.device
        self.offsets = torch.full((self.levels, components), -torch.inf, device=device)
        self.means = torch.zeros(self.levels, components, self.length, device=device)
        self.factors = torch.zeros(self.levels, components, self.length, self.length, device=device)
        for level, mixture in enumerate(mixtures):
            factors = torch.from_numpy(mixture.precisions_cholesky_)
            constant = factors.diagonal(dim1=1, dim2=2).log().sum(dim=1) - self.length / 2 * np.log(2 * np.pi)
            own = slice(mixture.n_components)
            self.offsets[level, own] = (torch.from_numpy(mixture.weights_).log() + constant).to(self.offsets)
            self.means[level, own] = torch.from_numpy(mixture.means_).to(self.means)
            self.factors[level, own] = factors.to(self.factors)

    def _set_thresholds(self, images: UInt8[Tensor, "image 1 height width"]) -> None:
        """Median and threshold of each level over whole normal images, borders included as in the test."""
        with torch.inference_mode():
            answers = [self.novelty(image[None].to(self.means) / 255) for image in images]
        for level in range(self.levels):
            values = torch.cat([answer[level].flatten() for answer in answers]).double().cpu().numpy()
            median, threshold = np.quantile(values, [0.5, self.quantile])
            self.median[level] = float(median)
            self.spread[level] = max((threshold - median) * (1 - self.sensitivity), LEAST_SPREAD)

    def _tell(self, mixtures: list[GaussianMixture]) -> None:
        fewer = [
            f"{mixture.n_components} at level {level}"
            for level, mixture in enumerate(mixtures, 1)
            if mixture.n_components < self.components
        ]
        if fewer:
            self.say(f"TextureInspection: fewer than {self.components} components, for want of different patches: "
                + ", ".join(fewer))  # fmt: skip
        restless = [str(level) for level, mixture in enumerate(mixtures, 1) if not mixture.converged_]
        if restless:
            self.say(f"TextureInspection: mixtures still moved after {STEPS} steps, at level {', '.join(restless)}")

    def features(self, patches: Float[Tensor, "row pixel"]) -> Float[Tensor, "row length"]:
        """Vectors of patches, in the precision of the patches.

        Weber's fraction is free of a mean even where the gray level in its denominator counts: no training patch varies
        along that direction, so a small mean would look like a large defect.
        """
        if self.normalisation == "weber":
            mean = patches.mean(dim=1, keepdim=True)
            patches = (patches - mean) / (mean + GRAY_LEVEL)
        return patches if self.directions is None else patches @ self.directions.to(patches)

    def novelty(self, images: Gray) -> Levels:
        """Negative log likelihood at the pixels of each level of the pyramid (images of any brightness in [0, 1]).

        One image after the other, so that an answer does not depend on the batch, not even in its last bit.
        """
        check_size(min(images.shape[-2:]), self.levels, self.patch_size)
        return [
            torch.stack([self._novelty(image, level) for image in images])
            for level, images in enumerate(pyramid(images, self.levels))
        ]

    @property
    def export_obstacle(self) -> str:
        """What keeps the memory bounded."""
        return f"every image is looked at by itself, {ROWS} patches at a time"

    def _novelty(self, image: Float[Tensor, "1 height width"], level: int) -> Float[Tensor, "1 height width"]:
        height, width = image.shape[-2:]
        padded = functional.pad(image, [self.patch_size // 2] * 4, mode="reflect")
        patches = padded[0].unfold(0, self.patch_size, 1).unfold(1, self.patch_size, 1)  # a view
        step = max(1, ROWS // width)
        answers = []
        for top in range(0, height, step):
            vectors = self.features(patches[top : top + step].reshape(-1, self.patch_size**2))
            mixture = self.offsets[level], self.means[level], self.factors[level]
            answers.append(negative_log_likelihood(vectors, *mixture))
        return torch.cat(answers).view(1, height, width)

    def predict(self, images: Images) -> Prediction:
        """Map: what the levels say together, 1 where HALCON's region would begin. The score is the default one."""
        levels = [
            (answer - self.median[level]) / self.spread[level] for level, answer in enumerate(self.novelty(images))
        ]
        return Prediction(combine(levels, (images.shape[-2], images.shape[-1])), None, None)


def split(
    count: int, images: int, novelty_images: int, seed: int
) -> tuple[Int[Tensor, " mixture_image"], Int[Tensor, " novelty_image"]]:
    """Which of so many images make the mixtures, and which others set the thresholds.

    Too few images are shared in the proportion asked for, at least one for each; a single one is in both.
    """
    order = torch.from_numpy(np.random.default_rng(seed).permutation(count))
    if count == 1:
        return order, order
    if count < images + novelty_images:
        images = min(max(round(count * images / (images + novelty_images)), 1), count - 1)
    return order[:images].sort().values, order[images : images + novelty_images].sort().values


def check_size(side: int, levels: int, patch_size: int) -> None:
    """Raise UserError where a patch does not fit into the smallest level of an image of that side."""
    least = (patch_size - 1) * 2 ** (levels - 1) + 1
    if side >= least:
        return
    fitting = ((side - 1) // (patch_size - 1)).bit_length()
    advice = f"or set method.levels to at most {fitting}" if fitting else "or set method.patch_size smaller"
    raise UserError(
        f"data.image_size: expected at least {least} px, so that a patch of {patch_size} px fits into the smallest of "
        f"{levels} levels, found {side}; {advice}"
    )
