"""The demo data: complete, the same every time, and not solved by a trivial score."""

import cv2
import numpy as np
import pytest

from anomaly_lab.data.demo import CATEGORIES, TEST_GOOD, TEST_PER_DEFECT, TRAIN, demo
from anomaly_lab.data.samples import fingerprint
from anomaly_lab.metrics.ranking import rank


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "data"
    demo(str(folder), "washer")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("category", "defects"), [(name, defects) for name, _, defects in CATEGORIES])
def test_layout_is_complete_and_masks_are_where_the_defects_are(root, category, defects):
    train, test, *_ = demo(str(root), category)
    assert len(train) == TRAIN
    assert len(test) == TEST_GOOD + TEST_PER_DEFECT * len(defects)
    areas = [cv2.imread(str(s.mask_path), cv2.IMREAD_GRAYSCALE).mean() / 255 for s in test if s.mask_path]
    assert len(areas) == TEST_PER_DEFECT * len(defects)
    assert min(areas) > 0.001
    assert max(areas) < 0.05


@pytest.mark.slow
def test_all_is_both_categories(root):
    train, test, *_ = demo(str(root), "all")
    assert len(train) == 2 * TRAIN
    assert {sample.defect for sample in test} == {
        f"{name}/{defect}" for name, _, defects in CATEGORIES for defect in ("good", *defects)
    }


@pytest.mark.slow
def test_the_same_data_is_made_again(root, tmp_path):
    again, here = (demo(str(folder), "weave") for folder in (tmp_path / "again", root))
    assert [fingerprint(part) for part in again[:2]] == [fingerprint(part) for part in here[:2]]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.slow
@pytest.mark.parametrize("category", [name for name, _, _ in CATEGORIES])
@pytest.mark.parametrize("score", ["constant", "brightness", "sharpness"])
def test_no_trivial_score_solves_it(root, category, score):
    def trivial(path):
        image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE).astype(np.float64)
        if score == "brightness":
            return image.mean()
        gradient = np.abs(np.diff(image, axis=0)).mean() + np.abs(np.diff(image, axis=1)).mean()
        return 0.0 if score == "constant" else gradient

    test = demo(str(root), category).test
    normal, abnormal = (np.array([trivial(s.path) for s in test if s.label == label]) for label in (0, 1))
    assert 0.35 <= rank(normal, abnormal).auroc().value <= 0.65
