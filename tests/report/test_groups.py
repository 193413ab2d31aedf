"""Which runs share a cell: never two that differ in more than the seed."""

import json

import pytest

from anomaly_lab.report.groups import Row, group
from anomaly_lab.report.html import title_of
from anomaly_lab.report.matrix import matrix_of
from anomaly_lab.runs.collect import collect
from anomaly_lab.runs.folder import RESULT_VERSION
from anomaly_lab.runs.measures import BY_KEY
from tests.report.synthetic import write_run


def grouped(tmp_path):
    return group(collect([tmp_path]))


def seeds(groups):
    return {
        (row.label, column.label): [run.key.seed for run in runs] for (row, column), runs in groups.cells.items()
    }  # fmt: skip


def test_seeds_share_a_cell_in_the_order_of_numbers(tmp_path):
    for seed in (10, 9, 0):
        write_run(tmp_path, seed=seed)
    assert seeds(grouped(tmp_path)) == {("cae", "screw"): ["0", "9", "10"]}


def test_two_settings_of_one_key_are_two_rows_told_by_what_differs(tmp_path):
    write_run(tmp_path, digest="a", strength=1)
    write_run(tmp_path, digest="b", strength=2, method__latent=500)
    groups = grouped(tmp_path)
    assert seeds(groups) == {("cae · latent=100", "screw"): ["0"], ("cae · latent=500", "screw"): ["0"]}


def test_of_settings_that_differ_together_one_is_told(tmp_path):
    write_run(tmp_path, digest="a")
    write_run(tmp_path, digest="b", strength=2, method__latent=500, trainer__max_epochs=40)
    assert grouped(tmp_path).rows == [Row("cae", (("latent", "100"),)), Row("cae", (("latent", "500"),))]


@pytest.mark.parametrize(
    ("changes", "label"),
    [
        ({"budget__learning_rate": 1e-2}, "budget.learning_rate=0.01"), ({"budget__epochs": 1}, "budget.epochs=1"),
        ({"callbacks__averaging": {"_target_": "own.Averaging"}}, "callbacks.averaging=own.Averaging"),
        ({"threshold___target_": "anomaly_lab.metrics.thresholds.Area"}, "threshold=area"),
    ],
)  # fmt: skip
def test_runs_that_differ_in_more_than_the_seed_are_never_averaged(tmp_path, changes, label):
    write_run(tmp_path, seed=0)
    write_run(tmp_path, seed=1, digest="b", **changes)
    labels = [row.label for row in grouped(tmp_path).rows]
    assert len(labels) == 2
    assert any(label in each for each in labels), labels


@pytest.mark.parametrize(
    "changes",
    [
        {"data__patches": 10},
        {"budget__epochs": 3},
        {"callbacks__x": {"_target_": "anomaly_lab.evaluation.curves.Curves"}},
    ],
)
def test_what_a_method_never_reads_makes_no_row(tmp_path, changes):
    target = "anomaly_lab.methods.variation_model.VariationModel"
    write_run(tmp_path, seed=0, method___target_=target)
    write_run(tmp_path, seed=1, digest="b", method___target_=target, **changes)
    assert len(grouped(tmp_path).rows) == 1


def test_the_size_of_images_may_differ_between_categories_and_not_within_one(tmp_path):
    write_run(tmp_path, category="screw")
    write_run(tmp_path, category="carpet", data__image_size=512)
    write_run(tmp_path, dataset="folder", category="wood", data__good=[])  # a key that other data sets do not have
    assert [row.label for row in grouped(tmp_path).rows] == ["cae"]
    write_run(tmp_path, category="screw", digest="b", strength=2, data__image_size=128)
    assert {row.label for row in grouped(tmp_path).rows} == {
        "cae · data.image_size=128", "cae · data.image_size=256", "cae · data.image_size=512"
    }  # fmt: skip


def test_other_settings_are_never_mixed_across_categories(tmp_path):
    write_run(tmp_path, category="screw")
    write_run(tmp_path, category="carpet", data__patches=1000)
    assert [row.label for row in grouped(tmp_path).rows] == ["cae · data.patches=1000", "cae · data.patches=100000"]


def test_a_run_that_is_there_twice_counts_once(tmp_path):
    write_run(tmp_path, name="one")
    write_run(tmp_path, name="two")
    groups = grouped(tmp_path)
    assert seeds(groups) == {("cae", "screw"): ["0"]}
    assert [run.shown for run in groups.repeated] == ["two/cae/mvtec_ad/screw/seed=0/0123456789"]


def test_the_same_settings_with_other_figures_are_told_by_name_or_folder(tmp_path):
    write_run(tmp_path, name="one")
    write_run(tmp_path, name="two", strength=2)
    assert [row.label for row in grouped(tmp_path).rows] == ["cae · name=one", "cae · name=two"]
    write_run(tmp_path, name="two", strength=3, digest="other")
    labels = [row.label for row in grouped(tmp_path).rows]
    assert len(labels) == 3
    assert len(set(labels)) == 3


def test_copies_of_one_name_with_other_figures_are_told_by_folder(tmp_path):
    write_run(tmp_path, name="sweep")
    config = write_run(tmp_path, name="copy", strength=2) / ".hydra" / "config.yaml"
    config.write_text(config.read_text().replace("name: copy", "name: sweep"))
    assert [row.label for row in grouped(tmp_path).rows] == ["cae · folder=copy", "cae · folder=sweep"]


def test_results_of_another_version_are_not_averaged_in(tmp_path):
    write_run(tmp_path, seed=0)
    path = write_run(tmp_path, seed=1) / "metrics.json"
    path.write_text(path.read_text().replace(f'"result_version": {RESULT_VERSION}', '"result_version": 1'))
    assert [row.label for row in grouped(tmp_path).rows] == [
        "cae · result_version=1",
        f"cae · result_version={RESULT_VERSION}",
    ]


def test_other_test_images_are_another_column(tmp_path):
    write_run(tmp_path, seed=0)
    write_run(tmp_path, seed=1, images=20)
    write_run(tmp_path, method="ganomaly", seed=0)
    groups = grouped(tmp_path)
    assert [column.label for column in groups.columns] == ["screw (20 images)", "screw (40 images)"]
    assert seeds(groups)["ganomaly", "screw (40 images)"] == ["0"]


def test_runs_that_knew_defective_photos_are_never_beside_others(tmp_path):
    write_run(tmp_path)
    folder = write_run(tmp_path, method="cavga")
    metrics = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").write_text(json.dumps(metrics | {"protocol": "weakly_supervised"}))
    groups = grouped(tmp_path)
    assert [column.dataset for column in groups.columns] == ["mvtec_ad", "mvtec_ad, weakly supervised"]
    assert [len(runs) for runs in groups.cells.values()] == [1, 1]
    found = matrix_of(groups, BY_KEY["image_auroc"])
    assert not any(cell.best for cell in found.cells.values())
    assert all(len({column.dataset for column in groups.columns if (row, column) in found.cells}) == 1
               for row in groups.rows)  # fmt: skip
    assert title_of([run for runs in groups.cells.values() for run in runs], groups).endswith("on 2 categories")


def test_a_run_without_images_has_no_column_beside_runs_that_have_them(tmp_path):
    write_run(tmp_path, seed=0)
    write_run(tmp_path, seed=1)
    (write_run(tmp_path, seed=2) / "scores.csv").write_text("path,label\na,b\n")
    for seed in range(2):
        (write_run(tmp_path, category="carpet", seed=seed) / "scores.csv").unlink()
    groups = grouped(tmp_path)
    assert [column.label for column in groups.columns] == ["carpet", "screw"]
    assert seeds(groups) == {("cae", "carpet"): ["0", "1"], ("cae", "screw"): ["0", "1"]}


def test_unknown_settings_are_a_row_of_their_own(tmp_path):
    write_run(tmp_path, seed=0)
    (write_run(tmp_path, seed=1) / ".hydra" / "config.yaml").unlink()
    labels = [row.label for row in grouped(tmp_path).rows]
    assert len(labels) == 2
