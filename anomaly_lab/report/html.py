"""The self-contained report page: data, styles and code in one file that needs no network."""

import json
import re
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

from anomaly_lab import __version__
from anomaly_lab.core.files import finite, read_csv, write_whole
from anomaly_lab.report.good_photos import PhotoCurve, photo_curves
from anomaly_lab.report.groups import Groups, group
from anomaly_lab.report.matrix import RULES, Cell, Matrix, averaged, matrices
from anomaly_lab.report.thumbnails import Thumbnail, thumbnails
from anomaly_lab.report.verdict import verdict
from anomaly_lab.runs import settings
from anomaly_lab.runs.collect import Run, collect
from anomaly_lab.runs.measures import is_loss

PAGE = Path(__file__).with_name("page")
SCRIPTS = ("base.js", "charts.js", "matrix.js", "detail.js", "main.js")
PICTURE_BYTES = 20_000_000  # of all pictures together, in base64: the page stays below 30 MB
MOST_PICTURES = 1_500_000  # of one run
MOST_SCORES = 20_000  # images of a run whose single scores lie in the page
CURVES = ("pixel_pro", "pixel_roc", "pixel_pr")


def write_report(folder: Path) -> Path:
    """Write `report.html` of one finished run into its folder."""
    runs = collect([folder])
    groups = group([run for run in runs if run.done])
    text = page(runs, groups, matrices(groups))
    write_whole(folder / "report.html", lambda part: part.write_text(text, encoding="utf-8"))
    return folder / "report.html"


def page(runs: Sequence[Run], groups: Groups, found: dict[str, Matrix]) -> str:
    """The page of some runs and their matrices."""
    limit = min(PICTURE_BYTES // max(sum(run.done for run in runs), 1), MOST_PICTURES)
    pictures = [thumbnails(run, limit) if run.done else [] for run in runs]
    title = title_of(runs, groups)
    parts = {
        "head": head(title, "data:"),
        "verdict": "\n".join(f"<p>{escape(line)}</p>" for line in (verdict(runs[0]) if len(runs) == 1 else [])),
        "data": in_script(data_of(title, runs, groups, found, pictures)),
        "thumbnails": "\n".join(
            f'<script type="text/plain" id="thumbnails-{i}">\n{chr(10).join(shot.data for shot in shots)}\n</script>'
            for i, shots in enumerate(pictures) if shots
        ),
        "script": "\n".join((PAGE / name).read_text(encoding="utf-8") for name in SCRIPTS),
    }  # fmt: skip
    return filled("index.html", parts)


def head(title: str, pictures: str) -> str:
    """The head of a page, which loads pictures from these sources alone, and its header."""
    style = (PAGE / "style.css").read_text(encoding="utf-8")
    return filled("head.html", {"title": escape(title), "pictures": pictures, "style": style})


def filled(name: str, parts: dict[str, str]) -> str:
    """A file of `page/` with its parts in place of their names."""
    before, *rest = (PAGE / name).read_text(encoding="utf-8").split("{{")
    pieces = [before]  # no part is searched for what another one brings in
    for piece in rest:
        part, _, after = piece.partition("}}")
        pieces += [parts[part], after]
    return "".join(pieces)


def title_of(runs: Sequence[Run], groups: Groups) -> str:
    """The title for these runs, of which those that are done lie in `groups`."""
    if len(runs) == 1:
        key = runs[0].key
        return f"{key.method} on {runs[0].dataset} {key.category}, seed {key.seed}"
    methods = len({run.key.method for run in runs})
    variants = f"{len(groups.rows)} variants of " * (len(groups.rows) > methods)
    categories = len({(run.dataset, run.key.category) for run in runs})
    return f"{variants}{methods} method{'s' * (methods > 1)} on {categories} categor{'ies' if categories > 1 else 'y'}"


def in_script(value: Any) -> str:
    """JSON that no script element ends early and that has no NaN: null for it, the largest number for infinity."""
    text = json.dumps(finite(value, 1.7e308), ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=str)
    text = text.encode("utf-8", "replace").decode()  # names of files that are no UTF-8
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def data_of(
    title: str, runs: Sequence[Run], groups: Groups, found: dict[str, Matrix], pictures: list[list[Thumbnail]]
) -> dict[str, Any]:
    """All data of the page, without pictures."""
    place = {
        run.shown: (groups.rows.index(row), groups.columns.index(column))
        for (row, column), members in groups.cells.items() for run in members
    }  # fmt: skip
    images: dict[int, list] = {}
    for run in runs:
        if run.shown in place and len(run.images) <= MOST_SCORES:
            images.setdefault(place[run.shown][1], [list(image) for image in run.images])
    again = {run.shown for run in groups.repeated}
    return {
        "title": title,
        "written": datetime.now().strftime("%Y-%m-%d %H:%M"),
        "version": __version__,
        "rules": RULES,
        "measures": [matrix.measure._asdict() for matrix in found.values()],
        "rows": [{"method": row.method, "label": row.label, "control": row.control} for row in groups.rows],
        "columns": [
            {
                "dataset": column.dataset,
                "category": column.category,
                "label": column.label,
                "folds": column.folds,
                "images": images.get(i, []),
            }
            for i, column in enumerate(groups.columns)
        ],
        "matrices": {key: _matrix(matrix, groups) for key, matrix in found.items()},
        "photos": [_photo_curve(curve, groups) for curve in photo_curves(groups, found)],
        "published": [
            {**line, "dataset": dataset}
            for dataset, category in dict.fromkeys((column.dataset, column.category) for column in groups.columns)
            for line in published()
            if (line["dataset"], line["category"]) == (known_as(dataset), category) and line["measure"] in found
        ],
        "runs": [
            _run(i, run, place.get(run.shown), run.shown in again, shots)
            for i, (run, shots) in enumerate(zip(runs, pictures, strict=True))
        ],
    }


def _photo_curve(curve: PhotoCurve, groups: Groups) -> dict[str, Any]:
    lines = [{"name": row.label, "points": points} for row, points in curve.lines]
    return {**curve._asdict(), "column": groups.columns.index(curve.column), "lines": lines}


def _matrix(matrix: Matrix, groups: Groups) -> dict[str, Any]:
    rows = {row: i for i, row in enumerate(groups.rows)}
    columns = {column: i for i, column in enumerate(groups.columns)}
    return {
        "cells": {f"{rows[row]},{columns[column]}": _cell(cell) for (row, column), cell in matrix.cells.items()},
        "means": {f"{rows[row]},{name}": _cell(cell) for (row, name), cell in matrix.means.items()},
        "controls": {f"{kind},{columns[column]}": value for (kind, column), value in matrix.controls.items()}
        | {
            f"{kind},{name}": value
            for kind in dict.fromkeys(kind for kind, _ in matrix.controls)
            for name, members in averaged(matrix.columns).items()
            if (value := matrix.control(kind, members)) is not None
        },
    }


def _cell(cell: Cell) -> dict[str, Any]:
    return {
        "values": len(cell.values), "of": cell.of, "mean": cell.mean, "std": cell.std, "low": cell.low,
        "high": cell.high, "interval": cell.interval, "control": cell.control, "best": cell.best, "beaten": cell.beaten,
    }  # fmt: skip


def _run(
    number: int, run: Run, place: tuple[int, int] | None, repeated: bool, shots: list[Thumbnail]
) -> dict[str, Any]:
    few = len(run.images) <= MOST_SCORES
    features, note = _features(run)
    which = {"data.name": run.key.dataset, "data.category": run.key.category}
    return {
        "id": number, "shown": run.shown, "seed": run.key.seed, "state": run.state, "trouble": run.trouble,
        "repeated": repeated, "row": place[0] if place else None, "column": place[1] if place else None,
        "metrics": run.metrics, "threshold": run.threshold, "verdict": verdict(run),
        "scores": run.scores if few else [], "decisions": run.decision_scores if few else [],
        "later": [{key: line.get(key) for key in ("name", "image")} for line in run.thresholds[run.tested + 1 :]],
        "defects": run.defects, "environment": run.environment,
        "settings": {**which, **settings.shown_settings(run.config)} if run.config else {},
        "curves": {name: points for name in CURVES if (points := curve_points(run.folder / "curves" / f"{name}.csv"))},
        "losses": _losses(run.folder / "curves" / "losses.csv"),
        "features": features, "featuresNote": note,
        "gallery": [{"image": shot.image, "name": shot.name, "kind": shot.kind, "tiles": shot.tiles,
                     "width": shot.width, "height": shot.height, "type": shot.type} for shot in shots],
    }  # fmt: skip


def _rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file; none where there is no file or it cannot be read."""
    try:
        return read_csv(path)
    except (OSError, ValueError):
        return []


def curve_points(path: Path) -> list[list[float]]:
    """The first two columns of a curve, with four digits, as many as a plot resolves; none if it cannot be read."""
    try:
        return [[round(float(x), 4), round(float(y), 4)] for x, y, *_ in (row.values() for row in _rows(path))]
    except ValueError:
        return []


def _losses(path: Path) -> list[dict[str, Any]]:
    """One series per column of losses.csv, without empty fields."""
    rows = _rows(path)
    try:
        series = [
            {"name": name, "points": [[int(row["epoch"]), float(row[name])] for row in rows if row[name] != ""]}
            for name in next(iter(rows), {}) if is_loss(name)
        ]  # fmt: skip
    except (ValueError, KeyError):
        return []
    return [entry for entry in series if entry["points"]]


def _features(run: Run) -> tuple[list[list[Any]], str]:
    """Points of the map of features (x, y, label, defect), and how it was made."""
    rows = _rows(run.folder / "curves" / "features.csv")
    try:
        fields = [row.values() for row in rows]
        points = [[round(float(x), 5), round(float(y), 5), int(label), defect] for _, defect, label, x, y in fields]
    except ValueError:
        return [], ""
    made = {"pc1": "the first two principal components", "tsne1": "t-SNE"}
    return points, next((made[column] for column in next(iter(rows), {}) if column in made), "")


def known_as(dataset: str) -> str:
    """The name of a data set in `published.csv`: of classes in a folder, that of the folder with the protocol."""
    of_classes = re.fullmatch(r"(?:.*-)?([^-]+)-[0-9a-f]{4}-(one_vs_rest|leave_one_out)", dataset)
    return "-".join(of_classes.groups()) if of_classes else dataset


@cache
def published() -> tuple[dict[str, Any], ...]:
    """Figures of papers, `published.csv`: measure, method, dataset, category, value, source, note."""
    return tuple({**row, "value": float(row["value"])} for row in read_csv(Path(__file__).with_name("published.csv")))
