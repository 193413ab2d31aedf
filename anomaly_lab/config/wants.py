"""The values that a method wants in other groups: `wants` in its file, dotted keys and values.

The files of `conf/` offer a key by a default of the form `${want:key,default}`. A value that is typed, or set by an
experiment or another file, replaces the whole expression, so it takes precedence by plain composition.
"""

import re
from functools import cache
from typing import Any

from omegaconf import DictConfig, OmegaConf

from anomaly_lab.config.files import CONF
from anomaly_lab.config.resolvers import register
from anomaly_lab.config.schema import is_ours
from anomaly_lab.core.errors import UserError, nearest

WANT = re.compile(r"^[^#\n]*\$\{want:([\w.]+),", re.MULTILINE)


@cache
def offered() -> tuple[str, ...]:
    """The keys that a method may want."""
    files = [path for path in (*CONF.glob("*.yaml"), *CONF.glob("*/*.yaml")) if path.parent.name != "method"]
    keys = (key for path in files for key in WANT.findall(path.read_text(encoding="utf-8")))
    return tuple(sorted(set(keys)))


def refuse_unoffered(method: dict[str, Any]) -> None:
    """Raise UserError if a method wants a key that no file offers: the value would have no effect."""
    wants = method.get("wants") or {}
    if not isinstance(wants, dict):
        raise UserError(f"method.wants: expected keys and values, found {wants!r}")
    if unknown := next((key for key in wants if key not in offered()), None):
        raise UserError(
            f"method.wants: expected keys with a default ${{want:...}} in conf/ ({', '.join(offered())}), found "
            f"{unknown!r}{nearest(unknown, offered())}"
        )


def wants_of(config: DictConfig) -> str:
    """One line with the values that a method gets instead of defaults; empty if there are none."""
    defaults = OmegaConf.create(OmegaConf.to_container(config, resolve=False))
    wants = defaults.method.pop("wants", None) or {}
    register()
    pairs = {key: (OmegaConf.select(config, key), OmegaConf.select(defaults, key)) for key in wants}
    read = {key: pair for key, pair in pairs.items() if not key.startswith("input.") or _counts(config, key)}
    changed = {key: pair for key, pair in read.items() if pair[0] != pair[1]}
    granted = ", ".join(f"{key}={typed(value)} (default {typed(default)})" for key, (value, default) in changed.items())
    target = config.method._target_
    method = target.split(".")[-2] if is_ours(target) else config.method.name  # a stem of ours is a file's name
    return f"method={method} sets {granted}; a key that you type overrides it" if granted else ""


def _counts(config: DictConfig, key: str) -> bool:
    """Whether a size of `input` is that of the data of this run, some of which have one of their own."""
    ours = key.startswith(f"input.{config.data.kind}.") or key.count(".") == 1
    return ours and OmegaConf.select(config, key) == OmegaConf.select(config, f"data.{key.rpartition('.')[2]}")


def typed(value: Any) -> str:
    """A value as it is typed on the command line; of an object the name of its class."""
    if isinstance(value, dict | DictConfig):
        return value.get("_target_", "{...}").rpartition(".")[2]
    return {True: "true", False: "false", None: "null"}[value] if isinstance(value, bool | None) else str(value)
