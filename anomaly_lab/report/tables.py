"""Tables of the matrix: terminal, CSV, Markdown, LaTeX."""

import csv
import io
from collections.abc import Callable, Sequence
from typing import NamedTuple

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from anomaly_lab.core.console import printable_lines
from anomaly_lab.report.groups import Column, Groups
from anomaly_lab.report.matrix import Cell, Matrix
from anomaly_lab.runs.measures import Measure

FLAG = "▽"  # does not exceed the strongest control of its own runs
LEGEND = (
    f"mean ± standard deviation over seeds; bold: best by more than noise; {FLAG} not above the controls; "
    "controls: the largest over the runs of a column"
)
CSV_COLUMNS = (
    "measure", "row", "method", "dataset", "category", "categories", "n", "mean", "std", "low", "high", "interval",
    "best", "strongest_control", "above_controls",
)  # fmt: skip


class Line(NamedTuple):
    """A line of a table: a method or a control."""

    label: str
    cells: list[Cell | None]
    control: bool


class Sheet(NamedTuple):
    """The content of a table of one measure, for every format."""

    measure: Measure
    columns: list[Column | str]  # the name of a data set stands for the mean over it
    headers: list[str]
    lines: list[Line]  # the best mean first, then those that lack a category, controls last


def sheet(matrix: Matrix, groups: Groups) -> Sheet:
    """The lines of a matrix; the columns of a data set with several categories are followed by their mean."""
    columns: list[Column | str] = []
    for dataset in dict.fromkeys(column.dataset for column in groups.columns):
        here = [column for column in groups.columns if column.dataset == dataset and _shown(matrix, column)]
        columns += [*here, *([dataset] if len(here) > 1 else [])]
    several = len({column.dataset for column in groups.columns}) > 1
    headers = [
        f"mean of {column}" if isinstance(column, str) else f"{column.dataset} {column.label}" if several
        else column.label for column in columns
    ]  # fmt: skip
    lines = []
    for row in groups.rows:
        cells = [
            matrix.means.get((row, column)) if isinstance(column, str) else matrix.cells.get((row, column))
            for column in columns
        ]
        if any(cells):
            lines.append(Line(row.label, cells, row.control))
    sign = 1 if matrix.measure.better == "high" else -1
    lines.sort(key=lambda line: (line.control, None in line.cells, -sign * _mean(line.cells)))
    for kind in dict.fromkeys(kind for kind, _ in matrix.controls):
        values = [matrix.control(kind, column) for column in columns]
        cells = [None if value is None else Cell({}, value) for value in values]
        lines.append(Line(f"control: {kind}", cells, control=True))
    return Sheet(matrix.measure, columns, headers, lines)


def _shown(matrix: Matrix, column: Column) -> bool:
    return any(there == column for _, there in matrix.cells)


def _mean(cells: Sequence[Cell | None]) -> float:
    values = [cell.mean for cell in cells if cell is not None]
    return sum(values) / len(values)


def number(value: float, measure: Measure) -> str:
    """A formatted number: `.873` for measures between 0 and 1, three digits for costs."""
    if measure.level == "cost":
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:.3f}".removeprefix("0")


def figure(cell: Cell, measure: Measure, plus_minus: str = " ± ") -> str:
    """A formatted cell: `.873 ± .012`, with the number of categories if a mean lacks some."""
    text = number(cell.mean, measure)
    if cell.std is not None:
        text += f"{plus_minus}{number(cell.std, measure)}"
    return text if len(cell.values) >= cell.of or not cell.values else f"{text} ({len(cell.values)} of {cell.of})"


def terminal(shown: Sheet, width: int) -> list[Table]:
    """Tables for rich, as many as a console of `width` characters needs to show all figures uncut.

    Each repeats the labels of the lines. Of several tables the first begins with the means over data sets.
    """
    lines = [line._replace(label=printable_lines(line.label)) for line in shown.lines]
    shown = shown._replace(headers=[printable_lines(header) for header in shown.headers], lines=lines)
    label, *columns = _widths(shown, width)
    frame, order = label + 4, [*range(len(columns))]  # a column has a border and a space on either side
    blocks = [order]
    if frame + sum(columns[i] + 3 for i in order) > width:
        blocks, left = [], 0
        for i in sorted(order, key=lambda i: not isinstance(shown.columns[i], str)):
            if not blocks or left < columns[i] + 3:
                blocks.append([])
                left = width - frame
            blocks[-1].append(i)
            left -= columns[i] + 3
    tables = []
    for number, block in enumerate(blocks, start=1):
        title = shown.measure.name + (f" ({number} of {len(blocks)})" if len(blocks) > 1 else "")
        table = Table(title=title, title_justify="left", title_style="bold")
        table.add_column("", width=label, overflow="fold")
        for i in block:
            table.add_column(Text(shown.headers[i]), justify="right", width=columns[i], overflow="fold")
        for previous, line in zip([None, *shown.lines], shown.lines, strict=False):
            if line.control and previous is not None and not previous.control:
                table.add_section()
            cells = [_styled(line.cells[i], shown.measure) for i in block]
            table.add_row(Text(line.label), *cells, style="dim" if line.control else None)
        tables.append(table)
    return tables


def _widths(shown: Sheet, width: int) -> list[int]:
    """Widths of the labels and of each column in characters: labels are wrapped if the lines do not fit."""
    labels = [line.label for line in shown.lines]
    figures = [
        max((_styled(line.cells[i], shown.measure).cell_len for line in shown.lines), default=0)
        for i in range(len(shown.headers))
    ]
    whole = [
        max(map(cell_len, labels), default=0),
        *(max(cell_len(header), wide) for header, wide in zip(shown.headers, figures, strict=True)),
    ]
    if sum(whole) + 3 * len(whole) + 1 <= width:
        return whole
    room = max(width - max(figures, default=0) - 7, 1)  # beside the widest figure
    label = min(whole[0], max(_longest_word(labels), width // 3), room)
    room = max(width - label - 7, 1)
    return [
        label,
        *(max(wide, min(_longest_word([header]), room)) for header, wide in zip(shown.headers, figures, strict=True)),
    ]


def _longest_word(texts: Sequence[str]) -> int:
    return max((cell_len(word) for text in texts for word in text.split()), default=0)


def _styled(cell: Cell | None, measure: Measure) -> Text:
    if cell is None:
        return Text("–")
    return Text(figure(cell, measure) + (f" {FLAG}" if cell.beaten else ""), style="bold" if cell.best else "")


def as_csv(sheets: Sequence[Sheet], matrices: Sequence[Matrix], groups: Groups) -> str:
    """One line per cell with all digits, for pandas and other plots.

    `n` counts seeds; a line of the category `mean` averages `categories` categories, and its `n` is their least.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for matrix in matrices:
        places = [
            (row, column.dataset, column.label, 1, len(cell.values), cell)
            for (row, column), cell in matrix.cells.items()
        ]
        for (row, dataset), cell in matrix.means.items():
            seeds = [len(one.values) for (of, at), one in matrix.cells.items() if (of, at.dataset) == (row, dataset)]
            places.append((row, dataset, "mean", len(cell.values), min(seeds), cell))
        for row, dataset, category, categories, n, cell in places:
            noise = ("" if value is None else value for value in (cell.std, cell.low, cell.high))
            above = "" if cell.control is None else not cell.beaten
            control = "" if cell.control is None else cell.control
            writer.writerow(
                (matrix.measure.key, row.label, row.method, dataset, category, categories, n, cell.mean, *noise,
                 cell.interval, cell.best, control, above)
            )  # fmt: skip
        controls = [(kind, column.dataset, column.label, 1, value) for (kind, column), value in matrix.controls.items()]
        for dataset in dict.fromkeys(dataset for _, dataset in matrix.means):
            columns = {column for _, column in matrix.cells if column.dataset == dataset}
            for kind in dict.fromkeys(kind for kind, _ in matrix.controls):
                value = matrix.control(kind, dataset)
                if value is not None:
                    controls.append((kind, dataset, "mean", len(columns), value))
        for kind, dataset, category, categories, value in controls:
            writer.writerow(
                (matrix.measure.key, f"control: {kind}", "control", dataset, category, categories, "", value, "", "",
                 "", "", False, "", "")
            )  # fmt: skip
    return text.getvalue()


def as_markdown(sheets: Sequence[Sheet], matrices: Sequence[Matrix], groups: Groups) -> str:
    """One table per measure."""
    parts = []
    for shown in sheets:
        rows = [["", *shown.headers], ["---", *("---:" for _ in shown.headers)]]
        rows += [[line.label, *_texts(line, shown.measure, lambda text: f"**{text}**")] for line in shown.lines]
        body = [f"| {' | '.join(_in_markdown(text) for text in row)} |" for row in rows]
        parts.append("\n".join([f"**{shown.measure.name}**", "", *body]))
    return "\n\n".join([*parts, LEGEND]) + "\n"


def _in_markdown(text: str) -> str:
    """Text with escaped column separators and HTML."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("`", "\\`")


def as_latex(sheets: Sequence[Sheet], matrices: Sequence[Matrix], groups: Groups) -> str:
    """One `tabular` per measure; needs the package booktabs."""
    parts = []
    for shown in sheets:
        lines = [
            f"% {shown.measure.name}",
            f"\\begin{{tabular}}{{l{'r' * len(shown.headers)}}}",
            "\\toprule",
            " & ".join(["", *map(_in_latex, shown.headers)]) + " \\\\",
            "\\midrule",
        ]
        for previous, line in zip([None, *shown.lines], shown.lines, strict=False):
            if line.control and previous is not None and not previous.control:
                lines.append("\\midrule")
            texts = _texts(
                line, shown.measure, lambda text: f"\\textbf{{{text}}}", " $\\pm$ ", "$\\triangledown$", "--"
            )
            lines.append(" & ".join([_in_latex(line.label), *texts]) + " \\\\")
        parts.append("\n".join([*lines, "\\bottomrule", "\\end{tabular}"]))
    return "\n\n".join([*parts, f"% {LEGEND}; needs booktabs and amssymb"]) + "\n"


def _texts(
    line: Line, measure: Measure, bold: Callable[[str], str], plus_minus: str = " ± ", flag: str = FLAG, none: str = "–"
) -> list[str]:
    texts = []
    for cell in line.cells:
        text = none if cell is None else figure(cell, measure, plus_minus)
        if cell is not None and cell.beaten:
            text += f" {flag}"
        texts.append(bold(text) if cell is not None and cell.best else text)
    return texts


def _in_latex(text: str) -> str:
    special = {
        "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "·": "$\\cdot$",
        "…": "\\dots{}",
    } | {sign: f"\\{sign}" for sign in "&%$#_{}"}  # fmt: skip
    return "".join(special.get(sign, sign) for sign in " ".join(text.split()))


WRITERS = {".csv": as_csv, ".md": as_markdown, ".tex": as_latex}
