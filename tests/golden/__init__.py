"""The first five losses of every method with a fixed seed on a CPU: changing one is a line that must be explained."""

import os
from pathlib import Path


def golden_losses(method: str, losses: list[float]) -> list[float]:
    """The recorded losses; ANOMALY_LAB_RECORD=1 writes these instead."""
    path = Path(__file__).parent / f"{method}.txt"
    if os.environ.get("ANOMALY_LAB_RECORD"):
        path.write_text("".join(f"{loss!r}\n" for loss in losses))
    return [float(line) for line in path.read_text().split()]
