"""The command line: `python -m anomaly_lab [command] key=value ...`; imports Hydra and nothing heavier.

The first word without `=` and dash is a command; without one the configuration is trained and tested.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from anomaly_lab.configuration import check, explain, is_user_mistake
from anomaly_lab.data.layouts import fingerprint, nearest
from anomaly_lab.errors import UserError
from anomaly_lab.run_folder import run_folder

HERE = Path(__file__).resolve().parent
CONF = next(path for path in (HERE / "conf", HERE.parent / "conf") if path.is_dir())  # in a wheel, in a checkout
SHOWS_TRACEBACK = os.environ.get("HYDRA_FULL_ERROR") == "1"


def main() -> None:
    """Run the program; a user's mistake ends in one line and exit code 1."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra passes exceptions on instead of printing and exiting
    OmegaConf.register_new_resolver("run_dir", run_directory, replace=True)
    with mistakes_in_one_line():
        first = sys.argv[1] if len(sys.argv) > 1 else ""
        if first and not first.startswith("-") and not set("=~") & set(first):
            commands()[first](sys.argv[2:])
        else:
            train()


@contextmanager
def mistakes_in_one_line() -> Iterator[None]:
    """Tell a user's mistake without a traceback (HYDRA_FULL_ERROR=1 shows it); others keep theirs."""
    try:
        yield
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on from the last checkpoint")
    except Exception as error:
        if SHOWS_TRACEBACK or not is_user_mistake(error):
            raise
        sys.exit(f"error: {explain(error)}")


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
def train(config: DictConfig) -> None:
    """Train and test one configuration."""
    from anomaly_lab.run import run

    with mistakes_in_one_line():  # inside Hydra, which would print more than a line
        run(config, Path(HydraConfig.get().runtime.output_dir))


def predict(arguments: list[str]) -> None:
    """Judge new images with a finished run."""
    from anomaly_lab.predict import main as predict_main

    predict_main(arguments)


class Commands(dict[str, Callable[[list[str]], None]]):
    """The commands by name; an unknown one is the user's mistake."""

    def __missing__(self, name: str) -> Callable[[list[str]], None]:
        raise UserError(f"expected a command ({', '.join(self)}) or key=value, found {name!r}{nearest(name, self)}")


def commands() -> Commands:
    """What the first word of the command line can be."""
    return Commands(predict=predict)


def run_directory(*, _root_: DictConfig) -> str:
    """The folder of the run that a configuration describes, checked first: a mistake leaves nothing behind."""
    config = OmegaConf.masked_copy(_root_, [str(key) for key in _root_ if key != "hydra"])
    return _run_directory(json.dumps(check(config), default=str))


@cache
def _run_directory(resolved: str) -> str:
    config: dict[str, Any] = json.loads(resolved)
    layout = config["data"]["layout"]
    splits = hydra.utils.instantiate(layout)
    return str(run_folder(config, fingerprint(splits)))


if __name__ == "__main__":
    main()
