"""Rows that differ from each other."""

import numpy as np
from jaxtyping import Float


def first_distinct(rows: Float[np.ndarray, "row feature"], count: int) -> Float[np.ndarray, "distinct feature"]:
    """The first `count` rows, at most, that differ from each other, in their order; to the bit, so that 0 is not -0."""
    found: dict[bytes, int] = {}
    for i, row in enumerate(rows):
        found.setdefault(row.tobytes(), i)
        if len(found) == count:
            break
    return rows[list(found.values())]
