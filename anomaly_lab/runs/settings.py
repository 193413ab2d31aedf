"""The configuration of a run for comparison: flat, without paths and secrets, references followed."""

import re
from pathlib import Path
from typing import Any

import yaml

from anomaly_lab.config.files import CONF
from anomaly_lab.config.schema import class_fact
from anomaly_lab.core.errors import UserError
from anomaly_lab.runs.naming import decides

Settings = dict[str, Any]  # "method.network.latent_size" -> 100
MOST_BYTES, MOST_LEVELS = 2**20, 50  # of a configuration: ours have less than 2**14 and 10
Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C one is ten times as fast, and not everywhere
REFERENCE = re.compile(r"\$\{([\w.]+)\}")
OF_THE_METHOD = re.compile(r"\$\{(want|fact):([\w.]+),(.*)\}")  # config/resolvers.py
TILED_AS = re.compile(r"\$\{tiled_as:(.*?\})\}")
SECRET = re.compile(r"(api_?key|token|password|secret|credential|entity)", re.IGNORECASE)
# The folders of an absolute path (`/a/`, `~/`, `C:\`, `file:///`), unless it begins inside a word; the last part stays.
PLACE = re.compile(
    r"(?<![\w./\\}<])(?:\w+:///?(?=/)|~|[A-Za-z]:)?(?:[/\\](?!\s)[^\s/\\'\":,;()\[\]{}<>]+)*[/\\](?=[^\s/\\])"
)
# Settings of the data, not of learning: they may differ between categories of one method.
OF_THE_DATA = (
    "data.kind", "data.image_size", "data.patch_size", "data.stride", "data.channels", "data.resize",
    "data.value_range", "data.region", "data.max_pixels", "data.good", "data.on_error", "data.settings",
    "data.test_batch_size", "data.fold", "data.folds", "augmentation", "input", "tiling", "tilings",
)  # fmt: skip


NOT_SHOWN = {  # paths, names, hardware
    "": {"name", "runs_dir", "rerun", "dry_run", "trust", "logger", "run_folder", "hydra", "checkpoint"},
    "data": {
        "root", "workers", "cache", "cache_dir", "categories", "layout", "name", "category", "decoding", "controls",
    },
    "trainer": {"accelerator", "devices", "num_nodes", "strategy"},
}  # fmt: skip


def read(path: Path) -> dict[str, Any]:
    """A configuration as Hydra wrote it, with unresolved references. Raises OSError or ValueError."""
    config = as_written(path)
    method = config.get("method")
    wants = method.pop("wants", None) if isinstance(method, dict) else None
    target = str(method.get("_target_")) if isinstance(method, dict) else ""
    return _decided(config, target, wants if isinstance(wants, dict) else {})


def as_written(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file of plain values. Raises OSError or ValueError, and never takes long.

    Aliases (`*name`) are refused: nobody writes them into a configuration but to make it explode.
    """
    if path.exists() and not path.is_file():
        raise ValueError("expected a file")
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"expected at most {MOST_BYTES} bytes, found {path.stat().st_size}")
    text = path.read_text(encoding="utf-8")
    try:
        depth = 0
        for event in yaml.parse(text, Loader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent) or depth > MOST_LEVELS:
                raise ValueError("expected values, found an alias, or a value nested too deeply")
        config = yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    if not isinstance(config, dict):
        raise ValueError(f"expected a mapping, found {type(config).__name__}")
    return config


def _decided(node: Any, target: str, wants: dict[str, Any]) -> Any:
    """The configuration with the values that the method decides by its wants or class attributes."""
    if isinstance(node, dict):
        return {key: _decided(value, target, wants) for key, value in node.items()}
    if not isinstance(node, str):
        return node
    node = TILED_AS.sub("object" if _fact(target, "sees") == "images" else r"\1", node)
    match = OF_THE_METHOD.fullmatch(node)
    if match is None:
        return node
    kind, name, default = match.groups()
    value = wants.get(name) if kind == "want" else _fact(target, name)
    return yaml.load(default, Loader) if value is None and name not in wants else value


def _fact(target: str, name: str) -> Any:
    """A class attribute of a method; None if the class does not exist."""
    try:
        return class_fact(target, name)
    except (UserError, OSError):
        return None


def chosen(config: dict[str, Any]) -> Settings:
    """The settings that can change a result, except the seed, as written: `${data.image_size}` stays a reference.

    So a setting that follows from the category or the seed is equal in all runs. Settings that the method never reads
    are left out, and callbacks that decide nothing.
    """
    kept = {key: value for key, value in config.items() if key not in NOT_SHOWN[""] | {"seed", "controls"}}
    kept["callbacks"] = _deciding(config.get("callbacks"))
    method = config.get("method")
    target = str(method.get("_target_")) if isinstance(method, dict) else ""
    if _fact(target, "passes") is not None:
        kept.pop("budget", None)
    for section in ("data", "trainer"):
        if isinstance(kept.get(section), dict):
            kept[section] = {key: value for key, value in kept[section].items() if key not in NOT_SHOWN[section]}
    if isinstance(kept.get("data"), dict):
        unread = {"datamodule"}  # repeats the keys above
        if _fact(target, "sees") == "images":
            unread |= {"patches", "patch_size", "redraw"}
        kept["data"] = {key: value for key, value in kept["data"].items() if key not in unread}
    if isinstance(kept.get("method"), dict):
        kept["method"] = {key: value for key, value in kept["method"].items() if key != "name"}
    return {key: value for key, value in _flat(kept).items() if not SECRET.search(key)}


def _deciding(callbacks: Any) -> dict[str, Any]:
    """The callbacks that enter a key of the run."""
    every = callbacks.items() if isinstance(callbacks, dict) else ()
    targets = {name: value.get("_target_") for name, value in every if isinstance(value, dict)}
    return {name: callbacks[name] for name, target in targets.items() if decides(str(target))}


def shown_settings(config: dict[str, Any]) -> Settings:
    """The same with plain references followed, and without paths, environment variables and secrets of the machine."""
    places = {**config, "data": {**config["data"], "root": None}} if isinstance(config.get("data"), dict) else config
    settings = {"seed": config.get("seed")}
    for key, value in chosen(config).items():
        settings |= {name: public(found) for name, found in _resolved(key, value, places).items()}
    return settings


def of_the_data(key: str) -> bool:
    """Whether a setting describes the data rather than the method."""
    return any(key == name or key.startswith(f"{name}.") for name in OF_THE_DATA)


def public(value: Any) -> Any:
    """A value without folders and secrets of this machine; of an absolute path the last part stays."""
    if isinstance(value, dict):
        return {key: public(child) for key, child in value.items() if not SECRET.search(str(key))}
    if isinstance(value, list):
        return [public(child) for child in value]
    if not isinstance(value, str):
        return value
    return PLACE.sub("…/", value.replace(str(Path.home()), "~"))  # a home may have spaces in its name


def typed(key: str, value: str) -> str:
    """A value as people type it: the option of a group (`threshold=area`) instead of the class that it names."""
    group = key.removesuffix("._target_")
    files = (CONF / group).glob("*.yaml") if key.endswith("._target_") and group.isidentifier() else ()
    options = [path.stem for path in files if f"_target_: {value}\n" in path.read_text(encoding="utf-8")]
    return options[0] if len(options) == 1 else value


def short(key: str) -> str:
    """A short key for people, without `method.` and `_target_`."""
    return key.removesuffix("._target_").removeprefix("method.")


def _flat(node: dict[str, Any], prefix: str = "") -> Settings:
    flat: Settings = {}
    for key, value in node.items():
        name = f"{prefix}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return flat


def _resolved(key: str, value: Any, config: dict[str, Any], left: int = 3) -> Settings:
    """A setting with its references followed; a reference to a section becomes the settings of that section.

    `left` limits the depth of sections that contain themselves.
    """
    value = _follow(value, config)
    reference = REFERENCE.fullmatch(value) if isinstance(value, str) else None
    section = _at(reference[1], config, left) if reference and left else None
    if not isinstance(section, dict):
        return {key: value}
    inner = {name: child for name, child in _flat(section, f"{key}.").items() if not SECRET.search(name)}
    return {name: found for child in inner for name, found in _resolved(child, inner[child], config, left - 1).items()}


def _follow(value: Any, config: dict[str, Any], left: int = 10) -> Any:
    """Follow `${a.b}`, also as part of a text; resolvers, and so the environment, are never called.

    A reference to a section stays as it is; `left` ends circles.
    """
    if isinstance(value, list):
        return [_follow(child, config, left) for child in value]
    found = REFERENCE.search(value) if isinstance(value, str) else None
    target = _at(found[1], config, left - 1) if found and left else None
    if found is None or target is None or isinstance(target, dict):
        return value
    return _follow(target if found[0] == value else value.replace(found[0], str(target)), config, left - 1)


def _at(path: str, config: dict[str, Any], left: int) -> Any:
    """The value at a dotted path, through references to sections on the way; None: there is none."""
    node: Any = config
    for part in path.split("."):
        if isinstance(node, str):  # `data.settings: ${data.categories.${data.category}}`
            whole = _follow(node, config, left)
            reference = REFERENCE.fullmatch(whole) if isinstance(whole, str) else None
            node = _at(reference[1], config, left - 1) if reference and left > 0 else None
        node = node.get(part) if isinstance(node, dict) else None
    return node
