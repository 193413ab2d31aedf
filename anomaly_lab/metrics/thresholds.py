"""Where to draw the line, from held-out normal images alone: the test set is never asked."""

from jaxtyping import Float
from torch import Tensor


def maximum(held_out_scores: Float[Tensor, " image"]) -> float:
    """The largest score of a held-out normal image: an image is abnormal when it scores higher."""
    return float(held_out_scores.max())
