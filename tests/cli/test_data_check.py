"""What `data check` says of a folder, in which something is wrong or nothing."""

from pathlib import Path

import numpy as np
import pytest
from hydra.errors import InstantiationException, OverrideParseException

from anomaly_lab.cli.data import main
from anomaly_lab.cli.data_check import telling
from anomaly_lab.core.errors import UserError
from anomaly_lab.core.messages import explain
from anomaly_lab.data import images, layouts
from anomaly_lab.data.samples import Sample, Splits


@pytest.fixture
def checked(tmp_path, monkeypatch, capsys, write):
    """What it prints of twenty good photos and two defective ones with masks."""
    monkeypatch.chdir(tmp_path)
    for i in range(20):
        write(tmp_path / f"part/train/good/{i}.png", np.full((8, 8 + 8 * (i == 5)), 9 * i + 9, np.uint8))
    for i in range(2):
        write(tmp_path / f"part/test/hole/{i}.png", np.full((8, 8), 200 + i, np.uint8))
    mask = np.zeros((8, 8), np.uint8)
    mask[2:4, 2:4] = 255
    for i in range(2):
        write(tmp_path / f"part/ground_truth/hole/{i}_mask.png", mask)

    def run(*words):
        main(["check", "data=folder", "data.root=part", "data.image_size=128", "data.cache=memory", *words])
        return capsys.readouterr().out

    return run


def test_layout_counts_sizes_and_what_a_run_does_from_one_reading_of_each_photo(checked, monkeypatch):
    decoded, read = [], images.read_photo
    monkeypatch.setattr(images, "read_photo", lambda photo, *how: decoded.append(photo) or read(photo, *how))
    said = checked()
    assert len(decoded) == len(set(decoded)) == 22
    for line in (
        "data: folder, part, layout: train/good and test/<class>\n",
        "  test/hole: defects\n",
        "train: 20 photos (good 20), 2 of them held out for the threshold\n",
        "test: 2 photos (hole 2)\n",
        "masks: 2 of 2 defective photos\n",
        "sizes: 8 x 8 px (21), 16 x 8 px (1)\n",
        "files: .png (22)\n",
        "pixels: gray of 8 bits (22)\n",
        "names of good: 0.png, 1.png, 10.png\n",
        "a run uses 22 of 22 photos: it learns from 18, sets its threshold on 2 and tests 2, at 128 x 128 px",
    ):
        assert line in said


def test_a_copy_and_a_file_that_cannot_be_read_are_named_and_are_an_error(checked, tmp_path, capsys):
    (tmp_path / "part/test/good").mkdir()
    (tmp_path / "part/test/good/2.png").write_bytes((tmp_path / "part/train/good/0.png").read_bytes())
    (tmp_path / "part/train/good/x.png").write_bytes(b"junk")
    with pytest.raises(
        UserError, match=r"a run would stop at photos that cannot be read, 1 of 24, such as .*x.png: exp"
    ):
        checked()
    said = capsys.readouterr().out
    assert "of training images among the test images" in said
    assert "left out, because they cannot be read: 1 of 24 photos\n  part/train/good/x.png: expected" in said
    assert "a run uses 23 of 24 photos" in said
    assert "and tests 3," in said
    assert "a run uses 23 of 24 photos" in checked("data.on_error=skip")


def test_labelled_photos_are_counted_as_a_run_has_them(checked, tmp_path, write):
    said = checked("method=cavga", "method.backbone=null", "data.labelled_abnormal=1")
    for line in (
        "labelled: 1 photos (hole 1)\n",
        "test: 1 photos (hole 1)\n",
        "masks: 1 of 1 defective photos\n",
        "a run uses 22 of 22 photos: it learns from 19, sets its threshold on 2 and tests 1, at 128 x 128 px",
    ):
        assert line in said
    write(tmp_path / "more/dent/0.png", np.full((8, 8), 222, np.uint8))
    said = checked("method=cavga", "method.backbone=null", "data.labelled_abnormal=more")
    assert "labelled: 1 photos (dent 1)\ntest: 2 photos (hole 2)\n" in said
    assert "a run uses 23 of 23 photos" in said


def test_without_data_it_is_one_line(checked, tmp_path):
    with pytest.raises(InstantiationException) as raised:
        checked("data.root=nowhere")
    assert str(explain(raised.value)).startswith("data.root: expected a folder of images, found nothing at nowhere")
    with pytest.raises(OverrideParseException) as raised:
        checked(str(tmp_path))
    end = f"found a word without =; for a folder of photos type data=folder data.root={tmp_path}"
    assert str(explain(raised.value)).endswith(end)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            PermissionError(13, "Permission denied", "part/x"),
            "data.root: expected data that may all be read, found part/x: Permission denied; set data.root=FOLDER to "
            "the photos alone",
        ),
        (OSError(5, "Input/output error", "part/x"), "splits: [Errno 5] Input/output error: 'part/x'"),
        (UserError("part: the sentence"), "part: the sentence"),
    ],
)
def test_a_folder_that_may_not_be_read_is_one_of_data_root(checked, monkeypatch, error, said):
    def fails(path):
        raise error

    monkeypatch.setattr(layouts, "subfolders", fails)
    with pytest.raises(InstantiationException) as raised:
        checked()
    assert str(explain(raised.value)) == said


def samples(good, bad, labelled="", good_tested=""):
    """The traits of training photos, of tested ones and of labelled ones, and who is which."""
    sizes: dict[Path, str] = {}

    def part(values, label):
        found = [Sample(Path(f"{len(sizes) + i}"), None, label, "x", "") for i in range(len(values))]
        sizes.update(zip((sample.path for sample in found), values, strict=True))
        return found

    test = part(good_tested, 0) + part(bad, 1)
    return {"size": sizes}, Splits(part(good, 0), test, labelled=tuple(part(labelled, 1)))


@pytest.mark.parametrize(
    ("good", "bad", "told"),
    [
        ("a" * 20, "b" * 5, "good photos, a (20), from defective ones, b (5)"),
        ("a" * 19 + "b", "b" * 5, "good photos, a (19), b (1), from defective ones, b (5)"),
        ("ab" * 10, "ccd" * 2, "good photos, a (10), b (10), from defective ones, c (4), d (2)"),
        ("abcdefgh", "xx", "defective ones, x (2)"),  # no two good ones alike
        ("aa", "b", "good photos, a (2), from defective ones, b (1)"),
        ("a" * 20, "ab", None),
        ("a" * 8 + "bb", "b" * 5, None),
        ("abcdefgh", "uvwxyz", None),  # every photo is cropped on its own
        ("a" * 20, "a" * 5, None),
        ("a" * 20, "", None),
    ],
)
def test_what_tells_good_photos_from_defective_ones_is_said(good, bad, told):
    lines = telling(*samples(good, bad))
    assert len(lines) == (told is not None)
    assert not lines or (told in lines[0] and lines[0].startswith("the size of the files tells good photos, "))


@pytest.mark.parametrize(
    ("labelled", "tested", "told"),
    [
        ("bbb", "a" * 9, "good photos, a (9), from labelled ones, b (3)"),
        ("b", "a" * 9, "good photos, a (9), from labelled ones, b (1)"),
        ("cc", "c" * 9, "good photos, a (9), from labelled ones, c (2)"),  # tested ones are like good tested ones
        ("aaa", "d", "good photos, a (9), c (9), from tested defective ones, d (1)"),
        ("bbb", "bb", "good photos, a (9), c (9), from defective ones, b (5)"),
        ("aab", "acac", None),
    ],
)
def test_labelled_photos_that_alone_differ_are_said(labelled, tested, told):
    lines = telling(*samples("a" * 9, tested, labelled, good_tested="c" * 9))
    assert len(lines) == (told is not None)
    assert not lines or told in lines[0]


@pytest.mark.parametrize(
    ("levels", "told"),
    [
        (
            [200, 210],
            "good photos, a mean gray of 9 to 180 of 255, from labelled ones, a mean gray of 200 to 210 of 255;",
        ),
        ([0, 3, 5, 7], "from labelled ones, a mean gray of 0 to 7 of 255; a method may"),
        ([200], None),
        ([3, 200], None),
        ([181, 181], None),  # hardly
        ([200, 210, 220, 90], None),
    ],
)
def test_labelled_photos_that_are_darker_or_brighter_are_said(checked, tmp_path, write, levels, told):
    for i, level in enumerate(levels):
        write(tmp_path / f"more/dent/{i}.png", np.full((8, 12 + i), level, np.uint8))  # no copies
    said = checked("method=cavga", "method.backbone=null", "data.labelled_abnormal=more", "data.held_out=0.01")
    assert said.count("data: the brightness tells good photos") == (told is not None)
    assert (told or "") in said


def test_traits_of_the_files_that_tell_good_from_defective_are_said(tmp_path, monkeypatch, capsys, write):
    monkeypatch.chdir(tmp_path)
    for i in range(4):
        write(tmp_path / f"part/good/{i}.png", np.full((16, 16), 9 * i + 9, np.uint8))
        write(tmp_path / f"part/hole\n1/{i}.jpg", np.full((16, 8, 3), (9 * i + 9, 90, 200), np.uint8))
    main(["check", "data=folder", "data.root=part", "data.image_size=128", "data.cache=memory"])
    said = capsys.readouterr().out
    end = "; a method may learn to tell this apart instead of the defect\n"
    for trait, of_good, of_bad in (
        ("size", "16 x 16 px", "8 x 16 px"),
        ("format", "PNG", "JPEG"),
        ("colour", "gray", "colour"),
    ):
        line = f"data: the {trait} of the files tells good photos, {of_good} (4), from defective ones, {of_bad} (4)"
        assert line + end in said
    assert "the depth of the files" not in said
    assert "pixels: gray of 8 bits (4), colour of 8 bits (4)\n" in said
    assert "names of hole\\n1: 0.jpg" in said  # in one line
