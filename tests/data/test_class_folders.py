"""Masks wherever they lie: used where that is plain, else refused by name; never trained as good parts."""

import unicodedata
from pathlib import Path

import pytest

from anomaly_lab.core.errors import UserError
from anomaly_lab.data.layouts import folder
from anomaly_lab.data.samples import describe


def made(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def masks_of(splits, root):
    return {
        sample.path.relative_to(root).as_posix(): sample.mask_path and sample.mask_path.relative_to(root).as_posix()
        for sample in splits.test
        if sample.label
    }


GOOD = ("OK/0.png", "OK/1.png", "OK/2.png")


@pytest.mark.parametrize(
    ("photo", "mask", "others"),
    [
        ("NG/7.png", "MASK/7.png", ()),
        ("NG/7.png", "MASK/7_mask.png", ("MASK/0_mask.png",)),  # of a good photo
        ("NG/7.png", "Masks/NG/7.bmp", ("Masks/OK/0.bmp",)),
        ("NG/7.png", "gt/ng/7_GT.png", ()),
        ("NG/7.png", "NG/7_GT.png", ()),
        ("NG/7.bmp", "NG/7_label.bmp", ()),
        ("NG/7.jpg", "NG/7.png", ()),
        ("NG/a/7.png", "NG/a/7-mask.png", ()),
        ("NG/images/7.png", "NG/masks/7.png", ()),
        ("NG/rgb/7.png", "NG/gt/7.png", ("NG/xyz/7.tiff",)),
        *(("NG/7.png", f"NG/{name}.png", ()) for name in ("mask_7", "gt_7", "7_seg", "7_anno", "7mask", "label-7")),
        *(("NG/7.png", f"{name}/7.png", ()) for name in ("labels", "Annotations", "seg")),
        ("NG/7.png", "labels/7_label.png", ("labels/0.png",)),  # of a good photo
        ("NG/7.png", "label/NG/7.png", ()),
        ("NG/images/7.png", "NG/labels/7.png", ()),
        ("NG/7.png", "NG/label/7.png", ()),
    ],
)
def test_masks_are_found(tmp_path, photo, mask, others):
    splits = folder(str(made(tmp_path, *GOOD, photo, mask, *others)), 0)
    assert masks_of(splits, tmp_path) == {photo: mask}
    assert len(splits.train) + len(splits.test) == 4


def test_the_3d_data_set_is_read_by_its_colours(tmp_path):
    kinds = ("rgb/0.png", "xyz/0.tiff", "gt/0.png")
    folders = ("train/good", "test/good", "test/hole", "validation/good")
    splits = folder(str(made(tmp_path, *(f"{place}/{kind}" for place in folders for kind in kinds))), 0)
    assert [sample.path.relative_to(tmp_path).as_posix() for sample in splits.train] == ["train/good/rgb/0.png"]
    assert masks_of(splits, tmp_path) == {"test/hole/rgb/0.png": "test/hole/gt/0.png"}
    found = describe(splits)
    assert found.folders["validation"] == found.folders["test/hole/xyz"] == "left out"
    assert found.folders["test/hole/gt"] == "masks"
    assert (found.masks, found.counts["test"]) == (1, {"good": 1, "hole": 1})
    assert [line for line in found.remarks if "validation" in line]


@pytest.mark.parametrize("place", ["{}/hole/0_mask.png", "test/{}/hole/0.png", "{}/test/hole/0.png", "{}/0.png"])
@pytest.mark.parametrize("name", ["groundtruth", "mask", "gt", "Ground_Truth", "GROUND TRUTH"])
def test_masks_of_a_split_whatever_their_folder_is_called(tmp_path, name, place):
    made(tmp_path, "train/good/8.png", "train/good/9.png", "test/good/7.png", "test/hole/0.png", place.format(name))
    assert masks_of(folder(str(tmp_path), 0), tmp_path) == {"test/hole/0.png": place.format(name)}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("0.png", "1.png", "0_GT.png"), "0_GT.png: expected photos of good parts alone, .* mask of 0.png"),
        (("0.jpg", "1.jpg", "1.png"), "1.png: expected photos of good parts alone"),
        (("0.bmp", "1.bmp", "1.png"), "1.bmp: expected one file of this name, found 1.png beside it"),
        ((*GOOD, "OK/1.jpg"), "1.png: expected one photo of this name, found two suffixes"),
        ((*GOOD, "NG/1.png", "NG/1.tif"), "1.png: expected one file of this name, found 1.tif beside it"),
        ((*GOOD, "A/1.png", "B/1.png", "MASK/1.png"), "MASK/1.png: expected the mask of one image"),
        ((*GOOD, "A/1.png", "A/2.png", "A/1_mask.png"), "A/2.png: expected its mask"),
        ((*GOOD, "A/1.png", "MASK/8.png"), "MASK/8.png: expected the image of this mask"),
        ((*GOOD, "A/1.png", "A/gt/8.png"), "gt/8.png: expected the image of this mask"),
        (("0.png", "1.png", "mask_0.png"), "mask_0.png: expected photos of good parts alone, .* mask of 0.png"),
        ((*GOOD, "A/1.png", "A/1_mask.png", "A/1_seg.png"), "1_seg.png: expected one mask of 1.png, found 1_mask.png"),
        (("0.png", "1.png", "label/0.png"), "found the folder 'label', whose name speaks of another layout"),
        *(
            ((*GOOD, f"OK/lot/{name}/0.png", "NG/0.png"), f"{name}: expected good photos alone in .*OK, found a folder")
            for name in ("NG", "defect_scratch", "Ausschuss", "not_ok")
        ),
        ((*GOOD, "OK/lot2/bad/0.png"), "bad: expected good photos alone"),
        (("train/good/0.png", "train/good/NG/1.png"), "NG: expected good photos alone"),
        (("Train/0.png", "Train/1.png", "Train/Label/0_label.png", "Test/0.png"), "0_label.png: .* the mask of 0.png"),
        (("Train/0.png", "Train/Label/9_label.png"), "Train: expected the folder 'good', found Label$"),
        (("train/NG/0.png", "test/good/1.png"), "train: expected the folder 'good', found NG$"),
        (("train/0.png", "train/1.png", "train/masks/1.png"), "1.png: .* the mask of 1.png; put the good ones into"),
        (("0.png", "gt/0.png"), "found the folder 'gt', whose name speaks of another layout"),
    ],
)
def test_what_is_not_plain_is_refused_by_name(tmp_path, names, message):
    with pytest.raises(UserError, match=message):
        folder(str(made(tmp_path, *names)), 0)


def test_masks_beside_good_photos_are_left_out_and_a_test_without_good_photos_is_noted(tmp_path):
    made(tmp_path, "train/good/0.png", "train/good/0_mask.png", "train/good/1.png", "test/healthy/5.png")
    splits = folder(str(tmp_path), 0)
    assert [Path(sample.path).name for sample in splits.train] == ["0.png", "1.png"]
    assert describe(splits).remarks[0] == "1 left out as masks beside good photos: good/0_mask.png"
    line = "no folder of good test photos: every class of the test counts as defective"
    assert describe(splits).remarks[1] == line
    assert line not in folder(str(made(tmp_path, "test/good/6.png")), 0).remarks


@pytest.mark.parametrize("place", ["test/label/0.png", "label/hole/0.png", "labels/test/hole/0.png"])
def test_labels_of_a_split_are_masks_and_said_to_be(tmp_path, place):
    splits = folder(
        str(made(tmp_path, "train/good/8.png", "train/good/9.png", "test/good/7.png", "test/hole/0.png", place)), 0
    )
    assert masks_of(splits, tmp_path) == {"test/hole/0.png": place}
    assert [
        line for line in describe(splits).remarks if line.startswith("1 read as masks, because its files are named")
    ]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("label/7.png", "NG/8.png"), "read as defects, although the name speaks of masks"),  # no photo of this name
        (("label/7.png", "NG/7.png", "masks/label/7.png", "masks/NG/7.png"), "although the name speaks of masks"),
        (("NG_mask/7.png", "NG/7.png"), "read as defects, although the name speaks of masks"),
        (("NG/scratch_label.png", "NG/8.png"), ""),
        (("torn_label/7.png", "NG/8.png"), ""),
        (("NG/7_m.png", "NG/7.png", "NG/8_m.png", "NG/8.png"), "many are named as another one with '_m'"),
        (("NG/7_defect.png", "NG/7.png"), "many are named as another one with '_defect'"),
        (("NG/7_2.png", "NG/7.png", "NG/8_2.png", "NG/8.png"), ""),
        (tuple(f"NG/{number}.png" for number in range(20)), ""),
        (("OK_2/7.png", "NG/8.png"), r"although the name speaks of good parts ('data.good=[OK_2]')"),
        (("good_rotated/7.png",), "read as defects, although the name speaks of good parts"),
    ],
)
def test_what_may_be_masks_or_good_is_read_as_defects_and_named(tmp_path, names, said):
    splits = folder(str(made(tmp_path, *GOOD, *names)), 0)
    found = {sample.path.relative_to(tmp_path).as_posix() for sample in splits.test if sample.label}
    assert found == {name for name in names if not name.startswith("masks/")}
    assert [said in line for line in describe(splits).remarks] == [True] * bool(said)


def test_good_photos_of_a_side_called_label_stay_photos(tmp_path):
    names = [f"good/{side}/{number}.png" for side in ("front", "label") for number in range(3)]
    splits = folder(str(made(tmp_path, *names, "bad/front/0.png")), 0)
    assert len(splits.train) + len(splits.test) == 7


def test_good_photos_whose_names_speak_of_defects_are_named(tmp_path):
    made(tmp_path, "0.png", "1.png", "NG_0.png", "defect_1.png", "undamaged_2.png", "no_defect/3.png")
    splits = folder(str(tmp_path), 0)
    assert len(splits.train) == 6
    assert splits.remarks[-1].startswith("2 read as good, although the name speaks of defects")


@pytest.mark.parametrize(
    ("photo", "mask"),
    [
        ("NG/ä7.png", "NG/a\u03087_mask.png"),
        ("NG/a\u03087.png", "masks/ä7.png"),
        ("Lo\u0308cher/7.png", "masks/löcher/7_mask.png"),
        ("NG/7ä.jpg", "NG/7a\u0308.png"),
        ("NG/ä/7.png", "labels/a\u0308/7.png"),
    ],
)
def test_accents_may_be_one_with_their_letters_or_apart(tmp_path, photo, mask):
    splits = folder(str(made(tmp_path, *GOOD, photo, mask)), 0)
    assert masks_of(splits, tmp_path) == {photo: mask}
    assert splits.test[-1].defect == unicodedata.normalize("NFC", Path(photo).parts[0])
    assert all(sample.path.is_file() for sample in splits.test)


def test_masks_of_good_photos_with_accents_are_no_masks_without_a_photo(tmp_path):
    splits = folder(str(made(tmp_path, "OK/ä.png", *GOOD, "NG/7.png", "masks/7.png", "masks/a\u0308_mask.png")), 0)
    assert masks_of(splits, tmp_path) == {"NG/7.png": "masks/7.png"}


@pytest.mark.parametrize(("on_disk", "typed"), [("fu\u0308r", "für"), ("für", "fu\u0308r"), ("Für", "fu\u0308R")])
def test_folders_of_good_photos_are_typed_with_accents_or_apart(tmp_path, on_disk, typed):
    made(tmp_path, *(f"{on_disk}/{number}.png" for number in range(3)), "loch/0.png")
    splits = folder(str(tmp_path), 0, good=[typed])
    assert {sample.path.parent for sample in splits.train} == {tmp_path / on_disk}
    with pytest.raises(UserError, match="data.good: expected names of"):
        folder(str(tmp_path), 0, good=["fur"])


@pytest.mark.parametrize(
    ("masks", "named"),
    [
        (("gt/NG/0_mask_1.png", "gt/NG/0_mask_2.png", "gt/NG/1_mask.png"), "gt/NG/0_mask_1.png"),
        (("gt/NG/0_mask.png", "gt/NG/0_mask2.png", "gt/NG/1_mask.png"), "gt/NG/0_mask2.png"),
        (("gt/0_mask_1.png", "gt/0_mask_2.png"), "gt/0_mask_1.png"),
        (("NG/0_mask (1).png", "NG/0_mask (2).png"), "NG/0_mask (1).png"),
        (("OK/0_mask_1.png",), "OK/0_mask_1.png"),
    ],
)
def test_several_masks_of_one_photo_are_refused(tmp_path, masks, named):
    made(tmp_path, *GOOD, "NG/0.png", "NG/1.png", *masks)
    with pytest.raises(UserError) as raised:
        folder(str(tmp_path), 0)
    message = "expected one mask of 0.png, found one of several, which are not read; merge them into one, 0_mask.png"
    what_else = "or name what are photos in a table (data=csv)"
    assert str(raised.value) == f"{tmp_path / named}: {message}, {what_else}"


@pytest.mark.parametrize("place", ["NG", "gt/NG"])
def test_a_mask_of_a_photo_with_a_number_is_none_of_several(tmp_path, place):
    masks = {"NG/0.png": f"{place}/mask_0.png", "NG/0_1.png": f"{place}/mask_0_1.png"}
    assert masks_of(folder(str(made(tmp_path, *GOOD, *masks, *masks.values())), 0), tmp_path) == masks


def test_photos_with_numbers_are_no_masks(tmp_path):
    photos = ("NG/mask_1.png", "NG/0.png", "NG/0_1.png", "NG/gt.png", "NG/mask_1_2.png")
    assert set(masks_of(folder(str(made(tmp_path, *GOOD, *photos)), 0), tmp_path)) == {*photos}
