"""What the scores and maps of a test give away about themselves, whatever the metrics say."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

CELLS = 32  # along a side of the image: two maxima in the same cell lie at the same place
FEWEST = 4  # images of whose maxima anything is said


def peak(anomaly_map: Float[np.ndarray, "height width"]) -> int | None:
    """The number of the cell that holds the maximum, row by row of `CELLS` x `CELLS`; None for a constant map."""
    if anomaly_map.max() == anomaly_map.min():
        return None
    (height, width), (row, column) = anomaly_map.shape, divmod(int(anomaly_map.argmax()), anomaly_map.shape[1])
    return row * CELLS // height * CELLS + column * CELLS // width


def implausible(scores: Sequence[float], peaks: Sequence[int | None]) -> list[str]:
    """One line per finding, for the scores of all test images and the cells of the maxima of their maps.

    Equal scores everywhere, and maxima at one place in more than half of the images, come from the image's border, a
    watermark or a method that has not learnt, seldom from defects.
    """
    count, lines = len(scores), []
    if count > 1 and min(scores) == max(scores):
        lines.append(
            f"all {count} test images have the same score, {scores[0]:.6g}: the method cannot tell them apart, and the "
            "image metrics mean nothing; look at the anomaly maps"
        )
    [(cell, most)] = Counter(peaks).most_common(1) if count >= FEWEST else [(None, 0)]
    if cell is not None and 2 * most > count:
        y, x = (100 * (i + 0.5) / CELLS for i in divmod(cell, CELLS))
        lines.append(
            f"the maximum of the anomaly map lies at the same place in {most} of {count} test images ({y:.0f} % from "
            f"the top, {x:.0f} % from the left): look at the maps; data.region leaves out a border or a watermark"
        )
    return lines
