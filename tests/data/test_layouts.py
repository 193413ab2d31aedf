"""Folders on disk -> samples, as they were made; each mistake is one line that names it."""

import re
import shutil
from collections import Counter
from itertools import pairwise
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from anomaly_lab.core.errors import UserError
from anomaly_lab.data.layouts import POOLS, categories, folder, mvtec_ad, of_pool, pooled, textures_of
from anomaly_lab.data.samples import Sample, Splits, choose, describe, file_names, fingerprint, hold_out, with_copies

PIXELS = np.full((8, 8, 3), 100, np.uint8)


# Any names but those that mean something; letters that spell no word for a defect.
NAMES = st.text("abcxyz89äß -'.,#%=", min_size=1, max_size=6).filter(lambda name: name.strip(" .") == name)
PHOTOS = st.dictionaries(  # of a class: where each lies and its stem, its suffix
    st.tuples(st.sampled_from(("", "", "monday", "a/b")), NAMES).map(lambda place: Path(*place).as_posix()),
    st.sampled_from((".png", ".JPG", ".tiff")), min_size=1, max_size=4,
)  # fmt: skip
LITTER = ("notes.txt", ".hidden.png", ".hidden/a.png", "Thumbs.db")


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def made(folder, photos, label=0, defect="good", masks=None):
    """The files of a class, empty, and their samples; `masks` makes the place of a mask from a stem."""
    for name in LITTER:
        touch(folder / name)
    samples = []
    for stem, suffix in photos.items():
        path = touch(folder / f"{stem}{suffix}")
        samples.append(Sample(path, masks and touch(masks(stem)), label, defect, str(path)))
    return sorted(samples)


def classes(draw):
    """The classes of defects, with their photos, and how the masks of each lie, if they do."""
    masks = st.none() | st.sampled_from(("_mask.png", ".png", ".bmp"))
    return draw(st.dictionaries(NAMES, st.tuples(PHOTOS, masks), min_size=1, max_size=3))


def defects(root, folder, found, mask_folder):
    """The abnormal samples of classes that lie in a folder."""
    samples = []
    for name, (photos, end) in sorted(found.items(), key=lambda item: folder / item[0]):
        masks = end and (lambda stem, name=name, end=end: root / mask_folder / name / f"{stem}{end}")
        samples += made(folder / name, photos, 1, name, masks)
    return samples


FEW = settings(max_examples=20, phases=[Phase.generate])  # to shrink an example would make thousands of folders
MASKS = st.sampled_from(("ground_truth", "masks", "Ground_Truth", "groundtruth", "GT", "mask", "ground truth"))
GOOD = st.sampled_from(("good", "Good", "ok", "NORMAL", "pass", "0"))


@settings(FEW)
@given(data=st.data(), split=st.sampled_from(("train", "Train")), good=GOOD, flat=st.booleans(), masks=MASKS)
def test_class_folders_come_back_as_they_were_made(tmp_path, data, split, good, flat, masks):
    root = Path(mkdtemp(dir=tmp_path)) / "bar"
    if flat:
        train = made(root / split, {Path(stem).name: end for stem, end in data.draw(PHOTOS).items()})
    else:
        train = made(root / split / good, data.draw(PHOTOS))
    tested = root / split.replace("rain", "est")
    normal = made(tested / good, data.draw(PHOTOS))
    abnormal = defects(root, tested, classes(data.draw), masks)
    test = sorted(normal + abnormal, key=lambda sample: tested / sample.path.relative_to(tested).parts[0])
    assert folder(str(root), 0)[:2] == (train, test)
    if split == "train":
        assert mvtec_ad(str(root.parent), "bar")[:2] == (train, test)
        assert mvtec_ad(str(root.parent), "all")[:2] == pooled({"bar": Splits(train, test)})[:2]


@settings(FEW)
@given(data=st.data(), good=GOOD, masks=MASKS, seed=st.integers(0, 99))
def test_of_good_photos_beside_defects_a_seeded_share_is_tested(tmp_path, data, good, masks, seed):
    root = Path(mkdtemp(dir=tmp_path))
    normal = made(root / good, data.draw(PHOTOS.filter(lambda photos: len(photos) > 1)))
    abnormal = defects(root, root, classes(data.draw), masks)
    train, test = folder(str(root), seed)[:2]
    assert sorted(train + test[: -len(abnormal)]) == normal
    assert test[-len(abnormal) :] == abnormal
    assert len(train) == len(normal) - 1
    assert folder(str(root), seed)[:2] == (train, test)


def test_another_seed_tests_other_good_photos(tmp_path):
    made(tmp_path / "good", {str(number): ".png" for number in range(20)})
    made(tmp_path / "bad", {"0": ".png"})
    assert len(folder(str(tmp_path), 0).train) == 16
    assert folder(str(tmp_path), 0).train != folder(str(tmp_path), 1).train


@given(photos=PHOTOS.filter(lambda photos: len({place.partition("/")[0] for place in photos if "/" in place}) < 2))
def test_photos_of_good_parts_alone_train_and_there_is_no_test(tmp_path, photos):
    root = Path(mkdtemp(dir=tmp_path))
    train = made(root, photos)
    assert folder(str(root), 0)[:2] == (train, [])


@given(
    groups=st.lists(st.integers(0, 9), min_size=2, max_size=40).filter(lambda groups: len(set(groups)) > 1),
    share=st.floats(0.05, 0.6),
    seed=st.integers(0, 9),
)
def test_whole_groups_are_held_out_and_no_more_than_the_share_of_images(groups, share, seed):
    samples = [sample(f"{number:02d}", f"part{group}") for number, group in enumerate(groups)]
    kept, held = hold_out(samples, share, seed)
    assert sorted(kept + held) == samples
    assert [kept, held] == [sorted(kept), sorted(held)]
    assert kept
    assert held
    assert not {s.group for s in kept} & {s.group for s in held}
    assert len(held) <= max(round(share * len(samples)), min(Counter(groups).values()))


def test_all_categories_are_one_set_in_their_order(parts):
    shutil.copytree(parts, parts.parent / "rod")
    shutil.copytree(parts, parts.parent / "axle")
    shutil.rmtree(parts.parent / "rod/ground_truth")
    (parts.parent / "notes").mkdir()  # no category
    train, test = mvtec_ad(str(parts.parent), "all")[:2]
    one = mvtec_ad(str(parts.parent), "bar")
    assert [sample.defect for sample in train] == ["axle/good"] * 10 + ["bar/good"] * 10 + ["rod/good"] * 10
    assert test[10:20] == [sample._replace(defect=f"bar/{sample.defect}") for sample in one.test]
    assert [sample.mask_path is None for sample in test] == ([True] * 5 + [False] * 5) * 2 + [True] * 10
    assert [sample.label for sample in test] == [sample.label for sample in one.test] * 3
    names_of_results = [(sample.defect, name) for sample, name in zip(test, file_names(test), strict=True)]
    assert len(set(names_of_results)) == 30
    assert {len(name) for _, name in names_of_results} == {3}  # 000 and so on: no number is needed
    kept, held = hold_out(train, 0.1, 0)
    assert (len(kept), len(held)) == (27, 3)


def test_textures_and_objects_are_the_categories_of_their_kind(parts):
    for name in ("wood", "carpet"):
        shutil.copytree(parts, parts.parent / name)
    root, textures = str(parts.parent), ["carpet", "weave", "wood"]
    assert [categories(root, pool, textures) for pool in POOLS] == [
        ["bar", "carpet", "wood"],
        ["carpet", "wood"],
        ["bar"],
    ]
    assert {sample.defect for sample in mvtec_ad(root, "textures", textures).test} == {
        "carpet/good", "carpet/hole", "wood/good", "wood/hole"
    }  # fmt: skip
    assert mvtec_ad(root, "objects", textures)[:2] == pooled({"bar": mvtec_ad(root, "bar")})[:2]
    assert of_pool(["weave", "washer"], "textures", textures) == ["weave"]


def test_the_textures_of_a_table():
    table = {"a": {"kind": "texture"}, "b": {"kind": "object"}, "c": {}, "textures": {"kind": "texture"}}
    assert textures_of(table) == ["a"]


def test_no_category_at_all_is_named(tmp_path):
    with pytest.raises(UserError, match="data.root: expected one folder per category .*, found none in "):
        mvtec_ad(str(tmp_path), "all")


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda bar: shutil.rmtree(bar.parent), "data.root: expected the folder of MVTec AD .* found nothing at"),
        (lambda bar: bar.rename(bar.parent / "rod"), r"expected one of rod in .* found 'bar'"),
        (lambda bar: (bar / "ground_truth/hole/001_mask.png").unlink(), r"hole/001.png: expected its mask .*001_mask"),
        (lambda bar: (bar / "test/hole/001.png").unlink(), "001_mask.png: expected the image of this mask"),
        (lambda bar: shutil.rmtree(bar / "test/hole"), "000_mask.png: expected the image of this mask"),
        (lambda bar: (bar / "ground_truth/hole").rename(bar / "ground_truth/whole"), "expected the image of this mask"),
        (
            lambda bar: shutil.copy(bar / "test/hole/000.png", bar / "test"),
            "test/good and test/<defect>, found one",
        ),
        (
            lambda bar: [file.unlink() for file in (bar / "train/good").iterdir()],
            "data.root: expected photos in .*good, found none",
        ),
        (lambda bar: (bar / "train/good").rename(bar / "train/bent"), "expected the folder 'good', found bent"),
    ],
)
def test_mistakes_in_the_layout_are_named(parts, break_it, message):
    break_it(parts)
    with pytest.raises(UserError, match=message):
        mvtec_ad(str(parts.parent), "bar")


@pytest.mark.parametrize("name", ["union_nut", "badge", "senior", "nokia", "undamaged", "positive_pole"])
def test_good_parts_may_be_called_anything_else(tmp_path, name, write):
    for i in range(3):
        write(tmp_path / name / f"{i}.png", np.zeros((8, 8), np.uint8))
    assert len(folder(str(tmp_path), 0).train) == 3


def test_loose_images_beside_folders_are_refused(parts, tmp_path, write):
    write(parts / "train/loose.png", np.zeros((8, 8), np.uint8))
    with pytest.raises(UserError, match="loose.png: expected images in folders, train/good, found one beside them"):
        mvtec_ad(str(parts.parent), "bar")


@pytest.mark.parametrize("name", ["defects", "NIO parts", "screw/test/crack", "a/b/ground_truth", "deep/down/good"])
def test_what_may_be_defects_is_not_taken_for_good(tmp_path, write, name):
    write(tmp_path / name / "a.png", PIXELS)
    write(tmp_path / "fine" / "a.png", PIXELS)
    with pytest.raises(UserError, match="data.root: expected in .* good images alone.* found the folder"):
        folder(str(tmp_path), 0)


def test_masks_beside_good_and_bad_must_fit(tmp_path, write):
    for number, name in enumerate(("good/0", "good/1", "good/2", "bad/0")):
        write(tmp_path / f"{name}.png", PIXELS + number)
    write(tmp_path / "ground_truth/bad/0_mask.png", PIXELS)
    assert folder(str(tmp_path), 0).test[-1].mask_path == tmp_path / "ground_truth/bad/0_mask.png"
    (tmp_path / "ground_truth/bad").rename(tmp_path / "ground_truth/dab")
    with pytest.raises(UserError, match="0_mask.png: expected the image of this mask"):
        folder(str(tmp_path), 0)


def test_images_of_one_stem_get_names_of_their_own():
    samples = [sample("a/1.png"), sample("b/1.png"), sample("a/2.png"), sample("c/1.png")._replace(defect="hole")]
    assert file_names(samples) == ["1-0", "1-1", "2", "1"]


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        # the number appended to a shared stem is the stem of another photo, before or behind it
        (["hole/a/0.png", "hole/a/0-3.png", "hole/b/0.png"], ["0-0", "0-3", "0-2"]),
        (["hole/a/0.png", "hole/a/0-2.png", "hole/b/0.png"], ["0-0", "0-2", "0-2-2"]),
        (["hole/a/0-0.png", "hole/a/0.png", "hole/b/0.png", "hole/b/0-0.png"], ["0-0-0", "0-1", "0-2", "0-0-3"]),
        # disks that take upper and lower case, or both forms of ä, for the same
        (["hole/a/A.png", "hole/b/a.png"], ["A-0", "a-1"]),
        (["Hole/A.png", "hole/a.png"], ["A-0", "a-1"]),
        (["hole/ä.png", "hole/a\u0308.png"], ["ä-0", "a\u0308-1"]),
        # pictures of all defects lie in one folder
        (["a/b_c.png", "a_b/c.png"], ["b_c-0", "c-1"]),
    ],
)
def test_no_two_results_share_a_file(paths, names):
    samples = [sample(path)._replace(defect=path.split("/")[0]) for path in paths]
    assert file_names(samples) == names


def sample(name, group=None):
    return Sample(Path(name), None, 0, "good", group or name)


def test_held_out_images_are_a_seeded_tenth():
    samples = [sample(f"{i:02d}") for i in range(60)]
    kept, held = hold_out(samples, 0.1, 0)
    assert len(held) == 6
    assert sorted(kept + held) == samples
    assert hold_out(samples, 0.1, 0)[1] == held
    assert hold_out(samples, 0.1, 1)[1] != held


def test_one_image_cannot_be_split():
    told = "data.root: expected at least 2 different good photos, of 2 groups, so that one can be held out for the "
    with pytest.raises(UserError, match=f"{told}threshold, found 1 at a; set data.root=FOLDER to more of them"):
        hold_out([sample("a")], 0.1, 0)
    with pytest.raises(UserError, match=f"{told}threshold, found 2 that are byte copies or of one group, such as a;"):
        hold_out([sample("a", "g"), sample("b", "g")], 0.1, 0)
    assert len(hold_out([sample("a"), sample("b")], 0.1, 0)[1]) == 1


def test_fewer_photos_are_among_more_and_every_seed_has_others():
    samples = [sample(f"{i:03d}") for i in range(209)]
    chosen = {seed: [choose(samples, number, seed) for number in (2, 10, 20, 50, 100, 209)] for seed in range(5)}
    for found in chosen.values():
        assert [len(photos) for photos in found] == [2, 10, 20, 50, 100, 209]
        assert all(set(few) < set(more) for few, more in pairwise(found))
        assert all(photos == sorted(photos) for photos in found)
    assert len({tuple(found[1]) for found in chosen.values()}) == 5
    several = [set(choose(samples, 50, seed)) for seed in range(400)]
    shares = np.mean([[photo in few for photo in samples] for few in several], axis=0)
    assert abs(shares - 50 / 209).max() < 5 * np.sqrt(50 / 209 * 159 / 209 / 400)  # none is preferred
    assert choose(samples, None, 3) == samples


@pytest.mark.parametrize(
    ("number", "groups", "told"),
    [
        (1, "abc", "expected at least 2, one to learn from and one for the threshold, found 1"),
        (0, "abc", "expected at least 2, one to learn from and one for the threshold, found 0"),
        (500, "abc", "expected at most 3, found 500"),
        (2, "aaa", "expected photos of 2 groups, so that one can be held out for the threshold, found 2 of the group "
                   "'a' with seed=0; set a larger data.good_photos"),
        (2, "bbbbbbaa", "expected photos of 2 groups, so that one can be held out for the threshold, found 2 of the "
                        "group 'a' with seed=0; set a larger data.good_photos"),
    ],
)  # fmt: skip
def test_too_few_or_too_many_good_photos_are_refused(number, groups, told):
    with pytest.raises(UserError, match=re.escape(f"data.good_photos: {told}")):
        choose([sample(str(i), group) for i, group in enumerate(groups)], number, 0)


def test_fingerprint_follows_contents_and_labels_but_not_the_place(parts, tmp_path, write):
    def of(root):
        splits = mvtec_ad(str(root), "bar")
        return fingerprint(splits.train), fingerprint(splits.test)

    before = of(parts.parent)
    shutil.copytree(parts.parent, tmp_path / "elsewhere")
    assert of(tmp_path / "elsewhere") == before
    write(parts / "train/good/000.png", PIXELS)
    changed = of(parts.parent)
    assert changed[0] != before[0]
    assert changed[1] == before[1]
    write(parts / "ground_truth/hole/000_mask.png", np.full((140, 140), 255, np.uint8))
    assert of(parts.parent)[1] != before[1]
    (parts / "test/good/000.png").rename(parts / "train/good/100.png")
    assert of(parts.parent)[0] not in {before[0], changed[0]}


PAIRS = [("healthy", "sick"), ("intact", "hole"), ("gut", "schlecht"), ("monday", "tuesday")]


@pytest.mark.parametrize("within", ["", "batch/"])
@pytest.mark.parametrize(("good", "bad"), PAIRS)
def test_folders_that_may_be_good_or_not_are_named_until_the_good_ones_are(tmp_path, good, bad, within):
    normal = made(tmp_path / within / good, {str(number): ".png" for number in range(3)})
    other = made(tmp_path / within / bad, {"3": ".png"})
    first, second = sorted((good, bad))
    with pytest.raises(UserError, match=rf"{first}, {second}; .*data.good=\[{first}\]|speaks of another layout"):
        folder(str(tmp_path), 0)
    train, test = folder(str(tmp_path), 0, good=[good.upper()])[:2]
    assert sorted(train + test[:-1]) == normal
    assert [(sample.path, sample.label, sample.defect) for sample in test[-1:]] == [(other[0].path, 1, bad)]
    assert len(folder(str(tmp_path), 0, good=[good, bad]).train) == 4
    with pytest.raises(UserError, match=f"data.good: expected names of {first}, {second}, found 'other'"):
        folder(str(tmp_path), 0, good=["other"])


@pytest.mark.parametrize(("good", "bad"), [("良", "不良 品"), ("vollständig", "unvollständig"), ("OK_2", "beulen")])
def test_the_folder_that_others_deny_is_proposed_as_good(tmp_path, good, bad):
    made(tmp_path / good, {"0": ".png"})
    made(tmp_path / bad, {"1": ".png"})
    with pytest.raises(UserError, match=rf"type '?data.good=\[{good}\]'? or '"):
        folder(str(tmp_path), 0)


@pytest.mark.parametrize(("good", "bad"), [("pass", "NG"), ("0", "1"), ("OK", "monday")])
def test_plain_names_need_no_answer(tmp_path, good, bad):
    made(tmp_path / good, {str(number): ".png" for number in range(3)})
    made(tmp_path / bad, {"0": ".png"})
    splits = folder(str(tmp_path), 0)
    assert describe(splits).counts == {"train": {"good": 2}, "test": {"good": 1, bad: 1}}
    assert describe(splits).folders == {good: "good", bad: "defects"}
    assert describe(splits).layout == "good photos beside folders of defects"


def test_the_good_folders_of_a_split_may_be_named(tmp_path):
    for name in ("train/intact/0", "train/intact/1", "test/intact/0", "test/hole/0"):
        touch(tmp_path / f"{name}.png")
    with pytest.raises(UserError, match=r"expected the folder 'good', found intact; .*data.good=\[intact\]"):
        folder(str(tmp_path), 0)
    assert [sample.label for sample in folder(str(tmp_path), 0, good=["intact"]).test] == [1, 0]


def test_what_is_left_out_is_named(tmp_path):
    for name in ("good/0", "good/1", "good/@eaDir/0", "bad/0", "bad/.trash/1", "notes/a.txt"):
        touch(tmp_path / (name if "." in Path(name).name else f"{name}.png"))
    (tmp_path / "good/dead.png").symlink_to("nowhere.png")
    touch(tmp_path / "bad/phone.heic")
    touch(tmp_path / "good/old.JFIF")
    splits = folder(str(tmp_path), 0)
    assert describe(splits).remarks == [
        f"1 left out, because no photo is in it: {tmp_path.name}/notes",
        "1 left out, because the link leads nowhere (data that have not been fetched?): good/dead.png",
        "1 left out, because the format cannot be read (convert it to PNG): bad/phone.heic",
    ]
    assert describe(splits).counts == {"train": {"good": 2}, "test": {"good": 1, "bad": 1}}
    for path in (tmp_path / "good").iterdir():
        if path.suffix in {".png", ".JFIF"}:
            path.unlink()
    (tmp_path / "good/dead.png").symlink_to("nowhere.png")
    with pytest.raises(
        UserError, match=r"data.root: expected photos in .*, found none .*link leads nowhere.*; set data.root=FOLDER"
    ):
        folder(str(tmp_path), 0)


def test_copies_are_held_out_together_and_named(tmp_path):
    for number in range(6):
        touch(tmp_path / f"good/{number}.png").write_bytes(b"same" if number in {1, 4} else bytes([number] * 4))
    a, b, bad = tmp_path / "good/4.png", tmp_path / "good/1.png", touch(tmp_path / "bad/0.png")
    bad.write_bytes(b"same")
    assert folder(str(tmp_path), 0, 0.01).remarks == (
        f"contradictory labels, good and defective photos of the same bytes: 1, such as {b} (good) and {bad} "
        "(bad); remove the one that is in the wrong place",
        f"byte copies among the training images, held out together: 1, such as {a} of {b}",
    )
    bad.write_bytes(
        bytes([next(i for i in range(6) if folder(str(tmp_path), 0, 0.01).test[0].path.stem == f"{i}")] * 4)
    )
    assert folder(str(tmp_path), 0, 0.01).remarks[0].startswith("contradictory labels, good")  # both are tested
    for seed in range(20):
        splits = folder(str(tmp_path), seed, 0.3)
        assert len({path in {sample.path for sample in splits.train} for path in (a, b)}) == 1
        _, held = hold_out(folder(str(tmp_path), 0, 0.01).train, 0.4, seed)
        assert len({path in {sample.path for sample in held} for path in (a, b)}) == 1


def test_of_photos_that_are_all_the_same_none_is_held_out(tmp_path):
    for number in range(3):
        touch(tmp_path / f"good/{number}.png").write_bytes(b"same")
    splits = folder(str(tmp_path), 0)
    assert splits.remarks[0].startswith("byte copies among the training images, held out together: 2,")
    told = "found 3 that are byte copies or of one group"
    with pytest.raises(UserError, match=told):
        hold_out(splits.train, 0.5, 0)
    bad = touch(tmp_path / "bad/0.png")
    with pytest.raises(UserError, match=told):  # nor tested
        folder(str(tmp_path), 0)
    bad.unlink()
    touch(tmp_path / "good/other.png").write_bytes(b"other")
    for seed in range(5):
        kept, held = hold_out(folder(str(tmp_path), 0).train, 0.1, seed)
        assert [sample.path.stem for sample in held] == ["other"]
        assert len(kept) == 3


def test_copies_that_join_all_groups_are_said_to_be_parted(tmp_path):
    contents = {"0": "x", "1": "y", "2": "x", "3": "z"}
    train = [Sample(touch(tmp_path / name), None, 0, "good", "ab"[int(name) // 2]) for name in contents]
    for found in train:
        found.path.write_text(contents[found.path.name])
    splits = with_copies(Splits(train, []))
    assert splits.train == train
    assert splits.remarks == (
        "byte copies among the training images, their groups part them, so that held-out photos may be learnt from: "
        f"1, such as {train[2].path} of {train[0].path}",
    )
