"""How well anomaly maps find the defective pixels: AUROC, AUPR, F1-max, AU-PRO and AUPIMO in one pass."""

import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from itertools import groupby
from typing import Any, Literal

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int, Int32
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat
from torchmetrics.utilities.distributed import gather_all_tensors

from anomaly_lab.metrics import aupimo
from anomaly_lab.metrics.histogram import ScoreHistogram, decode, encode, look
from anomaly_lab.metrics.ranking import Ranking, Value, as_share, rank, share

Images = Tensor | np.ndarray | Sequence[Tensor | np.ndarray]  # a batch, or images that may differ in size
Found = list[tuple[Int32[np.ndarray, "_ _"], int, int, int]]  # `_regions` of each image
EMPTY = {  # what exact mode keeps, of no image
    "normal": torch.zeros(0), "good": torch.zeros(0), "abnormal": torch.zeros(0),
    "weight": torch.zeros(0, 4, dtype=torch.int64), "sizes": torch.zeros(0, 2, dtype=torch.int64),
}  # fmt: skip


class PixelMetrics(Metric):
    """Rank the pixels of all images together, each score a threshold, in memory that does not grow.

    >>> import torch
    >>> from anomaly_lab.metrics import PixelMetrics
    >>> metrics = PixelMetrics()
    >>> maps, masks = torch.rand(4, 64, 64), torch.zeros(4, 64, 64, dtype=torch.bool)
    >>> masks[0, 8:16, 8:16] = True
    >>> metrics.update(maps + masks, masks)
    >>> values = metrics.compute()
    >>> values["auroc"], round(values["aupro"], 6), values["regions"]
    (1.0, 1.0, 1)
    >>> values["aupimo"]
    1.0

    Scores may have any range and are used as they are. AU-PRO is the area under the mean per-region overlap
    against the false positive rate up to `pro_limit`, divided by `pro_limit` (Bergmann et al., CVPR 2020, section 4).
    It is linear in the defect pixels, so a pixel of a region of n pixels simply counts 1/n and one histogram of scores
    is all that is kept (`histogram.py`), which suffices for AUPIMO too (`aupimo.py`). Its bins make every value certain
    within `bounds`; scores of few levels, float16 and bfloat16 are exact. Values do not depend on the order of images,
    on batches or on the number of processes.

    `pro_limit`: false positive rate up to which AU-PRO is taken, in (0, 1]. `connectivity`: 8 (MVTec's script) or 4.
    `mode`: `exact` keeps all scores (5 bytes a pixel) and sorts. `tolerance`: width of the bounds above which
    `compute` warns. `pimo_limits`: false positive rates on good images between which AUPIMO is taken.
    """

    regions: Tensor
    images: Tensor  # good ones, ones with a defect
    good_pixels: Tensor
    normal: list[Tensor]  # scores of normal pixels of images with a defect
    good: list[Tensor]
    abnormal: list[Tensor]
    weight: list[Tensor]
    sizes: list[Tensor]
    blocks: list[Tensor]

    full_state_update = True
    higher_is_better = True
    is_differentiable = False

    def __init__(
        self,
        pro_limit: float = 0.3,
        connectivity: Literal[4, 8] = 8,
        mode: Literal["histogram", "exact"] = "histogram",
        tolerance: float = 1e-4,
        pimo_limits: tuple[float, float] = (aupimo.LOWER, aupimo.UPPER),
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        if not 0 < pro_limit <= 1:
            raise ValueError(f"pro_limit: expected a rate in (0, 1], found {pro_limit}")
        if connectivity not in (4, 8) or mode not in ("histogram", "exact"):
            raise ValueError(f"expected connectivity 4 or 8 and mode histogram or exact, found {connectivity}, {mode}")
        if not 0 < pimo_limits[0] < pimo_limits[1] <= 1:
            raise ValueError(f"pimo_limits: expected two rising rates in (0, 1], found {pimo_limits}")
        self.pro_limit = pro_limit
        self.pimo_limits = pimo_limits
        self.connectivity = connectivity
        self.mode = mode
        self.tolerance = tolerance
        self.histogram = ScoreHistogram()
        self.add_state("regions", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("images", torch.zeros(2, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("good_pixels", torch.tensor(0), dist_reduce_fx="sum")
        for name in EMPTY:  # the scores themselves, in exact mode
            self.add_state(name, [], dist_reduce_fx="cat")
        # The histogram, as it travels between processes: filled when they meet, empty otherwise.
        self.add_state("blocks", [], dist_reduce_fx="cat")
        self.add_state("low_bits", torch.tensor(0), dist_reduce_fx=_bitwise_or)
        self.add_state("largest", torch.tensor(0), dist_reduce_fx="max")
        for name in ("beyond_levels", "rounded"):
            self.add_state(name, torch.tensor(0), dist_reduce_fx="sum")

    def update(self, maps: Images, masks: Images, one_image: bool = False) -> None:
        """Add maps and their masks: a tensor each, or sequences whose pairs may differ in size.

        Maps are floating point of any range, masks bool or 0/255 (nonzero = defect), both (batch, [1,] height, width).
        `one_image`: these are parts of one image, which AUPIMO counts once.

        Raises ValueError where shapes or types do not fit or a score is NaN; nothing of this call is counted then.

        """
        stacks = _stacks(maps, masks)
        low_bits, rounded, largest = 0, False, np.float32(-np.inf)
        for number, (scores, _) in enumerate(stacks):
            single = _single(scores).ravel()
            nan, bits = look(single)
            if nan:
                counts = np.isnan(scores).sum(axis=(1, 2))
                image = int(counts.argmax()) + number
                raise ValueError(
                    f"expected scores that are numbers, found {counts.max()} NaN in image {image} of the batch"
                )
            low_bits |= bits
            largest = max(largest, single.max(initial=largest))
            rounded |= scores.dtype.itemsize > 4 and not np.array_equal(single, scores.ravel())
        self.histogram.rounded |= rounded
        self.histogram.low_bits |= low_bits
        self.histogram.largest = max(self.histogram.largest, int(encode(np.array([largest]))[0]))
        found = [[_regions(mask, self.connectivity) for mask in masks] for _, masks in stacks]
        whole = None
        if one_image and stacks:
            whole = sum(scores.size for scores, _ in stacks), sum(int(masks.sum()) for _, masks in stacks)
            self._count([not whole[1]])
        for (scores, masks), regions in zip(stacks, found, strict=True):
            self._add(scores, masks, regions, whole)

    def _add(
        self,
        scores: Float[np.ndarray, "image height width"],
        masks: Bool[np.ndarray, "image height width"],
        found: Found,
        whole: tuple[int, int] | None,
    ) -> None:
        """Count images of one size, or parts of an image that has `whole` pixels, defect pixels."""
        size, defect_pixels = whole or (scores[0].size if len(scores) else 0, 0)
        good = [not (defect_pixels or regions) for _, _, _, regions in found]
        if whole is None:
            self._count(good)
        self.regions = self.regions + sum(regions for _, _, _, regions in found)
        single = scores if self.mode == "exact" else _single(scores)
        start = 0
        for is_good, run in groupby(good):
            images = slice(start, start := start + len(list(run)))
            if is_good:
                self.good_pixels = self.good_pixels + scores[images].size
            if self.mode == "exact":
                self._keep(scores[images], masks[images], found[images], size, None if is_good else defect_pixels)
            else:
                self.histogram.add(single[images].ravel(), size if is_good else 0)
        if self.mode == "histogram":
            for anomaly_map, (region, top, left, regions) in zip(single, found, strict=True):
                if regions:
                    self.histogram.add_regions(anomaly_map, region, top, left, regions, defect_pixels)

    def _count(self, good: list[bool]) -> None:
        self.images = self.images + torch.tensor([sum(good), len(good) - sum(good)], device=self.device)

    def _keep(
        self,
        scores: Float[np.ndarray, "image height width"],
        masks: Bool[np.ndarray, "image height width"],
        found: Found,
        size: int,
        defect_pixels: int | None,
    ) -> None:
        """Keep the scores themselves; `defect_pixels` of the image, 0: those of the mask, None: a good image."""
        if defect_pixels is None:
            self.good.append(torch.from_numpy(scores.flatten()))
            self.sizes.append(torch.tensor([[scores.size, size]]))
            return
        self.normal.append(torch.from_numpy(scores[~masks]))
        for anomaly_map, mask, (region, _, _, _) in zip(scores, masks, found, strict=True):
            number = region[region > 0]  # in the order of mask's pixels: none lies outside the box
            of_image = np.full(len(number), defect_pixels or len(number))
            self.abnormal.append(torch.from_numpy(anomaly_map[mask]))
            weight = share(np.stack([np.bincount(number, minlength=1)[number], of_image], axis=1))
            self.weight.append(torch.from_numpy(weight.reshape(-1, 4)))

    def compute(self) -> dict[str, Any]:
        """`auroc`, `aupr`, `f1max`, `f1max_threshold`, `aupro`, `aupimo`, `regions`, `good_pixels` (of good images).

        And `bounds`: name -> (low, high). nan, with one warning, for what needs defective or normal pixels and finds
        none; `aupimo` is nan without good images too.
        """
        ranking, per_image = self._ranked()
        regions = int(self.regions)
        f1max, threshold = ranking.f1max()
        values = {
            "auroc": ranking.auroc(), "aupr": ranking.aupr(), "f1max": f1max, "aupro": ranking.aupro(self.pro_limit),
            "aupimo": per_image.aupimo(*self.pimo_limits),
        }  # fmt: skip
        if not ranking.normal.sum() or not ranking.abnormal.sum():
            warnings.warn("pixel metrics need normal and defective pixels: what needs both is nan", stacklevel=2)
        self._warn_of_wide_bounds(values)
        numbers = {name: value.value for name, value in values.items()}
        bounds = {name: (value.low, value.high) for name, value in values.items()}
        counts = {"regions": regions, "good_pixels": int(self.good_pixels)}
        return {**numbers, "f1max_threshold": threshold, **counts, "bounds": bounds}

    def ranking(self) -> Ranking:
        """All pixels in falling order of their scores, with what every metric and every curve needs."""
        return self._ranked()[0]

    def _ranked(self) -> tuple[Ranking, aupimo.PerImageOverlap]:
        regions, images = int(self.regions), (int(self.images[0]), int(self.images[1]))
        if self.mode == "exact":
            kept = {name: getattr(self, name) for name in EMPTY}
            normal, good, abnormal, weight, sizes = (
                dim_zero_cat(parts if len(parts) else [EMPTY[name]]).cpu().numpy() for name, parts in kept.items()
            )
            ranking = rank(np.concatenate([normal, good]), abnormal, weight[:, :2], regions)
            return ranking, aupimo.of_scores(good, sizes, abnormal, weight[:, 2:], images, self.pimo_limits[1])
        histogram = self.histogram
        if len(self.blocks):  # processes have met
            histogram = self._unpacked()
        blocks = histogram.blocks()
        counts, tied = blocks.counts[::-1], blocks.single[::-1]
        ranking = Ranking(
            threshold=decode(blocks.code)[::-1].astype(np.float64),
            normal=counts[:, 0] - counts[:, 1],
            abnormal=counts[:, 1],
            tied=tied,
            overlap=as_share(counts[:, 2:4], regions),
        )
        return ranking, aupimo.PerImageOverlap(counts[:, 6:], counts[:, 4:6], tied, images)

    def reset(self) -> None:
        """Forget all images."""
        super().reset()
        self.histogram = ScoreHistogram()

    def _copy_state_dict(self) -> dict[str, Any]:
        """What `forward` and `unsync` bring back."""
        return {**super()._copy_state_dict(), "histogram": self.histogram}

    def _pack(self) -> None:
        """Write the histogram into tensors, to travel or to be saved."""
        blocks = self.histogram.blocks()
        rows = np.column_stack([blocks.code.astype(np.int64), blocks.counts])
        self.blocks = [torch.from_numpy(rows).to(self.device)]
        self.low_bits = torch.tensor(self.histogram.low_bits, device=self.device)
        self.largest = torch.tensor(self.histogram.largest, device=self.device)
        self.beyond_levels = torch.tensor(int(self.histogram.keys is None), device=self.device)
        self.rounded = torch.tensor(int(self.histogram.rounded), device=self.device)

    def _unpacked(self) -> ScoreHistogram:
        """The histogram of these tensors."""
        rows = dim_zero_cat(self.blocks).cpu().numpy()
        histogram = ScoreHistogram()
        histogram.low_bits, histogram.rounded = int(self.low_bits), bool(self.rounded)
        histogram.largest = int(self.largest)
        histogram.merge(rows[:, 0].astype(np.uint32), rows[:, 1:], levels=not self.beyond_levels)
        return histogram

    def state_dict(self, *args: Any, **settings: Any) -> dict[str, Any]:
        """The state, with the histogram where it is persistent (`persistent(True)`)."""
        if self.mode == "histogram" and self._persistent["blocks"] and not self.blocks:
            self._pack()
            try:
                return super().state_dict(*args, **settings)
            finally:
                self.blocks = []
        return super().state_dict(*args, **settings)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *settings: Any) -> None:
        found = f"{prefix}regions" in state_dict
        super()._load_from_state_dict(state_dict, prefix, *settings)
        if not found:
            return
        self._update_count, self._computed = max(self._update_count, 1), None  # the images are counted
        if self.mode == "histogram":
            self.histogram, self.blocks = self._unpacked(), []
        for name in EMPTY:  # lists of their own: these grow
            setattr(self, name, list(getattr(self, name)))

    def _sync_dist(self, dist_sync_fn: Callable | None = None, process_group: Any = None) -> None:
        """Let the histogram travel as rows; `unsync` empties them again. Scores travel in one type, from all."""
        if self.mode == "histogram":
            self._pack()
        else:
            for name, empty in EMPTY.items():
                kept = dim_zero_cat([*getattr(self, name), empty])
                setattr(self, name, [(kept.double() if kept.is_floating_point() else kept).to(self.device)])
        super()._sync_dist(dist_sync_fn or gather_all_tensors, process_group)

    def _warn_of_wide_bounds(self, values: dict[str, Value]) -> None:
        widths = {name: value.high - value.low for name, value in values.items()}
        name = max(widths, key=lambda name: np.nan_to_num(widths[name]))
        if widths[name] > self.tolerance:
            value = values[name]
            warnings.warn(
                f"{name} lies between {value.low:.6f} and {value.high:.6f}, wider than {self.tolerance:g}: the scores "
                'crowd into few bins; mode="exact" sorts them',
                stacklevel=3,
            )


def _bitwise_or(values: Int[Tensor, " process"]) -> Int[Tensor, ""]:
    return reduce(torch.bitwise_or, values)


def _stacks(
    maps: Images, masks: Images
) -> list[tuple[Float[np.ndarray, "image height width"], Bool[np.ndarray, "image height width"]]]:
    """Maps (float32, or float64 as they came) and masks (bool), checked: a batch whole, a sequence image by image."""
    if isinstance(maps, Tensor | np.ndarray) != isinstance(masks, Tensor | np.ndarray) or len(maps) != len(masks):
        raise ValueError(f"expected as many masks as maps, found {len(maps)} maps and {len(masks)} masks")
    whole = isinstance(maps, Tensor | np.ndarray)
    stacks = []
    pairs: Iterable[tuple[Any, Any]] = [(maps, masks)] if whole else zip(maps, masks, strict=True)
    for number, pair in enumerate(pairs):
        scores, defect = (_array(values) for values in pair)
        scores, defect = (
            array.squeeze(-3) if array.ndim == 3 + whole and array.shape[-3] == 1 else array
            for array in (scores, defect)
        )
        name = "batch" if whole else f"image {number} of the batch"
        if scores.shape != defect.shape or scores.ndim != 2 + whole:
            raise ValueError(
                f"{name}: expected maps and masks of one size, ([1,] height, width) each, found "
                f"{tuple(scores.shape)} and {tuple(defect.shape)}"
            )
        if scores.dtype.kind != "f":
            raise ValueError(f"{name}: expected maps of floating point, found {scores.dtype}")
        scores = np.ascontiguousarray(scores.astype(np.float32) if scores.dtype.itemsize < 4 else scores)
        defect = np.ascontiguousarray(defect if defect.dtype == bool else defect != 0)
        stacks.append((scores, defect) if whole else (scores[None], defect[None]))
    return stacks


def _array(values: Tensor | np.ndarray) -> np.ndarray:
    """On the host, in a type that NumPy has."""
    if not isinstance(values, Tensor):
        return values
    values = values.detach().cpu()
    return (values.float() if values.dtype in (torch.float16, torch.bfloat16) else values).numpy()


def _single(scores: Float[np.ndarray, "image height width"]) -> Float32[np.ndarray, "image height width"]:
    """The scores as float32, of which the histogram is made; float64 is rounded down, below the range to -infinity."""
    if scores.dtype.itemsize == 4:
        return scores
    with np.errstate(over="ignore"):
        single = scores.astype(np.float32)
        return np.where(single > scores, np.nextafter(single, np.float32(-np.inf)), single)


def _regions(
    mask: Bool[np.ndarray, "height width"], connectivity: int
) -> tuple[Int32[np.ndarray, "box_height box_width"], int, int, int]:
    """The connected regions of a mask, numbered from 1 within the box around them; its top and left; how many."""
    rows = np.flatnonzero(mask.any(axis=1))
    if not len(rows):
        return np.zeros((0, 0), dtype=np.int32), 0, 0, 0
    top, bottom = rows[0], rows[-1] + 1
    columns = np.flatnonzero(mask[top:bottom].any(axis=0))
    left, right = columns[0], columns[-1] + 1
    box = np.ascontiguousarray(mask[top:bottom, left:right])
    count, region = cv2.connectedComponents(box.view(np.uint8), connectivity=connectivity)
    return region, int(top), int(left), count - 1
