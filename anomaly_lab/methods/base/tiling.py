"""Ask a method about images larger than what it was trained on: cut, ask, stitch. Stateless."""

from collections.abc import Callable
from itertools import product
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from pydantic import PositiveInt
from torch import Tensor
from torch.nn import functional

from anomaly_lab.core.errors import UserError
from anomaly_lab.core.types import Prediction

Images = Float[Tensor, "batch channel height width"]
Predict = Callable[[Images], Prediction]


@runtime_checkable
class Tiling(Protocol):
    """How a method that answers for images of one size answers for any image."""

    def __call__(self, predict: Predict, images: Images) -> Prediction:
        """Predict whole images; the map has the size of the images."""
        ...

    def in_one_pass(self, predict: Predict, images: Images) -> Prediction:
        """The same map and score up to rounding, as one call of `predict` without a loop: a graph for any batch."""
        ...

    def training_like(self, images: Images) -> Float[Tensor, "tile channel tile_height tile_width"]:
        """The images as the method sees them in training, without overlap: for a loss on held-out images."""
        ...


class WholeImage:
    """Objects: the image is asked about as it is."""

    def __call__(self, predict: Predict, images: Images) -> Prediction:
        """Predict the images; a coarse map is enlarged to the size of the images."""
        prediction = predict(images)
        return prediction._replace(anomaly_map=enlarge(prediction.anomaly_map, images))

    def in_one_pass(self, predict: Predict, images: Images) -> Prediction:
        """The same."""
        return self(predict, images)

    def training_like(self, images: Images) -> Float[Tensor, "tile channel tile_height tile_width"]:
        """The images themselves."""
        return images


class SlidingWindow:
    """Textures: overlapping windows; maps and reconstructions are averaged where windows overlap.

    The last window of a row or column touches the border, so nothing is padded and nothing is left out (the MVTec
    AD paper, section 4: windows of 128 px at stride 30 over 512 px; it does not say what happens to the last
    24 px). Scores of windows become the score of the image by `score`.
    """

    def __init__(
        self,
        size: PositiveInt,
        stride: PositiveInt,
        batch_size: PositiveInt = 64,
        score: Literal["max", "mean"] = "max",
    ) -> None:
        if stride > size:
            raise UserError(
                f"data.stride: expected 1 to {size} px (the window), so that windows leave no gap, found {stride}"
            )
        self.size = size
        self.stride = stride
        self.batch_size = batch_size
        self.score = score

    def __call__(self, predict: Predict, images: Images) -> Prediction:
        """Predict every window, `batch_size` at a time across images, and stitch the answers.

        Sums are float64: the average of equal values is exactly that value, in whatever order they are added.
        """
        batch, _, height, width = images.shape
        rows, columns = self.offsets(height), self.offsets(width)
        windows = list(product(range(batch), rows, columns))
        stitched: Tensor | None = None
        scores: list[Tensor] = []
        for start in range(0, len(windows), self.batch_size):
            chunk = windows[start : start + self.batch_size]
            tiles = torch.stack([images[i, :, y : y + self.size, x : x + self.size] for i, y, x in chunk])
            prediction = predict(tiles)
            answer = enlarge(prediction.anomaly_map, tiles)
            if prediction.reconstruction is not None:
                answer = torch.cat([answer, prediction.reconstruction], dim=1)
            if prediction.score is not None:
                scores.append(prediction.score)
            if stitched is None:
                exact = torch.float32 if images.device.type == "mps" else torch.float64  # Apple's has no float64
                stitched = images.new_zeros((batch, answer.shape[1], height, width), dtype=exact)
            for (i, y, x), tile in zip(chunk, answer, strict=True):
                stitched[i, :, y : y + self.size, x : x + self.size] += tile
        assert stitched is not None
        count = self._coverage(height).outer(self._coverage(width)).to(stitched)
        answer = (stitched / count).to(images.dtype)
        score = torch.cat(scores).view(batch, -1) if scores else None
        if score is not None:
            score = score.amax(dim=1) if self.score == "max" else score.mean(dim=1)
        return Prediction(answer[:, :1], score, answer[:, 1:] if answer.shape[1] > 1 else None)

    def in_one_pass(self, predict: Predict, images: Images) -> Prediction:
        """Map and score of all windows of all images at once, all of them in memory; no reconstruction.

        Rows and columns of windows are cut by two gathers and added up one after the other, in float32: few operations
        whatever the number of windows, of the kinds that every runtime has.
        """
        height, width = images.shape[-2:]
        rows, columns = self.offsets(height), self.offsets(width)
        grid = (-1, images.shape[1], len(rows), self.size, len(columns), self.size)
        cut = images[:, :, self._pixels(rows)][:, :, :, self._pixels(columns)].reshape(grid)
        tiles = cut.permute(0, 2, 4, 1, 3, 5).reshape(-1, images.shape[1], self.size, self.size)
        prediction = predict(tiles)
        answer = enlarge(prediction.anomaly_map, tiles)
        answer = answer.reshape(-1, len(rows), len(columns), self.size, self.size)
        strips = averaged(answer.permute(0, 2, 4, 1, 3), rows, height)  # upright, one a column of windows
        whole = averaged(strips.permute(0, 3, 1, 2), columns, width)[:, None]
        score = prediction.score
        if score is not None:
            score = score.reshape(-1, len(rows) * len(columns))
            score = score.amax(dim=1) if self.score == "max" else score.mean(dim=1)
        return Prediction(whole, score, None)

    def training_like(self, images: Images) -> Float[Tensor, "tile channel tile_height tile_width"]:
        """The windows at the stride of their own size; what is left at the border is left out."""
        rows, columns = (range(0, side - self.size + 1, self.size) for side in images.shape[-2:])
        return torch.cat([images[:, :, y : y + self.size, x : x + self.size] for y, x in product(rows, columns)])

    def offsets(self, side: int) -> list[int]:
        """Where the windows start along an axis; the last one touches the border."""
        if side < self.size:
            raise UserError(
                f"data.image_size: expected at least {self.size} px (the window), found an image side of {side} px"
            )
        return sorted({*range(0, side - self.size, self.stride), side - self.size})

    def _pixels(self, offsets: list[int]) -> Int[Tensor, " pixel"]:
        """The pixels of all windows along an axis, window by window."""
        return (torch.tensor(offsets)[:, None] + torch.arange(self.size)).flatten()

    def _coverage(self, side: int) -> Float[Tensor, " side"]:
        return coverage(self.offsets(side), self.size, side)


def coverage(offsets: list[int], size: int, side: int) -> Float[Tensor, " side"]:
    """How many windows of `size` px lie over each pixel of an axis."""
    count = torch.zeros(side, dtype=torch.float64)
    for offset in offsets:
        count[offset : offset + size] += 1
    return count


def averaged(windows: Float[Tensor, "*rest window size"], offsets: list[int], side: int) -> Float[Tensor, "*rest side"]:
    """The mean over the windows at each pixel of an axis of so many px."""
    size = windows.shape[-1]
    first, *others = (
        functional.pad(windows[..., i, :], (offset, side - offset - size)) for i, offset in enumerate(offsets)
    )
    return sum(others, first) / coverage(offsets, size, side).to(windows)


def enlarge(anomaly_map: Float[Tensor, "batch 1 _ _"], images: Images) -> Float[Tensor, "batch 1 height width"]:
    """Bring coarse maps to the size of their images, bilinearly; maps of that size pass unchanged."""
    if anomaly_map.shape[-2:] == images.shape[-2:]:
        return anomaly_map
    return functional.interpolate(anomaly_map, images.shape[-2:], mode="bilinear", align_corners=False)
