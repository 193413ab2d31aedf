"""`python -m anomaly_lab compare`: finished runs side by side, in the terminal and as one page. Imports no torch."""

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from anomaly_lab.cli.options import switch
from anomaly_lab.core.console import printable
from anomaly_lab.core.errors import UserError, nearest
from anomaly_lab.report.figures import CHOICES, KINDS, FigureRequest, figure_of
from anomaly_lab.report.groups import Groups, group
from anomaly_lab.report.matrix import Matrix, matrices
from anomaly_lab.report.sheets import RANK, Mean, Sheet, Style, sheet
from anomaly_lab.runs.collect import Run, collect
from anomaly_lab.runs.measures import BY_KEY

USAGE = "python -m anomaly_lab compare FOLDER [FOLDER ...] [--out FILE] [--metric NAME[,NAME]] [--OPTION VALUE ...]"
DEFAULT = ("image_auroc", "pixel_aupro")
PAGES, FIGURES = (".html", ".csv", ".md", ".tex"), (".pdf", ".svg", ".png")
OPTIONS = {
    "--out": "report.html (default: in the first folder), or a table: .csv, .md (Markdown), .tex (LaTeX), or a figure: "
    ".pdf, .svg, .png; may be repeated",
    "--metric": f"the metrics of the tables, out of {', '.join(BY_KEY)} (default: image_auroc, and pixel_aupro if "
    "there are masks); the page shows all",
    "--names": "rows of tables and figures in their order, with the printed names: cae:'L2 autoencoder',anogan",
    "--percent": "true: 87.3 instead of .873 in tables",
    "--digits": "digits behind the point in tables (default: 3, of percents 1)",
    "--kinds": "true: means over textures and over objects in tables",
    "--rank": "true: the mean rank of every method over the categories in tables",
    "--figure": "photos: the same defective photos with the map of every method; curves: ROC and PRO of all methods",
    "--category": "the categories of the figure (default: all)",
    "--photos": "photos per category of figure=photos (default: 4, of several categories 1)",
    "--choose": f"which photos: {', '.join(CHOICES)} (default: first)",
}
HELP = f"""\
usage: {USAGE}
  FOLDER: a folder with runs at any depth, usually runs/
{"".join(f"  {name}: {text}{chr(10)}" for name, text in OPTIONS.items())}"""


class Request(NamedTuple):
    """The arguments of the command."""

    folders: list[Path]
    outs: list[Path]
    metrics: list[str]
    style: Style
    figure: FigureRequest | None


def main(arguments: list[str]) -> None:
    """Print the matrix and the runs that are not in it, then write the page or the requested tables and figures."""
    if {"--help", "-h"} & set(arguments):
        print(HELP, end="")
        return
    folders, outs, wanted, style, drawn = parse(arguments)
    outs = outs or [folders[0] / (f"{drawn.kind}.pdf" if drawn else "report.html")]
    runs = collect(folders)
    groups = group([run for run in runs if run.done])
    by_measure = matrices(groups)
    shown = [key for key in wanted or DEFAULT if key in by_measure]
    if wanted and len(shown) < len(wanted):
        missing = next(key for key in wanted if key not in by_measure)
        raise UserError(f"--metric: expected one that some run has ({', '.join(by_measure)}), found {missing}")
    sheets = [sheet(by_measure[key], groups, style) for key in shown]
    titles = {column.title for one in sheets for column in one.columns if isinstance(column, Mean)}
    if style.kinds and not any(title.startswith("mean of ") for title in titles):
        raise UserError("--kinds: expected several textures or several objects (categories of MVTec AD), found neither")
    if style.ranks and RANK not in titles:
        raise UserError("--rank: expected a category that all methods have, found none")
    drawing = figure_of(groups, drawn, style.names) if drawn else None
    show(runs, groups, sheets)
    for out in outs:
        what = "report" if out.suffix == ".html" else "table" if out.suffix in PAGES else "figure"
        if what == "figure" and drawing:
            save(out, partial(drawing.write, suffix=out.suffix))
        else:
            write(out, runs, groups, by_measure, sheets)
        print(f"{what}: {out}")


def parse(arguments: list[str]) -> Request:
    """The arguments; `--out FILE`, `--out=FILE` and `out=FILE` are equal. Raises UserError."""
    folders, options = [], {name.removeprefix("--"): list[str]() for name in OPTIONS}
    remaining = iter(arguments)
    for argument in remaining:
        name, equals, value = argument.partition("=")
        option = name.removeprefix("--")
        if not argument.startswith("-") and not (equals and option in options):
            folders.append(Path(argument).expanduser())
            continue
        if option not in options or name == f"-{option}":
            raise UserError(f"compare: expected {USAGE}, found {argument!r}{nearest(option, options)}")
        value = value if equals else next(remaining, "")
        if not value:
            raise UserError(f"compare: expected {USAGE}, found {argument!r} without a value")
        options[option].append(value)
    if not folders:
        raise UserError(f"compare: expected {USAGE}, found no folder")
    outs = [Path(value).expanduser() for value in options["out"]]
    last = {name: values[-1] for name, values in options.items() if values}
    suffixes = (*PAGES, *FIGURES) if "figure" in last else PAGES
    for out in outs:
        if out.suffix not in suffixes:
            ask = "; set figure=photos or figure=curves" if out.suffix in FIGURES else ""
            raise UserError(f"--out: expected a name that ends in {', '.join(suffixes)}, found {out}{ask}")
        if out.is_dir():
            raise UserError(f"--out: expected a file, found the folder {out}")
        if file := next((parent for parent in out.parents if parent.is_file()), None):
            raise UserError(f"--out: expected a folder to write to, found the file {file}")
    listed = {
        name: [key for value in values for key in re.split(",(?! )", value) if key] for name, values in options.items()
    }
    for key in listed["metric"]:
        if key not in BY_KEY:
            raise UserError(f"--metric: expected one of {', '.join(BY_KEY)}, found {key!r}{nearest(key, BY_KEY)}")
    percent = switch(last, "percent", False)
    style = Style(
        tuple(listed["names"]), percent, _number(last, "digits", 0 if percent else 1, 6), switch(last, "kinds", False),
        switch(last, "rank", False),
    )  # fmt: skip
    for name, values in (("figure", KINDS), ("choose", CHOICES)):
        if last.get(name, values[0]) not in values:
            raise UserError(f"--{name}: expected {' or '.join(values)}, found {last[name]!r}")
    for name, needed in (("category", KINDS), ("photos", KINDS[:1]), ("choose", KINDS[:1])):
        if name in last and last.get("figure") not in needed:
            raise UserError(f"--{name}: expected figure={' or figure='.join(needed)} beside it, found none")
    drawn = None
    if "figure" in last:
        if outs and not any(out.suffix in FIGURES for out in outs):
            raise UserError(
                f"--out: expected a name that ends in {', '.join(FIGURES)} for the figure, found {outs[-1]}"
            )
        drawn = FigureRequest(
            last["figure"], tuple(listed["category"]), _number(last, "photos", 1, 100), last.get("choose", "first")
        )
    return Request(folders, outs, listed["metric"], style, drawn)


def _number(options: dict[str, str], name: str, low: int, high: int) -> int | None:
    """A whole number out of a range; None if it is not among the options. Raises UserError."""
    value = options.get(name)
    if value is not None and not (value.isdecimal() and low <= int(value) <= high):
        raise UserError(f"--{name}: expected a whole number from {low} to {high}, found {value!r}")
    return None if value is None else int(value)


def show(runs: Sequence[Run], groups: Groups, sheets: Sequence[Sheet]) -> None:
    """Print the tables, then every run that is not in them."""
    from rich.console import Console

    from anomaly_lab.report.tables import LEGEND, terminal

    console = Console()
    for shown in sheets:
        for table in terminal(shown, console.width):
            console.print(table)
    if sheets:
        console.print(LEGEND, style="dim", markup=False)
    for run in runs:
        if not run.done:
            print(printable(f"{run.state}: {run.shown}{f' ({one_line(run.trouble)})' if run.trouble else ''}"))
        elif run.trouble:
            print(printable(f"damaged: {run.shown} ({one_line(run.trouble)})"))
    for run in groups.repeated:
        print(printable(f"repeated: {run.shown} (same settings, seed and scores as another run; counted once)"))


def one_line(text: str) -> str:
    """A text as one line of 200 characters at most."""
    text = " ".join(text.split())
    return text if len(text) <= 200 else f"{text[:199]}…"


def write(out: Path, runs: Sequence[Run], groups: Groups, found: dict[str, Matrix], sheets: Sequence[Sheet]) -> None:
    """Write the page or a table, whole or not at all."""
    from anomaly_lab.report.html import page
    from anomaly_lab.report.tables import WRITERS

    text = page(runs, groups, found) if out.suffix == ".html" else WRITERS[out.suffix](sheets)
    save(out, lambda part: part.write_text(text, encoding="utf-8"))


def save(out: Path, write_part: Callable[[Path], object]) -> None:
    """Write a file whole or not at all. Raises UserError where nothing can be written."""
    from anomaly_lab.core.files import write_whole

    try:
        write_whole(out, write_part)
    except OSError as error:
        raise UserError(f"--out: expected a place to write to, found {out} ({error.strerror}); set --out") from error
