"""The configuration of one job, composed from `conf/`, and perhaps from a folder of somebody's own, by words."""

from pathlib import Path

import hydra
from omegaconf import DictConfig

from anomaly_lab.config.check import refuse_unread
from anomaly_lab.config.overrides import composed, searched
from anomaly_lab.core.errors import UserError
from anomaly_lab.core.messages import is_user_mistake


def compose(overrides: list[str], folder: Path | None = None) -> tuple[DictConfig, list[str]]:
    """The configuration, of `conf/` and perhaps another folder; also the words with a `+` where Hydra needs it.

    Hydra must be initialised. Raises UserError for `group=null` too, for which Hydra raises ValueError.
    """
    try:
        config, words = composed(lambda words: hydra.compose("train", [*words, *searched(folder)]), overrides)
    except ValueError as error:
        if is_user_mistake(error):  # its message is clear enough
            raise
        group = next((override for override in overrides if override.endswith("=null")), " ".join(overrides))
        raise UserError(f"{group}: expected one of the group's options, found null") from error
    refuse_unread(overrides, config)
    return config, words
