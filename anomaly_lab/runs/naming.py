"""The folder of a run, named after everything that decides its result."""

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from anomaly_lab.data.samples import fingerprint

# What can differ without changing a result: places, names, hardware. The data itself enters by its fingerprint.
NO_RESULT = {
    # what `budget` sets counts where it is used
    "": {"name", "runs_dir", "rerun", "dry_run", "logger", "run_folder", "hydra", "checkpoint", "budget"},
    "data": {"root", "workers", "cache", "cache_dir", "categories", "layout", "name", "category", "decoding"},
    "callbacks": {"checkpoint", "progress", "budget", "epoch_lines", "curves", "gallery"},  # the last two only look
    "datamodule": {"splits", "workers", "cache", "cache_dir"},
    "trainer": {"accelerator", "devices", "num_nodes", "strategy"},
}


def run_folder(config: dict[str, Any], data_fingerprint: str) -> Path:
    """`<runs_dir>/<name>/<method>/<dataset>/<category>/seed=<n>/<hash>` for a resolved configuration."""
    kept = _without(NO_RESULT[""], config)
    for section in ("data", "trainer", "callbacks"):
        kept[section] = _without(NO_RESULT[section], config[section])
    kept["method"] = by_content(config["method"])
    kept["data"]["datamodule"] = _without(NO_RESULT["datamodule"], config["data"]["datamodule"])
    text = json.dumps([kept, data_fingerprint], sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode()).hexdigest()[:10]
    data = config["data"]
    where = (config["name"], config["method"]["name"], data["name"], data["category"], f"seed={config['seed']}")
    return Path(config["runs_dir"]).absolute().joinpath(*where, digest)


def by_content(node: Any) -> Any:
    """The same configuration with the SHA-256 of each file of `weights` in place of its name."""
    if not isinstance(node, dict):
        return node
    changed = {key: by_content(value) for key, value in node.items()}
    weights = node.get("weights")
    if isinstance(weights, str) and (path := Path(weights).expanduser()).is_file():
        changed["weights"] = _digest(path, path.stat().st_size, path.stat().st_mtime_ns)
    return changed


@cache
def _digest(path: Path, *_identity: int) -> str:
    """SHA-256 of a file, read once for all jobs of a sweep."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _without(names: set[str], mapping: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in mapping.items() if key not in names}


def folder_of(resolved: dict[str, Any]) -> Path:
    """The run folder of a checked configuration. Raises UserError where the data cannot be found."""
    return run_folder(resolved, _fingerprint(json.dumps(resolved["data"]["layout"])))


@cache
def _fingerprint(layout: str) -> str:
    """That of the data; a process reads the images once, however many jobs of a sweep share them."""
    import hydra  # here: who only reads a run folder needs no Hydra

    return fingerprint(hydra.utils.instantiate(json.loads(layout)))
