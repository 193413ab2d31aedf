"""`predictions.html`: the photos of a `predict`, highest score first, with a threshold to move."""

import os
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from anomaly_lab import __version__
from anomaly_lab.core.files import read_csv, write_whole
from anomaly_lab.inference.results import doubt
from anomaly_lab.report.html import PAGE, filled, head, in_script

SCRIPTS = ("base.js", "predictions.js")


def write_predictions(out: Path, picture_of: Callable[[Path], Path], guarantees: Mapping[str, str]) -> Path | None:
    """Write the page of a result folder from its scores.csv and unreadable.csv; None if no photo was scored.

    `picture_of` gives the path of the picture of a photo; pictures that are not there are left out. `guarantees` says
    of each run what its threshold can guarantee.
    """
    runs: dict[str, dict[str, Any]] = {}
    for row in read_csv(out / "scores.csv"):
        name = row["run"]
        about_run = {"name": name, "threshold": float(row["threshold"]), "guarantee": guarantees[name], "photos": []}
        run = runs.setdefault(name, about_run)
        picture = picture_of(Path(row["path"]))
        address = quote(os.path.relpath(picture, out).replace(os.sep, "/")) if picture.is_file() else None
        value = float(row["decision_score"])
        run["photos"].append({"name": row["path"], "value": value, "remark": row["remark"], "picture": address})
    if not runs:
        return None
    for run in runs.values():
        run["photos"].sort(key=lambda photo: -photo["value"])
        values = [photo["value"] for photo in run["photos"]]
        asked = doubt(sum(value >= run["threshold"] for value in values), len(values))
        run["guarantee"] = " ".join(filter(None, (asked, run["guarantee"])))
    photos = max(len(run["photos"]) for run in runs.values())
    title = f"{photos} photo{'s' * (photos > 1)}, {', '.join(runs)}"
    about = "A photo is abnormal if its score reaches the threshold. An orange outline shows a region above the pixel "
    about += "threshold; a photo can have one and still be normal"
    data = {"runs": list(runs.values()), "measures": [], "about": about, "version": __version__}
    refused = read_csv(out / "unreadable.csv") if (out / "unreadable.csv").is_file() else []
    data["unreadable"] = [
        *dict.fromkeys((row["path"], row["reason"].removeprefix(f"{row['path']}: ")) for row in refused)
    ]
    data["written"] = f"{datetime.now():%Y-%m-%d %H:%M}"
    parts = {
        "head": head(title, "'self' file: data:"),
        "data": in_script(data),
        "script": "\n".join((PAGE / name).read_text(encoding="utf-8") for name in SCRIPTS),
    }
    text = filled("predictions.html", parts)
    write_whole(out / "predictions.html", lambda part: part.write_text(text, encoding="utf-8"))
    return out / "predictions.html"
