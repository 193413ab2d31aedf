"""Means, noise, what is best, what the controls reach: against values worked out by hand."""

import json
from statistics import fmean, stdev

import pytest

from anomaly_lab.report.groups import group
from anomaly_lab.report.matrix import matrices
from anomaly_lab.runs.collect import collect
from tests.report.synthetic import read_metrics, write_folds, write_run


def matrix(tmp_path, key="image_auroc"):
    return matrices(group([run for run in collect([tmp_path]) if run.done]))[key]


def cells(tmp_path, key="image_auroc"):
    return {(row.label, column.label): cell for (row, column), cell in matrix(tmp_path, key).cells.items()}


def with_values(tmp_path, values, key="pixel_aupro", **settings):
    """Runs of these values of a metric, a seed each."""
    for seed, value in enumerate(values):
        path = write_run(tmp_path, seed=seed, **settings) / "metrics.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {key: value, f"control_{key}": 0.5}))


def test_mean_and_deviation_over_seeds(tmp_path):
    with_values(tmp_path, [0.80, 0.83, 0.86])
    cell = cells(tmp_path, "pixel_aupro")["cae", "screw"]
    assert cell.mean == pytest.approx(0.83)
    assert cell.std == pytest.approx(0.03)
    assert (cell.low, cell.high) == pytest.approx((0.83 - 4.302653 * 0.03 / 3**0.5, 0.83 + 4.302653 * 0.03 / 3**0.5))
    assert cell.interval == "seeds"
    assert cell.values == {"0": 0.80, "1": 0.83, "2": 0.86}


def test_one_run_has_the_interval_of_its_images_and_two_are_cut_where_the_measure_ends(tmp_path):
    folder = write_run(tmp_path)
    cell, metrics = cells(tmp_path)["cae", "screw"], read_metrics(folder)
    assert cell.mean == metrics["image_auroc"]
    assert (cell.low, cell.high, cell.interval) == (metrics["image_auroc_low"], metrics["image_auroc_high"], "images")
    assert cell.std is None
    with_values(tmp_path, [0.5, 0.99], name="two")
    two = cells(tmp_path, "pixel_aupro")["cae · name=two", "screw"]
    assert (two.low, two.high) == (0.0, 1.0)


def test_equal_seeds_have_the_interval_of_the_images_and_no_other(tmp_path):
    intervals = [(0.6, 0.9), (0.1, 0.2)]
    for category in ("carpet", "screw"):
        for seed, (low, high) in enumerate(intervals):
            path = write_run(tmp_path, seed=seed, category=category, aupro=0.7) / "metrics.json"
            fixed = {"image_auroc": 0.8, "image_auroc_low": low, "image_auroc_high": high}
            path.write_text(json.dumps(json.loads(path.read_text()) | fixed))
    cell = cells(tmp_path)["cae", "screw"]
    assert (cell.mean, cell.std) == (0.8, 0.0)
    assert (cell.low, cell.high, cell.interval) == (0.6, 0.9, "images")
    (mean,) = matrix(tmp_path).means.values()
    for without in (cells(tmp_path, "pixel_aupro")["cae", "screw"], mean):
        assert (without.std, without.low, without.high, without.interval) == (0.0, None, None, "")


def test_a_method_that_does_not_exceed_its_control_is_flagged(tmp_path):
    with_values(tmp_path, [0.49, 0.51], method="cae")
    with_values(tmp_path, [0.50, 0.52], method="ganomaly")
    found = cells(tmp_path, "pixel_aupro")
    assert (found["cae", "screw"].control, found["cae", "screw"].beaten) == (0.5, True)
    assert not found["ganomaly", "screw"].beaten
    assert not cells(tmp_path, "fit_seconds")["cae", "screw"].beaten


def test_runs_without_controls_are_flagged_by_those_of_their_column(tmp_path):
    write_run(tmp_path, strength=0.1)
    for method in ("ganomaly", "anogan"):
        folder = write_run(tmp_path, method=method, strength=0.1 if method == "anogan" else 5.0)
        (folder / "controls.csv").unlink()
        left = {key: value for key, value in read_metrics(folder).items() if not key.startswith("control_")}
        (folder / "metrics.json").write_text(json.dumps(left))
    found, strongest = cells(tmp_path), max(matrix(tmp_path).controls.values())
    assert found["anogan", "screw"].control == found["ganomaly", "screw"].control == strongest
    assert [found[method, "screw"].beaten for method in ("anogan", "ganomaly")] == [True, False]
    (tmp_path / "sweep/cae/mvtec_ad/screw/seed=0/0123456789/controls.csv").unlink()
    assert cells(tmp_path)["anogan", "screw"].control is None


def test_controls_are_told_and_those_of_the_whole_image_in_either_direction(tmp_path):
    write_run(tmp_path)
    found = {kind: value for (kind, _), value in matrix(tmp_path).controls.items()}
    assert found == pytest.approx({"brightness": 0.7, "sharpness": 0.6, "mean_image": 0.7, "pca": 0.75})


def best(tmp_path, key="image_auroc"):
    return [label for label, cell in cells(tmp_path, key).items() if cell.best]


def test_single_runs_are_told_apart_by_their_images(tmp_path):
    write_run(tmp_path, method="cae", strength=1.0, images=200)
    write_run(tmp_path, method="ganomaly", strength=3.5, images=200)
    assert best(tmp_path) == [("ganomaly", "screw")]
    assert best(tmp_path, "image_aupr") == []  # no noise of it is known


def test_a_difference_within_noise_marks_nothing(tmp_path):
    write_run(tmp_path, method="cae", strength=2.5, images=40)
    write_run(tmp_path, method="ganomaly", strength=2.7, images=40)
    assert best(tmp_path) == []


def test_nothing_is_best_below_a_control(tmp_path):
    for method, strength in (("cae", 0.0), ("ganomaly", 0.9)):
        write_run(tmp_path, method=method, strength=strength, images=400)
    found = cells(tmp_path)
    assert found["ganomaly", "screw"].mean > found["cae", "screw"].mean + 0.1
    assert found["ganomaly", "screw"].low < 0.75  # the control
    assert best(tmp_path) == []


def test_a_run_of_the_controls_is_never_the_best(tmp_path):
    write_run(tmp_path, method="cae", strength=0.0, images=400)
    write_run(tmp_path, method="control", strength=4.0, images=400)
    found = cells(tmp_path)
    assert found["control", "screw"].mean > found["cae", "screw"].mean + 0.3
    assert best(tmp_path) == []


def test_alone_nothing_is_best_without_controls(tmp_path):
    (write_run(tmp_path, strength=4) / "controls.csv").unlink()
    assert best(tmp_path) == []


def test_three_common_seeds_tell_by_their_differences(tmp_path):
    with_values(tmp_path, [0.80, 0.85, 0.90], method="cae")
    with_values(tmp_path, [0.82, 0.8705, 0.92], method="ganomaly")  # the differences hardly vary
    assert best(tmp_path, "pixel_aupro") == [("ganomaly", "screw")]


def test_seeds_that_differ_as_much_as_the_methods_tell_nothing(tmp_path):
    with_values(tmp_path, [0.80, 0.85, 0.90], method="cae")
    with_values(tmp_path, [0.92, 0.82, 0.87], method="ganomaly")
    assert best(tmp_path, "pixel_aupro") == []


def test_seeds_that_change_nothing_are_no_evidence(tmp_path):
    with_values(tmp_path, [0.8, 0.8, 0.8], method="cae")
    with_values(tmp_path, [0.9, 0.9, 0.9], method="ganomaly")
    assert best(tmp_path, "pixel_aupro") == []


def test_of_costs_nothing_is_best(tmp_path):
    for seed in range(3):
        write_run(tmp_path, method="cae", seed=seed)
        write_run(tmp_path, method="ganomaly", seed=seed)
    assert len(cells(tmp_path, "fit_seconds")) == 2
    assert best(tmp_path, "fit_seconds") == []


def test_means_over_categories_by_hand(tmp_path):
    values = {"carpet": [0.6, 0.7], "screw": [0.8, 0.9], "zipper": [0.7, 0.8]}
    for category, parts in values.items():
        with_values(tmp_path, parts, category=category)
        with_values(tmp_path, [part + 0.1 + 0.001 * len(category) for part in parts], category=category, method="vae")
    means = {row.label: cell for (row, _), cell in matrix(tmp_path, "pixel_aupro").means.items()}
    assert means["cae"].mean == pytest.approx(0.75)
    assert means["cae"].std == pytest.approx(stdev([0.7, 0.8]))  # of the means of each seed
    assert (means["cae"].of, len(means["cae"].values)) == (3, 3)
    assert [label for label, cell in means.items() if cell.best] == ["vae"]


def test_two_draws_of_a_category_are_one_category(tmp_path):
    """Labelled photos leave the test: every number of them is another set of images."""
    for images, value in ((40, 0.6), (36, 0.8)):
        with_values(tmp_path, [value], category="screw", images=images, name=f"draw {images}")
    found = matrix(tmp_path, "pixel_aupro")
    assert [column.category for column in found.columns] == ["screw", "screw"]
    assert found.means == {}
    for category in ("carpet", "zipper"):
        with_values(tmp_path, [0.4], category=category)
        with_values(tmp_path, [0.3], category=category, method="vae")
    for images in (40, 36):
        with_values(tmp_path, [0.2], category="screw", method="vae", images=images, name=f"draw {images}")
    found = matrix(tmp_path, "pixel_aupro")
    means = {row.label: cell for (row, _), cell in found.means.items()}
    assert all(cell.of == 3 for cell in means.values())
    assert means["vae"].mean == pytest.approx((0.3 + 0.3 + 0.2) / 3)
    assert not any(cell.best for cell in means.values())
    found = matrix(tmp_path)
    (kind, *_) = {kind for kind, _ in found.controls}
    reached = {column: found.controls[kind, column] for column in found.columns}
    screw = [value for column, value in reached.items() if column.category == "screw"]
    others = [value for column, value in reached.items() if column.category != "screw"]
    assert (len(screw), len(others)) == (2, 2)
    assert found.control(kind, found.columns) == pytest.approx((sum(screw) / 2 + sum(others)) / 3)


def test_folds_are_columns_of_one_row_and_have_a_mean(tmp_path):
    values = {0: 0.5, 1: 0.6, 2: 0.9, 3: 0.8, 4: 0.4}
    write_folds(tmp_path, values)
    write_folds(tmp_path, {fold: value + 0.05 + 0.001 * fold for fold, value in values.items()}, method="vae")
    write_folds(tmp_path, {1: 0.7, 3: 0.6}, method="ganomaly")
    with_values(tmp_path, [0.99])  # of good photos alone
    found = matrix(tmp_path, "pixel_aupro")
    assert [column.label for column in found.columns] == ["screw", *(f"screw (fold {i} of 5)" for i in range(5))]
    assert {name for _, name in found.means} == {"mvtec_ad, supervised/screw/5"}
    means = {row.label: cell for (row, _), cell in found.means.items()}
    assert set(means) == {"cae", "vae", "ganomaly"}  # whatever the fold, one row
    assert means["cae"].mean == pytest.approx(fmean(values.values()))
    assert (len(means["cae"].values), means["cae"].of) == (5, 5)
    assert (means["ganomaly"].mean, len(means["ganomaly"].values), means["ganomaly"].of) == (pytest.approx(0.65), 2, 5)
    assert not any(cell.best for cell in means.values())
    reached = matrix(tmp_path)
    folds = [column for column in reached.columns if column.folds]
    assert reached.control("pca", folds) == pytest.approx(fmean(reached.controls["pca", column] for column in folds))


def test_a_single_fold_has_no_mean_and_folds_of_another_number_have_their_own(tmp_path):
    write_folds(tmp_path, {3: 0.5}, folds=12)
    found = matrix(tmp_path, "pixel_aupro")
    assert [column.label for column in found.columns] == ["screw (fold 03 of 12)"]
    assert not found.means
    write_folds(tmp_path, {0: 0.6, 1: 0.8}, folds=2, name="halves")
    write_folds(tmp_path, {10: 0.7}, folds=12)
    found = matrix(tmp_path, "pixel_aupro")
    means = {name: (cell.mean, len(cell.values), cell.of) for (_, name), cell in found.means.items()}
    assert means == {
        "mvtec_ad, supervised/screw/2": (pytest.approx(0.7), 2, 2),
        "mvtec_ad, supervised/screw/12": (pytest.approx(0.6), 2, 12),
    }


def test_other_draws_of_the_same_fold_are_other_columns_and_rows(tmp_path):
    for seed in (0, 1):
        names = [f"draw {seed} {i:03d}.png" for i in range(40)]
        write_folds(tmp_path, {0: 0.5}, data__split_seed=seed, names=names, name=f"draw {seed}")
    found = matrix(tmp_path, "pixel_aupro")
    assert {row.label for row, _ in found.cells} == {"cae · data.split_seed=0", "cae · data.split_seed=1"}
    assert all(column.label.startswith("screw (fold 0 of 5, ") for column in found.columns)
    assert len(found.columns) == 2


def test_in_a_mean_over_categories_each_counts_once_whatever_its_folds(tmp_path):
    write_folds(tmp_path, {0: 0.2, 1: 0.4, 2: 0.6})
    write_folds(tmp_path, {0: 0.8}, category="zipper")
    means = {name: cell.mean for (_, name), cell in matrix(tmp_path, "pixel_aupro").means.items()}
    assert means == {
        "mvtec_ad, supervised/screw/5": pytest.approx(0.4), "mvtec_ad, supervised": pytest.approx(0.6),
    }  # fmt: skip


def test_a_row_that_lacks_a_category_is_never_marked(tmp_path):
    for category in ("carpet", "screw", "zipper"):
        with_values(tmp_path, [0.6], category=category)
    for category in ("carpet", "screw"):
        with_values(tmp_path, [0.9], category=category, method="vae")
    means = {row.label: cell for (row, _), cell in matrix(tmp_path, "pixel_aupro").means.items()}
    assert (len(means["vae"].values), means["vae"].of) == (2, 3)
    assert not any(cell.best for cell in means.values())
