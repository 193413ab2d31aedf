"""A finished run as its folder describes it, read and checked once: the folder may come from anyone."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.grammar.gen.OmegaConfGrammarParser import OmegaConfGrammarParser
from omegaconf.grammar_parser import parse

from anomaly_lab.config.check import FOLDERS, check_node, check_value
from anomaly_lab.config.files import CONF
from anomaly_lab.config.resolvers import register
from anomaly_lab.config.wiring import wired
from anomaly_lab.core.errors import UserError
from anomaly_lab.data.seen import FILE, Seen
from anomaly_lab.metrics.thresholds import Threshold
from anomaly_lab.runs.folder import read_thresholds, region_of
from anomaly_lab.runs.lookup import finished_run
from anomaly_lab.runs.settings import as_written

CONFIG = Path(".hydra/config.yaml")
DECODING = "anomaly_lab.data.images.Decoding"
OF_TABLES = "anomaly_lab.data.table_module.Columns"
RESOLVERS = {
    "want",
    "fact",
    "tiled_as",
    "textures",
    "category",
    "given",
    "oc.select",
}  # these read only the configuration
SIDE = Annotated[int, pydantic.Field(gt=0, le=2**14)]  # px
READ: dict[str, Any] = {
    "seed": pydantic.NonNegativeInt,
    "budget.schedule": Literal["constant", "cosine", "exponential", "early_drop", "drop", "two_drops"],
    "data.image_size": SIDE,
    "data.patch_size": SIDE,
    "data.channels": Literal[1, 3],
    "data.test_batch_size": pydantic.PositiveInt,
    "data.workers": Annotated[int, pydantic.Field(ge=0, le=1024)],
}
ENTRY = {  # of threshold.json
    "name": Literal[tuple(sorted(path.stem for path in (CONF / "threshold").glob("*.yaml")))],  # type: ignore[valid-type]
    "decided_by": Literal["component", "score"],
    "image": float,
    "pixel": float,
    "minimum_area": Annotated[float, pydantic.Field(ge=0, le=1)],
    "normals": pydantic.NonNegativeInt,
    "note": str,
}


@dataclass(frozen=True)
class StoredRun:
    """What a run folder says about its method, with all values of the declared types."""

    folder: Path
    method: dict[str, Any]  # what `build_method` takes: the parts of a resolved configuration
    decoding: dict[str, Any]  # arguments of `Decoding`
    batch_size: int  # whole images per batch
    workers: int  # decoding threads
    rule: dict[str, Any]  # the configuration of the threshold rule
    threshold: Threshold  # the last one
    seen: Seen | None  # its photos; None: the run has kept nothing of them

    @property
    def checkpoint(self) -> Path:
        """The file with the weights."""
        return self.folder / "checkpoints" / "last.ckpt"


def open_run(run: str) -> StoredRun:
    """Read and check a finished run.

    Only plain values are read and nothing is built. Raises UserError, one line with file and key, for a folder that is
    no finished run of this version and for a value that is not of its type.
    """
    folder = finished_run(run)
    config = read_config(folder)
    try:
        if _selected(config, "data.columns._target_") == OF_TABLES:
            raise UserError(
                "data: expected a run on photos, found one on a table, which can be neither asked about other rows nor "
                "exported; its answers are in scores.csv, those of other rows in a run on a table that has them"
            )
        values = {key: _selected(config, key) for key in (*READ, "data.decoding", "method", "tiling", "threshold")}
        for key in ("data.decoding", "method", "tiling", "threshold"):
            if not isinstance(values[key], dict) or not isinstance(values[key].get("_target_"), str):
                raise UserError(f"{key}: expected a mapping with _target_, found {values[key]!r}")
        decoding = values["data.decoding"]
        if decoding["_target_"] != DECODING:
            raise UserError(f"data.decoding._target_: expected {DECODING}, found {decoding['_target_']!r}")
        for key, expected in READ.items():
            check_value(key, values[key], expected)
        data = {name: values[f"data.{name}"] for name in ("image_size", "patch_size", "channels")}
        parts = {
            "data": data, "seed": values["seed"], "budget": {"schedule": values["budget.schedule"]},
            "method": values["method"], "tiling": values["tiling"],
        }  # fmt: skip
        name = values["method"].get("name")
        if not isinstance(name, str) or not re.fullmatch(FOLDERS["method.name"], name):
            raise UserError(f"method.name: expected letters, digits and . _ + -, found {name!r}")
        for key in ("data.decoding", "tiling", "threshold"):
            check_node(key, values[key])
        check_node("method", wired(parts))
    except UserError as error:
        raise UserError(f"{folder / CONFIG}: {error}") from error
    decoding = {key: value for key, value in decoding.items() if key != "_target_"}
    decoding["region"] = region_of(folder, decoding.get("region"))
    return StoredRun(
        folder, parts, decoding, values["data.test_batch_size"], values["data.workers"], values["threshold"],
        last_threshold(folder), seen_of(folder),
    )  # fmt: skip


def read_config(folder: Path) -> DictConfig:
    """The configuration of a run, not yet resolved; without what asks something of this machine (`${oc.env:...}`).

    Raises UserError, one line, if it cannot be read.
    """
    path = folder / CONFIG
    try:
        return OmegaConf.create(_own(as_written(path)))
    except (OSError, ValueError, OmegaConfBaseException) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: expected the configuration of a run, cannot be read ({reason})") from error


def last_threshold(folder: Path) -> Threshold:
    """The threshold that counts. Raises UserError, one line, for a file without one or with values of other types."""
    path = folder / "threshold.json"
    try:
        entries = read_thresholds(folder)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: expected a list of thresholds, cannot be read ({error})") from error
    if not entries:
        raise UserError(f"{path}: expected a list of thresholds, found []")
    latest = entries[-1]
    for name, expected in ENTRY.items():
        if name not in latest:
            raise UserError(f"{path}: expected {', '.join(ENTRY)}, found no {name}")
        try:
            check_value(name, latest[name], expected)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
    return Threshold(**{name: latest[name] for name in ENTRY})


def seen_of(folder: Path) -> Seen | None:
    """What a run has kept of its photos. Raises UserError, one line, for a damaged file."""
    path = folder / FILE
    try:
        if path.exists() and not path.is_file():
            raise ValueError("expected a file")
        return Seen.from_json(json.loads(path.read_text())) if path.exists() else None
    except (OSError, ValueError, TypeError, LookupError, OverflowError, RecursionError) as error:
        raise UserError(f"{path}: expected the photos of the run, cannot be read ({error})") from error


def _selected(config: DictConfig, key: str) -> Any:
    """A part of the configuration, resolved alone: other parts may name paths that this machine lacks."""
    register()
    try:
        value = OmegaConf.select(config, key, throw_on_missing=True)
        if OmegaConf.is_config(value):
            return OmegaConf.to_container(value, resolve=True, throw_on_missing=True)
        return value
    except (OmegaConfBaseException, RecursionError) as error:
        raise UserError(f"{key}: {' '.join(str(error).split())}") from error


def _own(node: Any) -> Any:
    """A configuration in which every text with a foreign resolver is missing: whoever reads it gets an error."""
    if isinstance(node, dict):
        return {key: _own(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_own(value) for value in node]
    return "???" if isinstance(node, str) and "$" in node and _is_foreign(node) else node


@lru_cache(10_000)  # runs repeat the texts of `conf/`, and to parse those of one takes a 20th of a second
def _is_foreign(text: str) -> bool:
    """Whether a text names a resolver that is not of this package."""
    return not RESOLVERS.issuperset(_resolvers(parse(text)))


def _resolvers(tree: Any) -> Iterator[str]:
    """The names of the resolvers in a parsed text, nested ones too."""
    if isinstance(tree, OmegaConfGrammarParser.InterpolationResolverContext):
        yield tree.resolverName().getText()
    for child in getattr(tree, "children", None) or ():
        yield from _resolvers(child)
