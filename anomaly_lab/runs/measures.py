"""The measures of metrics.json: name, level, and which direction is better."""

from typing import Literal, NamedTuple

Level = Literal["image", "pixel", "cost"]


class Measure(NamedTuple):
    """A measure of a run."""

    key: str  # in metrics.json
    name: str
    level: Level
    about: str = ""
    better: Literal["high", "low"] = "high"


SMOOTHED = "of the map smoothed by a Gaussian of sigma 4 px at 256 px"
OF_THE_MAP = (
    ("pixel_aupro", "AU-PRO", "per-region overlap up to a false positive rate of 0.3"),
    ("pixel_aupimo", "AUPIMO", "overlap per image at false positive rates of 1e-5 to 1e-4 on good images"),
    ("pixel_auroc", "pixel AUROC", "every pixel counts the same, so large defects count more"),
    ("pixel_aupr", "pixel AUPR", "average precision of the pixels"),
    ("pixel_f1max", "pixel F1-max", "at the best threshold for the test images"),
)
MEASURES = (
    Measure("image_auroc", "image AUROC", "image", "an abnormal image scores higher than a normal one"),
    Measure("image_aupr", "image AUPR", "image", "average precision"),
    Measure("image_f1max", "image F1-max", "image", "at the best threshold for the test images"),
    Measure("image_recall_at_95_specificity", "recall at 95 % specificity", "image"),
    Measure("image_balanced_accuracy", "balanced accuracy", "image", "at the threshold"),
    Measure("image_accuracy", "accuracy", "image", "at the threshold; compare it with the more frequent answer alone"),
    Measure("image_accuracy_normal", "accuracy on good images", "image", "at the threshold"),
    Measure("image_accuracy_abnormal", "accuracy on defective images", "image", "at the threshold"),
    Measure("image_precision", "image precision", "image", "at the threshold"),
    Measure("image_recall", "image recall", "image", "at the threshold"),
    Measure("image_f1", "image F1", "image", "at the threshold"),
    Measure("image_auroc_mean", "image AUROC of the mean of the map", "image"),
    *(Measure(key, name, "pixel", about) for key, name, about in OF_THE_MAP),
    *(Measure(f"{key}_smoothed", f"{name}, smoothed", "pixel", SMOOTHED) for key, name, _ in OF_THE_MAP),
    Measure("pixel_overlap", "overlap with the regions", "pixel", "found by regions of the minimum area (CVPR 2019)"),
    Measure("pixel_overlap_all", "overlap, all pixels", "pixel", "found by any pixel above the pixel threshold"),
    Measure("pixel_iou", "pixel IoU", "pixel", "at the pixel threshold"),
    Measure("pixel_precision", "pixel precision", "pixel", "at the pixel threshold"),
    Measure("pixel_recall", "pixel recall", "pixel", "at the pixel threshold"),
    Measure("fit_seconds", "training, seconds", "cost", "", "low"),
    Measure("train_images_per_second", "training, images per second", "cost"),
    Measure("predict_seconds_per_image", "method alone, seconds per image", "cost", "", "low"),
    Measure("test_seconds", "test without controls, seconds", "cost", "", "low"),
    Measure("peak_memory_mb", "peak memory, MB", "cost", "", "low"),
)  # fmt: skip
BY_KEY = {measure.key: measure for measure in MEASURES}
UNTRAINED = "untrained"  # among the controls: the method with the weights before its training
NO_LOSS = ("samples/", "seconds/", "reinitialisations", "gradient_norm")  # logged by epoch, but not losses


def strongest(name: str, found: dict[str, dict[str, float]]) -> tuple[str, float]:
    """The control with the largest value of a metric, and that value."""
    value, kind = max((metrics[name], kind) for kind, metrics in found.items() if name in metrics)
    return kind, value


def is_loss(name: str) -> bool:
    """Whether a logged value of an epoch is a loss."""
    return name != "epoch" and not any(part in name for part in NO_LOSS)
