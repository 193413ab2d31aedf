"""Rules that set the threshold from normal images, usually held-out ones, and never from the test set.

The rules of the MVTec AD papers (Bergmann et al., CVPR 2019, section 4; IJCV 2021) compare the map with the threshold:
an image is abnormal if at least `minimum_area` connected pixels reach it. `FalseAlarms` compares the score of the
image, for people who know how many good parts they can afford to reject. So does `TrainPercentile`, a published rule
that shows what goes wrong.

A rule gets the maps one by one (`update`) and keeps none.
"""

import math
from typing import Annotated, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32
from pydantic import Field

from anomaly_lab.core.errors import UserError
from anomaly_lab.metrics.components import component_score
from anomaly_lab.metrics.histogram import ScoreHistogram, decode

Map = Float32[np.ndarray, "height width"]
MARGIN = 1e-4  # between a score and the threshold just above it, as a share of the score
Share = Annotated[float, Field(gt=0, lt=1)]


class Threshold(NamedTuple):
    """A threshold, and what is compared with it."""

    name: str  # of the rule
    decided_by: Literal["component", "score"]  # an image: its largest region above the threshold, or its score
    image: float  # an image is abnormal if its decision score >= this
    pixel: float  # a pixel is defective if the map >= this
    minimum_area: float  # of a defect, as a share of the image
    normals: int  # normal images that it comes from
    note: str = ""  # for people

    def decision_score(self, anomaly_map: Map, score: float) -> float:
        """The number that is compared with `image`: the score, or the largest t at which a defect is large enough."""
        if self.decided_by == "score":
            return score
        return component_score(anomaly_map, pixels(self.minimum_area, anomaly_map))

    def lines(self) -> list[str]:
        """The note, and what a threshold just above 0 means, which prints as a number that says nothing."""
        zero = (
            f"{self.image:g} is the number just above 0, which is what good images score: every image that scores at "
            "all is called abnormal; has the method learnt anything?"
        )
        return [line for line in (self.note, zero if self.image == just_above(0) else "") if line]


def guarantee(rule: str, normals: int, noun: str = "image") -> str:
    """What a threshold of so many images, or rows, can guarantee at best.

    A new good one is as likely as each of them to score highest. A line that the method draws itself promises nothing.
    """
    if rule == "own":
        return "The line is the method's own: no photo has moved it, and it promises no rate of false alarms."
    images, they = (f"1 good {noun}", "It") if normals == 1 else (f"{normals} good {noun}s", "They")
    return f"The threshold comes from {images}. {they} cannot guarantee a false alarm rate below 1 in {normals + 1}."


@runtime_checkable
class ThresholdRule(Protocol):
    """A rule that sets the threshold."""

    def update(self, anomaly_map: Map, score: float) -> None:
        """Add a normal image: its map at the working size without padding, and its score."""
        ...

    def compute(self) -> Threshold:
        """Compute the threshold."""
        ...


class Area:
    """The lowest threshold at which no normal image has a defect of the minimum area (CVPR 2019), exactly."""

    def __init__(self, minimum_area: Share) -> None:
        self.minimum_area = minimum_area
        self._largest = -math.inf
        self._normals = 0

    def update(self, anomaly_map: Map, score: float) -> None:
        """Add a normal image."""
        self._normals += 1
        area = pixels(self.minimum_area, anomaly_map)
        self._largest = component_score(anomaly_map, area, above=self._largest)

    def compute(self) -> Threshold:
        """Just above the score at which the first normal region is large enough."""
        line = just_above(self._largest)
        return Threshold("area", "component", line, line, self.minimum_area, self._normals)


class Own:
    """The threshold that a method has for its maps, like HALCON's texture inspection; normal images do not change it.

    Raises UserError for a method without one (`line` is None).
    """

    def __init__(self, minimum_area: Share, line: float | None) -> None:
        if line is None:
            raise UserError(
                "threshold: expected a rule for a method without a threshold of its own (area, false_alarms), found own"
            )
        self.minimum_area = minimum_area
        self.line = line
        self._normals = 0

    def update(self, anomaly_map: Map, score: float) -> None:
        """Count a held-out normal image."""
        self._normals += 1

    def compute(self) -> Threshold:
        """The threshold of the method."""
        return Threshold("own", "component", self.line, self.line, self.minimum_area, self._normals)


class Maximum:
    """The largest score of any held-out normal pixel (IJCV 2021)."""

    def __init__(self, minimum_area: Share) -> None:
        self.minimum_area = minimum_area
        self._largest = -math.inf
        self._normals = 0

    def update(self, anomaly_map: Map, score: float) -> None:
        """Add a normal image."""
        self._normals += 1
        self._largest = max(self._largest, float(anomaly_map.max()))

    def compute(self) -> Threshold:
        """Just above the maximum."""
        line = just_above(self._largest)
        return Threshold("max", "component", line, line, self.minimum_area, self._normals)


class Quantile:
    """A quantile of all held-out normal pixels (IJCV 2021), from a histogram of fixed size.

    At most a share of 1 - `quantile` of these pixels reaches it.
    """

    def __init__(self, minimum_area: Share, quantile: Share) -> None:
        self.minimum_area = minimum_area
        self.quantile = quantile
        self._histogram = ScoreHistogram()
        self._normals = 0

    def update(self, anomaly_map: Map, score: float) -> None:
        """Add a normal image."""
        self._normals += 1
        self._histogram.add(np.ascontiguousarray(anomaly_map).ravel())

    def compute(self) -> Threshold:
        """The lowest edge of a bin on or above which few enough pixels lie."""
        blocks = self._histogram.blocks()
        count = blocks.counts[:, 0]
        from_here_up = count[::-1].cumsum()[::-1]
        few = np.flatnonzero(from_here_up <= (1 - self.quantile) * count.sum())
        edges = decode(blocks.code)
        line = float(edges[few[0]]) if len(few) else just_above(float(edges[-1]))
        return Threshold("quantile", "component", line, line, self.minimum_area, self._normals)


class Sigma:
    """Mean plus k standard deviations of all held-out normal pixels (IJCV 2021)."""

    def __init__(self, minimum_area: Share, k: Annotated[float, Field(gt=0, allow_inf_nan=False)]) -> None:
        self.minimum_area = minimum_area
        self.k = k
        self._count = 0
        self._mean = 0.0
        self._squares = 0.0  # sum of squared distances from the mean
        self._normals = 0

    def update(self, anomaly_map: Map, score: float) -> None:
        """Add a normal image (Chan et al.'s update, which loses no digits to a large mean)."""
        self._normals += 1
        values = anomaly_map.astype(np.float64)
        count, mean = self._count + values.size, values.mean()
        self._squares += ((values - mean) ** 2).sum() + (mean - self._mean) ** 2 * self._count * values.size / count
        self._mean += (mean - self._mean) * values.size / count
        self._count = count

    def compute(self) -> Threshold:
        """The threshold; just above the mean if the maps have no variance."""
        line = float(np.float32(self._mean + self.k * math.sqrt(self._squares / self._count)))
        line = max(line, just_above(self._mean))
        return Threshold("sigma", "component", line, line, self.minimum_area, self._normals)


class ImageScoreRule:
    """What the two rules that look at scores of whole images keep: those scores, and those of the largest regions."""

    def __init__(self, minimum_area: Share) -> None:
        self.minimum_area = minimum_area
        self._scores: list[float] = []
        self._regions: list[float] = []

    def update(self, anomaly_map: Map, score: float) -> None:
        """Add a normal image."""
        self._scores.append(score)
        self._regions.append(component_score(anomaly_map, pixels(self.minimum_area, anomaly_map)))


class FalseAlarms(ImageScoreRule):
    """The image score that a new normal image reaches with a probability of at most `rate`.

    Split conformal prediction: of n normal scores the ceil((n + 1)(1 - rate))-th smallest keeps the promise for any
    distribution. Fewer than 1 / rate - 1 images cannot keep it; then it is the largest score. The pixel threshold, for
    pictures and pixel metrics, is the same order statistic of the scores of the regions.
    """

    def __init__(self, minimum_area: Share, rate: Share) -> None:
        super().__init__(minimum_area)
        self.rate = rate

    def compute(self) -> Threshold:
        """Just above the order statistic."""
        count = len(self._scores)
        position = min(math.ceil((count + 1) * (1 - self.rate) - 1e-9), count) - 1
        image, pixel = (just_above(sorted(values)[position]) for values in (self._scores, self._regions))
        note = ""
        if (count + 1) * self.rate < 1:
            needed = math.ceil(1 / self.rate) - 1
            note = (
                f"a false alarm rate of {self.rate:g} needs {needed} good images; found {count}, "
                f"which cannot guarantee a rate below {1 / (count + 1):.2g}"
            )
        return Threshold("false_alarms", "score", image, pixel, self.minimum_area, count, note)


class TrainPercentile(ImageScoreRule):
    """A percentile, linearly interpolated, of the scores of the images that were trained on (a set of Korean slides).

    At the 25 of the slides three of four normal images are rejected by construction. `images` says which images the
    program shows: `held_out` ones know what a new image scores, those of the training only what was learnt by heart.
    The pixel threshold, for pictures and pixel metrics, is the same percentile of the scores of the regions.
    """

    def __init__(
        self,
        minimum_area: Share,
        percentile: Annotated[float, Field(ge=0, le=100)],
        images: Literal["training", "held_out"] = "training",
    ) -> None:
        super().__init__(minimum_area)
        self.percentile = percentile
        self.images = images

    def compute(self) -> Threshold:
        """Just above the percentile: an image that exceeds it is abnormal."""
        image, pixel = (
            just_above(float(np.percentile(values, self.percentile))) for values in (self._scores, self._regions)
        )
        count, kind = len(self._scores), "training" if self.images == "training" else "good"
        note = (
            f"percentile {self.percentile:g} of the scores of {count} {kind} images: about "
            f"{100 - self.percentile:g} % of normal images are rejected by construction"
        )
        return Threshold("train_percentile", "score", image, pixel, self.minimum_area, count, note)


def pixels(share: float, anomaly_map: Map) -> int:
    """A share of the image in pixels, at least one."""
    return max(1, round(share * anomaly_map.size))


def just_above(score: float) -> float:
    """The threshold (>=) that an image of this score does not reach, whatever the batch in which it is scored.

    Libraries sum in another order for another batch size, so that the same image scores differently in its last digits.
    The threshold lies above by `MARGIN`, a share of the score that exceeds these differences and says nothing else.
    """
    with np.errstate(over="ignore"):  # above the largest number lies infinity
        margin = max(MARGIN * abs(score), float(np.finfo(np.float32).tiny))
        return float(np.nextafter(np.float32(score + margin), np.float32(np.inf)))
