"""Values logged since a point in time."""

from collections.abc import Mapping

from torch import Tensor


def logged_since(before: Mapping[str, Tensor], metrics: Mapping[str, Tensor]) -> dict[str, float]:
    """The values logged since `before`, under their public names: `train/loss`, `validation/loss`."""
    return {
        name.removesuffix("_epoch"): float(value)
        for name, value in metrics.items()
        if value is not before.get(name) and not name.endswith("_step") and f"{name}_epoch" not in metrics
    }
