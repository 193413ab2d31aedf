"""Files and folders that are never half-written: JSON, CSV, anything; and CSV read back."""

import csv
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from anomaly_lab.core.errors import UserError, full_disk

CSV: dict[str, Any] = {"encoding": "utf-8", "errors": "backslashreplace"}  # names of files may be no UTF-8


def write_json(path: Path, value: Any) -> None:
    """Write JSON, whole or not at all; null for what is no finite number."""
    text = json.dumps(finite(value), indent=2, allow_nan=False) + "\n"
    write_whole(path, lambda part: part.write_text(text))


def finite(value: Any, infinity: float | None = None) -> Any:
    """The same value in what JSON can hold, which has no NaN: null instead, and for infinity this number or null."""
    if isinstance(value, dict):
        return {str(key): finite(child, infinity) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [finite(child, infinity) for child in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if infinity is None or math.isnan(value) else math.copysign(infinity, value)
    return value


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file by the names of their columns.

    Raises OSError where it cannot be read, ValueError where it is no table: a row longer or shorter than the first.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.reader(file)
            header = next(rows, [])
            return [dict(zip(header, row, strict=True)) for row in rows]
    except csv.Error as error:
        raise ValueError(str(error)) from error


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV file, whole or not at all."""

    def write(part: Path) -> None:
        with part.open("w", newline="", **CSV) as file:
            csv.writer(file).writerows([header, *rows])

    write_whole(path, write)


@contextmanager
def growing_csv(path: Path, header: Sequence[str]) -> Iterator[Callable[[Sequence[Any]], None]]:
    """Write a CSV file row by row, as `<name>.part`, which gets its name when it is whole.

    What ends early, in whatever way, leaves the rows that it has written as `<name>.part`, and an older file as it was.
    Raises UserError where nothing can be written.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
    except OSError as error:
        raise UserError(f"expected a folder that can be written, found {path.parent} ({error.strerror})") from error

    def write(row: Sequence[Any]) -> None:
        try:
            rows.writerow(row)
        except OSError as error:
            if mistake := full_disk(error, part):
                raise mistake from error
            raise

    with part.open("w", newline="", buffering=1, **CSV) as file:  # a line at a time: killed, nothing is lost
        rows = csv.writer(file)
        write(header)
        yield write
    part.replace(path)


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a file: readers see the old one or the new one. Raises UserError where the disk is full."""
    try:
        with writing(path) as part:
            write(part)
    except Exception as error:  # torch reports a full disk as an error of its own format
        if mistake := full_disk(error, path):
            raise mistake from error
        raise


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A path beside `path` for a file or folder that takes its place when the block ends well, and else is removed."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove(part)  # of a killed process with the same number
    try:
        yield part
        if part.is_dir():
            _remove(path)  # nothing is renamed onto a folder that holds something
        part.replace(path)
    finally:
        _remove(part)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
