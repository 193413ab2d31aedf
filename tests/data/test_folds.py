"""Folds: every photo is tested once, types of defects are spread, no part and no copy is on both sides."""

from collections import Counter
from pathlib import Path

import pytest

from anomaly_lab.core.errors import UserError
from anomaly_lab.data.folds import in_fold
from anomaly_lab.data.samples import Sample, Splits


def photos(folder, counts):
    made = []
    for defect, count in counts.items():
        for number in range(count):
            path = folder / defect / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(f"{folder.name} {defect} {number}".encode())
            made.append(Sample(path, None, int(defect != "good"), defect, f"{folder.name} {defect} {number}"))
    return made


@pytest.fixture
def splits(tmp_path):
    train, test = (
        photos(tmp_path / "train", {"good": 31}),
        photos(tmp_path / "test", {"good": 9, "dent": 7, "crack": 3}),
    )
    return Splits(train, test)


def test_every_photo_is_tested_once_and_learnt_from_in_all_other_folds(splits):
    pool = {sample.path for sample in (*splits.train, *splits.test)}
    tested = Counter()
    for fold in range(5):
        part = in_fold(splits, fold, 5, seed=0)
        test = {sample.path for sample in part.test}
        tested.update(test)
        assert {sample.path for sample in (*part.train, *part.labelled)} == pool - test
        assert all(sample.label == 0 for sample in part.train)
        assert all(sample.label == 1 for sample in part.labelled)
        kinds = Counter(sample.defect for sample in part.test)
        assert kinds["good"] == 8
        assert kinds["dent"] in (1, 2)
        assert kinds["crack"] in (0, 1)
        assert f"fold {fold} of 5: 32 good and" in part.remarks[-1]
    assert tested == Counter(pool)


def test_the_seed_deals(splits):
    first, again, other = (in_fold(splits, 0, 5, seed).test for seed in (0, 0, 1))
    assert first == again
    assert {sample.path for sample in first} != {sample.path for sample in other}


def test_shots_of_a_part_and_copies_stay_together(splits, tmp_path):
    shots = [splits.test[0]._replace(path=tmp_path / f"shot{i}.png", group="part") for i in range(6)]
    for i, shot in enumerate(shots):
        shot.path.write_bytes(f"shot {i}".encode())
    copy = splits.train[0]._replace(path=tmp_path / "copy.png", group="copy")
    copy.path.write_bytes(splits.train[0].path.read_bytes())
    both = Splits([*splits.train, *shots[:3]], [*splits.test, *shots[3:], copy])
    for fold in range(4):
        tested = {sample.path for sample in in_fold(both, fold, 4, seed=0).test}
        assert len(tested & {shot.path for shot in shots}) in (0, 6)
        assert len(tested & {copy.path, splits.train[0].path}) in (0, 2)


@pytest.mark.parametrize(
    ("change", "fold", "message"),
    [
        ({}, 5, "data.fold: expected 0 to 4, as data.folds=5 says, found 5"),
        ({"test": []}, 0, "found 0 defective among the .* and 0 in all; set a smaller data.folds, or choose a method"),
    ],
)
def test_what_cannot_be_dealt(splits, change, fold, message):
    with pytest.raises(UserError, match=message):
        in_fold(splits._replace(**change), fold, 5, seed=0)


@pytest.mark.parametrize(("defective", "folds", "refused"), [(1, 5, 5), (3, 5, 2), (3, 3, 0)])
def test_every_fold_tests_both_kinds_and_learns_from_both(splits, defective, folds, refused):
    few = [sample for sample in splits.test if sample.label == 0] + splits.test[-defective:]
    assert sum(_refused(splits._replace(test=few), fold, folds) for fold in range(folds)) == refused


def _refused(splits, fold, folds):
    try:
        in_fold(splits, fold, folds, seed=0)
    except UserError as error:
        return "expected good and defective photos to test, and defective ones to learn from" in str(error)
    return False


def test_photos_without_a_label_are_refused(splits):
    unknown = splits.test[0]._replace(path=Path("there.png"), label=-1, group="unknown")
    unknown = unknown._replace(path=splits.test[0].path.with_name("unknown.png"))
    unknown.path.write_bytes(b"unknown")
    with pytest.raises(UserError, match="expected photos that are labelled good or defective, found .*unknown.png"):
        in_fold(splits._replace(test=[*splits.test, unknown]), 0, 5, seed=0)
