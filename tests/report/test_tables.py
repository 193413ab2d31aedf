"""The same matrix in the terminal, as CSV, Markdown and LaTeX."""

import csv
import io

import pytest
from rich.console import Console

from anomaly_lab.report.collect import collect
from anomaly_lab.report.groups import group
from anomaly_lab.report.matrix import Cell, matrices
from anomaly_lab.report.measures import BY_KEY
from anomaly_lab.report.tables import as_csv, as_latex, as_markdown, figure, number, sheet, terminal
from tests.report.synthetic import read_metrics, write_run


@pytest.fixture
def three(tmp_path):
    """Two methods on two categories, one of them with a hostile name."""
    for method, strength in (("cae", 0.3), ("ganomaly", 4.0)):
        for category in ("screw", "a|b_<c>"):
            write_run(tmp_path, method=method, category=category, strength=strength, images=100)
    groups = group(collect([tmp_path]))
    shown = [matrices(groups)["image_auroc"]]
    return [sheet(matrix, groups) for matrix in shown], shown, groups


def test_figures_as_people_write_them():
    auroc, seconds = BY_KEY["image_auroc"], BY_KEY["fit_seconds"]
    assert [number(value, auroc) for value in (0.8734, 1.0, 0.0)] == [".873", "1.000", ".000"]
    assert [number(value, seconds) for value in (1234.5, 12.345, 0.5)] == ["1234", "12.3", "0.5"]
    assert figure(Cell({"0": 0.8, "1": 0.9}, 0.85, std=0.0707), auroc) == ".850 ± .071"
    assert figure(Cell({"a": 0.8}, 0.8, of=3), auroc) == ".800 (1 of 3)"


def test_the_best_method_stands_first_and_controls_last(three):
    (shown,), _, _ = three
    labels = [line.label for line in shown.lines]
    assert labels[:2] == ["ganomaly", "cae"]
    assert labels[2:] == ["control: brightness", "control: sharpness", "control: mean_image", "control: pca"]
    assert shown.headers == ["a|b_<c>", "screw", "mean of mvtec_ad"]
    assert shown.lines[0].cells[0].best
    assert shown.lines[1].cells[0].beaten


def test_runs_of_the_controls_stand_among_them(tmp_path):
    for method, strength in (("cae", 0.3), ("control", 4.0)):
        write_run(tmp_path, method=method, strength=strength, images=100)
    groups = group(collect([tmp_path]))
    lines = sheet(matrices(groups)["image_auroc"], groups).lines
    assert [(line.label, line.control) for line in lines[:2]] == [("cae", False), ("control", True)]
    assert lines[0].cells[0].mean < lines[1].cells[0].mean


def test_the_terminal_shows_all_of_it_and_takes_no_name_for_markup(three):
    (shown,), _, _ = three
    console = Console(width=200, record=True, file=io.StringIO())
    shown.headers[1] = "[bold]screw"
    console.print(terminal(shown))
    text = console.export_text()
    assert "[bold]screw" in text
    for line in shown.lines:
        for cell in line.cells:
            if cell is not None:
                assert number(cell.mean, shown.measure) in text
    assert "▽" in text


def test_csv_has_every_digit(three, tmp_path):
    sheets, matrices_, groups = three
    rows = list(csv.DictReader(io.StringIO(as_csv(sheets, matrices_, groups))))
    metrics = read_metrics(tmp_path / "sweep/ganomaly/mvtec_ad/screw/seed=0/0123456789")
    (row,) = [row for row in rows if (row["row"], row["category"]) == ("ganomaly", "screw")]
    assert float(row["mean"]) == metrics["image_auroc"]
    assert (float(row["low"]), float(row["high"])) == (metrics["image_auroc_low"], metrics["image_auroc_high"])
    assert (row["n"], row["best"], row["above_controls"], row["std"]) == ("1", "True", "True", "")
    assert len(rows) == 4 + 2 + 2 * 4  # cells, means, controls


def test_markdown_opens_neither_columns_nor_html(three):
    text = as_markdown(*three)
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 2 + 6
    assert all(line.replace("\\|", "").count("|") == 5 for line in table)
    assert "<" not in text
    assert table[2].count("**") == 4
    assert "▽" in table[3]


def test_latex_escapes_what_it_would_read(three):
    text = as_latex(*three)
    assert "a|b\\_<c>" in text
    assert "\\textbf{" in text
    assert text.count("\\\\\n") == 1 + 6
    assert text.count("\\midrule") == 2
    body = text[text.index("\\toprule") : text.index("\\bottomrule")]
    assert all(line.replace("\\&", "").count("&") == 3 for line in body.splitlines() if line.endswith("\\\\"))
