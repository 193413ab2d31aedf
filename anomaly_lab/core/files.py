"""Files and folders that are never half-written: JSON, CSV and others; and a reader of CSV."""

import csv
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from anomaly_lab.core.errors import UserError, full_disk

CSV: dict[str, Any] = {"encoding": "utf-8", "errors": "backslashreplace"}  # file names may be invalid UTF-8


def write_json(path: Path, value: Any) -> None:
    """Write JSON, whole or not at all; numbers that are not finite become null."""
    text = json.dumps(finite(value), indent=2, allow_nan=False) + "\n"
    write_whole(path, lambda part: part.write_text(text))


def finite(value: Any, infinity: float | None = None) -> Any:
    """The value in a form that JSON can hold: NaN becomes None, infinities become +-`infinity`, or None without it."""
    if isinstance(value, dict):
        return {str(key): finite(child, infinity) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [finite(child, infinity) for child in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if infinity is None or math.isnan(value) else math.copysign(infinity, value)
    return value


def read_csv(path: Path, *columns: str) -> list[dict[str, str]]:
    """The rows of a CSV file, each as column name -> text; `write_csv`'s mark before formulas is taken off.

    Raises OSError if it cannot be read, ValueError if it is no file, if the header lacks one of `columns`, or if a row
    is longer or shorter than the header.
    """
    if path.exists() and not path.is_file():
        raise ValueError("expected a file")  # a pipe would never end
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.reader(file)
            header = next(rows, [])
            if not set(columns) <= set(header):
                raise ValueError(f"expected the columns {', '.join(columns)}, found {', '.join(header)[:40] or 'none'}")
            return [dict(zip(header, map(_unmarked, row), strict=True)) for row in rows]
    except csv.Error as error:
        raise ValueError(str(error)) from error


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV file, whole or not at all.

    A text that a spreadsheet would compute (it begins with = + - @) gets an apostrophe before it.
    """
    write_whole(path, partial(_write_rows, [header, *(map(_marked, row) for row in rows)]))


def _write_rows(rows: Iterable[Iterable[Any]], path: Path) -> None:
    with path.open("w", newline="", **CSV) as file:
        csv.writer(file).writerows(rows)


FORMULA = re.compile(r"'*[=+\-@\t\r＝＋－＠]")


def _marked(cell: Any) -> Any:
    """A text that begins like a formula, with an apostrophe before it; numbers as they are, written out too."""
    if not isinstance(cell, str | os.PathLike) or not FORMULA.match(text := os.fspath(cell)):
        return cell
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return cell


def _unmarked(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell


@contextmanager
def growing_csv(path: Path, header: Sequence[str]) -> Iterator[Callable[[Sequence[Any]], None]]:
    """Write a CSV file row by row as `<name>.part`, which is renamed when it is complete.

    If the block ends early, the rows written so far stay in `<name>.part`, and an older file stays as it was. Raises
    UserError if the folder cannot be written.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
    except OSError as error:
        raise UserError(f"expected a folder that can be written, found {path.parent} ({error.strerror})") from error

    def write(row: Sequence[Any]) -> None:
        try:
            rows.writerow([_marked(cell) for cell in row])
        except OSError as error:
            if mistake := full_disk(error, part):
                raise mistake from error
            raise

    with part.open("w", newline="", buffering=1, **CSV) as file:  # line by line: a killed process loses nothing
        rows = csv.writer(file)
        write(header)
        yield write
    part.replace(path)


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a file: readers see either the old one or the new one. Raises UserError if the disk is full."""
    try:
        with writing(path) as part:
            write(part)
    except Exception as error:  # torch reports a full disk as an error of its own format
        if mistake := full_disk(error, path):
            raise mistake from error
        raise


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A temporary path for a file or folder: it is moved to `path` if the block succeeds, and removed otherwise.

    Raises UserError for a device or a pipe, which a file would replace, and for a folder in the place of a file.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise UserError(f"{path}: expected a file, found a device or a pipe")
    part = path.with_name(f".{path.name}.{os.getpid()}")
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove(part)  # left by a killed process with the same id
    try:
        yield part
        if part.is_dir():
            _remove(path)  # a folder cannot be renamed onto one that is not empty
        elif path.is_dir():
            raise UserError(f"{path}: expected a file, found a folder; remove it")
        part.replace(path)
    finally:
        _remove(part)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
