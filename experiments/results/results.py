"""What `select` found on all sets, as results.csv, and how well it picks without labels, as agreement.csv.

`python experiments/results/results.py runs/results` reads seed*/SET_labels=true.json and SET_labels=false.json.
"""

import csv
import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
FIGURES = ("image_auroc", "pixel_aupro", "synthetic_auroc")
CLOSE = 0.03  # of image AUROC: a pick that loses no more agrees


def read(folder: Path, labels: str) -> dict[tuple[str, str], dict]:
    """The answers by data set and seed."""
    found = {}
    for path in sorted(folder.glob(f"seed*/*_labels={labels}.json")):
        found[path.name.partition("_labels")[0], path.parent.name.removeprefix("seed")] = json.loads(path.read_text())
    return found


def write(name: str, rows: list[dict]) -> None:
    """Write a table beside this file."""
    with (HERE / name).open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def result(data: str, seed: str, row: dict, painted: dict | None) -> dict:
    """A row of results.csv."""
    figures = row["figures"] | (painted["figures"] if painted else {})
    metrics = json.loads((Path(row["folders"][0]) / "metrics.json").read_text())
    commit = json.loads((Path(row["folders"][0]) / "environment.json").read_text())["git"]
    parts = {
        f"{name}{end}": figures[name][part] if name in figures else ""
        for name in FIGURES for end, part in (("", "value"), ("_low", "low"), ("_high", "high"))
    }  # fmt: skip
    above = row["above_control"].get("image_auroc", {})
    parts |= {"above_control": above.get("value", ""), "above_control_low": above.get("low", "")}
    parts |= {
        "pixel_auroc": metrics.get("pixel_auroc", ""),
        "seconds_per_photo": row["seconds"],
        "minutes": row["minutes"],
    }
    rounded = {name: round(value, 4) if isinstance(value, float) else value for name, value in parts.items()}
    return {"data": data, "method": row["name"], "seed": seed, "control": row["control"], **rounded, "commit": commit}


def agreement(data: str, seed: str, labelled: dict, painted: dict) -> dict:
    """What the pick without labels loses against the best with labels; untrained networks are no candidates."""
    there = [row for row in labelled["ranking"] if not row["control"] and not row["name"].endswith("_untrained")]
    values = {row["name"]: round(row["figures"]["image_auroc"]["value"], 4) for row in there}
    best = max(values, key=lambda name: values[name])
    pick = next(row["name"] for row in painted["ranking"] if row["name"] in values)
    loss = round(values[best] - values[pick], 4)
    return {
        "data": data, "seed": seed, "methods": len(values), "best": best, "best_image_auroc": values[best],
        "pick": pick, "pick_image_auroc": values[pick], "loss": loss, "agrees": loss <= CLOSE,
    }  # fmt: skip


if __name__ == "__main__":
    with_labels, without = (read(Path(sys.argv[1]), labels) for labels in ("true", "false"))
    if not with_labels:
        sys.exit(f"expected answers of select in {sys.argv[1]}, found none; experiments/results/run.sh makes them")
    rows, agreed = [], []
    for (data, seed), answer in with_labels.items():
        painted = without.get((data, seed))
        of_painted = {row["name"]: row for row in painted["ranking"]} if painted else {}
        rows += [result(data, seed, row, of_painted.get(row["name"])) for row in answer["ranking"]]
        agreed += [agreement(data, seed, answer, painted)] if painted else []
    write("results.csv", rows)
    write("agreement.csv", agreed)
    for line in agreed:
        print(*line.values())
