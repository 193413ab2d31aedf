"""anomaly_lab: which unsupervised detector finds the defects on your parts."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anomaly_lab.inference.detector import Detector

__version__ = "0.2.0"
__all__ = ["Detector"]


def __getattr__(name: str) -> Any:
    """Import what judges photos, and torch with it, only when it is asked for."""
    if name == "Detector":
        from anomaly_lab.inference.detector import Detector

        return Detector
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
