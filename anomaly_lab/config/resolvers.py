"""The resolvers `${...:}` of our configuration.

- `${category:path}`: the name of a data set, from the path of its folder or table (`data.names.category_of`).
- `${columns:path,label,left_out}`: how many columns of numbers a table has (`data.number_table.column_count`).
- `${want:key,default}`: the value that the method wants for a key (`wants` in its file), else the default. A value
  that is typed, or set by an experiment or a data set, replaces the whole expression and so takes precedence.
- `${fact:name,default}`: a class attribute of the method, read from its source; the default if it is None.
- `${own_line:}`: where the method itself calls a pixel of its maps defective; null: nowhere.
- `${given:value}`: whether a value is set.
- `${textures:}`: the categories of `data.categories` that are textures.
- `${tiled_as:kind}`: `object` if the method sees whole images, else the kind of the data.
"""

from typing import Any, cast

from omegaconf import DictConfig, ListConfig, OmegaConf

from anomaly_lab.config.schema import class_fact, own_line
from anomaly_lab.data.layouts import textures_of
from anomaly_lab.data.names import category_of
from anomaly_lab.data.number_table import column_count


def register() -> None:
    """Register the resolvers, once."""
    if not OmegaConf.has_resolver("want"):
        OmegaConf.register_new_resolver("category", lambda path: category_of(str(path)))
        OmegaConf.register_new_resolver("columns", _columns)
        OmegaConf.register_new_resolver("given", lambda value: value is not None)
        OmegaConf.register_new_resolver("want", _want)
        OmegaConf.register_new_resolver("fact", _fact)
        OmegaConf.register_new_resolver("own_line", _own_line)
        OmegaConf.register_new_resolver("tiled_as", _tiled_as)
        OmegaConf.register_new_resolver("textures", _textures)


def resolve(config: DictConfig | ListConfig) -> dict[str, Any]:
    """A configuration as plain values, whether just composed or read from a run folder."""
    register()
    return cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))


def _columns(path: str, label: str, left_out: ListConfig) -> int:
    return column_count(path, label, [str(name) for name in left_out])


def _want(key: str, default: Any, *, _root_: DictConfig) -> Any:
    wants = _method(_root_).get("wants") or {}
    return wants.get(key, default)


def _fact(name: str, default: Any, *, _root_: DictConfig) -> Any:
    value = class_fact(_method(_root_)["_target_"], name)
    return default if value is None else value


def _own_line(*, _root_: DictConfig) -> float | None:
    return own_line(_method(_root_))


def _tiled_as(kind: str, *, _root_: DictConfig) -> str:
    return "object" if class_fact(_method(_root_)["_target_"], "sees") == "images" else kind


def _textures(*, _root_: DictConfig) -> ListConfig:
    return OmegaConf.create(textures_of(_root_["data"]["categories"]))


def _method(root: DictConfig) -> Any:
    return root._get_node("method")
