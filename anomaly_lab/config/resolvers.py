"""What resolving a configuration of ours needs beside OmegaConf: `stem`, `want`, `fact`, `tiled_as`.

- `${stem:path}`: the name of a file or folder without its suffix.
- `${want:key,default}`: what the method wants for a key (`wants` in its file), else the default. What the user, an
  experiment or a data set sets takes the place of the whole expression, and so beats both.
- `${fact:name,default}`: a class attribute of the method, read from its source; the default where it is None.
- `${tiled_as:kind}`: `object` for methods that see whole images, else the kind of the data.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import omegaconf.base
from omegaconf import DictConfig, OmegaConf

from anomaly_lab.config.schema import class_fact


def register() -> None:
    """Register the resolvers, once."""
    if not OmegaConf.has_resolver("want"):
        OmegaConf.register_new_resolver("stem", lambda path: Path(str(path)).resolve().stem)
        OmegaConf.register_new_resolver("want", _want)
        OmegaConf.register_new_resolver("fact", _fact)
        OmegaConf.register_new_resolver("tiled_as", _tiled_as)


@contextmanager
def resolving() -> Iterator[None]:
    """Resolve with our resolvers and a memory of interpolations.

    The same interpolations are parsed hundreds of times; with a memory a check takes a third of its time.
    """
    register()
    parse = omegaconf.base.parse
    omegaconf.base.parse = cache(parse)
    try:
        yield
    finally:
        omegaconf.base.parse = parse


def _want(key: str, default: Any, *, _root_: DictConfig) -> Any:
    wants = _method(_root_).get("wants") or {}
    return wants.get(key, default)


def _fact(name: str, default: Any, *, _root_: DictConfig) -> Any:
    value = class_fact(_method(_root_)["_target_"], name)
    return default if value is None else value


def _tiled_as(kind: str, *, _root_: DictConfig) -> str:
    return "object" if class_fact(_method(_root_)["_target_"], "sees") == "images" else kind


def _method(root: DictConfig) -> Any:
    return root._get_node("method")
