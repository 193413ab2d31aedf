"""Reading of run folders, finished or not, complete or damaged."""

import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from anomaly_lab.config.tables import TABLE
from anomaly_lab.core.errors import UserError
from anomaly_lab.core.files import read_csv
from anomaly_lab.data.names import category_of
from anomaly_lab.runs import settings
from anomaly_lab.runs.folder import RESULT_VERSION
from anomaly_lab.runs.lock import is_left
from anomaly_lab.runs.measures import BY_KEY

MARKS = ("job.json", "metrics.json")  # files that mark the folder of a run
ROUNDING = 1e-6  # by which a rate may lie beyond 0 or 1
REFERENCE = re.compile(r"\$\{(\w+(?:\.\w+)*)\}")
CATEGORY = re.compile(r"\$\{category:([^${}]*)\}")
STATES = ("done", "running", "interrupted", "failed", "unreadable")
Table = list[dict[str, str]]


class Key(NamedTuple):
    """The parts of a run folder's path that identify the run."""

    name: str
    method: str
    dataset: str
    category: str
    seed: str


class Image(NamedTuple):
    """A tested image."""

    name: str  # relative to the folder that all images of the test share
    defect: str
    label: int  # 0 normal, 1 abnormal


@dataclass
class Run:
    """A run as read from its folder. Missing or damaged parts are empty."""

    folder: Path
    shown: str  # the folder, relative to the collected one
    key: Key
    state: str  # one of STATES
    trouble: str = ""  # why it failed, or what could not be read
    metrics: dict[str, float] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    images: list[Image] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)  # of the images, as in scores.csv; never for a page
    scores: list[float] = field(default_factory=list)  # of the images, in their order
    decision_scores: list[float] = field(default_factory=list)
    threshold: float = math.nan
    controls: dict[str, dict[str, float]] = field(default_factory=dict)
    defects: Table = field(default_factory=list)
    thresholds: list[dict[str, Any]] = field(default_factory=list)
    environment: dict[str, Any] = field(default_factory=dict)
    result_version: int = RESULT_VERSION
    precision: str = ""
    protocol: str = ""  # what it was allowed to know, where that is more than good photos

    @property
    def done(self) -> bool:
        """Whether it has a result."""
        return self.state == "done"

    @property
    def noun(self) -> str:
        """What an example is."""
        data = self.config.get("data")
        module = data.get("datamodule") if isinstance(data, dict) else None
        target = module.get("_target_") if isinstance(module, dict) else None
        return "row" if target == TABLE else "image"

    @property
    def dataset(self) -> str:
        """The data set, with the protocol: runs of different ones are never compared."""
        return f"{self.key.dataset}, {self.protocol.replace('_', ' ')}" if self.protocol else self.key.dataset

    @property
    def fold(self) -> tuple[int, int] | None:
        """The part of all photos that was tested, from 0, and the number of parts; None without parts."""
        data = self.config.get("data")
        fold, folds = (data.get("fold"), data.get("folds")) if isinstance(data, dict) else (None, None)
        return (fold, folds) if isinstance(fold, int) and isinstance(folds, int) and 0 <= fold < folds else None

    @property
    def tested(self) -> int:
        """The place in `thresholds` of the one of the test; those behind it are later ones."""
        same = [place for place, line in enumerate(self.thresholds) if line["image"] == self.threshold]
        return same[-1] if same else len(self.thresholds) - 1

    @property
    def test_set(self) -> str:
        """A hash that is equal for two runs exactly if their test images have the same names and labels."""
        text = json.dumps(self.images)
        return hashlib.sha256(text.encode()).hexdigest()[:10] if self.images else ""


def collect(folders: list[Path]) -> list[Run]:
    """All runs below some folders, in the order of their names. Raises UserError if there are none."""
    for folder in folders:
        if not folder.is_dir():
            there = "the file" if folder.exists() else "no"
            raise UserError(f"compare: expected a folder of runs, found {there} {folder}")
    runs, seen = [], set()
    for prefix, folder in zip(prefixes(folders), folders, strict=True):
        found = [run for run in find(folder.resolve()) if run not in seen]
        runs += [read(run, folder.resolve(), prefix) for run in found]
        seen |= set(found)
    if not runs:
        names = " and ".join(str(folder) for folder in folders)
        raise UserError(
            f"compare: expected runs, folders with a {' or a '.join(MARKS)}, found none below {names}; "
            "`python -m anomaly_lab ...` writes them to runs/"
        )
    return runs


def prefixes(folders: list[Path]) -> list[str]:
    """Prefixes for the runs of several folders: the names of the folders, numbered if equal, never their paths."""
    names = [folder.resolve().name for folder in folders]
    again = [names[:i].count(name) for i, name in enumerate(names)]
    numbered = (f"{name}-{count + 1}/" if count else f"{name}/" for name, count in zip(names, again, strict=True))
    return [""] if len(folders) == 1 else list(numbered)


def find(folder: Path) -> Iterator[Path]:
    """The run folders at and below a folder; the inside of a run is not searched."""
    seen: set[str] = set()
    for path, folders, files in os.walk(folder, followlinks=True):
        here = os.path.realpath(path)
        if set(MARKS) & set(files) or here in seen:  # links may lead in a circle
            folders.clear()
        else:
            folders[:] = sorted(name for name in folders if not name.startswith("."))
        if set(MARKS) & set(files) and here not in seen:
            yield Path(path)
        seen.add(here)


def read(folder: Path, root: Path, prefix: str = "") -> Run:
    """A run in any state; never raises for the contents of damaged files."""
    shown = folder.relative_to(root).as_posix()
    trouble: list[str] = []
    job = _object(folder / "job.json", trouble)
    config = _config(folder, trouble)
    key = key_of(folder, config)
    shown = prefix + ("/".join([*key, folder.name]) if shown == "." else shown)
    run = Run(folder, shown, key, state="", config=config)
    state = str(job.get("state") or ("done" if (folder / "metrics.json").is_file() else "unreadable"))
    if state == "running" and is_left(folder):
        state = "interrupted"
        trouble.append("its process has ended; the same command continues from the last checkpoint, if there is one")
    run.state = state if state in STATES else "unreadable"
    if run.done:
        metrics = _object(folder / "metrics.json", trouble)
        run.metrics = _metrics(metrics, trouble)
        run.precision = str(metrics.get("precision", ""))
        run.protocol = settings.public(str(metrics.get("protocol", "")))
        run.result_version = metrics.get("result_version", RESULT_VERSION)
        run.environment = _object(folder / "environment.json", trouble, needed=False)
        run.thresholds = _thresholds(folder / "threshold.json", trouble)
        _read_scores(run, trouble)
        run.controls = {
            row.get("control", ""): {name: _number(value) for name, value in row.items() if name != "control" and value}
            for row in _table(folder / "controls.csv", trouble, "control")
        }
        run.defects = _table(folder / "defects.csv", trouble, "defect")
        if not run.metrics:
            run.state = "unreadable"
    elif error := job.get("error"):
        trouble.append(str(error))
    elif run.state == "unreadable" and not trouble:
        trouble.append(f"job.json: expected a state, one of {', '.join(STATES[:-1])}, found {state!r}")
    run.trouble = settings.public("; ".join(trouble))
    return run


def _metrics(found: dict[str, Any], trouble: list[str]) -> dict[str, float]:
    """The numbers of metrics.json; impossible values of known measures are left out and reported, nulls only left out.

    The same holds for figures of controls and ends of intervals.
    """
    metrics = {}
    for name, value in found.items():
        number = _number(value)
        measure = BY_KEY.get(name.removeprefix("control_").removesuffix("_low").removesuffix("_high"))
        if measure is None or value is None:
            possible, expected = not math.isnan(number), ""
        elif measure.level == "cost":
            possible, expected = number >= 0, "of 0 or more"
        else:
            possible, expected = -ROUNDING <= number <= 1 + ROUNDING, "from 0 to 1"
        if possible and name not in {"result_version", "result_key"}:
            metrics[name] = number
        elif expected:
            trouble.append(f"metrics.json: expected {name} {expected}, found {json.dumps(value)[:40]}")
    return metrics


def key_at(folder: Path) -> Key:
    """The key of the run in a folder, whose configuration may be damaged."""
    return key_of(folder, _config(folder, []))


def key_of(folder: Path, config: dict[str, Any]) -> Key:
    """The key from the folder, `<name>/<method>/<dataset>/<category>/seed=<n>/<hash>`, or else the configuration.

    The seed is that of the configuration: a copied folder is no second seed.
    """
    parts = folder.resolve().parts
    if len(parts) > 6 and parts[-2].startswith("seed="):
        name, method_name, dataset, category, seed = parts[-6:-1]
        return Key(name, method_name, dataset, category, str(config.get("seed", seed.removeprefix("seed="))))
    data, method = config.get("data"), config.get("method")
    data, method = (node if isinstance(node, dict) else {} for node in (data, method))
    found = (config.get("name"), method.get("name"), data.get("name"), data.get("category"), config.get("seed"))
    name, method_name, dataset, category, seed = (
        "unknown" if value is None else settings.public(written_out(str(value), config)) for value in found
    )
    return Key(name, method_name, dataset, category, seed)


def written_out(text: str, config: dict[str, Any]) -> str:
    """A name of a configuration without `${data.root}`, a key of its own, and `${category:PATH}`."""

    def value(found: re.Match[str]) -> str:
        node: Any = config
        for part in found[1].split("."):
            node = node.get(part) if isinstance(node, dict) else None
        return found[0] if node is None or isinstance(node, dict | list) else str(node)

    return CATEGORY.sub(lambda found: category_of(found[1]), REFERENCE.sub(value, text))


def _read_scores(run: Run, trouble: list[str]) -> None:
    """Read the images and their scores, sorted by name; a table without `decision_score` decides by the score."""
    before = len(trouble)
    rows = _table(run.folder / "scores.csv", trouble)
    if not rows and len(trouble) == before:
        trouble.append("scores.csv: expected one row per image, found none")
    try:
        read = sorted(
            (
                Image(name, row["defect"], int(row["label"])), float(row["score"]),
                float(row.get("decision_score") or row["score"]), float(row["threshold"]), row["path"],
            )
            for row, name in zip(rows, names_of([row["path"] for row in rows]), strict=True)
        )  # fmt: skip
    except (KeyError, ValueError, TypeError) as error:
        trouble.append(f"scores.csv: expected path, defect, label, score and threshold in every row, found {error}")
        return
    run.images, run.paths = [row[0] for row in read], [row[4] for row in read]
    run.scores, run.decision_scores = [row[1] for row in read], [row[2] for row in read]
    if read:
        run.threshold = read[0][3]


def names_of(paths: Sequence[str]) -> list[str]:
    """The paths of images relative to their common folder, or to its parent if all lie in one folder.

    If they share only the root of the disk, the last folder and the name remain. Raises ValueError if only some paths
    are absolute.
    """
    folders = {Path(path).parent for path in paths}
    common = Path(os.path.commonpath(folders)) if folders else Path()
    if len(folders) == 1:
        common = common.parent  # the name of the defect's folder stays
    if common.is_absolute() and common == Path(common.anchor):
        return [Path(*Path(path).parts[-2:]).as_posix() for path in paths]
    return [Path(path).relative_to(common).as_posix() for path in paths]


def _config(folder: Path, trouble: list[str]) -> dict[str, Any]:
    try:
        config = settings.read(folder / ".hydra" / "config.yaml")
        if "method" not in config:
            raise ValueError("expected a method, found none")
        return config
    except FileNotFoundError:
        trouble.append(".hydra/config.yaml: not there, settings unknown")
    except (OSError, ValueError) as error:
        trouble.append(f".hydra/config.yaml: cannot be read, settings unknown ({error})")
    return {}


def _json(path: Path) -> Any:
    """The value in a JSON file. Raises OSError, and ValueError for what is no JSON or no file."""
    if path.exists() and not path.is_file():
        raise ValueError("expected a file")  # a pipe would never end
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _object(path: Path, trouble: list[str], needed: bool = True) -> dict[str, Any]:
    """The JSON object in a file; empty, with a line in `trouble`, if there is none."""
    try:
        value = _json(path)
    except FileNotFoundError:
        if needed:
            trouble.append(f"{path.name}: not there")
        return {}
    except (OSError, ValueError) as error:
        trouble.append(f"{path.name}: expected JSON, cannot be read ({error})")
        return {}
    if not isinstance(value, dict):
        trouble.append(f"{path.name}: expected a JSON object, found {type(value).__name__}")
        return {}
    return value


def _thresholds(path: Path, trouble: list[str]) -> list[dict[str, Any]]:
    try:
        value = _json(path)
        if not isinstance(value, list) or any(math.isnan(_number(entry["image"])) for entry in value):
            raise ValueError("expected a list of thresholds")
        return value
    except FileNotFoundError:
        trouble.append(f"{path.name}: not there")
    except (OSError, ValueError, TypeError, LookupError) as error:
        trouble.append(f"{path.name}: cannot be read ({error})")
    return []


def _table(path: Path, trouble: list[str], *columns: str) -> Table:
    """The rows of a CSV file; empty if it is missing, or, with a line in `trouble`, if it is damaged."""
    try:
        return read_csv(path, *columns)
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        trouble.append(f"{path.name}: cannot be read ({error})")
        return []


def _number(value: Any) -> float:
    """A finite number, or NaN for anything else."""
    try:
        number = float(value) if not isinstance(value, bool) else math.nan
    except (TypeError, ValueError, OverflowError):
        return math.nan
    return number if math.isfinite(number) else math.nan
