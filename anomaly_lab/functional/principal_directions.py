"""The first principal directions of many rows, from a sample of them: along these, most distances are large already."""

import numpy as np
from jaxtyping import Float32, Float64

DIRECTIONS = 32
SAMPLE = 2**12  # rows from which they are computed

Rows = Float32[np.ndarray, "row feature"]


def principal_directions(
    rows: Rows,
) -> tuple[Float64[np.ndarray, " feature"], Float64[np.ndarray, "feature direction"]]:
    """Mean and the first principal directions, `DIRECTIONS` at most, of a sample that is spread over the rows."""
    sample = rows[:: -(-len(rows) // SAMPLE)].astype(np.float64)
    centre = sample.mean(axis=0)
    sample -= centre
    return centre, np.linalg.eigh(sample.T @ sample)[1][:, -DIRECTIONS:]


def principal_components(rows: Rows) -> Float32[np.ndarray, "row direction"]:
    """The rows along their first principal directions, or as they are where they have no more features.

    The distance of two rows is a lower bound of that before, but for rounding.
    """
    if rows.shape[1] <= DIRECTIONS:
        return rows
    centre, directions = principal_directions(rows)
    short = np.empty((len(rows), DIRECTIONS), np.float32)
    for start in range(0, len(rows), SAMPLE):
        short[start : start + SAMPLE] = (rows[start : start + SAMPLE] - centre) @ directions
    return short
