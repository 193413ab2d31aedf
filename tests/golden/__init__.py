"""The first five losses of every method with a fixed seed on a CPU: changing one is a line that must be explained."""

import os
from pathlib import Path

import pytest

RECORDED = bool(os.environ.get("ANOMALY_LAB_RECORD"))


def golden_losses(method: str, losses: list[float], outside: Path | None = None) -> list[float]:
    """The recorded losses; ANOMALY_LAB_RECORD=1 writes these instead. `outside`: the folder of a method's own files."""
    path = (outside / "golden" if outside else Path(__file__).parent) / f"{method}.txt"
    if RECORDED:
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(f"{loss!r}\n" for loss in losses))
    if outside and not path.is_file():
        pytest.skip(f"no recorded losses of {method}: ANOMALY_LAB_RECORD=1 writes {path}")
    return [float(line) for line in path.read_text().split()]
