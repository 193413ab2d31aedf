"""One line for every mistake of a user, whichever exception carries it."""

import errno
import math
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeGuard

import yaml
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, MissingMandatoryValue, OmegaConfBaseException

from anomaly_lab.core.console import printable
from anomaly_lab.core.errors import UserError, full_disk, nearest, unknown_key, without_dashes


@contextmanager
def mistakes_in_one_line() -> Iterator[None]:
    """End the program with one line and exit code 1 for a user's mistake; a bug keeps its traceback."""
    try:
        yield
    except Exception as error:
        if not is_user_mistake(error):
            raise
        sys.exit(f"error: {printable(str(explain(error)))}")


def explain(error: BaseException) -> UserError:
    """Turn an error of Hydra or OmegaConf into one line."""
    cause: BaseException | None = error
    while cause is not None:  # our own message is the clearest, however Hydra has wrapped it
        if isinstance(cause, UserError):
            return cause
        cause = cause.__cause__ or cause.__context__
    if no_room := full_disk(error):
        return no_room
    if is_too_long(error):
        return UserError(
            f"{str(error.filename)[:60]}...: expected a shorter path, found {len(error.filename)} characters"
        )
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, wanted = error.missing_cfg_file.rpartition("/")
        options = sorted(option for option in error.options or [] if not option.startswith("_"))
        if options:
            return UserError(
                f"{group}: expected one of {', '.join(options)}, found {wanted!r}{nearest(wanted, options)}"
            )
    if isinstance(error, InstantiationException) and error.__cause__ is not None:  # refused by Lightning or torch
        full_key = re.search(r"full_key: (\S+)", str(error))
        reason = " ".join(str(error.__cause__).split())
        if isinstance(error.__cause__, PermissionError) and full_key and full_key[1].endswith("splits"):
            return UserError(
                f"data.root: expected data that may all be read, found {error.__cause__.filename}: "
                f"{error.__cause__.strerror}; set data.root=FOLDER to the photos alone"
            )
        return UserError(f"{full_key[1]}: {reason}" if full_key else reason)
    cause = error.__cause__ if isinstance(error, ConfigCompositionException) and error.__cause__ else error
    parent, found = getattr(cause, "parent_node", None), getattr(cause, "key", None)
    if isinstance(parent, DictConfig) and found is not None and found not in parent:
        where = str(getattr(cause, "full_key", "") or found)
        if where.startswith("data.settings."):
            return UserError(f"{where}: expected no key, because categories are a table; set augmentation.{found}=...")
        root: Any = parent._get_root()
        for wish, value in _wishes(root).items():
            if where.startswith(f"{wish}."):
                expected = f"expected the whole of {wish}, which the method sets"
                return UserError(f"{where}: {expected}; type '{wish}={_typed(value)}'")
        if elsewhere := _places(root, str(found)):
            keys = " or ".join(elsewhere[:3])
            return UserError(f"{where}: expected the whole key, {keys}, found {where!r}; type {elsewhere[0]}=...")
        return unknown_key(where, map(str, parent))
    if isinstance(cause, MissingMandatoryValue) or "Missing mandatory value" in str(cause):
        key = str(cause).split("Missing mandatory value: ")[-1].split()[0]
        return UserError(f"{key}: expected a value, found none; set {key}=...")
    if several := re.match(r"Ambiguous value for argument '([^=]+)=(.+)'", str(error)):
        key, value = several.groups()
        return UserError(
            f"{key}: expected one value, found {value!r}; -m makes a job of each, '{key}=[{value}]' is a list"
        )
    if isinstance(error, OverrideParseException) and "=" not in error.override:
        word = error.override
        folder = (
            f"; for a folder of photos type data=folder {shlex.quote(f'data.root={word}')}"
            if Path(word).is_dir()
            else ""
        )
        return UserError(f"{word}: expected key=value, found a word without ={folder}")
    if isinstance(error, OverrideParseException) and error.override.startswith("-"):
        return without_dashes(error.override)
    if isinstance(error, OverrideParseException):
        return UserError(
            f"{error.override}: expected key=value; a value with spaces, commas, = or ~ needs quotes inside quotes: "
            "'data.root=\"my photos\"'"
        )
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return UserError(" ".join(lines[:2]) or type(error).__name__)


def _wishes(root: Any) -> dict[str, Any]:
    """The keys that a method sets, with their values as they stand in its file."""
    wants = OmegaConf.select(root, "method.wants")
    values: Any = OmegaConf.to_container(wants, resolve=False) if isinstance(wants, DictConfig) else {}
    return values


def _typed(value: Any) -> str:
    """A value as it is typed between single quotes."""
    flow = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=math.inf).strip()
    return re.sub(r"'(\$\{[^'}]*\})'", r"\1", flow)


def _places(root: Any, name: str) -> list[str]:
    """The keys of a configuration that end with a name, those that other keys repeat first."""
    keys: list[str] = []
    levels: list[tuple[str, Any]] = [("", OmegaConf.to_container(root, resolve=False))]
    for path, node in levels:
        for key, value in node.items() if isinstance(node, dict) else ():
            where = f"{path}{key}"
            keys += [where] * (key == name)
            if where not in {"hydra", "data.datamodule", "data.decoding", "callbacks", "tilings"}:  # they repeat others
                levels.append((f"{where}.", value))
    return keys


def is_too_long(error: BaseException | None) -> TypeGuard[OSError]:
    """Whether an exception says that a path is longer than a disk allows."""
    return isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG


def is_user_mistake(error: BaseException) -> bool:
    """Whether an exception reports a mistake in the configuration or the data, not a bug in the program."""
    if isinstance(error, HydraException | OmegaConfBaseException) or full_disk(error) or is_too_long(error):
        return True
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UserError):
            return True
        cause = cause.__cause__ or (cause.__context__ if isinstance(cause, InterpolationResolutionError) else None)
    return False
