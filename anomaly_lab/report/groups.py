"""Grouping of runs: one row per method and settings, one column per category and test set."""

import math
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from anomaly_lab.runs import settings
from anomaly_lab.runs.collect import Run
from anomaly_lab.runs.measures import BY_KEY

UNKNOWN = {"settings": "unknown"}
GOOD_PHOTOS = "data.good_photos"


class Row(NamedTuple):
    """A method with its settings."""

    method: str
    apart: tuple[tuple[str, str], ...]  # settings that tell it from the method's other rows: key and value

    @property
    def label(self) -> str:
        """`cae` alone, or `cae · data.patches=1000`, or `cae, 10 good photos`."""
        apart = dict(self.apart)
        photos = apart.pop(GOOD_PHOTOS, None)
        name = " · ".join([self.method, *(f"{key}={value}" for key, value in apart.items())])
        return f"{name}, {'all' if photos == 'null' else photos} good photos" if photos else name

    @property
    def family(self) -> "Row":
        """The row without its number of good photos."""
        return self._replace(apart=tuple(pair for pair in self.apart if pair[0] != GOOD_PHOTOS))

    @property
    def control(self) -> bool:
        """Whether the row is a trivial detector, which is listed among the controls and never marked best."""
        return self.method == "control"


class Column(NamedTuple):
    """A category and, if it was tested on several sets of images, the number of the set."""

    dataset: str
    category: str
    test_set: str  # "" unless there are several
    folds: int = 0  # parts of all photos, of which it is one (`data.fold`)

    @property
    def label(self) -> str:
        """`screw`, or `screw (160 images)`, or `screw (fold 0 of 5)`."""
        return f"{self.category} ({self.test_set})" if self.test_set else self.category

    @property
    def protocol(self) -> str:
        """What runs were allowed to know, in words, where that is more than good photos."""
        return self.dataset.partition(", ")[2]

    @property
    def title(self) -> str:
        """The label, with the protocol: for figures, which name no data set."""
        return ", ".join(filter(None, (self.label, self.protocol)))


class Groups(NamedTuple):
    """Every finished run in its cell; a run without images has none if others of its category have images."""

    rows: list[Row]
    columns: list[Column]
    cells: dict[tuple[Row, Column], list[Run]]  # in the order of their seeds, every seed once
    repeated: list[Run]  # the same settings, seed and figures as a run that counts: left out


def group(runs: Sequence[Run]) -> Groups:
    """Sort finished runs into rows and columns.

    Two runs share a cell only if they differ in nothing but the seed. Settings of the data may differ between the
    categories of one row; within a category they distinguish rows like all others. A run whose images are unknown is
    left out if other runs of its category have theirs: it may have been another test.
    """
    tested = {(run.dataset, run.key.category) for run in runs if run.images}
    runs = [run for run in runs if run.images or (run.dataset, run.key.category) not in tested]
    column_of = _columns(runs)
    rows: list[Row] = []
    cells: dict[tuple[Row, Column], list[Run]] = defaultdict(list)
    repeated = []
    for method in sorted({run.key.method for run in runs}):
        here = [run for run in runs if run.key.method == method]
        of_run, again = _rows(method, here, column_of)
        repeated += again
        rows += sorted(set(of_run.values()), key=_by_number)
        for run in here:
            if run.shown in of_run:
                cells[of_run[run.shown], column_of[run.shown]].append(run)
    for members in cells.values():
        members.sort(key=lambda run: (len(run.key.seed), run.key.seed))
    return Groups(rows, sorted(set(column_of.values())), dict(cells), repeated)


def _by_number(row: Row) -> list[tuple[str, float, str]]:
    """A key that sorts values as numbers, then what is no number."""
    numbers = [float(value) if re.fullmatch(r"-?\d+(\.\d+)?(e-?\d+)?", value) else math.inf for _, value in row.apart]
    return [(key, number, value) for (key, value), number in zip(row.apart, numbers, strict=True)]


def _columns(runs: Sequence[Run]) -> dict[str, Column]:
    """The column of each run; test sets of a category that differ have a name."""
    sets: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for run in runs:
        sets[run.dataset, run.key.category][run.test_set] = _test_set(run)
    columns = {}
    for run in runs:
        names = list(sets[run.dataset, run.key.category].values())
        name = _test_set(run)
        alike = f", {run.test_set[:4]}" if names.count(name) > 1 else ""
        name = f"{name}{alike}" if run.fold or len(names) > 1 else ""
        columns[run.shown] = Column(run.dataset, run.key.category, name, run.fold[1] if run.fold else 0)
    return columns


def _test_set(run: Run) -> str:
    """The test of a run in words, which other tests of the category may share."""
    if run.fold is None:
        return f"{len(run.images)} images"
    fold, folds = run.fold
    return f"fold {fold:0{len(str(folds - 1))}} of {folds}"  # in their order, too


def _rows(method: str, runs: list[Run], column_of: dict[str, Column]) -> tuple[dict[str, Row], list[Run]]:
    """The row of each run of a method, and the runs that repeat another one."""
    chosen = {run.shown: {**settings_of(run), "result_version": run.result_version} for run in runs}
    keys = [key for key in _union(chosen.values()) if _tells_apart(key, runs, chosen, column_of)]
    # Beyond the settings: where the same seed of the same settings was run twice with different figures.
    kept, repeated = _without_repetitions(runs, keys, chosen, column_of)
    for name, value in BEYOND_SETTINGS.items():
        if not _collisions(kept, keys, chosen, column_of):
            break
        for run in kept:
            chosen[run.shown][name] = value(run)
        keys.append(name)
    places = _fewest([[_text(chosen[run.shown].get(key)) for key in keys] for run in kept])
    rows = {}
    for run in kept:
        values = {keys[i]: _text(chosen[run.shown].get(keys[i])) for i in places}
        apart = [(settings.short(key), settings.public(settings.typed(key, value))) for key, value in values.items()]
        rows[run.shown] = Row(method, tuple(apart))
    return rows, repeated


BEYOND_SETTINGS: dict[str, Callable[[Run], Any]] = {
    "name": lambda run: run.config.get("name", run.key.name),
    "folder": lambda run: run.key.name,
    "commit": lambda run: run.environment.get("git"),
    "run": lambda run: run.shown,
}


def settings_of(run: Run) -> dict[str, Any]:
    """The settings of a run that can change a result, except the seed."""
    return settings.chosen(run.config) if run.config else UNKNOWN


def _tells_apart(key: str, runs: list[Run], chosen: dict[str, dict[str, Any]], column_of: dict[str, Column]) -> bool:
    if len({_text(chosen[run.shown].get(key)) for run in runs}) == 1:
        return False
    if not settings.of_the_data(key):
        return True
    within: dict[Column, set[str]] = defaultdict(set)
    for run in runs:
        within[column_of[run.shown]].add(_text(chosen[run.shown].get(key)))
    return any(len(values) > 1 for values in within.values())


def _place(run: Run, keys: list[str], chosen: dict[str, dict[str, Any]], column_of: dict[str, Column]) -> tuple:
    return column_of[run.shown], run.key.seed, tuple(_text(chosen[run.shown].get(key)) for key in keys)


def _without_repetitions(
    runs: list[Run], keys: list[str], chosen: dict[str, dict[str, Any]], column_of: dict[str, Column]
) -> tuple[list[Run], list[Run]]:
    """Runs with equal keys, scores and figures (costs excepted) count once."""
    seen: set[tuple] = set()
    kept: list[Run] = []
    repeated: list[Run] = []
    for run in runs:
        figures = tuple(sorted((name, value) for name, value in run.metrics.items() if not _is_cost(name)))
        place = (*_place(run, keys, chosen, column_of), tuple(run.scores), figures)
        (repeated if place in seen else kept).append(run)
        seen.add(place)
    return kept, repeated


def _is_cost(name: str) -> bool:
    return name in BY_KEY and BY_KEY[name].level == "cost"


def _collisions(
    runs: list[Run], keys: list[str], chosen: dict[str, dict[str, Any]], column_of: dict[str, Column]
) -> bool:
    places = [_place(run, keys, chosen, column_of) for run in runs]
    return len(set(places)) < len(places)


def _fewest(rows: list[list[str]]) -> list[int]:
    """The fewest positions of a row that distinguish all rows; earlier positions are preferred."""
    kept = list(range(len(rows[0]))) if rows else []
    distinct = len({tuple(row) for row in rows})
    for place in reversed(list(kept)):
        without = [i for i in kept if i != place]
        if len({tuple(row[i] for i in without) for row in rows}) == distinct:
            kept = without
    return kept


def _union(chosen: Any) -> list[str]:
    """All keys in the order of preference for labels: method, data, others."""
    keys = dict.fromkeys(key for node in chosen for key in node)
    order = ("method.", "data.", "threshold.", "budget.", "trainer.")
    return sorted(keys, key=lambda key: next((i for i, start in enumerate(order) if key.startswith(start)), len(order)))


def _text(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
