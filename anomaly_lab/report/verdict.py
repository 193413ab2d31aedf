"""A result in words: what was found, whether that beats doing nothing clever, and what decides."""

import math

from anomaly_lab.metrics.thresholds import Threshold, guarantee
from anomaly_lab.runs.collect import Run
from anomaly_lab.runs.measures import strongest


def verdict(run: Run) -> list[str]:
    """Up to three sentences about a run; none before it is done, and none from what its folder lacks."""
    return [line for line in (found(run), against(run), decides(run)) if line] if run.done else []


def found(run: Run) -> str:
    """Defects found and false alarms."""
    if not any(name.startswith("image_accuracy") for name in run.metrics):  # the scores are those of held-out images
        return "No labelled test images: no metrics."
    parts = []
    for label, right, kind in ((1, "found {} of {}", "defective"), (0, "{} of {} rejected", "good")):
        scores = [score for image, score in zip(run.images, run.decision_scores, strict=True) if image.label == label]
        if scores:
            rejected = sum(score >= run.threshold for score in scores)
            parts.append(right.format(rejected, f"{len(scores)} {kind} {run.noun}{'s' * (len(scores) > 1)}"))
    return ", ".join(parts).capitalize() + "." if parts else ""


def judged(run: Run, place: int) -> str:
    """What the threshold of the run says of one of its images; empty where that is not known, or has no label."""
    if not 0 <= place < len(run.decision_scores) or math.isnan(run.threshold):
        return ""
    words = {0: ("no false alarm", "false alarm"), 1: ("missed", "found")}.get(run.images[place].label)
    return words[run.decision_scores[place] >= run.threshold] if words else ""


def against(run: Run) -> str:
    """The ranking beside the best trivial control; empty without both kinds of images."""
    own, low, high = (run.metrics.get(f"image_auroc{end}") for end in ("", "_low", "_high"))
    if own is None or low is None or high is None:
        return ""
    text = f"{run.noun.capitalize()} AUROC {own:.3f} (95 % interval {low:.3f} to {high:.3f})"
    controls = {
        kind: found for kind, found in run.controls.items() if not math.isnan(found.get("image_auroc", math.nan))
    }
    if not controls:
        return f"{text}."
    kind, best = strongest("image_auroc", controls)
    beats = "" if own > best else ": this method shows nothing that the control does not"
    if own == best == 1:
        beats = f", too: these test {run.noun}s are too easy to tell the method from it"
    return f"{text}; the best trivial control, {kind}, reaches {best:.3f}{beats}."


def decides(run: Run) -> str:
    """The rule of the test, and the lowest false alarm rate that its images can guarantee; empty for damaged files."""
    try:
        line = Threshold(**{name: run.thresholds[run.tested][name] for name in Threshold._fields if name != "note"})
        what = (
            f"its score reaches {line.image:.4g}"
            if line.decided_by == "score"
            else f"a region of at least {line.minimum_area:.2%} of it lies above {line.image:.4g}"
        )
        which = "A row" if run.noun == "row" else "An image"
        promise = guarantee(line.name, line.normals, run.noun)
        return f"{which} is rejected if {what} (threshold rule {line.name}). {promise}"
    except (LookupError, TypeError, ValueError):
        return ""
