"""The curve of a measure against the number of good photos, from made-up runs."""

import json
import shutil

import pytest

from anomaly_lab.report.good_photos import photo_curves, photos_of
from anomaly_lab.report.groups import group
from anomaly_lab.report.matrix import matrices
from anomaly_lab.report.sheets import sheet
from anomaly_lab.runs.collect import collect
from tests.report.synthetic import read_metrics, write_run


def few(root, photos, seed=0, method="cae", name="sweep", **changes):
    return write_run(root, method, seed=seed, digest=f"{photos}", name=name, data__good_photos=photos, **changes)


def read(root):
    groups = group([run for run in collect([root]) if run.done])
    found = matrices(groups)
    return groups, found, photo_curves(groups, found)


def test_a_line_is_the_mean_over_seeds_with_their_range_by_number_of_photos(tmp_path):
    reached = {}
    for photos in (100, 10, 20):
        for seed in (0, 1, 2):
            folder = few(tmp_path, photos, seed, strength=photos / 40, aupro=0.5 + photos / 1000 + seed / 100)
            reached.setdefault(photos, []).append(read_metrics(folder)["image_auroc"])
    write_run(tmp_path, "control", strength=1)  # no curve of its own
    groups, _, curves = read(tmp_path)
    assert [(curve.measure, curve.column.label) for curve in curves] == [
        ("image_auroc", "screw"), ("pixel_aupro", "screw"),
    ]  # fmt: skip
    ((row, points),) = curves[0].lines
    assert (row.label, [point.photos for point in points]) == ("cae", [10, 20, 100])
    for photos, mean, low, high, seeds in points:
        assert mean == pytest.approx(sum(reached[photos]) / 3)
        assert (low, high, seeds) == (min(reached[photos]), max(reached[photos]), 3)
    assert curves[0].control == [(10, 0.75), (20, 0.75), (100, 0.75)]
    assert [point.mean for point in curves[1].lines[0][1]] == pytest.approx([0.52, 0.53, 0.61])
    labels = [label for label in (row.label for row in groups.rows) if label != "control"]
    assert labels == [f"cae, {photos} good photos" for photos in (10, 20, 100)]  # not 10, 100, 20


def test_every_category_has_a_curve_and_the_strongest_control_of_its_runs(tmp_path):
    for category in ("screw", "wood"):
        for photos, (of_cae, of_ganomaly) in ((10, (0.8, 0.7)), (20, (0.6, 0.9))):
            for method, control in (("cae", of_cae), ("ganomaly", of_ganomaly), ("control", 0.99)):
                folder = few(tmp_path, photos, method=method, category=category, strength=photos / 10)
                changed = read_metrics(folder) | {"control_image_auroc": control}
                (folder / "metrics.json").write_text(json.dumps(changed))
    curves = read(tmp_path)[2]
    assert [curve.column.label for curve in curves] == ["screw", "wood"]
    for curve in curves:
        assert [row.label for row, _ in curve.lines] == ["cae", "ganomaly"]
        assert [[point.photos for point in points] for _, points in curve.lines] == [[10, 20], [10, 20]]
        assert curve.control == [(10, 0.8), (20, 0.9)]


def test_runs_that_differ_in_anything_else_are_on_no_line(tmp_path):
    few(tmp_path, 10)
    few(tmp_path, 20, strength=2, data__held_out=0.2)
    assert read(tmp_path)[2] == []
    for photos, held_out in ((10, 0.1), (100, 0.1), (20, 0.2), (50, 0.2)):
        few(tmp_path / "pairs", photos, strength=photos / 20, data__held_out=held_out)
    assert sorted([point.photos for point in points] for _, points in read(tmp_path / "pairs")[2][0].lines) == [
        [10, 100], [20, 50],
    ]  # fmt: skip
    shutil.rmtree(tmp_path / "pairs")
    few(tmp_path, 20, method="ganomaly")
    few(tmp_path, 20, strength=2, name="other", method__latent=50)
    few(tmp_path, 50, strength=2, name="other", method__latent=50)
    (curve,) = read(tmp_path)[2]
    ((row, points),) = curve.lines
    assert "latent=50" in row.label
    assert "good photos" not in row.label
    assert [point.photos for point in points] == [20, 50]
    assert [number for number, _ in curve.control] == [20, 50]


def test_a_run_with_all_photos_is_the_last_point_where_its_folder_states_their_number(tmp_path):
    few(tmp_path, 10)
    folder = few(tmp_path, None, strength=2)
    assert read(tmp_path)[2] == []
    (folder / "photos.json").write_text(json.dumps({"trained": [], "good_photos": 209}))
    groups, _, (curve,) = read(tmp_path)
    assert [point.photos for _, points in curve.lines for point in points] == [10, 209]
    assert [row.label for row in groups.rows] == ["cae, 10 good photos", "cae, all good photos"]
    for damaged in ("[]", "{", '{"good_photos": "many"}', '{"good_photos": 0}'):
        (folder / "photos.json").write_text(damaged)
        assert photos_of(groups.cells[groups.rows[1], groups.columns[0]][0]) is None
    few(tmp_path, 20, method="ganomaly", strength=0.5)
    few(tmp_path, 100, method="ganomaly", strength=5)
    groups = read(tmp_path)[0]
    lines = sheet(matrices(groups)["image_auroc"], groups).lines
    assert [line.label for line in lines if not line.control] == [
        "ganomaly, 20 good photos", "ganomaly, 100 good photos", "cae, 10 good photos", "cae, all good photos",
    ]  # fmt: skip  # the better family first, each by its number
