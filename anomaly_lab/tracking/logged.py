"""Values that were logged since a moment."""

from collections.abc import Mapping

from torch import Tensor


def logged_since(before: Mapping[str, Tensor], metrics: Mapping[str, Tensor]) -> dict[str, float]:
    """What has been logged since these values, under the names that people see: `train/loss`, `validation/loss`."""
    return {
        name.removesuffix("_epoch"): float(value)
        for name, value in metrics.items()
        if value is not before.get(name) and not name.endswith("_step") and f"{name}_epoch" not in metrics
    }
