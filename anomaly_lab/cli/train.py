"""`python -m anomaly_lab key=value ...`: compose, check, name the run folder, train. Imports Hydra, nothing heavier."""

import gc
import os
import re
import sys
from pathlib import Path
from typing import Any, NoReturn

import hydra
import yaml
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf

from anomaly_lab.config.check import check
from anomaly_lab.config.compose import compose
from anomaly_lab.config.default_method import with_method
from anomaly_lab.config.files import CONF, config_folder
from anomaly_lab.config.overrides import as_people_write, composed
from anomaly_lab.config.resolvers import register
from anomaly_lab.config.wants import wants_of
from anomaly_lab.core.console import say_first
from anomaly_lab.core.distributed import is_first_process
from anomaly_lab.core.errors import UserError, without_dashes
from anomaly_lab.core.messages import mistakes_in_one_line
from anomaly_lab.launch.job import end_with_launcher
from anomaly_lab.runs.folder import refuse_unwritable, remove_empty, state_of
from anomaly_lab.runs.lock import exclusive
from anomaly_lab.runs.naming import folder_of, place_of


def main() -> None:
    """Compose and check once, because Hydra does it twice, then let Hydra run the job or the sweep."""
    is_of_sweep = end_with_launcher()
    if yaml.__with_libyaml__:
        yaml.SafeLoader = yaml.CSafeLoader  # type: ignore[assignment]  # Hydra uses SafeLoader: a third of the answer time
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra passes exceptions on instead of printing and exiting
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "1")  # searching for plugins takes as long as the whole check
    register()
    OmegaConf.register_new_resolver("run_dir", run_directory, replace=True)
    words, folder = config_folder(sys.argv[1:])
    words, choice = (words, "") if is_of_sweep else with_method(words, folder)  # a sweep has chosen for its jobs
    overrides = as_people_write(words)
    flags = ["--config-dir", str(folder)] if folder else []
    if any(argument.startswith("-") for argument in overrides):
        refuse_unknown_flags([*flags, *overrides])
        say_first(choice)
    else:
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            config, overrides = compose(overrides, folder)
            resolved = check(config)
        say_first(choice)  # not before an error
        if resolved["dry_run"]:
            dry_run(resolved)
            return
        place = place_of(resolved)
        state = state_of(*place, resolved["rerun"])
        if state == "finished":  # before Hydra writes to the folder and torch is imported
            print(f"already done, skipped: {place.folder} (rerun=true does it again)")
            return
        if is_first_process():
            refuse_unwritable(place.folder)
        say_first(wants_of(config))
    composed(start, [*flags, *overrides])


def refuse_unknown_flags(arguments: list[str]) -> None:
    """Raise UserError for a flag that Hydra does not know, or several of which it does one: it has no line for them."""

    def error(message: str) -> NoReturn:
        dashed = next((word for word in arguments if re.match(r"-+[\w.]+=", word)), "")
        if dashed and "choice" not in message:  # that of --cfg=VALUE
            raise without_dashes(dashed)
        raise UserError(f"expected key=value without dashes, or a flag of --hydra-help, found {message}")

    parser = get_args_parser()
    parser.error = error  # type: ignore[method-assign]  # argparse's own way is a usage and exit code 2
    found = vars(parser.parse_args(arguments))
    alone = [name for name in ("run", "multirun", "cfg", "info", "shell_completion") if found[name]]
    if len(alone) > 1:
        error(f"--{' and --'.join(alone)} together")


def start(arguments: list[str]) -> None:
    """Hand over to Hydra."""
    sys.argv[1:] = arguments
    hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")(job)()


def dry_run(resolved: dict[str, Any]) -> None:
    """Print what a run would do: its state and folder, what `data check` finds in its data, and what it would cost.

    Writes nothing but the decoded photos in the cache. Raises UserError, in the end, where the run would stop: at
    photos that cannot be read, a file of weights, foreign photos that are photos of the data, batches of one image,
    settings of the trainer that the method cannot use, a training from which it can learn nothing.
    """
    place = place_of(resolved)
    state = state_of(*place, resolved["rerun"])
    print(f"{state}: {place.folder}", flush=True)
    if state == "finished":
        return
    from anomaly_lab.cli.data_check import examined, refuse_unreadable
    from anomaly_lab.launch.cost import cost_of

    datamodule, _ = examined(resolved)
    print(f"estimate (computed): {cost_of([resolved])[1]}", flush=True)
    refuse_unreadable(datamodule, resolved)

    from anomaly_lab.methods.base.build import build_method
    from anomaly_lab.training.checks import (
        check_batches,
        check_foreign_photos,
        check_images,
        check_manual_optimisation,
    )

    method = build_method(resolved, resolved["trust"])
    check_manual_optimisation(method, resolved["trainer"])
    method.check_training(resolved["trainer"]["max_epochs"], datamodule.corruption is not None)
    check_images(method, len(datamodule.good))
    method.load_local_weights()
    check_foreign_photos(method, datamodule)
    check_batches(method, datamodule, 1)


def job(config: DictConfig) -> None:
    """Train and test one configuration."""
    gc.enable()
    about = HydraConfig.get()
    folder = Path(about.runtime.output_dir)
    with mistakes_in_one_line():  # here, because Hydra would add a line of its own
        if config.dry_run:  # typed with a flag of Hydra, which has made the folder
            remove_empty(folder, Path(config.runs_dir).absolute())
            dry_run(check(config))
            return
        if about.mode == RunMode.MULTIRUN and is_several(config.trainer):  # this process runs a sweep
            launcher = about.launcher["_target_"].rpartition(".")[2]
            raise UserError(
                "hydra/launcher: expected local or slurm for several processes a run (trainer.devices), because other "
                f"launchers repeat the whole sweep in each of them, found {launcher}"
            )
        with exclusive(folder):  # before torch is imported, so that waiting costs nothing
            from anomaly_lab.training.lifecycle import run

            run(config, folder)


def is_several(trainer: DictConfig) -> bool:
    """Whether a run has several processes, by its configuration."""
    devices = len(trainer.devices) if isinstance(trainer.devices, ListConfig) else trainer.devices
    return devices not in {1, "auto"} or trainer.get("num_nodes", 1) > 1


def run_directory(*, _root_: DictConfig) -> str:
    """The folder of the run; the configuration is checked first, so that a mistake leaves nothing behind."""
    config = OmegaConf.masked_copy(_root_, [str(key) for key in _root_ if key != "hydra"])
    return str(folder_of(check(config)))
