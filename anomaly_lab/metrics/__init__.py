"""Metrics that are exact or say how exact they are; usable without Lightning and Hydra."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anomaly_lab.metrics.pixel_metrics import PixelMetrics

__all__ = ["PixelMetrics"]


def __getattr__(name: str) -> Any:
    """Import torch with the metrics of pixels alone: intervals and curves need none."""
    if name == "PixelMetrics":
        from anomaly_lab.metrics.pixel_metrics import PixelMetrics

        return PixelMetrics
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
