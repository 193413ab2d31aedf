"""Connected regions of an anomaly map: from which score on a region is large enough to be a defect."""

from typing import no_type_check

import cv2
import numba
import numpy as np
from jaxtyping import Float32, Int64


def component_score(
    anomaly_map: Float32[np.ndarray, "height width"], minimum_area: int, above: float = -np.inf
) -> float:
    """The largest t for which {map >= t} has an 8-connected region of at least `minimum_area` pixels.

    Exact: pixels are joined in falling order of their scores (union-find) until a region is large enough. Only the
    highest ones are sorted, and more only where these do not suffice. A value of at most `above` is not told
    apart from `above`, which spares most of the work where only the largest of many maps is wanted. -inf where the
    map has fewer pixels.
    """
    if above > -np.inf:  # labelling costs a fraction of sorting and says no for most maps
        _, region = cv2.connectedComponents((anomaly_map > above).view(np.uint8), connectivity=8)
        if np.bincount(region.ravel())[1:].max(initial=0) < minimum_area:
            return above
    scores = np.ascontiguousarray(anomaly_map).ravel()
    candidates = np.flatnonzero(scores > above)
    wanted = 4 * minimum_area
    while len(candidates) >= minimum_area:
        top = candidates
        if wanted < len(candidates):
            top = candidates[np.argpartition(-scores[candidates], wanted)[:wanted]]
        order = top[np.argsort(-scores[top])]
        last = _join(order, anomaly_map.shape[0], anomaly_map.shape[1], minimum_area)
        if last >= 0:
            return float(scores[order[last]])
        if len(top) == len(candidates):
            break
        wanted *= 8
    return above


@numba.njit(nogil=True, cache=True)
@no_type_check
def _join(order: Int64[np.ndarray, " pixel"], height: int, width: int, minimum_area: int) -> int:
    """Join pixels in this order; the position at which a region reaches the area, or -1."""
    parent = np.full(height * width, -1, dtype=np.int32)
    area = np.zeros(height * width, dtype=np.int32)
    for position in range(order.size):
        pixel = order[position]
        row, column = pixel // width, pixel % width
        parent[pixel] = pixel
        area[pixel] = 1
        root = np.int32(pixel)
        for r in range(max(row - 1, 0), min(row + 2, height)):
            for c in range(max(column - 1, 0), min(column + 2, width)):
                other = np.int32(r * width + c)
                if parent[other] < 0:
                    continue
                while parent[other] != other:
                    parent[other] = parent[parent[other]]  # halves the path for the next visit
                    other = parent[other]
                if other != root:
                    if area[other] > area[root]:
                        other, root = root, other
                    parent[other] = root
                    area[root] += area[other]
        if area[root] >= minimum_area:
            return position
    return -1
