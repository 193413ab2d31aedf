"""Quality against the number of good photos: what runs reach that differ only in `data.good_photos` and the seed."""

import json
from collections import defaultdict
from typing import NamedTuple

from anomaly_lab.report.groups import GOOD_PHOTOS, Column, Groups, Row, settings_of
from anomaly_lab.report.matrix import Matrix
from anomaly_lab.runs.collect import Run

MEASURES = ("image_auroc", "pixel_aupro")


class Point(NamedTuple):
    """What a method reaches with so many good photos."""

    photos: int  # training and held-out ones
    mean: float  # over seeds
    low: float  # the lowest seed
    high: float  # the highest seed
    seeds: int


class PhotoCurve(NamedTuple):
    """A measure against the number of good photos, in one category."""

    measure: str
    column: Column
    lines: list[tuple[Row, list[Point]]]  # the row without its number of photos; points by rising number
    control: list[tuple[int, float]]  # the strongest control of these runs, by rising number of photos


def photo_curves(groups: Groups, found: dict[str, Matrix]) -> list[PhotoCurve]:
    """The curves of every category and measure that some method reaches with several numbers of good photos.

    A run without `data.good_photos` is a point, too: at the number of all photos, which its folder states.
    """
    curves = []
    for column in sorted({column for (_, column), (run, *_) in groups.cells.items() if _chosen(run) is not None}):
        for matrix in (found[key] for key in MEASURES if key in found):
            lines: dict[tuple[Row, str], list[Point]] = defaultdict(list)
            controls: dict[int, float] = {}
            for (row, at), cell in matrix.cells.items():
                run = groups.cells[row, at][0]
                photos = photos_of(run)
                if at != column or photos is None or row.control:
                    continue
                rest = {key: str(value) for key, value in settings_of(run).items() if value is not None}
                rest.pop(GOOD_PHOTOS, None)
                ends = min(cell.values.values()), max(cell.values.values())
                point = Point(photos, cell.mean, *ends, len(cell.values))
                lines[row.family, json.dumps(rest, sort_keys=True)].append(point)
                if cell.control is not None:
                    controls[photos] = max(cell.control, controls.get(photos, 0.0))
            several = [(row, sorted(points)) for (row, _), points in lines.items() if len(points) > 1]
            there = {point.photos for _, points in several for point in points}
            if several:
                control = sorted(pair for pair in controls.items() if pair[0] in there)
                curves.append(PhotoCurve(matrix.measure.key, column, several, control))
    return curves


def photos_of(run: Run) -> int | None:
    """The number of good photos of a run, training and held-out ones; None if its folder does not state it."""
    number = _chosen(run)
    if number is None:
        try:
            number = json.loads((run.folder / "photos.json").read_text(encoding="utf-8")).get("good_photos")
        except (OSError, ValueError, AttributeError):
            return None
    return number if isinstance(number, int) and number > 0 else None


def _chosen(run: Run) -> int | None:
    data = run.config.get("data")
    number = data.get("good_photos") if isinstance(data, dict) else None
    return number if isinstance(number, int) and number > 0 else None
