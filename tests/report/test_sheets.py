"""What stands in a table: rows and their names, means, ranks, figures."""

import csv
import io
from dataclasses import replace

import pytest

from anomaly_lab.core.errors import UserError
from anomaly_lab.report.groups import group
from anomaly_lab.report.matrix import Cell, matrices
from anomaly_lab.report.sheets import Style, figure, number, sheet
from anomaly_lab.report.tables import as_csv
from anomaly_lab.runs.collect import collect
from anomaly_lab.runs.measures import BY_KEY
from tests.report.synthetic import CONTROLS, write_folds, write_run


def test_figures_as_people_write_them():
    auroc, seconds = BY_KEY["image_auroc"], BY_KEY["fit_seconds"]
    assert [number(value, auroc) for value in (0.8734, 1.0, 0.0)] == [".873", "1.000", ".000"]
    assert [number(value, seconds) for value in (1234.5, 12.345, 0.5)] == ["1234", "12.3", "0.5"]
    assert figure(Cell({"0": 0.8, "1": 0.9}, 0.85, std=0.0707), auroc) == ".850 ± .071"
    assert figure(Cell({"a": 0.8}, 0.8, of=3), auroc) == ".800 (1 of 3)"


def test_runs_of_the_controls_stand_among_them(tmp_path):
    for method, strength in (("cae", 0.3), ("control", 4.0)):
        write_run(tmp_path, method=method, strength=strength, images=100)
    groups = group(collect([tmp_path]))
    lines = sheet(matrices(groups)["image_auroc"], groups).lines
    assert [(line.label, line.control) for line in lines[:2]] == [("cae", False), ("control", True)]
    assert lines[0].cells[0].mean < lines[1].cells[0].mean


def test_lines_that_lack_a_category_stand_below_complete_ones(tmp_path):
    for category in ("carpet", "screw"):
        write_run(tmp_path, method="cae", category=category, strength=0.3, images=100)
        write_run(tmp_path, method="vae", category=category, strength=0.6, images=100)
    write_run(tmp_path, method="ganomaly", category="screw", strength=4.0, images=100)
    groups = group(collect([tmp_path]))
    lines = sheet(matrices(groups)["image_auroc"], groups).lines
    assert [line.label for line in lines[:3]] == ["vae", "cae", "ganomaly"]
    assert lines[2].cells[-1].mean > lines[0].cells[-1].mean


AUPRO = {  # of carpet and grid, textures, then of pill and screw, objects
    "cae": (0.5, 0.6, 0.7, 0.8),
    "ganomaly": (0.9, 0.6, 0.6, 0.9),
    "vae": (0.1, 0.2, 0.3, 0.4),
}


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    """The AU-PRO of three methods on four categories, and the groups of the runs."""
    folder = tmp_path_factory.mktemp("four")
    for method, figures in AUPRO.items():
        for category, kind, aupro in zip(("carpet", "grid", "pill", "screw"), "ttoo", figures, strict=True):
            kinds = {f"data__categories__{category}__kind": {"t": "texture", "o": "object"}[kind]}
            write_run(folder, method=method, category=category, aupro=aupro, images=20, **kinds)
    groups = group(collect([folder]))
    return matrices(groups)["pixel_aupro"], groups


def written(shown):
    return {line.label: [shown.text(line, i) for i in range(len(shown.columns))] for line in shown.lines}


def test_means_of_kinds_and_ranks_stand_beside_the_mean_of_all(four):
    shown = sheet(*four, Style(percent=True, kinds=True, ranks=True))
    assert shown.title == "AU-PRO, %"
    assert shown.headers[4:] == ["mean of textures", "mean of objects", "mean of mvtec_ad", "mean rank"]
    assert written(shown) == {
        "ganomaly": ["90.0", "60.0", "60.0", "90.0", "75.0", "75.0", "75.0", "1.38"],  # ranks 1, 1.5, 2, 1
        "cae": ["50.0", "60.0", "70.0", "80.0", "55.0", "75.0", "65.0", "1.62"],
        "vae": ["10.0", "20.0", "30.0", "40.0", "15.0", "35.0", "25.0", "3.00"],
    }


def test_ranks_are_over_the_categories_that_all_methods_have(four):
    matrix, groups = four
    cells = {
        place: cell for place, cell in matrix.cells.items() if (place[0].method, place[1].label) != ("vae", "grid")
    }
    shown = sheet(replace(matrix, cells=cells), groups, Style(ranks=True))
    assert shown.headers[-1] == "mean rank (3 of 4)"
    assert {label: texts[-1] for label, texts in written(shown).items()} == {
        "cae": "1.67", "ganomaly": "1.33", "vae": "3.00",
    }  # fmt: skip


def test_two_draws_of_a_category_are_one_place_in_ranks(tmp_path):
    for method, better in (("cae", "screw"), ("vae", "carpet")):
        for category, images in (("carpet", 20), ("screw", 20), ("screw", 16)):
            aupro = 0.8 if category == better else 0.4
            digest = f"{images:010d}"
            write_run(tmp_path, method=method, category=category, aupro=aupro, images=images, digest=digest)
    groups = group(collect([tmp_path]))
    shown = sheet(matrices(groups)["pixel_aupro"], groups, Style(ranks=True))
    assert shown.headers == ["carpet", "screw (16 images)", "screw (20 images)", "mean of mvtec_ad", "mean rank"]
    assert {label: texts[-2:] for label, texts in written(shown).items()} == {
        "cae": [".600", "1.50"], "vae": [".600", "1.50"],
    }  # fmt: skip


def test_the_mean_over_folds_stands_behind_them_and_says_how_many_are_missing(tmp_path):
    write_folds(tmp_path, {0: 0.5, 2: 0.7}, folds=3, method="cae")
    write_folds(tmp_path, {0: 0.6, 1: 0.6, 2: 0.9}, folds=3, method="vae")
    write_folds(tmp_path, {0: 0.5}, folds=3, category="zipper", method="vae")
    groups = group(collect([tmp_path]))
    shown = sheet(matrices(groups)["pixel_aupro"], groups)
    assert shown.headers == [
        *(f"screw (fold {fold} of 3)" for fold in range(3)), "screw, mean of 3 folds", "zipper (fold 0 of 3)",
        "mean of mvtec_ad, supervised",
    ]  # fmt: skip
    assert written(shown) == {
        "vae": [".600", ".600", ".900", ".700", ".500", ".600"],
        "cae": [".500", None, ".700", ".600 (2 of 3)", None, ".600 (1 of 2)"],
    }
    rows = csv.DictReader(io.StringIO(as_csv([shown])))
    (row,) = [row for row in rows if row["method"] == "cae" and "folds" in row["category"]]
    assert (row["category"], row["categories"], row["n"]) == ("screw, mean of 3 folds", "2", "1")


def test_all_classes_of_one_class_have_their_mean(tmp_path):
    for category, value in zip("012", (0.5, 0.6, 0.7), strict=True):
        write_run(tmp_path, dataset="digits-one_vs_rest", category=category, aupro=value)
    groups = group(collect([tmp_path]))
    shown = sheet(matrices(groups)["pixel_aupro"], groups)
    assert shown.headers == ["0", "1", "2", "mean of digits-one_vs_rest"]
    assert written(shown)["cae"][-1] == ".600"


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (("vae", "cae:L2 autoencoder"), ["vae", "L2 autoencoder", "ganomaly"]),
        (("cae:Ours: the second",), ["Ours: the second", "ganomaly", "vae"]),
        ((), ["ganomaly", "cae", "vae"]),
    ],
)
def test_names_give_rows_their_order(four, names, labels):
    assert [line.label for line in sheet(*four, Style(names)).lines] == labels


def test_the_name_of_a_method_counts_for_all_its_rows_and_a_control_stays_below(tmp_path):
    for latent in (100, 500):
        write_run(tmp_path, digest=str(latent), strength=latent / 200, method__latent=latent)
    groups = group(collect([tmp_path]))
    names = ("control: pca:PCA", "cae · latent=100:small", "cae:L2")
    labels = [line.label for line in sheet(matrices(groups)["image_auroc"], groups, Style(names)).lines]
    assert labels == ["small", "L2 · latent=500", "PCA", *(f"control: {kind}" for kind in CONTROLS[:3])]


def test_a_name_of_no_row_is_refused(four):
    with pytest.raises(UserError, match=r"a row out of cae, control, .*, vae, found 'caee:L2'; did you mean 'cae'\?"):
        sheet(*four, Style(("caee:L2",)))


def test_digits_are_those_behind_the_point():
    auroc = BY_KEY["image_auroc"]
    styles = (Style(digits=1), Style(percent=True), Style(percent=True, digits=0), Style(percent=True, digits=2))
    assert [number(0.87345, auroc, style) for style in styles] == [".9", "87.3", "87", "87.34"]
    assert number(1.0, auroc, Style(percent=True)) == "100.0"
    assert number(12.345, BY_KEY["fit_seconds"], Style(percent=True, digits=2)) == "12.3"
