"""`python -m anomaly_lab compare`: finished runs side by side, in the terminal and as one page. Imports no torch."""

from collections.abc import Sequence
from pathlib import Path

from anomaly_lab.core.console import printable
from anomaly_lab.core.errors import UserError, nearest
from anomaly_lab.report.groups import Groups, group
from anomaly_lab.report.matrix import Matrix, matrices
from anomaly_lab.runs.collect import Run, collect
from anomaly_lab.runs.measures import BY_KEY

USAGE = "python -m anomaly_lab compare FOLDER [FOLDER ...] [--out FILE] [--metric NAME[,NAME]]"
HELP = f"""\
usage: {USAGE}
  FOLDER: a folder with runs at any depth, usually runs/
  --out: report.html (default: in the first folder), or a table: .csv, .md (Markdown), .tex (LaTeX); may be repeated
  --metric: the metrics of the tables, out of {", ".join(BY_KEY)}
    (default: image_auroc, and pixel_aupro if there are masks); the page shows all
"""
OPTIONS = ("--out", "--metric")
DEFAULT = ("image_auroc", "pixel_aupro")
SUFFIXES = (".html", ".csv", ".md", ".tex")


def main(arguments: list[str]) -> None:
    """Print the matrix and the runs that are not in it, then write the page or the requested tables."""
    if {"--help", "-h"} & set(arguments):
        print(HELP, end="")
        return
    folders, outs, wanted = parse(arguments)
    outs = outs or [folders[0] / "report.html"]
    runs = collect(folders)
    groups = group([run for run in runs if run.done])
    by_measure = matrices(groups)
    shown = [by_measure[key] for key in wanted or DEFAULT if key in by_measure]
    if wanted and len(shown) < len(wanted):
        missing = next(key for key in wanted if key not in by_measure)
        raise UserError(f"--metric: expected one that some run has ({', '.join(by_measure)}), found {missing}")
    show(runs, groups, shown)
    for out in outs:
        write(out, runs, groups, by_measure, shown)
        print(f"{'report' if out.suffix == '.html' else 'table'}: {out}")


def parse(arguments: list[str]) -> tuple[list[Path], list[Path], list[str]]:
    """Folders, output files and metrics; `--out FILE`, `--out=FILE` and `out=FILE` are equal. Raises UserError."""
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
    for out in outs:
        if out.suffix not in SUFFIXES:
            raise UserError(f"--out: expected a name that ends in {', '.join(SUFFIXES)}, found {out}")
        if out.is_dir():
            raise UserError(f"--out: expected a file, found the folder {out}")
        if file := next((parent for parent in out.parents if parent.is_file()), None):
            raise UserError(f"--out: expected a folder to write to, found the file {file}")
    wanted = [key for value in options["metric"] for key in value.split(",") if key]
    for key in wanted:
        if key not in BY_KEY:
            raise UserError(f"--metric: expected one of {', '.join(BY_KEY)}, found {key!r}{nearest(key, BY_KEY)}")
    return folders, outs, wanted


def show(runs: Sequence[Run], groups: Groups, shown: Sequence[Matrix]) -> None:
    """Print the tables, then every run that is not in them."""
    from rich.console import Console

    from anomaly_lab.report.tables import LEGEND, sheet, terminal

    console = Console()
    for matrix in shown:
        for table in terminal(sheet(matrix, groups), console.width):
            console.print(table)
    if shown:
        console.print(LEGEND, style="dim", markup=False)
    for run in runs:
        if not run.done:
            print(printable(f"{run.state}: {run.shown}{f' ({one_line(run.trouble)})' if run.trouble else ''}"))
        elif run.trouble:
            print(printable(f"damaged: {run.shown} ({one_line(run.trouble)})"))
    for run in groups.repeated:
        print(printable(f"repeated: {run.shown} (same settings, seed and scores as another run; counted once)"))


def one_line(text: str, width: int = 200) -> str:
    """A text as one line, cut to a width."""
    text = " ".join(text.split())
    return text if len(text) <= width else f"{text[: width - 1]}…"


def write(out: Path, runs: Sequence[Run], groups: Groups, found: dict[str, Matrix], shown: Sequence[Matrix]) -> None:
    """Write the page or a table, whole or not at all."""
    from anomaly_lab.core.files import write_whole
    from anomaly_lab.report.html import page
    from anomaly_lab.report.tables import WRITERS, sheet

    if out.suffix == ".html":
        text = page(runs, groups, found)
    else:
        text = WRITERS[out.suffix]([sheet(matrix, groups) for matrix in shown], shown, groups)
    try:
        write_whole(out, lambda part: part.write_text(text, encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--out: expected a place to write to, found {out} ({error.strerror}); set --out") from error
