"""The two keys of a run: the weights key, which names the folder, and the result key, which covers its evaluation.

Both are white lists. Settings in neither, such as the number of pictures, the logger or the hardware, change no key; a
new option changes none until it is listed here. Of the trainer's options the harmless ones are listed instead: what
Lightning offers beside them, such as `max_steps` or `fast_dev_run`, decides the weights. A callback of ours enters a
key if its class has the attribute `decides: ClassVar = "weights"` or `"result"`; a callback of another package enters
the weights key.
"""

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from anomaly_lab.config.schema import class_fact, is_ours
from anomaly_lab.config.wiring import wired
from anomaly_lab.core.errors import UserError
from anomaly_lab.data.labelled import Amount, known
from anomaly_lab.data.listing import OWN, PROCEDURAL, SAMPLE, sample_of
from anomaly_lab.data.samples import digests, fingerprint
from anomaly_lab.runs.folder import RESULT_VERSION
from anomaly_lab.runs.measures import UNTRAINED

WEIGHTS_VERSION = 1  # raise it when a change to data path or training loop changes the weights of a configuration
DECODING = ("image_size", "channels", "resize", "value_range", "label", "leave_out")  # the last two of a table
DATA = ("kind", "sees", "passes", "augmented", "corruption", "on_error", "held_out", "split_seed", "seed")
PATCHES = ("patch_size", "patches", "redraw", "batch_size", "augmentation")  # read only where patches are drawn
TILING = ("_target_", "size", "stride", "score")
TEST = ("limit_test_batches", "limit_predict_batches")  # of the trainer: the result alone
UNTRAINED_VERSION = 2  # of the control `untrained`; 1: its batch norms had no statistics
HARMLESS = {
    "_target_", "accelerator", "devices", "num_nodes", "strategy", "num_sanity_val_steps", "limit_val_batches",
    "val_check_interval", "check_val_every_n_epoch", "log_every_n_steps", "enable_model_summary", "enable_progress_bar",
    "enable_checkpointing", "use_distributed_sampler", "profiler", "detect_anomaly", "benchmark", "inference_mode",
    "barebones", "default_root_dir", "model_registry", *TEST,
}  # fmt: skip


class Fingerprints(NamedTuple):
    """Hashes of the content of the images."""

    train: str  # of the images that the run knows (`good_photos`, `labelled_abnormal`), held-out ones included
    test: str  # of the test images, with masks and labels


class Place(NamedTuple):
    """The folder of a run, and its result key."""

    folder: Path
    result_key: str


def place_of(resolved: dict[str, Any]) -> Place:
    """Folder and result key of a checked configuration. Raises UserError if the data cannot be found."""
    fingerprints = fingerprints_of(resolved)
    return Place(run_folder(resolved, fingerprints.train), result_key(resolved, fingerprints.test))


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
    data = config["data"]["datamodule"]
    names: tuple[str, ...] = DATA + PATCHES
    if data["sees"] == "images":
        shuffled, varied = data["passes"] is None, data["augmented"]
        names = DATA + ("batch_size",) * shuffled + ("augmentation",) * varied
    if data.get("masks") and data.get("labelled_abnormal") is not None:  # else there are none
        names += ("masks",)
    if config["trainer"].get("limit_train_batches", 1.0) != 1.0:  # so many batches, of how many images?
        names += ("batch_size", "test_batch_size")
    return _hash(
        versions_of(config),
        train_fingerprint,
        by_content(_only(names, data), "data"),
        decoding_key(config),
        by_content(wired(config)),
        {name: value for name, value in config["trainer"].items() if name not in HARMLESS},
        config["seed"],
        _callbacks(config, "weights"),
    )


def result_key(config: dict[str, Any], test_fingerprint: str) -> str:
    """A hash of everything that decides the metrics of given weights."""
    data, limits = config["data"]["datamodule"], _only(TEST, config["trainer"])
    return _hash(
        RESULT_VERSION,
        test_fingerprint,
        config["threshold"],
        _controls(config),
        _only(TILING, config["tiling"]),
        [limits, data["test_batch_size"]] if set(limits.values()) - {1.0} else [],
        _only(("threshold_images",), data),
        _callbacks(config, "result"),
    )


def _controls(config: dict[str, Any]) -> Any:
    """The controls of a run; true where they are the default ones."""
    kinds = config["controls"] and (config["data"].get("controls") or config["controls"])
    untrained = kinds and class_fact(config["method"]["_target_"], "control_untrained")
    return [kinds, UNTRAINED, UNTRAINED_VERSION] if untrained else kinds


def versions_of(config: dict[str, Any]) -> dict[str, int]:
    """The versions of the code on which the weights of a run depend: that of the method and that of everything else."""
    return {"method": class_fact(config["method"]["_target_"], "version"), "weights": WEIGHTS_VERSION}


def decoding_key(config: dict[str, Any]) -> list[Any]:
    """Everything that decides how a file becomes a working image."""
    data = config["data"]["datamodule"]
    decoding, skips = data["decoding"], data["on_error"] == "skip"  # then this limit decides which images there are
    return [_only(DECODING + ("max_pixels",) * skips, decoding), region_key(decoding.get("region"))]


def region_key(region: Any) -> Any:
    """The form of `data.region` in a key: a box by its numbers, a mask image by its pixels."""
    if not isinstance(region, str):
        return region
    from anomaly_lab.data.formats import MAX_PIXELS  # here: most runs have no mask image, and need no OpenCV yet
    from anomaly_lab.data.placement import read_white

    white = read_white(Path(region).expanduser(), MAX_PIXELS)
    return [*white.shape, hashlib.sha256(white.tobytes()).hexdigest()]


def by_content(node: Any, section: str = "method") -> Any:
    """The configuration with SHA-256 sums of each `weights` file and of the `foreign_images` instead of their paths.

    Raises UserError for foreign images that are no folder with photos, which people type in this section.
    """
    if isinstance(node, list):
        return [by_content(value, section) for value in node]
    if not isinstance(node, dict):
        return node
    changed = {key: by_content(value, section) for key, value in node.items()}
    weights = node.get("weights")
    if isinstance(weights, str) and (path := Path(weights).expanduser()).is_file():
        changed["weights"] = digests([path])[0]
    foreign = node.get("foreign_images")
    if isinstance(foreign, str) and foreign not in {PROCEDURAL, *[OWN] * (section == "data")}:
        changed["foreign_images"] = _hash(digests(sample_of(foreign, f"{section}.foreign_images", SAMPLE)[0]))
    return changed


def fingerprints_of(resolved: dict[str, Any]) -> Fingerprints:
    """The fingerprints of the data of a checked configuration.

    Raises UserError if the data cannot be found, or has fewer than `data.good_photos`.
    """
    data = resolved["data"]["datamodule"]
    layout, number = json.dumps(resolved["data"]["layout"]), data.get("good_photos")
    fold = None if data.get("fold") is None else (data["fold"], data["folds"])
    draws = data.get("labelled_abnormal"), fold, data["split_seed"]
    return _fingerprints(layout, number, 0 if number is None else data["seed"], *draws)


@cache
def _fingerprints(
    layout: str,
    good_photos: int | None,
    seed: int,
    labelled_abnormal: Amount | None,
    fold: tuple[int, int] | None,
    split_seed: int,
) -> Fingerprints:
    """Cached: a process reads the images once, even if many jobs of a sweep share them."""
    import hydra  # here: who only reads a run folder needs no Hydra

    splits = hydra.utils.instantiate(json.loads(layout))
    splits = known(splits, good_photos, seed, labelled_abnormal, fold, split_seed)
    return Fingerprints(fingerprint([*splits.train, *splits.labelled]), fingerprint(splits.test))


def _callbacks(config: dict[str, Any], key: str) -> list[str]:
    """The callbacks that enter a key, independent of their names and order."""
    every = [callback for callback in config["callbacks"].values() if callback]
    return sorted(json.dumps(callback, sort_keys=True) for callback in every if decides(callback["_target_"]) == key)


def decides(callback: str) -> str | None:
    """The key that a callback, given by its class, enters: weights, result or None."""
    try:
        return class_fact(callback, "decides")
    except (UserError, OSError):  # no such fact; of another package maybe no source either
        return None if is_ours(callback) else "weights"


def _only(names: tuple[str, ...], mapping: dict[str, Any]) -> dict[str, Any]:
    return {name: mapping[name] for name in names if name in mapping}


def _hash(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:10]
