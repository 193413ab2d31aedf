"""Pictures of held-out photos with painted defects: which ones, what they show, and that nothing is predicted twice."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from anomaly_lab.core.files import read_csv
from anomaly_lab.data.corruption import KINDS, Scar
from anomaly_lab.evaluation.painted_pictures import PaintedPictures, evenly
from anomaly_lab.evaluation.synthetic_defects import SyntheticDefects
from anomaly_lab.runs.folder import remove_result
from tests.evaluation.test_synthetic_defects import Difference, judge


def test_some_photos_are_kept_as_they_are_and_with_every_kind_of_defect(data, tmp_path):
    judge(data, Difference(), SyntheticDefects(copies=4, variations=True), PaintedPictures(photos=2))
    rows = read_csv(tmp_path / "painted" / "index.csv")
    found = [(int(row["photo"][-5]), row["change"]) for row in rows]
    painted = [(i, kind) for i in (0, 3) for kind in KINDS]  # evenly spaced among four
    assert sorted(found) == sorted([*painted, *((i, "none") for i in range(4))])
    scores = [(row["photo"], row["change"], row["score"]) for row in read_csv(tmp_path / "synthetic.csv")]
    assert {(row["photo"], row["change"], row["score"]) for row in rows} <= set(scores)
    files = sorted(path.name for path in (tmp_path / "painted").glob("*.webp"))
    assert sorted(row["file"] for row in rows) == files
    assert files[0] == "0000_blob.webp"


def test_numbers_are_evenly_spaced():
    assert evenly(20, 6) == {0, 4, 8, 11, 15, 19}
    assert evenly(3, 6) == {0, 1, 2}
    assert evenly(9, 1) == {0}


def test_the_tiles_are_the_photo_its_map_and_the_outlined_defect(data, tmp_path):
    judge(data, Difference(), SyntheticDefects(copies=4), PaintedPictures(photos=1, side=64))
    clean, painted = (cv2.imread(str(tmp_path / "painted" / f"0000_{kind}.webp")) for kind in ("none", "blob"))
    assert clean.shape == painted.shape == (32, 3 * 64, 3)  # wide photos, without their padding
    photo, anomaly_map, overlay = np.split(clean.astype(int), 3, axis=1)
    assert np.abs(photo - 100).max() < 5
    assert anomaly_map.max() < 20  # nothing found: the darkest colour of the run
    assert np.abs(overlay - 50).max() < 10
    photo, anomaly_map, outlined = np.split(painted.astype(int), 3, axis=1)
    assert np.abs(photo - 100).max() > 20
    assert anomaly_map.max() > 100
    assert greener(outlined).max() > 110 > 80 > greener(photo).max()  # this stain is greenish itself


def greener(tile):
    """How far green, the outline's colour alone, lies above blue and red."""
    return tile[..., 1] - tile[..., ::2].max(axis=2)


def test_keeping_pictures_asks_nothing_more_of_a_method_and_changes_no_figure(data):
    plain, beside = Difference(), Difference()
    metrics = judge(data, plain, SyntheticDefects())
    assert judge(data, beside, SyntheticDefects(), PaintedPictures()) == metrics
    assert len(beside.seen) == len(plain.seen)


def test_kinds_of_the_training_are_not_shown_and_of_several_defects_of_a_kind_the_first(data, tmp_path):
    data.corruption = Scar()
    judge(data, Difference(), SyntheticDefects(copies=6), PaintedPictures(photos=10))
    rows = read_csv(tmp_path / "painted" / "index.csv")
    assert sorted({row["change"] for row in rows}) == ["blob", "none", "patch", "perlin"]
    assert len(rows) == 4 * 4
    first = {}
    for row in read_csv(tmp_path / "synthetic.csv"):
        first.setdefault((row["photo"], row["change"]), row["score"])
    assert {(row["photo"], row["change"]): row["score"] for row in rows} == first


def test_the_first_process_writes_and_a_new_test_removes_them(data, tmp_path):
    judge(data, Difference(), SyntheticDefects(), PaintedPictures(), first=False)
    assert not (tmp_path / "painted").exists()
    judge(data, Difference(), SyntheticDefects(), PaintedPictures())
    assert (tmp_path / "painted" / "index.csv").is_file()
    remove_result(tmp_path)
    assert not (tmp_path / "painted").exists()


def test_without_the_callback_nothing_is_kept(data, tmp_path):
    judge(data, Difference(), SyntheticDefects())
    assert not (tmp_path / "painted").exists()


@pytest.mark.parametrize("count", [1, 6])
def test_gray_photos_are_shown_as_well(data, tmp_path, count):
    data.decoding = replace(data.decoding, channels=1)
    judge(data, Difference(), SyntheticDefects(copies=4), PaintedPictures(photos=count))
    assert len(read_csv(tmp_path / "painted" / "index.csv")) == 4 + 4 * min(count, 4)
