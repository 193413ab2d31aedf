"""A table of images: paths, labels and split in a CSV file -> training and test samples."""

import csv as csv_file
import io
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence, Set
from pathlib import Path

from anomaly_lab.core.errors import UserError
from anomaly_lab.data.names import GOOD, NO_DEFECT, speaks_of_good
from anomaly_lab.data.samples import Sample, Splits, with_copies

NEEDED, OPTIONAL = {"path", "label", "split"}, {"mask", "defect", "group"}
DELIMITERS = ",;\t|"
EXCEL = re.compile(r'"?sep=[^\r\n]?"?[,;\t|]*(\r\n|\r|\n)', re.IGNORECASE)  # a first line that only Excel reads
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
DEPENDS = {  # on whether the column asks for defects or for good parts, or on who fills gaps
    "true", "false", "t", "f", "yes", "no", "y", "n", "ja", "nein", "positive", "negative", "none", "null", "nan", "na",
    "n/a", "unknown", "?", "-",
}  # fmt: skip
Row = dict[str, str | None]


def csv(root: str) -> Splits:
    """Read a table with the columns path, label, split and optionally mask, defect, group.

    `root` is the CSV file; paths are relative to its folder. Columns are separated by commas, semicolons, tabs or `|`.
    Their names are read in upper and lower case; a column without a name is left out if it is empty or counts the rows.
    label: 0, good, normal, ok, pass or "no defect", or 1 or any other text for a defect; split: train or test. Raises
    UserError naming the line of a mistake.
    """
    table = Path(root).expanduser()
    if not table.is_file():
        raise UserError(f"data.root: expected a CSV file with the columns path,label,split, found none at {root}")
    splits = Splits([], [], "a table")
    named_good: list[str] = []
    for number, row in _rows(table, root):
        sample = _sample(row, table.parent, f"{root}, line {number}")
        split = (row["split"] or "").strip().lower()
        if split not in {"train", "test"}:
            raise UserError(f"{root}, line {number}: expected split train or test, found {row['split']!r}")
        if split == "train" and sample.label != 0:
            raise UserError(
                f"{root}, line {number}: expected normal images in the split train, found label {row['label']!r}"
            )
        getattr(splits, split).append(sample)
        defect = (row.get("defect") or "").strip()
        if sample.label == 0 and defect and not _is_no_defect(defect):
            named_good.append(f"{defect!r} in line {number}")
    if not splits.train:
        raise UserError(f"{root}: expected rows with split train, found none")
    paths = Counter(sample.path for sample in [*splits.train, *splits.test])
    if twice := next((path for path, count in paths.items() if count > 1), None):
        raise UserError(f"{root}: expected every image once, found {twice} in {paths[twice]} rows")
    masks = Counter(mask for mask, _ in {(one.mask_path.resolve(), one.group) for one in splits.test if one.mask_path})
    if shared := next((mask for mask, count in masks.items() if count > 1), None):
        raise UserError(
            f"{root}: expected the mask of one image, or of one group of shots, found {shared} in {masks[shared]}"
        )
    if both := {sample.group for sample in splits.train} & {sample.group for sample in splits.test}:
        raise UserError(f"{root}: expected a group in one split, found {sorted(both)[0]!r} in train and test")
    remarks = [
        f"rows labelled good with the name of a defect, read as good: {len(named_good)}, such as {name}; correct one"
        for name in named_good[:1]
    ]
    return with_copies(splits._replace(remarks=(*doubts(splits.test), *remarks)))


def _rows(table: Path, root: str) -> list[tuple[int, Row]]:
    """The rows with their last line in the file. Raises UserError for another encoding or other columns."""
    text, skipped = text_of(table, root)
    expected = f"{root}: expected the columns path,label,split[,mask,defect,group], found "
    try:
        reader = csv_file.DictReader(lines_of(text), delimiter=delimiter_of(text, NEEDED))
        columns = [name.strip().lower() for name in reader.fieldnames or []]
        nameless = [f"{number} without a name" for number, name in enumerate(columns) if not name]
        reader.fieldnames = [name or f"{number} without a name" for number, name in enumerate(columns)]
        if missing := NEEDED - set(columns):
            raise UserError(f"{expected}{','.join(columns or ['nothing'])}; missing: {', '.join(sorted(missing))}")
        if unknown := [name for name in columns if name not in {*NEEDED, *OPTIONAL, ""}]:
            raise UserError(f"{expected}{', '.join(unknown)} too")
        if twice := [name for name, count in Counter(columns).items() if name and count > 1]:
            raise UserError(f"{expected}{twice[0]} twice")
        rows = [(reader.line_num + skipped, row) for row in reader]
    except csv_file.Error as error:
        raise UserError(f"{root}: expected a CSV file, found: {error}") from None
    for number, row in rows:
        if None in row:
            raise UserError(f"{root}, line {number}: expected {len(columns)} columns, found more; quote the fields")
    for name in nameless:
        values = [row[name] or "" for _, row in rows]
        if not counts_rows(values):
            raise UserError(
                f"{expected}a column without a name that holds {max(values)!r}; leave it out (pandas: "
                "to_csv(index=False)), or name it"
            )
    return rows


def counts_rows(texts: Sequence[str]) -> bool:
    """Whether a column is empty or counts the rows, in any order, as pandas writes them."""
    return not any(texts) or sorted(texts) == sorted(map(str, range(len(texts))))


def text_of(table: Path, root: str) -> tuple[str, int]:
    """The text of a table, and the lines before it that only Excel reads. Raises UserError for another than UTF-8."""
    try:
        text = table.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{root}: expected a table in UTF-8, found other bytes ({error.reason}); save it as UTF-8"
        ) from None
    first = EXCEL.match(text)
    return (text[first.end() :], 1) if first else (text, 0)


def delimiter_of(text: str, wanted: Set[str]) -> str:
    """What separates the columns: the mark that gives most of the wanted ones, or else most columns."""

    def given(mark: str) -> tuple[int, int]:
        names = [name.strip() for name in next(csv_file.reader(lines_of(text), delimiter=mark), [])]
        return len(wanted & {*names, *map(str.lower, names)}), len(names)

    return max(DELIMITERS, key=given)


def lines_of(text: str) -> io.StringIO:
    """Lines that end only where the csv module says so: not at U+2028, NEL or in quotes."""
    return io.StringIO(text, newline="")


def _sample(row: Row, base: Path, where: str) -> Sample:
    label, name, mask, defect, group = (
        (row.get(column) or "").strip() for column in ("label", "path", "mask", "defect", "group")
    )
    kind = kind_of(label, where)
    normal = kind == "good"
    if not name:
        raise UserError(f"{where}: expected a path, found none")
    path, *marks = (_file(base, text, where) for text in (name, mask) if text)
    if mask and normal:
        raise UserError(f"{where}: expected no mask for a normal image, found {mask!r}")
    defect = "good" if normal else named(defect or kind, where)
    return Sample(path, marks[0] if marks else None, int(not normal), defect, group or str(path))


def _file(base: Path, name: str, where: str) -> Path:
    """A file as the disk spells it: with accents as one with their letters, or apart. Raises UserError for none."""
    spelt = (base / name, *(base / unicodedata.normalize(form, name) for form in ("NFC", "NFD")))
    if found := next((path for path in spelt if path.is_file()), None):
        return found
    raise UserError(f"{where}: expected the file {base / name}, found none")


def kind_of(label: str, where: str) -> str:
    """What a label says: "good", "bad" for 1, or the name of a defect.

    Raises UserError for none, for other numbers, and for a word whose meaning depends on the question: True, no, none.
    """
    if not label:
        raise UserError(f"{where}: expected a label (0, good, normal, ok or anything else for a defect), found none")
    if label.lower() in DEPENDS:
        raise UserError(
            f"{where}: expected a label 0, 1, good, normal, ok or the name of a defect, found {label!r}, which may "
            "mean either; write 0 for all good ones and 1 for all defective ones"
        )
    number = float(label) if NUMBER.fullmatch(label) else None
    if number not in {None, 0, 1}:
        raise UserError(f"{where}: expected a label 0, 1, good, normal, ok or the name of a defect, found {label!r}")
    if number == 0 or _is_good(label):
        return "good"
    return "bad" if number == 1 else label


def _is_good(word: str) -> bool:
    return word.lower() in GOOD or NO_DEFECT.fullmatch(word.lower()) is not None


def _is_no_defect(name: str) -> bool:
    """Whether a good image may have this in the column of its defect."""
    return _is_good(name) or speaks_of_good(name) or name.lower() in DEPENDS


def doubts(test: Sequence[Sample]) -> tuple[str, ...]:
    """Remarks on the labels of a test: no good ones, and defects whose name speaks of good parts."""
    found = [sample.defect for sample in test if sample.label and speaks_of_good(sample.defect)]
    remarks = [
        f"rows read as defects, although the label speaks of good parts: {len(found)}, such as {name!r}; write good"
        for name in found[:1]
    ]
    if test and all(sample.label for sample in test):
        remarks.append("no good test rows: every row of the test counts as defective")
    return tuple(remarks)


def named(defect: str, where: str) -> str:
    """The name of a defect. Raises UserError for one that cannot name a folder."""
    if bad := set(defect) & set("/\\:"):
        raise UserError(
            f"{where}: expected a defect name without {' '.join(bad)} (it names a folder), found {defect!r}"
        )
    return defect
