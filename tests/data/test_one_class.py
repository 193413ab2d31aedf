"""One class against the others: who trains, who is tested, by both protocols."""

from collections import Counter

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from anomaly_lab.config.files import CONF
from anomaly_lab.config.overrides import composed
from anomaly_lab.core.errors import UserError
from anomaly_lab.data.one_class import classes, one_class
from anomaly_lab.launch.sweep import expanded
from tests.adversarial import configured
from tests.conftest import write_image


@pytest.fixture
def digits(tmp_path):
    """Ten training and four test photos of each of three classes."""
    for place, name in enumerate(("0", "1", "cat")):
        for number in range(14):
            split = "train" if number < 10 else "test"
            write_image(tmp_path / split / name / f"{number}.png", np.full((8, 8), 20 * place + number, np.uint8))
    return tmp_path


def test_one_class_is_normal_and_all_are_tested(digits):
    splits = one_class(str(digits), "1", "one_vs_rest", 0)
    assert {sample.path.parent for sample in splits.train} == {digits / "train/1"}
    assert len(splits.train) == 10
    assert Counter((sample.defect, sample.label) for sample in splits.test) == {
        ("0", 1): 4,
        ("good", 0): 4,
        ("cat", 1): 4,
    }
    assert {sample.path.parent for sample in splits.test if not sample.label} == {digits / "test/1"}


def test_one_class_is_left_out_and_a_fifth_of_the_others_is_tested(digits):
    splits = one_class(str(digits), "1", "leave_one_out", 0)
    normal = [sample for sample in (*splits.train, *splits.test) if not sample.label]
    assert len(normal) == len({sample.path for sample in normal}) == 28
    assert len(splits.train) == int(0.8 * 28)
    assert not any(sample.path.parent.name == "1" for sample in normal)
    abnormal = [sample for sample in splits.test if sample.label]
    assert Counter((sample.path.parent, sample.defect) for sample in abnormal) == {
        (digits / "train/1", "1"): 10, (digits / "test/1", "1"): 4
    }  # fmt: skip
    pools = [[sample.path for sample in one_class(str(digits), name, "leave_one_out", 0).pool] for name in ("1", "cat")]
    assert pools[0] == pools[1]  # decoded once for all runs
    assert set(pools[0]) == {sample.path for sample in (*splits.train, *splits.test)}
    assert one_class(str(digits), "1", "one_vs_rest", 0).pool == ()
    other = one_class(str(digits), "1", "leave_one_out", 1)
    assert {sample.path for sample in other.train} != {sample.path for sample in splits.train}


def test_classes_may_have_any_name(digits):
    for split in ("train", "test"):
        (digits / split / "0").rename(digits / split / "Good")
        (digits / split / "1").rename(digits / split / "mask")
    splits = one_class(str(digits), "mask", "one_vs_rest", 0)
    assert {(sample.defect, sample.label) for sample in splits.test} == {("good", 0), ("class Good", 1), ("cat", 1)}
    assert len(splits.train) == 10
    assert splits.remarks == ()
    assert len(one_class(str(digits), "Good", "leave_one_out", 0).test) == 14 + 6


def test_a_class_may_be_there_for_the_test_alone(digits):
    (digits / "train/0").rename(digits / "0")
    splits = one_class(str(digits), "1", "one_vs_rest", 0)
    assert Counter(sample.defect for sample in splits.test) == {"good": 4, "cat": 4, "0": 4}
    with pytest.raises(UserError, match="expected training photos of every class, found no folder .*train/0"):
        one_class(str(digits), "1", "leave_one_out", 0)


@pytest.mark.parametrize("split", ["train", "test"])
def test_photos_beside_the_classes_are_refused(digits, split):
    write_image(digits / split / "loose.png", np.zeros((8, 8), np.uint8))
    with pytest.raises(UserError, match=f"loose.png: expected images in folders, {split}/<class>, found one beside"):
        one_class(str(digits), "1", "one_vs_rest", 0)


@pytest.mark.parametrize(
    ("category", "message"),
    [
        ("2", "expected one of the classes 0, 1, cat of .*found '2'"),
        ("cta", "found 'cta'; did you mean 'cat'"),
        ("all", "found 'all'; with -m it is a job for each"),
    ],
)
def test_another_class_is_refused(category, message, digits):
    with pytest.raises(UserError, match=f"data.category: .*{message}"):
        one_class(str(digits), category, "one_vs_rest", 0)


def test_a_class_without_images_or_without_a_test_is_refused(digits, tmp_path):
    (digits / "train/dog").mkdir()
    with pytest.raises(UserError, match="expected test photos of every class, found no folder .*test/dog"):
        one_class(str(digits), "1", "one_vs_rest", 0)
    (digits / "test/dog").mkdir()
    with pytest.raises(UserError, match="data.root: expected photos in .*test/dog, found none"):
        one_class(str(digits), "1", "one_vs_rest", 0)
    for nothing in (tmp_path / "nothing", digits / "test"):
        with pytest.raises(UserError, match="data.root: expected a folder with train/<class> and test/<class>"):
            classes(str(nothing))


def test_an_epoch_is_an_epoch_and_nothing_is_varied(digits):
    config = configured("method=memae", "data=one_class", f"data.root={digits}", "data.category='1'")
    data = config["data"]
    assert (data["patches"], data["image_size"], data["kind"]) == (None, 32, "object")
    assert data["decoding"]["resize"] == "shrink"
    assert set(config["augmentation"]) == {"_target_"}
    assert data["name"].endswith("-one_vs_rest")
    other = configured(
        "method=memae", "data=one_class", f"data.root={digits}", "data.category='1'", "data.protocol=leave_one_out"
    )
    assert other["data"]["name"].endswith("-leave_one_out")


def test_all_classes_are_a_sweep(digits):
    words = ("method=padim", "data=one_class", f"data.root={digits}", "data.category=all")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        found = expanded(lambda some: composed(lambda each: compose("train", each), some)[0], words)
    assert [job[-1] for job in found] == ["data.category='0'", "data.category='1'", "data.category='cat'"]


@pytest.mark.parametrize("protocol", ["one_vs_rest", "leave_one_out"])
def test_a_class_is_typed_with_accents_or_apart(digits, protocol):
    (digits / "train/cat").rename(digits / "train/ka\u0308t")
    (digits / "test/cat").rename(digits / "test/kät")
    found = [one_class(str(digits), name, protocol, 0) for name in ("kät", "ka\u0308t")]
    assert found[0] == found[1]
    assert {sample.defect for sample in found[0].test} <= {"good", "0", "1", "kät"}
    with pytest.raises(UserError, match="data.category: expected one of the classes"):
        one_class(str(digits), "kat", protocol, 0)
