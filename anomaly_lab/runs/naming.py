"""The two keys of a run: one for its weights, which names the folder, and one for the way they are judged.

Both are white lists. What stands in neither, such as the number of pictures, the logger or the hardware, changes
nothing; a new callback or option changes nothing until it is listed here.
"""

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from anomaly_lab.config.schema import class_fact
from anomaly_lab.config.wiring import wired
from anomaly_lab.data.samples import fingerprint
from anomaly_lab.runs.folder import RESULT_VERSION

WEIGHTS_VERSION = 1  # raise it when data path or training loop change the weights that a configuration leads to
DECODING = ("image_size", "channels", "resize", "value_range")
DATA = ("kind", "sees", "on_error", "held_out", "split_seed", "seed")  # of the datamodule, as what follows
PATCHES = ("patch_size", "patches", "redraw", "batch_size", "augmentation")  # read only where patches are drawn
TRAINER = (
    "max_epochs", "precision", "accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm",
    "limit_train_batches", "sync_batchnorm",
)  # fmt: skip
TILING = ("_target_", "size", "stride", "score")


class Fingerprints(NamedTuple):
    """Hashes of the content of the images."""

    train: str  # of the normal images, held-out ones included
    test: str  # of the test images, with masks and labels


class Place(NamedTuple):
    """Where a run lies, and by what its result is known."""

    folder: Path
    result_key: str


def place_of(resolved: dict[str, Any]) -> Place:
    """Folder and result key of a checked configuration. Raises UserError where the data cannot be found."""
    found = fingerprints_of(resolved)
    return Place(run_folder(resolved, found.train), result_key(resolved, found.test))


def folder_of(resolved: dict[str, Any]) -> Path:
    """The folder of the run that a checked configuration describes. Raises UserError as `place_of` does."""
    return place_of(resolved).folder


def run_folder(config: dict[str, Any], train_fingerprint: str) -> Path:
    """`<runs_dir>/<name>/<method>/<dataset>/<category>/seed=<n>/<weights key>` for a resolved configuration."""
    data = config["data"]
    where = (config["name"], config["method"]["name"], data["name"], data["category"], f"seed={config['seed']}")
    return Path(config["runs_dir"]).absolute().joinpath(*where, weights_key(config, train_fingerprint))


def weights_key(config: dict[str, Any], train_fingerprint: str) -> str:
    """A hash of everything that decides the weights of a run."""
    data, target = config["data"]["datamodule"], config["method"]["_target_"]
    names = DATA if data["sees"] == "images" else DATA + PATCHES
    return _hash(
        WEIGHTS_VERSION,
        class_fact(target, "version"),
        train_fingerprint,
        _only(names, data),
        _only(DECODING, data["decoding"]),
        region_key(data["decoding"]["region"]),
        by_content(wired(config)),
        _only(TRAINER, config["trainer"]),
        config["seed"],
    )


def result_key(config: dict[str, Any], test_fingerprint: str) -> str:
    """A hash of everything that decides how given weights are judged."""
    return _hash(
        RESULT_VERSION,
        test_fingerprint,
        config["threshold"],
        config["controls"],
        _only(TILING, config["tiling"]),
        config["callbacks"].get("synthetic"),
    )


def region_key(region: Any) -> Any:
    """What names `data.region` in a key: a box by its numbers, a mask image by its pixels."""
    if not isinstance(region, str):
        return region
    from anomaly_lab.data.formats import MAX_PIXELS  # here: most runs have no mask image, and need no OpenCV yet
    from anomaly_lab.data.placement import read_white

    white = read_white(Path(region).expanduser(), MAX_PIXELS)
    return [*white.shape, hashlib.sha256(white.tobytes()).hexdigest()]


def by_content(node: Any) -> Any:
    """The same configuration with the SHA-256 of each file of `weights` in place of its name."""
    if not isinstance(node, dict):
        return node
    changed = {key: by_content(value) for key, value in node.items()}
    weights = node.get("weights")
    if isinstance(weights, str) and (path := Path(weights).expanduser()).is_file():
        changed["weights"] = _digest(path, path.stat().st_size, path.stat().st_mtime_ns)
    return changed


def fingerprints_of(resolved: dict[str, Any]) -> Fingerprints:
    """Those of the data of a checked configuration. Raises UserError where the data cannot be found."""
    return _fingerprints(json.dumps(resolved["data"]["layout"]))


@cache
def _fingerprints(layout: str) -> Fingerprints:
    """A process reads the images once, however many jobs of a sweep share them."""
    import hydra  # here: who only reads a run folder needs no Hydra

    splits = hydra.utils.instantiate(json.loads(layout))
    return Fingerprints(fingerprint(splits.train), fingerprint(splits.test))


@cache
def _digest(path: Path, *_identity: int) -> str:
    """SHA-256 of a file, read once for all jobs of a sweep."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _only(names: tuple[str, ...], mapping: dict[str, Any]) -> dict[str, Any]:
    return {name: mapping[name] for name in names if name in mapping}


def _hash(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:10]
