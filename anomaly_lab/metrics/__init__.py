"""Metrics that are exact or say how exact they are; usable without Lightning and Hydra."""

from anomaly_lab.metrics.pixel_metrics import PixelMetrics

__all__ = ["PixelMetrics"]
