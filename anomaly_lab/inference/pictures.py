"""The picture of a photo that one run has scored."""

import numpy as np

from anomaly_lab.core.console import printable
from anomaly_lab.evaluation.drawing import ORANGE, WHITE, Panel, captioned

SIDE = 256  # px of a photo along its longer side


def picture_of(panel: Panel, decision: str, is_abnormal: bool) -> np.ndarray:
    """Photo, reconstruction, map and outlines side by side below a caption, uint8 RGB.

    The map is coloured from 0 to twice the pixel threshold of the panel.
    """
    assert panel.threshold is not None
    drawn = panel.draw(0.0, 2 * panel.threshold)
    return captioned(drawn, [printable(panel.caption), decision], SIDE, ORANGE if is_abnormal else WHITE)


def decision_text(decision_score: float, threshold: float, is_abnormal: bool) -> str:
    """The decision and the comparison it comes from."""
    sign, word = (">=", "abnormal") if is_abnormal else ("<", "normal")
    return f"{decision_score:.4g} {sign} {threshold:.4g}: {word}"
