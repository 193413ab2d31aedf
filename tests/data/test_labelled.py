"""Defective photos to learn from: who is drawn, who leaves the test, what is refused, what a run sees of them."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from anomaly_lab.core.errors import UserError
from anomaly_lab.data import labelled, samples
from anomaly_lab.data.labelled import in_words, known, with_labelled
from anomaly_lab.data.layouts import folder, mvtec_ad
from anomaly_lab.data.one_class import one_class
from anomaly_lab.data.samples import Sample, Splits
from tests.conftest import write_image


def splits(*kinds, good=5, train=6):
    """As many test photos of each type of defect, each a part of its own."""
    test = [Sample(Path(f"good{i}"), None, 0, "good", f"good{i}") for i in range(good)]
    for kind, number in kinds:
        test += [Sample(Path(f"{kind}{i}"), None, 1, kind, f"{kind}{i}") for i in range(number)]
    return Splits([Sample(Path(f"train{i}"), None, 0, "good", f"train{i}") for i in range(train)], test)


@pytest.fixture(autouse=True)
def nothing_on_disk(monkeypatch, request):
    """Photos that are only names have no copies."""
    if "tmp_path" not in request.fixturenames:
        for module in (samples, labelled):
            monkeypatch.setattr(module, "same_content", lambda paths: {})


def test_a_draw_takes_the_types_in_turns_and_leaves_the_rest_to_the_test():
    whole = splits(("crack", 10), ("dent", 3), ("stain", 10))
    some = with_labelled(whole, 9, 0)
    assert Counter(sample.defect for sample in some.labelled) == {"crack": 3, "dent": 3, "stain": 3}
    assert sorted([*some.test, *some.labelled]) == sorted(whole.test)
    assert Counter(sample.defect for sample in with_labelled(whole, 15, 0).labelled) == {
        "crack": 6, "dent": 3, "stain": 6
    }  # fmt: skip
    assert some.train == whole.train


def test_fewer_are_among_more_and_the_seed_chooses():
    whole = splits(("crack", 10), ("dent", 10))
    drawn = [set(with_labelled(whole, number, 0).labelled) for number in (1, 2, 5, 19)]
    assert drawn[0] < drawn[1] < drawn[2] < drawn[3]
    assert set(with_labelled(whole, 5, 1).labelled) != drawn[2]


def test_a_share_is_of_the_defective_photos_and_at_least_one():
    whole = splits(("crack", 10), ("dent", 10))
    assert len(with_labelled(whole, 0.25, 0).labelled) == 5
    assert len(with_labelled(whole, 0.001, 0).labelled) == 1


def test_other_shots_of_a_part_leave_the_test_too():
    whole = splits(("crack", 4))
    shots = [sample._replace(group="one part") if sample.path.name in {"crack0", "crack1", "good0"} else sample
             for sample in whole.test]  # fmt: skip
    found = [with_labelled(whole._replace(test=shots), 1, seed) for seed in range(20)]
    torn = [some for some in found if some.labelled[0].group == "one part"]
    assert 0 < len(torn) < 20
    for some in torn:
        assert len(some.test) == len(shots) - 3
        assert not any(sample.group == "one part" for sample in some.test)


@pytest.mark.parametrize(
    ("kinds", "amount", "message"),
    [
        ([("crack", 4)], 4, "fewer photos than the defective ones of the test, .*found 4 of 4"),
        ([("crack", 4)], 9, "found 9 of 4"),
        ([], 1, "found a test without labelled defective photos"),
        ([("crack", 4)], "/nowhere", "a folder of defective photos, found nothing at /nowhere"),
    ],
)
def test_too_many_and_none_are_refused(kinds, amount, message):
    with pytest.raises(UserError, match=f"data.labelled_abnormal: expected .*{message}"):
        with_labelled(splits(*kinds), amount, 0)


def test_a_part_that_is_all_defective_photos_is_refused():
    whole = splits(("crack", 3))
    one = [sample._replace(group="one part") if sample.label else sample for sample in whole.test]
    with pytest.raises(UserError, match="expected a defective photo of another part that is left to test, found 1"):
        with_labelled(whole._replace(test=one), 1, 0)


def test_unknown_labels_are_not_drawn():
    whole = splits(("crack", 3))
    unknown = [sample._replace(label=-1) for sample in whole.test if sample.label]
    some = with_labelled(whole._replace(test=[*whole.test, *unknown]), 2, 0)
    assert [sample.label for sample in some.labelled] == [1, 1]


def test_without_an_amount_everything_stays():
    whole = splits(("crack", 3))
    assert known(whole, None, 0, None, None, 0) == whole
    few = known(whole, 4, 0, 1, None, 0)
    assert (len(few.train), len(few.labelled), len(few.test)) == (4, 1, 7)


def photos(folder, *names, value=0):
    for number, name in enumerate(names):
        write_image(folder / name, np.full((8, 8), value + number, np.uint8))


def test_a_folder_gives_photos_named_after_their_folders(tmp_path):
    photos(tmp_path / "more", "crack/0.png", "dent/1.png", value=100)
    photos(tmp_path / "part", "train/good/0.png", "train/good/1.png", "test/good/2.png", "test/crack/3.png")
    whole = mvtec_ad(str(tmp_path), "part")
    some = with_labelled(whole, str(tmp_path / "more"), 0)
    assert [(sample.defect, sample.label) for sample in some.labelled] == [("crack", 1), ("dent", 1)]
    assert some.test == whole.test


@pytest.mark.parametrize(
    ("more", "which"),
    [("part/test/crack", "which is tested;"), ("more", "the same as .*test/crack/3.png;"), ("link", "the same as .*")],
)
def test_a_folder_with_tested_photos_is_refused(more, which, tmp_path):
    photos(tmp_path / "part", "train/good/0.png", "train/good/1.png", "test/good/2.png", "test/crack/3.png")
    (tmp_path / "more").mkdir()
    (tmp_path / "more/other.png").write_bytes((tmp_path / "part/test/crack/3.png").read_bytes())
    (tmp_path / "link").symlink_to("part/test/crack")
    with pytest.raises(UserError, match=f"neither tested nor good, found 1 of 1 that are, such as .*png, {which}"):
        with_labelled(mvtec_ad(str(tmp_path), "part"), str(tmp_path / more), 0)


def test_a_good_photo_is_called_that(tmp_path):
    photos(tmp_path, "part/train/lot/0.png", "part/train/lot/1.png", "part/test/good/2.png", "part/test/crack/3.png")
    whole = folder(str(tmp_path / "part"), 0, good=["lot"])._replace(good_names=frozenset())
    with pytest.raises(UserError, match=r"found 2 of 2 that are, such as .*lot/0.png, which is good; take .* folder$"):
        with_labelled(whole, str(tmp_path / "part/train/lot"), 0)


@pytest.mark.parametrize(("number", "hint"), [(1, None), (2, 1), (3, 2), (6, 5), (9, 5)])
def test_the_hint_asks_for_no_more_photos_than_there_are(number, hint, tmp_path):
    photos(tmp_path / "part", "train/good/0.png", *(f"test/crack/{1 + i}.png" for i in range(number)))
    photos(tmp_path / "part", "test/copy/of_1.png", value=1)
    whole = mvtec_ad(str(tmp_path), "part")
    end = f", or learn from some .*: data.labelled_abnormal={hint}" if hint else ""
    with pytest.raises(UserError, match=f"take them out of the folder{end}$"):
        with_labelled(whole, str(tmp_path / "part/test/crack"), 0)
    if hint:
        assert len(with_labelled(whole, hint, 0).labelled) == hint
    end = f", or so many of the test photos: data.labelled_abnormal={hint}" if hint else ""
    with pytest.raises(UserError, match=f"=.*/test/DEFECT{end}$"):
        with_labelled(whole, str(tmp_path / "part"), 0)


def test_a_draw_takes_each_content_once_and_leaves_no_copy_to_the_test(tmp_path):
    photos(tmp_path / "part", "train/good/0.png", *(f"test/crack/{1 + i}.png" for i in range(3)))
    for copy in range(6):
        photos(tmp_path / "part", f"test/crack/copy{copy}.png", value=1)
    whole = mvtec_ad(str(tmp_path), "part")
    for seed in range(4):
        some = with_labelled(whole, 2, seed)
        drawn, left = ([sample.path.read_bytes() for sample in found] for found in (some.labelled, some.test))
        assert len({*drawn}) == 2
        assert not {*drawn} & {*left}
    with pytest.raises(UserError, match="fewer photos than the defective ones of the test, .*found 3 of 3"):
        with_labelled(whole, 3, 0)


def test_copies_of_tested_photos_are_counted_and_the_others_are_not(tmp_path):
    photos(tmp_path / "part", "train/good/0.png", "test/crack/3.png", "test/crack/4.png")
    photos(tmp_path / "more", "crack/a.png", "crack/b.png", value=1)  # the bytes of both test photos
    photos(tmp_path / "more", "dent/c.png", value=77)
    (tmp_path / "more/dent/link.png").symlink_to(tmp_path / "part/train/good/0.png")
    with pytest.raises(
        UserError, match="found 3 of 4 that are, such as .*crack/a.png, the same as .*test/crack/3.png; ta"
    ):
        with_labelled(mvtec_ad(str(tmp_path), "part"), str(tmp_path / "more"), 0)


def test_copies_within_a_folder_are_a_remark(tmp_path):
    photos(tmp_path, "crack/0.png", "crack/1.png")
    (tmp_path / "crack/2.png").write_bytes((tmp_path / "crack/0.png").read_bytes())
    (tmp_path / "crack/3.png").symlink_to("0.png")
    some = with_labelled(Splits([], []), str(tmp_path), 0)
    assert len(some.labelled) == 4
    (remark,) = some.remarks
    assert remark.startswith("byte copies among the labelled photos, which count several times: 2, such as ")
    assert remark.endswith("crack/2.png of " + str(tmp_path / "crack/0.png"))


def test_masks_are_no_labelled_photos_but_those_of_their_photos(tmp_path):
    photos(tmp_path, "crack/0.png", "crack/0_mask.png", "dent/1.jpg", "dent/1.png", "masks/crack/0.png", "gt/2.png")
    some = with_labelled(Splits([], []), str(tmp_path), 0)
    assert masks_of(some, tmp_path) == {"crack/0.png": "crack/0_mask.png", "dent/1.jpg": "dent/1.png"}
    assert some.remarks == ("2 left out as a folder of masks: " + f"{tmp_path.name}/gt, {tmp_path.name}/masks",)


def masks_of(splits, folder):
    """The mask of each labelled photo, both by their path below a folder."""
    return {
        sample.path.relative_to(folder).as_posix(): sample.mask_path and sample.mask_path.relative_to(folder).as_posix()
        for sample in splits.labelled
    }


@pytest.mark.parametrize(
    ("photo", "mask"),
    [
        ("crack/0.png", "masks/crack/0.png"),
        ("crack/0.png", "ground_truth/crack/0_mask.png"),
        ("crack/0.png", "crack/gt/0.png"),
        ("crack/rgb/0.png", "crack/gt/0.png"),
        ("0.png", "masks/0.png"),
    ],
)
def test_masks_of_labelled_photos_are_found_in_folders_of_masks(photo, mask, tmp_path):
    photos(tmp_path, photo, "dent/9.png", mask)
    some = with_labelled(Splits([], []), str(tmp_path), 0)
    assert masks_of(some, tmp_path) == {photo: mask, "dent/9.png": None}
    assert some.remarks == ()


def test_masks_of_another_data_set_are_found_where_they_are(tmp_path):
    photos(tmp_path, "test/crack/0.png", "test/dent/0.png", "ground_truth/crack/0_mask.png", "ground_truth/dent/1.png")
    some = with_labelled(Splits([], []), str(tmp_path / "test/crack"), 0)
    assert masks_of(some, tmp_path) == {"test/crack/0.png": "ground_truth/crack/0_mask.png"}
    some = with_labelled(Splits([], []), str(tmp_path / "test"), 0)
    assert masks_of(some, tmp_path)["test/dent/0.png"] is None


def test_a_mask_of_two_photos_is_of_none(tmp_path):
    photos(tmp_path, "crack/0.png", "dent/0.png", "dent/1.png", "masks/0.png", "masks/1.png")
    some = with_labelled(Splits([], []), str(tmp_path), 0)
    assert masks_of(some, tmp_path) == {"crack/0.png": None, "dent/0.png": None, "dent/1.png": "masks/1.png"}
    (remark,) = some.remarks
    assert remark.startswith("1 left out as masks of several photos (sort")
    assert remark.endswith("masks/0.png")


def test_the_line_for_people_says_how_many_have_masks():
    first, second = splits(("crack", 2)).test[-2:]
    assert " to learn from (crack 2), not among the 7 test photos: " in in_words((first, second), 7)
    marked = first._replace(mask_path=Path("mask"))
    assert " to learn from (crack 2), 1 with a mask, not among" in in_words((marked, second), 7, masks=True)


def test_depths_beside_rgb_are_no_labelled_photos(tmp_path):
    photos(tmp_path, "crack/rgb/0.png", "crack/xyz/0.tiff", "crack/gt/0.png", "dent/images/1.png")
    some = with_labelled(Splits([], []), str(tmp_path), 0)
    assert [(sample.path.name, sample.defect) for sample in some.labelled] == [("0.png", "crack"), ("1.png", "dent")]


@pytest.mark.parametrize("name", ["train/good/0.png", "train/0.png", "bar/Train/0.png"])
def test_a_whole_data_set_is_refused(name, tmp_path):
    photos(tmp_path, name, "test/crack/1.png", value=9)
    with pytest.raises(
        UserError, match=f"expected a folder of defective photos alone, found a data set, with .*{name} to"
    ):
        with_labelled(Splits([], []), str(tmp_path), 0)


def test_good_photos_below_a_good_folder_are_refused(tmp_path):
    photos(tmp_path, "test/good/rgb/1.png", "test/crack/1.png", value=9)
    with pytest.raises(UserError, match="found .*test/good/rgb/1.png in one of good ones"):
        with_labelled(Splits([], []), str(tmp_path), 0)


@pytest.mark.parametrize("inner", ["", "images", "rgb", "Img"])
@pytest.mark.parametrize("name", ["good", "gut", "GUT"])
def test_good_photos_are_those_of_the_folders_that_the_user_calls_good(inner, name, tmp_path, monkeypatch):
    photos(tmp_path / "part", "gut/0.png", "gut/1.png", "gut/2.png", "crack/3.png")
    whole = folder(str(tmp_path / "part"), 0, good=["gut"])
    more = tmp_path / "more" / name / inner
    photos(more, "0.png", value=100)
    for typed in (tmp_path / "more", more.parent if inner else more, more):
        with pytest.raises(UserError, match=r"found .*0.png in one of good ones"):
            with_labelled(whole, str(typed), 0)
    monkeypatch.chdir(more)
    with pytest.raises(UserError, match=r"found 0.png in one of good ones"):
        with_labelled(whole, ".", 0)


def test_the_folder_in_which_one_is_has_a_name(tmp_path, monkeypatch):
    photos(tmp_path / "crack", "0.png", "deep/1.png")
    monkeypatch.chdir(tmp_path / "crack")
    assert [sample.defect for sample in with_labelled(Splits([], []), ".", 0).labelled] == ["crack", "deep"]
    monkeypatch.chdir(tmp_path / "crack/deep")
    assert [sample.defect for sample in with_labelled(Splits([], []), "..", 0).labelled] == ["crack", "deep"]


@pytest.mark.parametrize(
    ("category", "protocol", "taken", "refused"),
    [
        ("3", "one_vs_rest", "0", "3"), ("0", "one_vs_rest", "3", "0"),
        ("3", "leave_one_out", "3", "0"), ("0", "leave_one_out", "0", "3"),
    ],
)  # fmt: skip
def test_a_class_of_that_number_is_good_only_where_it_is_learnt_as_that(category, protocol, taken, refused, tmp_path):
    photos(
        tmp_path / "digits", *(f"{part}/{kind}/{i}.png" for part in ("train", "test") for kind in "038" for i in "01")
    )
    whole = one_class(str(tmp_path / "digits"), category, protocol, 0)
    photos(tmp_path / "more", "0/a.png", "3/b.png", "good/c.png", value=100)
    (labelled,) = with_labelled(whole, str(tmp_path / "more" / taken), 0).labelled
    assert labelled.defect == taken
    for good in (refused, "good"):
        with pytest.raises(UserError, match="in one of good ones"):
            with_labelled(whole, str(tmp_path / "more" / good), 0)


def test_good_photos_are_refused_whether_the_run_knows_them_or_not(tmp_path):
    photos(tmp_path / "part", *(f"train/good/{i}.png" for i in range(4)), "test/good/8.png", "test/crack/9.png")
    whole = mvtec_ad(str(tmp_path), "part")
    photos(tmp_path / "copy", "dent/0.png")  # the bytes of train/good/0.png
    for seed in range(4):
        with pytest.raises(UserError, match="expected photos that are neither tested nor good"):
            known(whole, 2, seed, str(tmp_path / "copy"), None, 0)
    photos(tmp_path / "pool", "good/0.png", value=200)
    with pytest.raises(UserError, match="expected folders of defective photos, found .*good/0.png in one of good ones"):
        with_labelled(whole, str(tmp_path / "pool"), 0)


def test_a_folder_without_photos_is_refused(tmp_path):
    with pytest.raises(UserError, match="expected defective photos, found none in"):
        with_labelled(Splits([], []), str(tmp_path), 0)
