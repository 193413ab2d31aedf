"""`python -m anomaly_lab metrics`: every figure of metrics.json in a line."""

from anomaly_lab.cli.options import parse
from anomaly_lab.runs.measures import MEASURES, Level

LEVELS: dict[Level, str] = {
    "image": "of the images: is the part defective?",
    "pixel": "of the pixels: where is the defect? Only with masks",
    "cost": "costs",
}


def main(arguments: list[str]) -> None:
    """Print keys and meanings, level by level."""
    if parse(arguments, "metrics", {}, ()) is None:
        return
    width = max(len(measure.key) for measure in MEASURES)
    for level, title in LEVELS.items():
        print(title)
        for measure in MEASURES:
            if measure.level == level:
                lower = "lower is better" if measure.better == "low" else ""
                about = ", ".join(filter(None, (measure.about, lower)))
                print(f"  {measure.key.ljust(width)}  {measure.name}{about and f': {about}'}")
    print("image AUROC has a 95 % interval: image_auroc_low, image_auroc_high. Definitions: docs/protocol.md.")
