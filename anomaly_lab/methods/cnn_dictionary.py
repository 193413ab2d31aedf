"""CNN feature dictionary: Napoletano et al., Sensors 2018, in the form of the MVTec AD paper (CVPR 2019, section 4.1).

Small patches of the good images are described by a network that was trained on ImageNet. A few of these descriptions
become a dictionary, and a patch is abnormal as far as it lies from the entries that are nearest to it.
"""

from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field, NonNegativeInt, PositiveInt
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import pairwise_distances_argmin
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.nn import functional

from anomaly_lab.core.errors import UserError
from anomaly_lab.core.types import Images, Prediction
from anomaly_lab.functional.distinct_rows import first_distinct
from anomaly_lab.methods.base.fitted import FittedMethod
from anomaly_lab.methods.base.reservoir import FOLD, Reservoir
from anomaly_lab.methods.base.tiling import Tiling
from anomaly_lab.networks.backbone import Backbone

COPIES = 10  # of the vectors, in single precision, at the peak of the fit (tests/methods/test_cnn_dictionary.py)

Image = Float[Tensor, "channel height width"]
Vectors = Float[Tensor, "patch feature"]


class CNNDictionary(FittedMethod):
    """Patches of 16 px at a stride of 4 px, 95 % of the variance of their features, 10 entries.

    `evaluation` says how a patch becomes a vector; it is the mean of the layer's map over the patch both times (or the
    maximum, `pooling`).

    - `patchwise`: as published. Every patch is cut out, enlarged to `patch_resize` and shown to the network alone:
      15 625 forward passes for a texture of 512 px.
    - `dense`: the enlarged image is shown once, and the mean is taken over those places of the map that lie under the
      patch (a stage whose places are larger than the stride is computed for every phase of the stride, on shifted maps
      of the stage below). Convolutions near the border of a patch then see the patch's surroundings where `patchwise`
      has zeros: the receptive field is that of the layer, larger than the patch. At the border of the image they repeat
      its outermost pixels: zeros there would make vectors that occur in few patches, which no dictionary of ten entries
      holds, and the corner of every image would be its most abnormal place. The vectors are different ones, so the
      dictionary is built from the same kind. At most sixteen times less work, a patch being sixteen strides large.

    The paper leaves open: how a patch of 16 px enters the network (enlarged to 64 px here, the values being
    normalised before), how many patches build the dictionary (`vectors_per_image` of every training image at random
    places of the grid, `vectors` in all), and over how many entries the distance is averaged (`neighbours`). An entry
    is the training vector nearest to the centre of a cluster (`medoid`), as in the paper, or the centre itself. The
    network sees `batch_size` patches at a time. `whiten` scales the principal components to the same variance.

    Raises UserError where the patch, the stride and the layer do not fit.
    """

    version: ClassVar = 2  # 1: zeros around the image in `dense`

    center: Tensor
    components: Tensor
    dictionary: Tensor

    def __init__(
        self,
        tiling: Tiling,
        backbone: Backbone,
        image_size: PositiveInt,
        evaluation: Literal["patchwise", "dense"],
        pooling: Literal["mean", "max"],
        entries: Literal["medoid", "centroid"],
        clusters: PositiveInt,
        restarts: PositiveInt,
        neighbours: PositiveInt,
        variance: Annotated[float, Field(gt=0, lt=1)],
        patch_size: PositiveInt,
        stride: PositiveInt,
        patch_resize: PositiveInt | None,
        vectors_per_image: PositiveInt,
        seed: NonNegativeInt,
        vectors: PositiveInt = 100_000,
        whiten: bool = False,
        batch_size: PositiveInt = 256,
    ) -> None:
        super().__init__(tiling)
        if len(backbone.layers) != 1:
            raise UserError(f"method.backbone.layers: expected one layer, found {', '.join(backbone.layers)}")
        if evaluation == "dense":
            backbone.repeat_borders()
        self.backbone = backbone
        (self.channels,) = backbone.channels
        self.evaluation = evaluation
        self.pooling = pooling
        self.entries = entries
        self.clusters = clusters
        self.restarts = restarts
        self.neighbours = neighbours
        self.variance = variance
        self.whiten = whiten
        self.patch_size = patch_size
        self.stride = stride
        self.patch_resize = patch_resize or patch_size
        self.vectors_per_image = vectors_per_image
        self.batch_size = batch_size
        self.seed = seed
        self._check(image_size)
        self.side = (image_size - patch_size) // stride + 1  # of the grid of patches
        self.register_buffer("center", torch.zeros(self.channels))
        self.register_buffer("components", torch.zeros(1, self.channels))  # one a row
        self.register_buffer("dictionary", torch.zeros(1, self.channels))  # one entry a row, before the projection
        self._vectors = Reservoir(vectors, seed)

    def _check(self, image_size: int) -> None:
        if image_size < self.patch_size or (image_size - self.patch_size) % self.stride:
            below = max(self.patch_size, image_size - (image_size - self.patch_size) % self.stride)
            raise UserError(
                f"data.image_size: expected {self.patch_size} px (a patch) and a multiple of {self.stride} px (the "
                f"stride) more, so that patches cover the image, found {image_size}; {below} fits"
            )
        if self.neighbours > self.clusters:
            raise UserError(
                f"method.neighbours: expected at most method.clusters={self.clusters}, found {self.neighbours}"
            )
        if self.evaluation == "patchwise":
            return
        step, rest = divmod(self.stride * self.patch_resize, self.patch_size)
        (place,) = self.backbone.reductions
        fits = max(step, place) % min(step, place) == 0 if step else False
        if rest or self.patch_resize % self.patch_size or self.patch_resize % place or not fits:
            raise UserError(
                f"method.patch_resize: expected a multiple of {self.patch_size} px (the patch) and of "
                f"{place} px (a place of {self.backbone.layers[0]}) for method.evaluation=dense, found "
                f"{self.patch_resize} with a stride of {self.stride} px; 64 fits the defaults"
            )

    # The vectors of an image

    def vectors(self, image: Image, positions: Int[Tensor, " patch"] | None = None) -> Vectors:
        """The vectors of the patches of an image, row by row of the grid, or of some of them."""
        normalised = self.backbone.normalise(image[None])
        if self.evaluation == "patchwise":
            positions = torch.arange(self.side**2, device=image.device) if positions is None else positions
            return self._patchwise(normalised, positions)
        dense = self._dense(normalised)
        return dense if positions is None else dense[positions]

    def _patchwise(self, image: Float[Tensor, "1 3 height width"], positions: Int[Tensor, " patch"]) -> Vectors:
        grid = image[0].unfold(1, self.patch_size, self.stride).unfold(2, self.patch_size, self.stride)
        vectors = []
        for chunk in positions.split(self.batch_size):
            patches = grid[:, chunk // self.side, chunk % self.side].movedim(1, 0)
            (maps,) = self.backbone.extract(self._enlarged(patches))
            vectors.append(maps.mean(dim=(2, 3)) if self.pooling == "mean" else maps.amax(dim=(2, 3)))
        return torch.cat(vectors)

    def _dense(self, image: Float[Tensor, "1 3 height width"]) -> Vectors:
        enlarged = self._enlarged(image)
        step = self.stride * self.patch_resize // self.patch_size  # px of the enlarged image
        reduction, side = self.backbone.reductions[0], self.side
        window = self.patch_resize // reduction  # places of the map under a patch
        phases = max(1, reduction // step)  # of the stride, between two places of the map
        vectors = image.new_empty((self.channels, side, side))
        pool = functional.avg_pool2d if self.pooling == "mean" else functional.max_pool2d
        for y, x, layer in self.backbone.extract_at_every_phase(enlarged, step):
            pooled = pool(layer[0], window, max(1, step // reduction))
            rows, columns = len(range(y, side, phases)), len(range(x, side, phases))
            vectors[:, y::phases, x::phases] = pooled[:, :rows, :columns]
        return vectors.flatten(1).T

    def _enlarged(self, images: Float[Tensor, "batch 3 _ _"]) -> Float[Tensor, "batch 3 _ _"]:
        if self.patch_resize == self.patch_size:
            return images
        factor = self.patch_resize / self.patch_size
        return functional.interpolate(images, scale_factor=factor, mode="bilinear", align_corners=False)

    # The dictionary

    def memory(self, images: int) -> int:
        """The vectors, with the double-precision copies of the principal component analysis and of the clustering."""
        kept = min(images * self.vectors_per_image, self._vectors.capacity)
        return kept * self.channels * 4 * max(FOLD, COPIES)

    def update(self, images: Images, index: Int[Tensor, " batch"]) -> None:
        """Keep the vectors of some patches of every image; which ones follows from the seed and the image's number."""
        for image, i in zip(images, index.tolist(), strict=True):
            random = np.random.default_rng([self.seed, i])
            count = min(self.vectors_per_image, self.side**2)
            chosen = np.sort(random.choice(self.side**2, count, replace=False))
            with torch.inference_mode():
                self._vectors.add(i, self.vectors(image, torch.from_numpy(chosen).to(image.device)))

    def fit(self) -> None:
        """Principal components, clusters, entries. One thread: several add up in an order of their own."""
        rows = self._vectors.rows()
        self.say(f"cnn_dictionary: {len(rows)} vectors into {self.clusters} clusters")
        with threadpool_limits(1):
            center, components, dictionary = build_dictionary(
                rows.numpy(), self.variance, self.whiten, self.clusters, self.restarts, self.entries, self.seed
            )
        if len(dictionary) < self.clusters:
            self.say(f"cnn_dictionary: only {len(dictionary)} distinct patches seen, each is an entry")
        if len(dictionary) < self.neighbours:
            raise UserError(
                f"method.neighbours: expected at most {len(dictionary)}, the number of distinct patches, "
                f"found {self.neighbours}"
            )
        self.center, self.components, self.dictionary = (
            torch.from_numpy(values.astype(np.float32)).to(self.center.device)
            for values in (center, components, dictionary)
        )

    # The map

    def predict(self, images: Images) -> Prediction:
        """The distance of every patch from the dictionary, averaged over the patches that cover a pixel."""
        return Prediction(torch.stack([self._map(image) for image in images]), None, None)

    @property
    def export_obstacle(self) -> str:
        """The passes of the network."""
        passes = "a patch" if self.evaluation == "patchwise" else "a phase of the stride"
        return f"every image is looked at by itself, in one pass of the network {passes}"

    def _map(self, image: Image) -> Float[Tensor, "1 height width"]:
        patches, entries = (
            (vectors - self.center) @ self.components.T for vectors in (self.vectors(image), self.dictionary)
        )
        nearest = torch.cdist(patches, entries).topk(self.neighbours, largest=False).indices
        # Once more, exactly: for speed `cdist` takes the difference of large numbers.
        distance = (patches[:, None] - entries[nearest]).norm(dim=2).mean(dim=1)
        return self.spread(distance.view(1, self.side, self.side))

    def spread(self, scores: Float[Tensor, "1 side side"]) -> Float[Tensor, "1 height width"]:
        """The mean of the scores of the patches over a pixel."""
        exact = scores.double()[None] if scores.device.type != "mps" else scores[None]
        patch = exact.new_ones(1, 1, self.patch_size, self.patch_size)
        total = functional.conv_transpose2d(exact, patch, stride=self.stride)
        return (total / functional.conv_transpose2d(torch.ones_like(exact), patch, stride=self.stride))[0].float()


def build_dictionary(
    rows: Float[np.ndarray, "row feature"],
    variance: float,
    whiten: bool,
    clusters: int,
    restarts: int,
    entries: Literal["medoid", "centroid"],
    seed: int,
) -> tuple[Float[np.ndarray, " feature"], Float[np.ndarray, "component feature"], Float[np.ndarray, "entry feature"]]:
    """Mean, principal components (rows; divided by their deviation if `whiten`) and entries in feature space.

    With fewer distinct rows than clusters every one of them is an entry; of a single one all directions are kept.
    """
    distinct = first_distinct(rows, clusters + 1)
    if len(distinct) == 1:
        return rows[0].astype(np.float64), np.eye(rows.shape[1]), distinct
    analysis = PCA(n_components=variance, whiten=whiten, svd_solver="covariance_eigh").fit(rows.astype(np.float64))
    components = analysis.components_
    if whiten:
        components = components / np.sqrt(analysis.explained_variance_)[:, None]
    if len(distinct) <= clusters:
        return analysis.mean_, components, distinct
    projected = analysis.transform(rows)
    means = KMeans(clusters, n_init=restarts, random_state=seed).fit(projected).cluster_centers_
    if entries == "centroid":
        return analysis.mean_, components, analysis.inverse_transform(means)
    return analysis.mean_, components, rows[pairwise_distances_argmin(means, projected)]
