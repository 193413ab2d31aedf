"""A job of a sweep, its outcome, and the kinds of painted defects on which it is judged."""

import sys
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig

Words = tuple[str, ...]  # the overrides of a job, as they are typed
OF_THE_SWEEP = ("hydra.launcher", "hydra/launcher", "hydra.sweeper", "hydra/sweeper", "hydra.sweep.", "hydra.mode")


class Job(NamedTuple):
    """One run of a sweep."""

    words: Words
    label: str  # the words that tell it from the other jobs
    folder: Path
    config: dict[str, Any]  # resolved
    asked: int  # which of the sweeper's jobs it belongs to: a pool of categories becomes several
    result_key: str = ""


class Outcome(NamedTuple):
    """How a job ended."""

    state: str  # done or failed; waiting or running where nobody waited for the end
    note: str = ""  # why: exit code 1, killed (signal 9)
    last_lines: str = ""  # of what it printed


def command(job: Job, config: DictConfig) -> list[str]:
    """The command line of a job: that of a single run, with the Hydra flags of the sweep."""
    sources = [source.path for source in config.hydra.runtime.config_sources if source.provider == "command-line"]
    flags = [word for path in sources for word in ("--config-dir", path)]
    if config.hydra.job.config_name != "train":
        flags += ["--config-name", config.hydra.job.config_name]
    passed_on = [word for word in config.hydra.overrides.hydra if not word.startswith(OF_THE_SWEEP)]
    return [sys.executable, "-m", "anomaly_lab", *flags, *passed_on, *job.words]


def unpainted(config: dict[str, Any]) -> frozenset[str]:
    """The kinds of painted defects that count for this run: those that it is not trained with."""
    from importlib import import_module

    from hydra.utils import instantiate

    from anomaly_lab.config.build import OURS, trusted
    from anomaly_lab.data.corruption import KINDS

    module, _, name = config["method"]["_target_"].rpartition(".")
    if not any(f"{module}.".startswith(f"{package}.") for package in (OURS, *trusted(config["trust"]))):
        return frozenset()  # its run is refused
    corruption = instantiate(config["data"].get("corruption"), _convert_="all")
    painted = corruption.kinds if corruption else frozenset()
    return frozenset(KINDS) - getattr(import_module(module), name).synthetic - painted
