"""The same matrix in the terminal, as CSV, Markdown and LaTeX."""

import csv
import io

import pytest
from rich.console import Console

from anomaly_lab.report.groups import group
from anomaly_lab.report.matrix import matrices
from anomaly_lab.report.sheets import Style, figure, number, sheet
from anomaly_lab.report.tables import as_csv, as_latex, as_markdown, terminal
from anomaly_lab.runs.collect import collect
from tests.report.synthetic import read_metrics, write_run


@pytest.fixture
def three(tmp_path):
    """Two methods on two categories, one of them with a hostile name."""
    for method, strength in (("cae", 0.3), ("ganomaly", 4.0)):
        for category in ("screw", "a|b_<c>"):
            write_run(tmp_path, method=method, category=category, strength=strength, images=100)
    groups = group(collect([tmp_path]))
    return [sheet(matrices(groups)["image_auroc"], groups)]


def test_the_best_method_stands_first_and_controls_last(three):
    (shown,) = three
    labels = [line.label for line in shown.lines]
    assert labels[:2] == ["ganomaly", "cae"]
    assert labels[2:] == ["control: brightness", "control: sharpness", "control: mean_image", "control: pca"]
    assert shown.headers == ["a|b_<c>", "screw", "mean of mvtec_ad"]
    assert shown.lines[0].cells[0].best
    assert shown.lines[1].cells[0].beaten


def test_the_terminal_shows_all_of_it_and_takes_no_name_for_markup(three):
    (shown,) = three
    console = Console(width=200, record=True, file=io.StringIO())
    shown.headers[1] = "[bold]screw"
    (table,) = terminal(shown, console.width)
    console.print(table)
    text = console.export_text()
    assert "[bold]screw" in text
    for line in shown.lines:
        for cell in line.cells:
            if cell is not None:
                assert number(cell.mean, shown.measure) in text
    assert "▽" in text


def test_a_narrow_terminal_gets_blocks_in_which_every_figure_is_whole(tmp_path):
    for method, latent in (("cae", 100), ("skip_ganomaly", 100), ("skip_ganomaly", 500)):
        for i in range(15):
            write_run(tmp_path, method=method, category=f"category_{i}", digest=str(latent), strength=latent / 100 + i,
                      images=20, method__latent_size_of_the_encoder=latent)  # fmt: skip
    groups = group(collect([tmp_path]))
    shown = sheet(matrices(groups)["image_auroc"], groups)
    console = Console(width=80, record=True, file=io.StringIO())
    tables = terminal(shown, console.width)
    read = {}  # of a block: the words of each cell, by row and column
    for table in tables:
        console.print(table)
        text = console.export_text()
        assert max(map(len, text.splitlines())) <= 80
        assert "…" not in text
        headers, *lines = _cells(text)
        assert [line[0] for line in lines] == [line.label for line in shown.lines]
        read |= {(line[0], header): cell for line in lines for header, cell in zip(headers[1:], line[1:], strict=True)}
        if table is tables[0]:
            assert headers[1] == "mean of mvtec_ad"
    assert len(tables) > 1
    assert read == {
        (line.label, header): _plain(cell, shown.measure)
        for line in shown.lines for header, cell in zip(shown.headers, line.cells, strict=True)
    }  # fmt: skip


def _cells(text):
    """The cells of a printed table, the wrapped lines of each put together; a line without figures goes on."""
    rows = []
    for line in text.splitlines():
        if line[:1] not in ("│", "┃"):
            continue
        parts = [part.strip() for part in line.replace("┃", "│").strip("│").split("│")]
        if line[0] == "┃":  # the headers stand alone above the double line
            rows = [[f"{one} {two}".strip() for one, two in zip(rows[0], parts, strict=True)] if rows else parts]
        elif any(parts[1:]):
            rows.append(parts)
        else:
            rows[-1][0] += f" {parts[0]}"
    return rows


def _plain(cell, measure):
    return figure(cell, measure) + (" ▽" if cell.beaten else "")


@pytest.mark.parametrize("width", [20, 40])
def test_in_a_tiny_terminal_no_figure_is_lost(three, width):
    (shown,) = three
    console = Console(width=width, record=True, file=io.StringIO())
    for table in terminal(shown, width):
        console.print(table)
    text = console.export_text()
    assert "…" not in text
    for line in shown.lines:
        assert all(number(cell.mean, shown.measure) in text for cell in line.cells if cell is not None)


def test_csv_has_every_digit(three, tmp_path):
    rows = list(csv.DictReader(io.StringIO(as_csv(three))))
    metrics = read_metrics(tmp_path / "sweep/ganomaly/mvtec_ad/screw/seed=0/0123456789")
    (row,) = [row for row in rows if (row["row"], row["category"]) == ("ganomaly", "screw")]
    assert float(row["mean"]) == metrics["image_auroc"]
    assert (float(row["low"]), float(row["high"])) == (metrics["image_auroc_low"], metrics["image_auroc_high"])
    assert (row["n"], row["best"], row["above_controls"], row["std"]) == ("1", "True", "True", "")
    assert len(rows) == 4 + 2 + 2 * 4 + 4  # cells, means, controls, means of these


def test_csv_counts_seeds_and_categories_apart(tmp_path):
    for category, seeds in (("carpet", 3), ("screw", 2)):
        for seed in range(seeds):
            write_run(tmp_path, category=category, seed=seed, aupro=0.8 if category == "carpet" else None)
    groups = group(collect([tmp_path]))
    found = matrices(groups)
    shown = [found["image_auroc"], found["pixel_aupro"]]
    sheets = [sheet(matrix, groups) for matrix in shown]
    rows = list(csv.DictReader(io.StringIO(as_csv(sheets))))
    counted = {(row["measure"], row["row"], row["category"]): (row["categories"], row["n"]) for row in rows}
    assert counted == {
        ("image_auroc", "cae", "carpet"): ("1", "3"),
        ("image_auroc", "cae", "screw"): ("1", "2"),
        ("image_auroc", "cae", "mean"): ("2", "2"),
        **{
            ("image_auroc", f"control: {kind}", category): ("2" if category == "mean" else "1", "")
            for kind in ("brightness", "sharpness", "mean_image", "pca") for category in ("carpet", "screw", "mean")
        },
        ("pixel_aupro", "cae", "carpet"): ("1", "3"),  # masks in one category: no mean, as in the other tables
    }  # fmt: skip
    (pca,) = [row for row in rows if (row["row"], row["category"]) == ("control: pca", "mean")]
    assert float(pca["mean"]) == 0.75
    assert sheets[1].headers == ["carpet"]


def test_markdown_opens_neither_columns_nor_html(three):
    text = as_markdown(three)
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 2 + 6
    assert all(line.replace("\\|", "").count("|") == 5 for line in table)
    assert "<" not in text
    assert table[2].count("**") == 4
    assert "▽" in table[3]
    assert "controls: the largest over the runs of a column" in text


def test_latex_escapes_what_it_would_read(three):
    text = as_latex(three)
    assert "a|b\\_<c>" in text
    assert "\\textbf{" in text
    assert text.count("\\\\\n") == 1 + 6
    assert text.count("\\midrule") == 2
    body = text[text.index("\\toprule") : text.index("\\bottomrule")]
    assert all(line.replace("\\&", "").count("&") == 3 for line in body.splitlines() if line.endswith("\\\\"))


def test_the_style_of_a_sheet_is_that_of_every_format(three, tmp_path):
    groups = group(collect([tmp_path]))
    (shown,) = [sheet(matrices(groups)["image_auroc"], groups, Style(("cae:L2 & more",), percent=True, ranks=True))]
    value = f"{100 * shown.lines[0].cells[1].mean:.1f}"
    assert "% image AUROC, %\n" in as_latex([shown])
    assert f"L2 \\& more & {number(shown.lines[0].cells[0].mean, shown.measure, shown.style)}" in as_latex([shown])
    table = as_markdown([shown])
    assert "**image AUROC, %**" in table
    assert f"{value} ▽ |" in table
    assert table.splitlines()[4].endswith("| 2.00 |")
    rows = list(csv.DictReader(io.StringIO(as_csv([shown]))))
    ranks = [row for row in rows if row["category"] == "mean rank"]
    assert [(row["row"], row["method"], row["categories"], row["n"], row["mean"]) for row in ranks] == [
        ("L2 & more", "cae", "2", "", "2.0"), ("ganomaly", "ganomaly", "2", "", "1.0"),
    ]  # fmt: skip
    assert next(float(row["mean"]) for row in rows if row["row"] == "L2 & more") == shown.lines[0].cells[0].mean
