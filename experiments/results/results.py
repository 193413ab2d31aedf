"""What `select` found on all sets, as results.csv, and how well it picks without labels, as agreement.csv.

`python experiments/results/results.py runs/results` reads seed*/SET_labels=true.json and SET_labels=false.json. Rows of
the tables that are not among them stay: other sets and seeds, and other methods of the same set.
"""

import csv
import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
FIGURES = ("image_auroc", "pixel_aupro", "synthetic_auroc")
CLOSE = 0.03  # of image AUROC: a pick that loses no more agrees
RESULT, AGREEMENT = ("data", "method", "seed"), ("data", "seed")  # what names a row of the tables


def read(folder: Path, labels: str) -> dict[tuple[str, str], dict]:
    """The answers by data set and seed."""
    found = {}
    for path in sorted(folder.glob(f"seed*/*_labels={labels}.json")):
        found[path.name.partition("_labels")[0], path.parent.name.removeprefix("seed")] = json.loads(path.read_text())
    return found


def stored(name: str, key: tuple[str, ...]) -> dict[tuple[str, ...], dict]:
    """The rows of a table beside this file, by what names them; none if it is not there."""
    path = HERE / name
    if not path.is_file():
        return {}
    with path.open(newline="") as file:
        return {tuple(row[column] for column in key): row for row in csv.DictReader(file)}


def write(name: str, key: tuple[str, ...], rows: list[dict]) -> None:
    """Put rows into a table beside this file, in place of those with the same names; the others stay."""
    known = stored(name, key) | {tuple(row[column] for column in key): row for row in rows}
    every = sorted(known.values(), key=lambda row: (row["seed"], row["data"]))
    columns = dict.fromkeys(column for row in (*rows, *every) for column in row)
    part = HERE / f"{name}.part"  # an end by force costs no row
    with part.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(every)
    part.replace(HERE / name)


def result(data: str, seed: str, row: dict, painted: dict | None) -> dict:
    """A row of results.csv."""
    figures = row["figures"] | (painted["figures"] if painted else {})
    metrics = json.loads((Path(row["folders"][0]) / "metrics.json").read_text())
    commit = json.loads((Path(row["folders"][0]) / "environment.json").read_text())["git"]
    parts = {
        f"{name}{end}": figures[name][part] if name in figures else ""
        for name in FIGURES for end, part in (("", "value"), ("_low", "low"), ("_high", "high"))
    }  # fmt: skip
    for measure, column in (("image_auroc", "above_control"), ("pixel_aupro", "aupro_above_control")):
        above = row["above_control"].get(measure, {})
        parts |= {column: above.get("value", ""), f"{column}_low": above.get("low", "")}
    parts |= {
        "pixel_auroc": metrics.get("pixel_auroc", ""),
        "seconds_per_photo": row["seconds"],
        "minutes": row["minutes"],
    }
    rounded = {name: round(value, 4) if isinstance(value, float) else value for name, value in parts.items()}
    return {"data": data, "method": row["name"], "seed": seed, "control": row["control"], **rounded, "commit": commit}


def agreement(data: str, seed: str, labelled: dict, painted: dict) -> list[dict]:
    """What the pick without labels loses against the best with labels, as a row; untrained networks are no candidates.

    No row if there is no candidate.
    """
    there = [row for row in labelled["ranking"] if not row["control"] and not row["name"].endswith("_untrained")]
    values = {row["name"]: round(row["figures"]["image_auroc"]["value"], 4) for row in there}
    picks = [row["name"] for row in painted["ranking"] if row["name"] in values]
    if not picks:
        return []
    best, pick = max(values, key=lambda name: values[name]), picks[0]
    loss = round(values[best] - values[pick], 4)
    return [{
        "data": data, "seed": seed, "methods": len(values), "best": best, "best_image_auroc": values[best],
        "pick": pick, "pick_image_auroc": values[pick], "loss": loss, "agrees": loss <= CLOSE,
    }]  # fmt: skip


def of_more_methods(rows: list[dict]) -> list[dict]:
    """The rows but for those of fewer methods than the stored row has, which stays; a line says so.

    A pick needs the ranking of all methods at once, so it cannot be made from the rows of two tables.
    """
    known, kept = stored("agreement.csv", AGREEMENT), []
    for row in rows:
        earlier = known.get(tuple(row[column] for column in AGREEMENT), row)
        if int(earlier["methods"]) > row["methods"]:
            print(
                f"agreement.csv keeps its row of {row['data']}, seed {row['seed']}, of {earlier['methods']} methods; "
                f"this one has {row['methods']}: {', '.join(map(str, row.values()))}"
            )
        else:
            kept.append(row)
    return kept


def main(folder: Path) -> None:
    """Put the answers in a folder into the tables. Ends with a line if there are none."""
    with_labels, without = (read(folder, labels) for labels in ("true", "false"))
    if not with_labels:
        sys.exit(f"expected answers of select in {folder}, found none; experiments/results/run.sh makes them")
    rows, agreed = [], []
    for (data, seed), answer in with_labels.items():
        painted = without.get((data, seed))
        of_painted = {row["name"]: row for row in painted["ranking"]} if painted else {}
        rows += [result(data, seed, row, of_painted.get(row["name"])) for row in answer["ranking"]]
        agreed += agreement(data, seed, answer, painted) if painted else []
    write("results.csv", RESULT, rows)
    agreed = of_more_methods(agreed)
    write("agreement.csv", AGREEMENT, agreed)
    for line in agreed:
        print(*line.values())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
