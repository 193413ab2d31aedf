"""Rows of CSV files that are measured within a time: known ones are skipped, and each is on disk at once."""

import csv
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

COMMON = ("state", "card", "commit", "seconds", "note")  # of every row; state: done, failed or unfinished
TABLES = {  # name -> the columns that name a row, and its figures
    "steps": (("method", "stage", "precision", "data"), (
        "batch", "side", "steps", "fit_ms", "resident_ms", "bare_ms", "images_per_second", "speed_of_bare",
        "data_wait", "peak_mib", "synchronisations", "where",
    )),
    "fitted": (("method", "backbone", "data"), (
        "side", "trained_on", "tested", "update_ms", "predict_ms", "decoding_s", "fit_s", "test_s", "peak_mib",
        "synchronisations", "where",
    )),
    "evaluation": (("what", "data"), (
        "images", "side", "copy_ms", "smooth_ms", "count_ms", "sort_ms", "test_ms", "parts_ms", "peak_mib",
    )),
    "budgets": (("method", "data"), (
        "precision", "image_auroc", "pixel_auroc", "pixel_auroc_smoothed", "pixel_aupro", "pixel_aupro_smoothed",
        "fit_seconds", "train_images_per_second", "predict_seconds_per_image", "test_seconds", "peak_memory_mb",
    )),
}  # fmt: skip
SECONDS = {"steps": 25, "fitted": 25, "evaluation": 30, "budgets": 60}  # of a row, until one has taken longer


class TimeGuard:
    """The time of a command; a row starts only if it fits into what is left."""

    def __init__(self, minutes: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock, self.end = clock, clock() + 60 * minutes
        self.slowest: dict[str, float] = {}

    @property
    def left(self) -> float:
        """Seconds."""
        return self.end - self.clock()

    def estimate(self, table: str) -> float:
        """The seconds that a row may take: as many as the slowest of its table so far, at least `SECONDS`."""
        return max(SECONDS[table], self.slowest.get(table, 0.0))

    def took(self, table: str, seconds: float) -> None:
        """Note what a row has taken."""
        self.slowest[table] = max(seconds, self.slowest.get(table, 0.0))


class Table:
    """A CSV file to which rows are appended. Rows of the files of this name in the folders `known` are known."""

    def __init__(self, name: str, out: Path, known: Iterable[Path]) -> None:
        self.key, figures = TABLES[name]
        self.path, self.columns = out / f"{name}.csv", (*self.key, *figures, *COMMON)
        self.known: set[tuple[str, ...]] = set()
        for path in (folder / f"{name}.csv" for folder in known):
            if path.is_file():
                with path.open(newline="") as file:
                    self.known |= {self.key_of(row) for row in csv.DictReader(file) if row["state"] == "done"}

    def key_of(self, row: dict[str, Any]) -> tuple[str, ...]:
        """What names a row. The commit does not: rows of an earlier one count."""
        return tuple(str(row[column]) for column in (*self.key, "card"))

    def append(self, row: dict[str, Any]) -> None:
        """Write a row at once, so that an end by force costs no other. Raises ValueError for an unknown column."""
        is_new = not self.path.is_file()
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, self.columns, lineterminator="\n")
            if is_new:
                writer.writeheader()
            writer.writerow({name: f"{x:.5g}" if isinstance(x, float) else x for name, x in row.items()})
            file.flush()
            os.fsync(file.fileno())


class Row(NamedTuple):
    """A row to measure."""

    table: str
    key: dict[str, Any]
    work: Callable[[], dict[str, Any]]
    estimate: Callable[[], float] | None = None  # seconds; None: those of its table


def measure(rows: Iterable[Row], guard: TimeGuard, tables: dict[str, Table], about: dict[str, str]) -> None:
    """Measure the rows that are not known and fit into the time; an error becomes the note of its row."""
    for row in rows:
        name, table = " ".join(map(str, (row.table, *row.key.values()))), tables[row.table]
        if table.key_of({**row.key, **about}) in table.known:
            print(f"known: {name}", flush=True)
            continue
        start = guard.clock()
        try:
            needed = SECONDS[row.table] if row.estimate else guard.estimate(row.table)
            if row.estimate and needed <= guard.left:  # an estimate takes its time, too
                needed = row.estimate()
            if needed > guard.left:
                print(f"left out: {name} may take {needed:.0f} s, {guard.left:.0f} s are left", flush=True)
                continue
            found = {"state": "done", **row.work()}
        except Exception as error:
            found = {"state": "failed", "note": " ".join(f"{type(error).__name__}: {error}".split())[:300]}
        seconds = guard.clock() - start
        guard.took(row.table, seconds)
        table.append({**row.key, **found, **about, "seconds": seconds})
        print(f"{found['state']}: {name}, {seconds:.1f} s {found.get('note', '')}", flush=True)
