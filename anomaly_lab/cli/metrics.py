"""`python -m anomaly_lab metrics`: every figure of metrics.json in a line."""

from anomaly_lab.cli.methods import about, files
from anomaly_lab.cli.options import parse
from anomaly_lab.config.schema import class_fact
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
                meaning = ", ".join(filter(None, (measure.about, lower)))
                print(f"  {measure.key.ljust(width)}  {measure.name}{meaning and f': {meaning}'}")
    for path in files(None):
        if class_fact(about(path)[1], "scaled_line") is not None:
            print(
                f"oracle_{path.stem}_*: of {path.stem}, at the line of its paper through the scores of the whole test;"
            )
            print("  they decide nothing, and compare leaves them out.")
    print("image AUROC has a 95 % interval: image_auroc_low, image_auroc_high. Definitions: docs/protocol.md.")
