"""AUPIMO: how much of each defect is found at false positive rates that nobody would notice on good images.

Bertoldo et al., "AUPIMO: Redefining Visual Anomaly Detection Benchmarks with High Speed and Low Tolerance", BMVC 2024.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from anomaly_lab.metrics.ranking import UNDEFINED, Value, as_share, share

LOWER, UPPER = 1e-5, 1e-4  # false positive rates between which the paper integrates
FIRST = 4096  # groups that are looked at before more of them


class PerImageOverlap(NamedTuple):
    """Groups of scores, from the largest down, with the sums of what their pixels weigh (`share`)."""

    good: Int[np.ndarray, "group 2"]  # 1/n for a pixel of a good image of n pixels
    found: Int[np.ndarray, "group 2"]  # 1/n for a defect pixel of an image with n of them
    tied: Bool[np.ndarray, " group"]  # the scores of the group are equal; otherwise their order is not known
    images: tuple[int, int]  # good ones, and ones with a defect

    def aupimo(self, lower: float = LOWER, upper: float = UPPER) -> Value:
        """The area under the per-image overlap, against the logarithm of the false positive rate, from lower to upper.

        Mean over all images with a defect, divided by the width of the range, so that 1 is perfect. The false positive
        rate of a threshold is the mean over the good images of the share of their pixels that reach it, the overlap of
        an image is the share of its defect pixels that reach it. An image is good if its mask marks no pixel.

        The overlap at a rate is that of the lowest threshold whose rate is not above it. So a defect pixel counts
        log(upper / rate) / log(upper / lower) of its share, within [0, 1], where `rate` is that of its own score as the
        threshold: a mean over defect pixels, for which one pass over groups of scores suffices. The authors' code
        interpolates between 300 000 evenly spaced thresholds instead, and takes the nearest rates where these do not
        reach the bounds, or refuses. Here the value exists for any number of good pixels: a defect pixel that scores
        higher than all good ones has the rate 0 and counts whole. With few good pixels, n, it depends on the highest
        n * lower to n * upper of them: below a million, on fewer than 10 to 100 scores.

        nan without good images, or without defects.
        """
        good_images, defective_images = self.images
        if not good_images or not defective_images:
            return UNDEFINED
        count = FIRST  # the highest groups; the rates of most are far beyond
        while (rate := np.cumsum(as_share(self.good[:count], good_images)))[-1] < upper and count < len(self.good):
            count *= 4
        before = np.append(0, rate[:-1])
        weight = as_share(self.found[:count], defective_images)
        low, high = (np.log(upper / r.clip(lower, upper)) / math.log(upper / lower) for r in (rate, before))
        high = np.where(self.tied[:count], low, high)
        some = weight * high > 0
        return Value.within(*(math.fsum((weight * part)[some]) for part in ((low + high) / 2, low, high)))


def of_scores(
    good: Float[np.ndarray, " good"],
    sizes: Int[np.ndarray, "part 2"],
    abnormal: Float[np.ndarray, " abnormal"],
    weight: Int[np.ndarray, "abnormal 2"],
    images: tuple[int, int],
    upper: float = UPPER,
) -> PerImageOverlap:
    """From the scores themselves: those of good images, which lie one part after the other, and of defect pixels.

    `sizes`: the pixels of a part, and of the image to which it belongs. Only scores whose rate may lie below `upper`
    are sorted; a pixel of the largest image weighs least and says how many good pixels these can be.
    """
    if len(good):
        most = min(int(upper * images[0] * sizes[:, 1].max()) + 2, len(good))
        least = np.partition(good, -most)[-most]
        top = np.flatnonzero(good >= least)
        part = np.searchsorted(np.cumsum(sizes[:, 0]), top, side="right")
        some = abnormal >= least
        good, of_good, abnormal, weight = good[top], share(sizes[part, 1]), abnormal[some], weight[some]
    else:
        of_good = np.zeros((0, 2), dtype=np.int64)
    levels, place = np.unique(np.concatenate([good, abnormal]), return_inverse=True)
    sums = np.zeros((2, len(levels), 2), dtype=np.int64)
    np.add.at(sums[0], place[: len(good)], of_good)
    np.add.at(sums[1], place[len(good) :], weight)
    return PerImageOverlap(sums[0, ::-1], sums[1, ::-1], np.ones(len(levels), dtype=bool), images)
