"""Files that are never half-written: JSON, CSV, anything."""

import csv
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from anomaly_lab.core.errors import UserError, full_disk

CSV: dict[str, Any] = {"encoding": "utf-8", "errors": "backslashreplace"}  # names of files may be no UTF-8


def write_json(path: Path, value: Any) -> None:
    """Write JSON, whole or not at all; null for what is no finite number."""
    text = json.dumps(_finite(value), indent=2, allow_nan=False) + "\n"
    write_whole(path, lambda part: part.write_text(text))


def _finite(value: Any) -> Any:
    """What is no number becomes null: JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _finite(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_finite(child) for child in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


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
    """Let `write` fill a temporary file beside `path`, then rename it: readers see the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(part)
        part.replace(path)
    except Exception as error:  # torch reports a full disk as an error of its own format
        if mistake := full_disk(error, path):
            raise mistake from error
        raise
    finally:
        part.unlink(missing_ok=True)
