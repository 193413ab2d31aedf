"""A result in words: what was found, whether that beats doing nothing clever, and what decides."""

from collections.abc import Mapping, Sequence

from anomaly_lab.metrics.thresholds import Threshold, guarantee
from anomaly_lab.runs.measures import strongest


def verdict(
    scores: Sequence[Mapping[str, str]],
    metrics: Mapping[str, float],
    controls: Sequence[Mapping[str, str]],
    threshold: Threshold,
) -> list[str]:
    """Up to three sentences, from the rows of scores.csv and controls.csv, metrics.json and the threshold."""
    judged = scores if any(name.startswith("image_accuracy") for name in metrics) else []  # else: held-out images
    return [line for line in (found(judged), against(metrics, controls), decides(threshold)) if line]


def found(scores: Sequence[Mapping[str, str]]) -> str:
    """Defects found and false alarms."""
    parts = []
    for label, right, one, many in (
        ("1", "found {} of {}", "defective image", "defective images"),
        ("0", "{} of {} rejected", "good image", "good images"),
    ):
        decisions = [row["decision"] for row in scores if row["label"] == label]
        if decisions:
            name = one if len(decisions) == 1 else many
            words = right.format(decisions.count("abnormal"), f"{len(decisions)} {name}")
            parts.append(words)
    return ", ".join(parts).capitalize() + "." if parts else "No labelled test images: a threshold, and no metrics."


def against(metrics: Mapping[str, float], controls: Sequence[Mapping[str, str]]) -> str:
    """The ranking beside the best trivial control; empty without both kinds of images."""
    own = metrics.get("image_auroc")
    if own is None:
        return ""
    low, high = metrics["image_auroc_low"], metrics["image_auroc_high"]
    text = f"Image AUROC {own:.3f} (95 % interval {low:.3f} to {high:.3f})"
    found = {row["control"]: {"image_auroc": float(row["image_auroc"])} for row in controls if row.get("image_auroc")}
    if not found:
        return f"{text}."
    kind, best = strongest("image_auroc", found)
    beats = "" if own > best else ": this method shows nothing that the control does not"
    return f"{text}; the best trivial control, {kind}, reaches {best:.3f}{beats}."


def decides(threshold: Threshold) -> str:
    """The rule, and the lowest false alarm rate that its images can guarantee."""
    what = (
        f"whose score reaches {threshold.image:.4g}"
        if threshold.decided_by == "score"
        else f"with a region above {threshold.image:.4g} that covers {threshold.minimum_area:.2%} of it"
    )
    return f"An image {what} is rejected (threshold rule {threshold.name}). {guarantee(threshold.normals)}"
