"""The content of a table of one measure: rows, columns, means, ranks, and how its figures are written."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import rankdata

from anomaly_lab.core.errors import UserError, nearest
from anomaly_lab.report.groups import Column, Groups, Row
from anomaly_lab.report.matrix import Cell, Matrix, averaged, by_category, means_over
from anomaly_lab.runs.measures import Measure

RANK = "mean rank"
KINDS = ("texture", "object")  # of the categories of MVTec AD


class Style(NamedTuple):
    """How a table looks; the defaults are those of the terminal."""

    names: tuple[str, ...] = ()  # of rows, in their order: `cae`, or `cae:L2 autoencoder` to call it that
    percent: bool = False
    digits: int | None = None  # behind the point; None: 3, of percents 1
    kinds: bool = False  # means over textures and over objects beside the mean over all
    ranks: bool = False  # the mean rank of every method


PLAIN = Style()


class Line(NamedTuple):
    """A line of a table: a method or a control."""

    label: str
    cells: list[Cell | None]
    control: bool
    method: str = "control"


class Mean(NamedTuple):
    """A column of means over others."""

    dataset: str
    title: str  # mean, mean of textures, screw, mean of 5 folds, mean rank
    columns: tuple[Column, ...]


class Sheet(NamedTuple):
    """The content of a table of one measure, for every format."""

    measure: Measure
    columns: list[Column | Mean]
    headers: list[str]
    lines: list[Line]  # in the order of `Style.names`, else the best mean first; incomplete ones, then controls last
    style: Style = PLAIN

    @property
    def title(self) -> str:
        """The measure and its unit."""
        return self.measure.name + (", %" if self.style.percent and self.measure.level != "cost" else "")

    def text(self, line: Line, i: int, plus_minus: str = " ± ") -> str | None:
        """The figure in column `i` of a line; None without one."""
        cell = line.cells[i]
        if cell is None or self.columns[i][1] == RANK:
            return None if cell is None else f"{cell.mean:.2f}"
        return figure(cell, self.measure, plus_minus, self.style)


def sheet(matrix: Matrix, groups: Groups, style: Style = PLAIN) -> Sheet:
    """The lines of a matrix; the folds of a category, and the categories of a data set, are followed by their means.

    Raises UserError for names of rows that are not there.
    """
    columns: list[Column | Mean] = []
    groups_of = averaged(matrix.columns)
    for dataset in dict.fromkeys(column.dataset for column in matrix.columns):
        here = [column for column in matrix.columns if column.dataset == dataset]
        for column in here:
            columns.append(column)
            for name, parts in groups_of.items():
                if name != dataset and parts[-1] == column:
                    columns.append(Mean(dataset, f"{column.category}, mean of {column.folds} folds", tuple(parts)))
        for title, members in (_kinds(groups, here) if style.kinds else {}).items():
            columns += [Mean(dataset, title, tuple(members))] if len(by_category(members)) > 1 else []
        columns += [Mean(dataset, "mean", tuple(here))] if dataset in groups_of else []
    several = len({column.dataset for column in groups.columns}) > 1
    headers = [
        f"{column.dataset} {column.label}" if several and isinstance(column, Column) else column.label
        if isinstance(column, Column) else f"{column.title} of {column.dataset}" if column.title == "mean"
        else f"{column.dataset} {column.title}" if several else column.title for column in columns
    ]  # fmt: skip
    families: dict[Row, list[Line]] = {}  # rows that differ in their number of good photos stay together, in its order
    means = {at: means_over(matrix, groups, at.columns) for at in columns if isinstance(at, Mean)}
    for row in groups.rows:
        cells = [means[at].get(row) if isinstance(at, Mean) else matrix.cells.get((row, at)) for at in columns]
        if any(cells):
            families.setdefault(row.family, []).append(Line(row.label, cells, row.control, row.method))
    sign = 1 if matrix.measure.better == "high" else -1
    best_first = sorted(
        families.values(),
        key=lambda family: min((line.control, None in line.cells, -sign * _mean(line.cells)) for line in family),
    )
    lines = [line for family in best_first for line in family]
    for kind in dict.fromkeys(kind for kind, _ in matrix.controls):
        values = [matrix.control(kind, at.columns if isinstance(at, Mean) else [at]) for at in columns]
        cells = [None if value is None else Cell({}, value) for value in values]
        lines.append(Line(f"control: {kind}", cells, control=True))
    if style.ranks and (ranked := _ranks(lines, columns, sign)):
        column, of, cells = ranked
        columns, headers = [*columns, column], [*headers, column.title if of == len(column.columns) else
                                                f"{column.title} ({len(column.columns)} of {of})"]  # fmt: skip
        lines = [line._replace(cells=[*line.cells, cell]) for line, cell in zip(lines, cells, strict=True)]
    title_of = titles(groups, style.names)
    placed = [(line.control, *title_of(line.label, line.method), line) for line in lines]
    lines = [line._replace(label=name) for *_, name, line in sorted(placed, key=lambda entry: entry[:2])]
    return Sheet(matrix.measure, columns, headers, lines, style)


def _mean(cells: Sequence[Cell | None]) -> float:
    values = [cell.mean for cell in cells if cell is not None]
    return sum(values) / len(values)


def _kinds(groups: Groups, columns: Sequence[Column]) -> dict[str, list[Column]]:
    """The columns of textures and of objects, as the configuration of their runs calls them."""
    found: dict[str, list[Column]] = {}
    for column in columns:
        run = next(runs[0] for (_, at), runs in groups.cells.items() if at == column)
        kind: Any = run.config
        for key in ("data", "categories", column.category, "kind"):
            kind = kind.get(key) if isinstance(kind, dict) else None
        if kind in KINDS:
            found.setdefault(f"mean of {kind}s", []).append(column)
    return dict(sorted(found.items(), reverse=True))  # textures first, as papers list them


def _ranks(
    lines: Sequence[Line], columns: Sequence[Column | Mean], sign: int
) -> tuple[Mean, int, list[Cell | None]] | None:
    """The mean rank of each method over the categories that all of them have, and how many categories there are."""
    methods = [line for line in lines if not line.control]
    places = [i for i, column in enumerate(columns) if isinstance(column, Column)]
    common = [i for i in places if all(line.cells[i] is not None for line in methods)]
    if not methods or not common:
        return None
    values = [[-sign * cell.mean for line in methods if (cell := line.cells[i]) is not None] for i in common]
    of_columns = rankdata(values, axis=1)  # equal figures share the mean of their ranks
    names = [(column.dataset, column.category) for i in common if isinstance(column := columns[i], Column)]
    each = [of_columns[[name == category for name in names]].mean(axis=0) for category in dict.fromkeys(names)]
    ranks = iter(np.mean(each, axis=0).tolist())
    cells = [None if line.control else Cell({}, next(ranks)) for line in lines]
    return Mean("", RANK, tuple(column for i in common if isinstance(column := columns[i], Column))), len(places), cells


def titles(groups: Groups, names: Sequence[str]) -> Callable[[str, str], tuple[int, str]]:
    """A function of the label and the method of a row: its place among the names, and its name.

    Rows without a name have the place after all. Raises UserError for a name of no row.
    """
    known = {"control"} | {name for row in groups.rows for name in (row.label, row.method)}
    known |= {f"control: {kind}" for runs in groups.cells.values() for run in runs for kind in run.controls}
    order: dict[str, tuple[int, str]] = {}
    for place, entry in enumerate(names):
        row = max((key for key in known if f"{entry}:".startswith(f"{key}:")), key=len, default=None)
        if row is None:
            rows, near = sorted(known), nearest(entry.partition(":")[0], sorted(known))
            raise UserError(f"--names: expected ROW or ROW:NAME, a row out of {', '.join(rows)}, found {entry!r}{near}")
        order[row] = (place, entry.removeprefix(row).removeprefix(":") or row)

    def title(label: str, method: str) -> tuple[int, str]:
        key = label if label in order else method
        place, name = order.get(key, (len(names), key))
        return place, name + label.removeprefix(key)

    return title


def number(value: float, measure: Measure, style: Style = PLAIN) -> str:
    """A formatted number: `.873` for measures between 0 and 1, or `87.3`; three digits for costs."""
    if measure.level == "cost":
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    if style.percent:
        return f"{100 * value:.{1 if style.digits is None else style.digits}f}"
    return f"{value:.{3 if style.digits is None else style.digits}f}".removeprefix("0")


def figure(cell: Cell, measure: Measure, plus_minus: str = " ± ", style: Style = PLAIN) -> str:
    """A formatted cell: `.873 ± .012`, with the number of categories if a mean lacks some."""
    text = number(cell.mean, measure, style)
    if cell.std is not None:
        text += f"{plus_minus}{number(cell.std, measure, style)}"
    return text if len(cell.values) >= cell.of or not cell.values else f"{text} ({len(cell.values)} of {cell.of})"
