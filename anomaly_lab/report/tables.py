"""Tables of the matrix: terminal, CSV, Markdown, LaTeX."""

import csv
import io
from collections.abc import Callable, Sequence

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from anomaly_lab.core.console import printable_lines
from anomaly_lab.report.groups import Column
from anomaly_lab.report.sheets import Line, Sheet

FLAG = "▽"  # does not exceed the strongest control
LEGEND = (
    f"mean ± standard deviation over seeds; bold: best by more than noise; {FLAG} not above the controls; "
    "controls: the largest over the runs of a column"
)
CSV_COLUMNS = (
    "measure", "row", "method", "dataset", "category", "categories", "n", "mean", "std", "low", "high", "interval",
    "best", "strongest_control", "above_controls",
)  # fmt: skip


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
        for i in sorted(order, key=lambda i: isinstance(shown.columns[i], Column)):
            if not blocks or left < columns[i] + 3:
                blocks.append([])
                left = width - frame
            blocks[-1].append(i)
            left -= columns[i] + 3
    tables = []
    for number, block in enumerate(blocks, start=1):
        title = shown.title + (f" ({number} of {len(blocks)})" if len(blocks) > 1 else "")
        table = Table(title=title, title_justify="left", title_style="bold")
        table.add_column("", width=label, overflow="fold")
        for i in block:
            table.add_column(Text(shown.headers[i]), justify="right", width=columns[i], overflow="fold")
        for previous, line in zip([None, *shown.lines], shown.lines, strict=False):
            if line.control and previous is not None and not previous.control:
                table.add_section()
            cells = [_styled(shown, line, i) for i in block]
            table.add_row(Text(line.label), *cells, style="dim" if line.control else None)
        tables.append(table)
    return tables


def _widths(shown: Sheet, width: int) -> list[int]:
    """Widths of the labels and of each column in characters: labels are wrapped if the lines do not fit."""
    labels = [line.label for line in shown.lines]
    figures = [
        max((_styled(shown, line, i).cell_len for line in shown.lines), default=0) for i in range(len(shown.headers))
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


def _styled(shown: Sheet, line: Line, i: int) -> Text:
    cell = line.cells[i]
    if cell is None:
        return Text("–")
    return Text(f"{shown.text(line, i)}{f' {FLAG}' * cell.beaten}", style="bold" if cell.best else "")


def as_csv(sheets: Sequence[Sheet]) -> str:
    """One line per cell with all digits, for pandas and other plots.

    `n` counts seeds; a line of a mean averages `categories` categories, and its `n` is their least.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for shown in sheets:
        for line in shown.lines:
            there = dict(zip(shown.columns, line.cells, strict=True))
            for column, cell in there.items():
                if cell is None:
                    continue
                category, members = (column.label, (column,)) if isinstance(column, Column) else column[1:]
                seeds = [len(one.values) for at in members if (one := there[at]) is not None]
                noise = ("" if value is None else value for value in (cell.std, cell.low, cell.high))
                control = ("", "") if cell.control is None else (cell.control, not cell.beaten)
                writer.writerow(
                    (shown.measure.key, line.label, line.method, column.dataset, category,
                     len(members) if column in members else len(cell.values) or len(members),
                     min(seeds) if cell.values else "", cell.mean, *noise, cell.interval, cell.best, *control)
                )  # fmt: skip
    return text.getvalue()


def as_markdown(sheets: Sequence[Sheet]) -> str:
    """One table per measure."""
    parts = []
    for shown in sheets:
        rows = [["", *shown.headers], ["---", *("---:" for _ in shown.headers)]]
        rows += [[line.label, *_texts(shown, line, lambda text: f"**{text}**")] for line in shown.lines]
        body = [f"| {' | '.join(_in_markdown(text) for text in row)} |" for row in rows]
        parts.append("\n".join([f"**{shown.title}**", "", *body]))
    return "\n\n".join([*parts, LEGEND]) + "\n"


def _in_markdown(text: str) -> str:
    """Text with escaped column separators and HTML."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("`", "\\`")


def as_latex(sheets: Sequence[Sheet]) -> str:
    """One `tabular` per measure; needs the package booktabs."""
    parts = []
    for shown in sheets:
        lines = [
            f"% {shown.title}",
            f"\\begin{{tabular}}{{l{'r' * len(shown.headers)}}}",
            "\\toprule",
            " & ".join(["", *map(_in_latex, shown.headers)]) + " \\\\",
            "\\midrule",
        ]
        for previous, line in zip([None, *shown.lines], shown.lines, strict=False):
            if line.control and previous is not None and not previous.control:
                lines.append("\\midrule")
            texts = _texts(shown, line, lambda text: f"\\textbf{{{text}}}", " $\\pm$ ", "$\\triangledown$", "--")
            lines.append(" & ".join([_in_latex(line.label), *texts]) + " \\\\")
        parts.append("\n".join([*lines, "\\bottomrule", "\\end{tabular}"]))
    return "\n\n".join([*parts, f"% {LEGEND}; needs booktabs and amssymb"]) + "\n"


def _texts(
    shown: Sheet, line: Line, bold: Callable[[str], str], plus_minus: str = " ± ", flag: str = FLAG, none: str = "–"
) -> list[str]:
    texts = []
    for i, cell in enumerate(line.cells):
        text = shown.text(line, i, plus_minus) or none
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
