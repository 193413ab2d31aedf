"""A table of numbers: a row is an example, one column its label, the others what is known of it."""

import csv as csv_file
import random
from array import array
from collections import Counter
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import Field, NonNegativeInt

from anomaly_lab.core.errors import UserError, nearest
from anomaly_lab.data.names import as_typed
from anomaly_lab.data.samples import Sample, Splits
from anomaly_lab.data.tables import counts_rows, delimiter_of, doubts, kind_of, lines_of, named, text_of

LARGEST = 1e15  # of a number, whose square must be one of 32 bits
FEW = 10  # rows; fewer may count by chance
SPLIT = "split"  # a column of this name, in any case, says train or test


class Numbers(NamedTuple):
    """The content of a table."""

    columns: tuple[str, ...]  # those of the numbers
    lines: list[int]  # of the file, in which each row ends
    kinds: list[str]  # "good" or the name of the defect
    splits: list[str]  # "train" or "test"; empty without such a column
    values: array  # float64, row after row


def number_table(
    root: str,
    label: str,
    leave_out: Sequence[str],
    train_share: Annotated[float, Field(gt=0, lt=1)],
    split_seed: NonNegativeInt,
) -> Splits:
    """Read a CSV file whose columns are numbers, but `label`, `leave_out` and, if there is one, `split`.

    `label`: 0, good, normal, ok or pass, or 1 or any other text for what is abnormal. Rows with split train are learnt
    from. Without that column a seeded `train_share` of the good rows are; the other rows are tested. Columns are
    separated by commas, semicolons, tabs or `|`. One without a name is left out if it is empty or counts the rows.
    Raises UserError naming line and column of a mistake.
    """
    found = numbers(root, label, tuple(leave_out))
    path = Path(root).expanduser()
    samples = [
        Sample(path, None, int(kind != "good"), kind, f"line {line}", line)
        for line, kind in zip(found.lines, found.kinds, strict=True)
    ]
    if found.splits:
        trained = {row for row, split in enumerate(found.splits) if split == "train"}
        for row in sorted(trained):
            if samples[row].label:
                found_there = f"found {samples[row].defect}"
                raise UserError(f"{samples[row].place}: expected good rows in the split train, {found_there}")
    else:
        good = [row for row, sample in enumerate(samples) if not sample.label]
        trained = set(random.Random(split_seed).sample(good, round(train_share * len(good))))
    train, test = (
        [sample for row, sample in enumerate(samples) if (row in trained) is learnt] for learnt in (True, False)
    )
    if not train:
        raise UserError(f"{root}: expected good rows to learn from, found none of {len(samples)}{_why(samples)}")
    layout = f"a table of {len(found.columns)} columns of numbers"
    return Splits(train, test, layout, remarks=(*_counters(found), *doubts(test)))


def _counters(found: Numbers) -> list[str]:
    """A remark on columns that count the rows: where good ones stand first, such a number tells the others."""
    count = len(found.columns)
    columns = [found.values[place::count] for place in range(count)]
    counting = [all(after - before == 1 for before, after in pairwise(values)) for values in columns]
    names = [name for name, counts in zip(found.columns, counting, strict=True) if counts]
    told = f"counts the rows; unless it was measured, leave it out: {as_typed(names, 'data.leave_out')}"
    return [f"column {', '.join(names)} {told}"] * (bool(names) and len(found.lines) >= FEW)


def _why(samples: Sequence[Sample]) -> str:
    """Why none of the rows trains."""
    if any(not sample.label for sample in samples):
        return "; the good ones are all of the test: name some in the column split, or set a larger data.train_share"
    kinds = ", ".join(f"{kind} {count}" for kind, count in Counter(each.defect for each in samples).most_common(4))
    return f"; read as defects: {kinds}; good rows are labelled 0, good, normal, ok or pass"


def numbers(root: str, label: str, leave_out: tuple[str, ...]) -> Numbers:
    """The content of a table, as `number_table` reads it; read once as long as the file stays as it is."""
    path = Path(root).expanduser()
    if not path.is_file():
        raise UserError(
            f"data.root: expected a CSV file with a column of labels and others of numbers, found none at {root}"
        )
    status = path.stat()
    return _read(root, label, leave_out, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def column_count(root: str, label: str, leave_out: Sequence[str]) -> int:
    """The number of columns of numbers."""
    return len(numbers(root, label, tuple(leave_out)).columns)


@cache
def _read(root: str, label: str, leave_out: tuple[str, ...], *_status: int) -> Numbers:
    text, skipped = text_of(Path(root).expanduser(), root)
    delimiter = delimiter_of(text, {label})
    try:
        reader = csv_file.reader(lines_of(text), delimiter=delimiter)
        header = [name.strip() or f"{place} without a name" for place, name in enumerate(next(reader, []), start=1)]
        places = _places(root, header, label, leave_out)
        at, split = header.index(label), _split_place(root, header, label, leave_out)
        found = Numbers(tuple(header[place] for place in places), [], [], [], array("d"))
        nameless = {
            place: list[str]() for place, name in enumerate(header, start=1) if name == f"{place} without a name"
        }
        for row in reader:
            if not row:
                continue
            line = reader.line_num + skipped
            where = f"{root}, line {line}"
            if len(row) != len(header):
                raise UserError(f"{where}: expected {len(header)} columns, found {len(row)}")
            kind = kind_of(row[at].strip(), f"{where}, column {label}")
            found.kinds.append(kind if kind == "good" else named(kind, where))
            found.lines.append(line)
            if split is not None:
                found.splits.append(_split(row[split], where))
            for place, texts in nameless.items():
                texts.append(row[place - 1].strip())
            found.values.extend(_number(row[place], where, header[place]) for place in places)
    except csv_file.Error as error:
        raise UserError(f"{root}: expected a CSV file, found: {error}") from None
    if not found.lines:
        raise UserError(f"{root}: expected rows of numbers below the names of the columns, found none")
    for place, texts in nameless.items():
        if header[place - 1] not in leave_out and not counts_rows(texts):
            raise UserError(
                f"{root}: expected the name of every column, found none for column {place}, in which "
                f"stands {max(texts)!r}; name it, or leave it out: {as_typed([header[place - 1]], 'data.leave_out')}"
            )
    return found


def _places(root: str, header: list[str], label: str, leave_out: tuple[str, ...]) -> list[int]:
    """The columns of numbers."""
    if label not in header:
        found = ", ".join(header[:8]) + ", ..." * (len(header) > 8) or "none, because the file is empty,"
        hint = nearest(label, header)
        raise UserError(f"data.label: expected one of the columns {found} of {root}, found {label!r}{hint}")
    if twice := [name for name, count in Counter(header).items() if count > 1]:
        raise UserError(f"{root}: expected every column once, found {twice[0] or 'no name'!r} twice")
    if unknown := next((name for name in leave_out if name not in header), None):
        raise UserError(
            f"data.leave_out: expected names of columns of {root}, found {unknown!r}{nearest(unknown, header)}"
        )
    places = [
        place for place, name in enumerate(header)
        if name not in {label, *leave_out, f"{place + 1} without a name"} and name.lower() != SPLIT
    ]  # fmt: skip
    if not places:
        raise UserError(f"{root}: expected columns of numbers beside {label!r}, found none")
    return places


def _split_place(root: str, header: list[str], label: str, leave_out: tuple[str, ...]) -> int | None:
    """The column that says train or test, if there is one."""
    found = [place for place, name in enumerate(header) if name.lower() == SPLIT and name not in {label, *leave_out}]
    if len(found) > 1:
        two = " and ".join(header[place] for place in found[:2])
        raise UserError(f"{root}: expected one column that says train or test, found {two}; rename one")
    return found[0] if found else None


def _number(text: str, where: str, column: str) -> float:
    try:
        value = float(text if "_" not in text else "")
    except ValueError:
        found = repr(text) if text.strip() else "nothing"
        raise UserError(
            f"{where}, column {column}: expected a number, found {found}; fill it, or leave the column out: "
            f"{as_typed([column], 'data.leave_out')}"
        ) from None
    if not abs(value) < LARGEST:
        found = f"expected a number below {LARGEST:g}, found {value:g}"
        raise UserError(f"{where}, column {column}: {found}; change it, or remove the row")
    return value


def _split(text: str, where: str) -> str:
    split = text.strip().lower()
    if split not in {"train", "test"}:
        aside = as_typed(["split"], "data.leave_out")
        raise UserError(f"{where}: expected split train or test, found {text!r}; if the column is no split: {aside}")
    return split
