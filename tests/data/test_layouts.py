"""Folders and tables on disk -> samples; each mistake is one line that names it."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from anomaly_lab.core.errors import UserError
from anomaly_lab.data.layouts import POOLS, categories, csv, folder, mvtec_ad, of_pool, pooled, textures_of
from anomaly_lab.data.samples import Sample, file_names, fingerprint, hold_out

PIXELS = np.full((8, 8, 3), 100, np.uint8)


def names(samples):
    return [f"{sample.defect}/{sample.path.name}" for sample in samples]


def test_mvtec_layout_pairs_images_with_masks(parts):
    train, test = mvtec_ad(str(parts.parent), "bar")
    assert len(train) == 10
    assert {sample.label for sample in train} == {0}
    assert [sample.defect for sample in test] == ["good"] * 5 + ["hole"] * 5
    assert all(sample.mask_path is None for sample in test[:5])
    assert [sample.mask_path.name for sample in test[5:]] == [f"{i:03d}_mask.png" for i in range(5)]


def test_a_category_without_ground_truth_has_no_masks(parts):
    shutil.rmtree(parts / "ground_truth")
    assert all(sample.mask_path is None for sample in mvtec_ad(str(parts.parent), "bar").test)


def test_all_categories_are_one_set_in_their_order(parts):
    shutil.copytree(parts, parts.parent / "rod")
    shutil.copytree(parts, parts.parent / "axle")
    shutil.rmtree(parts.parent / "rod/ground_truth")
    (parts.parent / "notes").mkdir()  # no category
    train, test = mvtec_ad(str(parts.parent), "all")
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
    assert mvtec_ad(root, "objects", textures) == pooled({"bar": mvtec_ad(root, "bar")})
    assert of_pool(["weave", "washer"], "textures", textures) == ["weave"]


def test_the_textures_of_a_table():
    table = {"a": {"kind": "texture"}, "b": {"kind": "object"}, "c": {}, "textures": {"kind": "texture"}}
    assert textures_of(table) == ["a"]


def test_no_category_at_all_is_named(tmp_path):
    with pytest.raises(UserError, match="data.root: expected one folder a category .*, found none in "):
        mvtec_ad(str(tmp_path), "all")


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda bar: shutil.rmtree(bar.parent), "data.root: expected the folder of MVTec AD .* found nothing at"),
        (lambda bar: bar.rename(bar.parent / "rod"), r"expected one of rod in .* found 'bar'"),
        (lambda bar: (bar / "ground_truth/hole/001_mask.png").unlink(), r"hole/001.png: expected its mask .*001_mask"),
        (lambda bar: (bar / "test/hole/001.png").unlink(), "001_mask.png: expected the image of this mask"),
        (lambda bar: shutil.rmtree(bar / "test/hole"), "000_mask.png: expected the image of this mask"),
        (lambda bar: (bar / "ground_truth/hole").rename(bar / "ground_truth/Hole"), "expected the image of this mask"),
        (
            lambda bar: shutil.copy(bar / "test/hole/000.png", bar / "test"),
            "test/good and test/<defect>, found one",
        ),
        (lambda bar: [file.unlink() for file in (bar / "train/good").iterdir()], "good: expected images, found none"),
        (lambda bar: (bar / "train/good").rename(bar / "train/bent"), "expected the folder 'good', found bent"),
    ],
)
def test_mistakes_in_the_layout_are_named(parts, break_it, message):
    break_it(parts)
    with pytest.raises(UserError, match=message):
        mvtec_ad(str(parts.parent), "bar")


def test_folder_reads_class_folders_with_masks(parts):
    assert folder(str(parts), 0) == mvtec_ad(str(parts.parent), "bar")


def test_folder_splits_good_beside_bad_by_seed(tmp_path, write):
    for i in range(20):
        write(tmp_path / f"good/{i}.png", PIXELS)
    for i in range(4):
        write(tmp_path / f"bad/{i}.png", PIXELS)
    train, test = folder(str(tmp_path), 0)
    assert len(train) == 16
    assert sum(sample.label == 0 for sample in test) == 4
    assert sum(sample.label == 1 for sample in test) == 4
    assert not {sample.path for sample in train} & {sample.path for sample in test}
    assert folder(str(tmp_path), 0) == (train, test)
    assert folder(str(tmp_path), 1) != (train, test)


def test_folder_of_good_images_alone_trains_and_has_no_test(tmp_path, write):
    for name in ("a.png", "monday/b.jpg", "monday/.hidden/c.png", "notes.txt"):
        if name.endswith("txt"):
            (tmp_path / name).write_text("x")
        else:
            write(tmp_path / name, PIXELS)
    assert [(sample.path.name) for sample in folder(str(tmp_path), 0).train] == ["a.png", "b.jpg"]
    assert folder(str(tmp_path), 0).test == []


@pytest.mark.parametrize("name", ["union_nut", "badge", "senior", "nokia", "undamaged", "positive_pole"])
def test_good_parts_may_be_called_anything_else(tmp_path, name, write):
    for i in range(3):
        write(tmp_path / name / f"{i}.png", np.zeros((8, 8), np.uint8))
    assert len(folder(str(tmp_path), 0).train) == 3


def test_loose_images_beside_folders_are_refused(parts, tmp_path, write):
    write(parts / "train/loose.png", np.zeros((8, 8), np.uint8))
    with pytest.raises(UserError, match="loose.png: expected images in folders, train/good, found one beside them"):
        mvtec_ad(str(parts.parent), "bar")


def test_whole_groups_are_held_out_and_about_the_share_of_images(parts):
    samples = mvtec_ad(str(parts.parent), "bar").train * 10
    groups = ["large"] * 90 + ["a", "a", "b", "b", "c", "c", "d", "d", "e", "e"]
    samples = [sample._replace(group=group) for sample, group in zip(samples, groups, strict=True)]
    for seed in range(20):
        kept, held = hold_out(samples, 0.1, seed)
        assert len(held) == 10
        assert not {sample.group for sample in kept} & {sample.group for sample in held}


@pytest.mark.parametrize("name", ["defects", "NIO parts", "screw/test/crack", "a/b/ground_truth", "deep/down/good"])
def test_what_may_be_defects_is_not_taken_for_good(tmp_path, write, name):
    write(tmp_path / name / "a.png", PIXELS)
    write(tmp_path / "fine" / "a.png", PIXELS)
    with pytest.raises(UserError, match="expected good images alone.* found the folder"):
        folder(str(tmp_path), 0)


def test_capitals_do_not_matter(parts):
    expected = folder(str(parts), 0)
    for name in ("train", "test"):
        (parts / name).rename(parts / name.capitalize())
    (parts / "Train/good").rename(parts / "Train/Good")
    assert [len(split) for split in folder(str(parts), 0)] == [len(split) for split in expected]


def test_masks_beside_good_and_bad_must_fit(tmp_path, write):
    for name in ("good/0", "good/1", "good/2", "bad/0"):
        write(tmp_path / f"{name}.png", PIXELS)
    write(tmp_path / "ground_truth/bad/0_mask.png", PIXELS)
    assert folder(str(tmp_path), 0).test[-1].mask_path == tmp_path / "ground_truth/bad/0_mask.png"
    (tmp_path / "ground_truth/bad").rename(tmp_path / "ground_truth/Bad")
    with pytest.raises(UserError, match="0_mask.png: expected the image of this mask"):
        folder(str(tmp_path), 0)


def test_csv_reads_labels_masks_and_groups(tmp_path, write):
    for name in ("a", "b", "c", "d", "d_mask"):
        write(tmp_path / f"{name}.png", PIXELS)
    table = tmp_path / "table.csv"
    table.write_text(
        "path,label,split,mask,defect,group\n"
        "a.png,0,train,,,part1\nb.png,good,train,,,part1\nc.png,normal,test,,,\nd.png,1,test,d_mask.png,hole,\n"
    )
    train, test = csv(str(table))
    assert [sample.group for sample in train] == ["part1", "part1"]
    assert names(test) == ["good/c.png", "hole/d.png"]
    assert test[1].mask_path == tmp_path / "d_mask.png"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\na.png,0", "missing: split"),
        ("path,label,split,grup\na.png,0,train,x", "found {'grup'}"),
        ("path,label,split\na.png,0,val", "line 2: expected split train or test, found 'val'"),
        ("path,label,split\na.png,1,train", "line 2: expected normal images in the split train"),
        ("path,label,split\nno.png,0,train", "line 2: expected the file .*no.png"),
        ("path,label,split\na.png,,train", "line 2: expected a label"),
        ("path,label,split,defect\na.png,1,test,../x", "line 2: expected a defect name without /"),
        ("path,label,split\n,0,train", "line 2: expected a path"),
        ("path,label,split\na.png,0,train\na.png,1,test", "expected every image once, found .*a.png in 2 rows"),
        ("path,label,split,group\na.png,0,train,p\nb.png,0,test,p", "expected a group in one split, found 'p'"),
        ("path,label,split\na.png,0,test", "expected rows with split train, found none"),
    ],
)
def test_mistakes_in_a_table_are_named_with_their_line(tmp_path, write, text, message):
    write(tmp_path / "a.png", PIXELS)
    write(tmp_path / "b.png", PIXELS)
    (tmp_path / "table.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        csv(str(tmp_path / "table.csv"))


def test_images_of_one_stem_get_names_of_their_own():
    samples = [sample("a/1.png"), sample("b/1.png"), sample("a/2.png"), sample("c/1.png")._replace(defect="hole")]
    assert file_names(samples) == ["1-0", "1-1", "2", "1"]


def sample(name, group=None):
    return Sample(Path(name), None, 0, "good", group or name)


def test_held_out_images_are_a_seeded_tenth():
    samples = [sample(f"{i:02d}") for i in range(60)]
    kept, held = hold_out(samples, 0.1, 0)
    assert len(held) == 6
    assert sorted(kept + held) == samples
    assert hold_out(samples, 0.1, 0)[1] == held
    assert hold_out(samples, 0.1, 1)[1] != held


def test_groups_stay_on_one_side():
    samples = [sample(str(i), f"part{i // 4}") for i in range(40)]
    kept, held = hold_out(samples, 0.1, 3)
    assert len(held) == 4
    assert not {s.group for s in kept} & {s.group for s in held}


def test_one_image_cannot_be_split():
    with pytest.raises(UserError, match="at least 2 normal images"):
        hold_out([sample("a")], 0.1, 0)
    assert len(hold_out([sample("a"), sample("b")], 0.1, 0)[1]) == 1


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


def test_a_table_in_another_encoding_is_refused(tmp_path):
    (tmp_path / "table.csv").write_bytes("path,label,split\nSchraube-ü.png,0,train".encode("cp1252"))
    with pytest.raises(UserError, match="expected a table in UTF-8"):
        csv(str(tmp_path / "table.csv"))
