"""Overrides of constructor arguments that no file of `conf/` mentions, typed without Hydra's `+`."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig

from anomaly_lab.config.schema import parameters_of
from anomaly_lab.core.errors import UserError, nearest

Composed = TypeVar("Composed")


def composed(compose: Callable[[list[str]], Composed], words: Sequence[str]) -> tuple[Composed, list[str]]:
    """The configuration composed from these words, and the words with a `+` where Hydra needs it.

    Raises the exceptions of Hydra, and UserError for a key that is no argument of the constructor.
    """
    overrides = list(words)
    while True:
        try:
            return compose(overrides), overrides
        except ConfigCompositionException as error:
            overrides = _added(overrides, error)


def _added(words: list[str], error: ConfigCompositionException) -> list[str]:
    """The words with a `+` before the one that Hydra refused, if it sets an argument of the constructor there."""
    parent, key, where = (getattr(error.__cause__, name, None) for name in ("parent_node", "key", "full_key"))
    if not isinstance(parent, DictConfig) or "_target_" not in parent or key in parent:
        raise error
    parameters = parameters_of(parent["_target_"])
    if parameters is None:
        raise error
    known = dict.fromkeys([*(str(each) for each in parent), *parameters])
    names = [name for name in known if not name.startswith("_") and name not in {"tiling", "wants"}]  # from `tilings`
    added = [
        f"+{word}" if word.startswith((f"{where}=", f"{str(where).rpartition('.')[0]}={{")) else word for word in words
    ]
    if key not in names or added == words:
        expected = f"one of {', '.join(names)}" if names else "no key"
        raise UserError(f"{where}: expected {expected}, found {key!r}{nearest(str(key), names)}") from error
    return added
