"""The matrix of methods and categories for every measure: means over seeds, noise, best cells, controls.

`RULES` are the rules as the page shows them.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any, Literal

import numpy as np

from anomaly_lab.metrics.intervals import auroc_difference, t_interval
from anomaly_lab.report.groups import Column, Groups, Row
from anomaly_lab.runs.collect import Run
from anomaly_lab.runs.measures import MEASURES, UNTRAINED, Measure

CONFIDENCE = 0.95
SEEDS = 3  # common seeds, or categories, from which on their differences say something
RULES = (
    "Each value is the mean over seeds, ± their standard deviation (n - 1).",
    "The interval is a 95 % interval of the mean over seeds (Student's t). A single seed, or seeds that all give the "
    "same value, say nothing about noise. Then only the image AUROC has an interval, over the test images of the first "
    "seed (DeLong).",
    "A value is marked best if it is better than every other row of its column, controls included, by more than "
    "noise: the interval of each difference lies above zero, at 95 % for all comparisons of the column together "
    "(Bonferroni).",
    "Rows with three common seeds or more are compared seed by seed (t). Image AUROCs are also compared image by image "
    "(DeLong): for every common seed, or for the first seed of each row. Other measures of fewer than three seeds, or "
    "of seeds that change nothing, are never marked. A control has a single value, which must lie below the interval.",
    "The mean over the categories of a data set is marked best if the differences by category are more than noise (t, "
    "three categories or more). Rows that lack a category are never marked there; the number of missing ones is shown. "
    "A category that was tested on several sets of images counts once, by its mean, and then no mean is marked.",
    "The mean over the folds of a category is that of the folds that are there; where some are missing, the number is "
    "shown. It is never marked: folds share the photos that they learn from, so their differences understate noise.",
    "Controls are trivial detectors, tested on the same images. Their row shows the largest value over the runs of a "
    "column. A method is flagged if its mean does not exceed the strongest control of its own runs, or of the column "
    "where its runs have no controls. The image AUROC of brightness and sharpness is that of the better direction, so "
    "it is never below .5. A run of method=control tests one direction only: bright, or sharp. The control untrained "
    "is a method before its training.",
    "Runs that differ only in the seed, or in keys that describe another category, form one row. Runs that differ in "
    "anything else form separate rows, named after the settings that differ.",
)  # fmt: skip


@dataclass
class Cell:
    """The figure of a row in a column, with its noise."""

    values: dict[str, float]  # by seed; of a mean over categories by column
    mean: float
    std: float | None = None
    low: float | None = None
    high: float | None = None
    interval: Literal["seeds", "images", ""] = ""  # over what it is taken
    control: float | None = None  # the strongest one of the same runs; where they have none, of the column
    best: bool = False
    of: int = 1  # categories that have the measure, for a mean over them; or folds of a category, run or not

    @property
    def beaten(self) -> bool:
        """Whether a control reaches the figure."""
        return self.control is not None and not self.mean > self.control


@dataclass
class Matrix:
    """A measure for all rows and columns, and their `means`, by the names of `averaged`."""

    measure: Measure
    cells: dict[tuple[Row, Column], Cell] = field(default_factory=dict)
    means: dict[tuple[Row, str], Cell] = field(default_factory=dict)
    controls: dict[tuple[str, Column], float] = field(default_factory=dict)  # kind of control, column

    @property
    def columns(self) -> list[Column]:
        """The columns that have the measure."""
        return sorted({column for _, column in self.cells})

    def control(self, kind: str, columns: Sequence[Column]) -> float | None:
        """The mean of a control over columns; None if one lacks it."""
        values = {column: self.controls[kind, column] for column in columns if (kind, column) in self.controls}
        return _over_categories(values) if values and len(values) == len(columns) else None

    def mean(self, row: Row, columns: Sequence[Column]) -> Cell | None:
        """The mean of a row over columns, with the noise of its seeds; None if it has none of them."""
        there = {column: self.cells[row, column] for column in columns if (row, column) in self.cells}
        if not there:
            return None
        means = {column: cell.mean for column, cell in there.items()}
        folds = columns[0].folds if len(by_category(columns)) == 1 else 0
        parts = {column.label: [column] for column in there} if folds else by_category(there)
        values = {name: fmean(means[column] for column in each) for name, each in parts.items()}
        mean = Cell(values, fmean(values.values()), of=folds or len(by_category(columns)))
        seeds = set.intersection(*(set(cell.values) for cell in there.values()))
        by_seed = [
            _over_categories({column: cell.values[seed] for column, cell in there.items()}) for seed in sorted(seeds)
        ]
        if len(by_seed) > 1 and all(set(cell.values) == seeds for cell in there.values()):
            _over_seeds(mean, by_seed, self.measure)
        controls = {column: cell.control for column, cell in there.items() if cell.control is not None}
        mean.control = _over_categories(controls) if len(controls) == len(there) else None
        return mean


def by_category(columns: Iterable[Column]) -> dict[str, list[Column]]:
    """The columns of each category: several where it was tested on several sets of images."""
    found: dict[str, list[Column]] = {}
    for column in columns:
        found.setdefault(column.category, []).append(column)
    return found


def averaged(columns: Sequence[Column]) -> dict[str, list[Column]]:
    """The columns that have a mean, by a name: the folds of a category, and the categories of a data set."""
    found: dict[str, list[Column]] = {}
    for dataset in dict.fromkeys(column.dataset for column in columns):
        here = [column for column in columns if column.dataset == dataset]
        for category, folds in dict.fromkeys((column.category, column.folds) for column in here if column.folds):
            parts = [column for column in here if (column.category, column.folds) == (category, folds)]
            found |= {f"{dataset}/{category}/{folds}": parts} if len(parts) > 1 else {}
        found |= {dataset: here} if len(by_category(here)) > 1 else {}
    return found


def _over_categories(values: dict[Column, float]) -> float:
    """The mean over categories, each of which counts once."""
    return fmean(fmean(values[column] for column in each) for each in by_category(values).values())


def matrices(groups: Groups) -> dict[str, Matrix]:
    """The matrix of every measure that some run has, by its key."""
    found = {}
    for measure in MEASURES:
        matrix = matrix_of(groups, measure)
        if matrix.cells:
            found[measure.key] = matrix
    return found


def matrix_of(groups: Groups, measure: Measure) -> Matrix:
    """The matrix of one measure."""
    matrix = Matrix(measure)
    for place, runs in groups.cells.items():
        cell = _cell(runs, measure)
        if cell is not None:
            matrix.cells[place] = cell
    for column in groups.columns:
        for row in groups.rows:
            for run in groups.cells.get((row, column), []):
                _add_controls(matrix, run, column)
    for (_, column), cell in matrix.cells.items():
        if cell.control is None:  # of `controls=false`
            found = (value for (kind, at), value in matrix.controls.items() if at == column and kind != UNTRAINED)
            cell.control = max(found, default=None)  # untrained is another method, before its training
    for name, columns in averaged(matrix.columns).items():
        matrix.means |= {(row, name): mean for row, mean in means_over(matrix, groups, columns).items()}
    if measure.level != "cost":  # of one machine, and of another
        for column in groups.columns:
            _mark_column(matrix, groups, column)
    return matrix


def _cell(runs: list[Run], measure: Measure) -> Cell | None:
    having = [run for run in runs if measure.key in run.metrics]
    if not having:
        return None
    values = {run.key.seed: run.metrics[measure.key] for run in having}
    cell = Cell(values, fmean(values.values()))
    if len(values) > 1:
        _over_seeds(cell, [*values.values()], measure)
    if (
        not cell.interval
        and measure.key == "image_auroc"
        and {"image_auroc_low", "image_auroc_high"} <= set(having[0].metrics)
    ):
        cell.low, cell.high = having[0].metrics["image_auroc_low"], having[0].metrics["image_auroc_high"]
        cell.interval = "images"
    controls = [run.metrics[f"control_{measure.key}"] for run in having if f"control_{measure.key}" in run.metrics]
    cell.control = fmean(controls) if len(controls) == len(having) else None
    return cell


def _over_seeds(cell: Cell, values: list[float], measure: Measure) -> None:
    """Add the standard deviation and the interval of the mean, clipped to its range; none for equal values."""
    cell.std = stdev(values)
    if len(set(values)) > 1:
        low, high = t_interval(values, CONFIDENCE)
        cell.low, cell.high = (low, high) if measure.level == "cost" else (max(low, 0.0), min(high, 1.0))
        cell.interval = "seeds"


def _add_controls(matrix: Matrix, run: Run, column: Column) -> None:
    """Take the largest control over the runs of the column: methods at other image sizes have other controls."""
    for kind, metrics in run.controls.items():
        value = metrics.get(matrix.measure.key, math.nan)
        if not math.isnan(value):
            matrix.controls[kind, column] = max(value, matrix.controls.get((kind, column), -math.inf))


def _mark_column(matrix: Matrix, groups: Groups, column: Column) -> None:
    rows = [row for row in groups.rows if (row, column) in matrix.cells]
    controls = [value for (_, there), value in matrix.controls.items() if there == column]
    best = _leader(matrix.measure, {row: matrix.cells[row, column].mean for row in rows})
    if best is None or len(rows) + len(controls) < 2:
        return
    confidence = 1 - (1 - CONFIDENCE) / max(len(rows) - 1 + bool(controls), 1)
    cell = matrix.cells[best, column]
    sign = 1 if matrix.measure.better == "high" else -1
    above_controls = not controls or (cell.low is not None and cell.low > max(controls))
    cell.best = above_controls and all(
        _is_better(matrix, groups, column, best, other, confidence, sign) for other in rows if other != best
    )


def _is_better(
    matrix: Matrix, groups: Groups, column: Column, best: Row, other: Row, confidence: float, sign: int
) -> bool:
    """Whether the difference between two rows is more than noise."""
    one, two = matrix.cells[best, column], matrix.cells[other, column]
    common = sorted(set(one.values) & set(two.values))
    differences = [sign * (one.values[seed] - two.values[seed]) for seed in common]
    seed_by_seed = len(common) >= SEEDS and t_interval(differences, confidence)[0] > 0
    if matrix.measure.key != "image_auroc":
        return seed_by_seed and len(set(differences)) > 1
    if len(common) >= SEEDS and not seed_by_seed:
        return False
    runs_one = {run.key.seed: run for run in groups.cells[best, column]}
    runs_two = {run.key.seed: run for run in groups.cells[other, column]}
    pairs = [(runs_one[seed], runs_two[seed]) for seed in common] or [
        (next(iter(runs_one.values())), next(iter(runs_two.values())))
    ]
    return all(_auroc_is_better(first, second, confidence) for first, second in pairs)


def _auroc_is_better(one: Run, two: Run, confidence: float) -> bool:
    if one.images != two.images or not one.images:
        return False
    abnormal = np.array([image.label == 1 for image in one.images])
    if abnormal.all() or not abnormal.any():
        return False
    return auroc_difference(np.array(one.scores), np.array(two.scores), abnormal, confidence)[0] > 0


def means_over(matrix: Matrix, groups: Groups, columns: Sequence[Column]) -> dict[Row, Cell]:
    """The mean over columns of every row that has one of them; the best is marked."""
    means = {row: mean for row in groups.rows if (mean := matrix.mean(row, columns)) is not None}
    complete = {row: cell for row, cell in means.items() if len(cell.values) == cell.of}
    best = _leader(matrix.measure, {row: cell.mean for row, cell in complete.items()})
    categories = by_category(columns)
    several = len(categories) < len(columns)  # other draws of a category are other tests
    if matrix.measure.level == "cost" or best is None or len(complete) < 2 or len(categories) < SEEDS or several:
        return means
    confidence = 1 - (1 - CONFIDENCE) / (len(complete) - 1)
    complete[best].best = not complete[best].beaten and all(
        t_interval([complete[best].values[name] - cell.values[name] for name in cell.values], confidence)[0] > 0
        for row, cell in complete.items() if row != best
    )  # fmt: skip
    return means


def _leader(measure: Measure, means: dict[Row, float]) -> Row | None:
    """The row with the best mean; None without rows, or if it is a control."""
    if not means:
        return None
    choose: Any = max if measure.better == "high" else min
    best = choose(means, key=lambda row: means[row])
    return None if best.control else best
