"""Tables of images -> samples, as they were written; each mistake is one line that names it."""

import csv as csv_file
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomaly_lab.core.errors import UserError
from anomaly_lab.data.samples import Sample, Splits
from anomaly_lab.data.tables import csv

PIXELS = np.full((8, 8, 3), 100, np.uint8)
NAMES = st.text("abcxyz089äß -'.,#%=\"\u2028\x85", min_size=1, max_size=6).filter(
    lambda name: name.strip(" .\u2028\x85") == name
)


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


LABELS = {True: ("0", "0.0", "good", "Normal", " OK ", "No defect", "defect-free"), False: ("1", "1.0", "1e0", "hole")}


@given(rows=st.lists(st.tuples(NAMES, st.sampled_from(("train", "test", "TEST")), st.integers(0, 6), st.booleans(),
                               st.none() | NAMES, st.none() | NAMES),
                     unique_by=lambda row: row[0], min_size=1),
       delimiter=st.sampled_from(",;\t|"))  # fmt: skip
def test_a_table_comes_back_as_it_was_written(tmp_path, rows, delimiter):
    """Names with commas, quotes and line separators; any delimiter, all words for good and bad."""
    root = Path(mkdtemp(dir=tmp_path))
    lines, expected = [("path", "label", "split", "mask", "defect", "group")], Splits([], [])
    rows = [("first", "train", 0, False, None, None), *rows]
    for number, (name, split, word, has_mask, defect, group) in enumerate(rows):
        normal = split == "train" or number % 2 == 0
        label = LABELS[normal][word % len(LABELS[normal])]
        path = touch(root / "photos" / f"{name}.png")
        mask = touch(root / f"{name}_mask.png") if has_mask and not normal else None
        group = group and f"{split.lower()} {group}"
        lines.append((f"photos/{path.name}", label, split, mask and mask.name, defect, group))
        named = "good" if normal else defect or ("hole" if label == "hole" else "bad")
        getattr(expected, split.lower()).append(Sample(path, mask, int(not normal), named, group or str(path)))
    with (root / "table.csv").open("w", newline="") as file:
        csv_file.writer(file, delimiter=delimiter).writerows(lines)
    assert csv(str(root / "table.csv"))[:2] == expected[:2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\na.png,0", "missing: split"),
        ("path,label,split,grup\na.png,0,train,x", "found grup too"),
        ("path,label,split,grup,x\na.png,0,train,x,y", "found grup, x too"),
        (",path,label,split\n3,a.png,0,train", r"a column without a name that holds '3'; .*to_csv\(index=False"),
        ("path,label,split,,\na.png,0,train,,\nb.png,0,test,,x", "a column without a name that holds 'x'"),
        ("sep=;\npath;label;split\na.png;0;val", "line 3: expected split train or test, found 'val'"),
        ("Path,path,label,split\na.png,b.png,0,train", "found path twice"),
        (
            "path,label,split,mask\na.png,0,train,\nb.png,1,test,c.png\nd.png,1,test,./c.png",
            "expected the mask of one image, or of one group of shots, found .*c.png in 2",
        ),
        ("path,label,split\na.png,0,val", "line 2: expected split train or test, found 'val'"),
        ("path,label,split\na.png,1,train", "line 2: expected normal images in the split train"),
        ("path,label,split\nno.png,0,train", "line 2: expected the file .*no.png"),
        *(
            (
                f"path,label,split\na.png,0,train\nb.png,{label},test",
                f"line 3: .*, found '{label}', which may mean either",
            )
            for label in ("False", "TRUE", "yes", "no", "none", "nan", "negative", "n/a")
        ),
        ("path,label,split\na.png,1e1,train", "line 2: expected a label 0, 1, .* found '1e1'"),
        ("path,label,split\na.png,,train", "line 2: expected a label"),
        ("path,label,split,defect\na.png,1,test,../x", "line 2: expected a defect name without /"),
        ("path,label,split\n,0,train", "line 2: expected a path"),
        ("path,label,split\na.png,0,train\na.png,1,test", "expected every image once, found .*a.png in 2 rows"),
        ("path,label,split,group\na.png,0,train,p\nb.png,0,test,p", "expected a group in one split, found 'p'"),
        ("path,label,split\na.png,0,test", "expected rows with split train, found none"),
        ("path,label,split\na.png,0,train,x", "line 2: expected 3 columns, found more"),
        ("path,label,split,path\na.png,0,train,x", "found path twice"),
        ('path,label,split,group\na.png,0,train,"two\nlines"\nb.png,,train,', "line 4: expected a label"),
    ],
)
def test_mistakes_in_a_table_are_named_with_their_line(tmp_path, write, text, message):
    write(tmp_path / "a.png", PIXELS)
    for name in "bcd":
        write(tmp_path / f"{name}.png", PIXELS)
    (tmp_path / "table.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        csv(str(tmp_path / "table.csv"))


@pytest.mark.parametrize(
    "text",
    [
        ",path,label,split\n0,a.png,0,train\n1,b.png,hole,test",  # pandas, with its index
        ",path,label,split\n1,a.png,0,train\n0,b.png,hole,test",  # and shuffled
        "path;label;split;;\na.png;0;train;;\nb.png;hole;test;;",  # a spreadsheet
        "path, label, split\n a.png, 0, train\n b.png, hole, test",
        "Path;LABEL ; Split\na.png;0;TRAIN\nb.png;hole;Test",
        "sep=;\r\npath;label;split\r\na.png;0;train\r\nb.png;hole;test\r\n",
        'SEP=\t\n"path"\tlabel\tsplit\na.png\t0\ttrain\nb.png\thole\ttest',
    ],
)
def test_a_header_as_programs_write_it_is_read(tmp_path, write, text):
    write(tmp_path / "a.png", PIXELS)
    write(tmp_path / "b.png", PIXELS + 1)
    (tmp_path / "table.csv").write_bytes(text.encode())
    splits = csv(str(tmp_path / "table.csv"))
    assert [sample.path.name for sample in splits.train] == ["a.png"]
    assert [(sample.path.name, sample.defect) for sample in splits.test] == [("b.png", "hole")]


@pytest.mark.parametrize(("defect", "said"), [("hole", True), ("OK", False), ("none", False), ("no defect", False)])
def test_a_good_photo_with_the_name_of_a_defect_is_named(tmp_path, write, defect, said):
    for number in range(3):
        write(tmp_path / f"{number}.png", PIXELS + number)
    rows = [f"0.png,0,train,{defect}", f"1.png,good,test,{defect}", "2.png,1,test,hole"]
    (tmp_path / "table.csv").write_text("\n".join(["path,label,split,defect", *rows]))
    line = "rows labelled good with the name of a defect, read as good: 2, such as 'hole' in line 2; correct one"
    assert csv(str(tmp_path / "table.csv")).remarks == ((line,) if said else ())


@pytest.mark.parametrize(
    ("labels", "remarks"),
    [
        (("good", "bad"), []),
        (("not good", "bad"), ["no good test rows: every row of the test counts as defective"]),
        (
            ("OK part", "good"),
            ["rows read as defects, although the label speaks of good parts: 1, such as 'OK part'; write good"],
        ),
        (
            ("Good 2", "no good"),
            ["rows read as defects, although the label speaks of good parts: 1, such as 'Good 2'", "no good test"],
        ),
    ],
)
def test_labels_that_may_mean_something_else_are_named(tmp_path, write, labels, remarks):
    for number in range(3):
        write(tmp_path / f"{number}.png", PIXELS + number)
    rows = ["0.png,0,train", *(f"{number}.png,{label},test" for number, label in enumerate(labels, 1))]
    (tmp_path / "table.csv").write_text("\n".join(["path,label,split", *rows]))
    found = csv(str(tmp_path / "table.csv")).remarks
    assert len(found) == len(remarks)
    assert all(line.startswith(start) for line, start in zip(found, remarks, strict=True))


def test_a_table_in_another_encoding_is_refused(tmp_path):
    (tmp_path / "table.csv").write_bytes("path,label,split\nSchraube-ü.png,0,train".encode("cp1252"))
    with pytest.raises(UserError, match="expected a table in UTF-8"):
        csv(str(tmp_path / "table.csv"))


def test_a_field_over_two_lines_is_one_field(tmp_path, write):
    write(tmp_path / "a.png", PIXELS)
    write(tmp_path / "b.png", PIXELS + 1)
    (tmp_path / "table.csv").write_text('path;label;split;defect\na.png;0;train;\nb.png;1;test;"a ""long""\ncrack"\n')
    assert csv(str(tmp_path / "table.csv")).test[0].defect == 'a "long"\ncrack'


def test_a_file_is_found_with_accents_one_with_their_letters_or_apart(tmp_path, write):
    names = ["ä.png", "o\u0308.png", "ü.png", "u\u0308.png"]
    for value, name in enumerate(names):
        write(tmp_path / name, PIXELS + value)
    rows = ["a\u0308.png,0,train", "ö.png,0,train", "ü.png,0,train", "u\u0308.png,0,train"]
    (tmp_path / "table.csv").write_text("\n".join(["path,label,split", *rows]))
    assert [sample.path for sample in csv(str(tmp_path / "table.csv")).train] == [tmp_path / name for name in names]


def test_a_test_photo_that_is_there_twice_is_named(tmp_path, write):
    for name, value in (("0", 0), ("1", 1), ("2", 2), ("3", 2), ("4", 2)):
        write(tmp_path / f"{name}.png", PIXELS + value)
    rows = ["0.png,0,train", "1.png,0,test", "2.png,1,test", "3.png,1,test", "4.png,1,test"]
    (tmp_path / "table.csv").write_text("\n".join(["path,label,split", *rows]))
    (remark,) = csv(str(tmp_path / "table.csv")).remarks
    assert remark == (
        "byte copies among the test images, which count several times: 2, such as "
        f"{tmp_path / '3.png'} of {tmp_path / '2.png'}"
    )


def test_a_copy_of_a_training_photo_among_the_test_photos_is_named(tmp_path, write):
    """The same file by another path, by a link, and by its bytes."""
    write(tmp_path / "0.png", PIXELS)
    write(tmp_path / "1.png", PIXELS + 1)
    (tmp_path / "s").mkdir()
    (tmp_path / "link.png").symlink_to(tmp_path / "0.png")
    write(tmp_path / "copy.png", PIXELS + 1)
    rows = ["0.png,0,train", "1.png,0,train", "s/../0.png,0,test", "link.png,0,test", "copy.png,0,test"]
    (tmp_path / "table.csv").write_text("\n".join(["path,label,split", *rows]))
    (remark,) = csv(str(tmp_path / "table.csv")).remarks
    assert remark == (
        "byte copies of training images among the test images, whose scores say little: 3, such as "
        f"{tmp_path / 's/../0.png'} of {tmp_path / '0.png'}"
    )
