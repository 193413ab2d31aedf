"""Check of a configuration before anything heavy is imported; mistakes are reported in one line.

The constructors are the schema: their parameters, types and ranges (pydantic's `PositiveInt` and the like) are read
from the source by `ast`. So there is no second list, and a typing mistake is found without importing torch.
"""

import math
import re
import typing
from collections.abc import Iterable, Iterator
from functools import reduce
from pathlib import Path
from typing import Any, cast

import pydantic
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from anomaly_lab.config.labels import check_amount, check_labelled
from anomaly_lab.config.resolvers import register, resolve
from anomaly_lab.config.schema import OBJECT, class_fact, is_ours, parameters_of, refuse_missing
from anomaly_lab.config.tables import check_reads
from anomaly_lab.config.wants import refuse_unoffered
from anomaly_lab.config.wiring import complete, sources, wired
from anomaly_lab.core.errors import UserError, nearest, unknown_key
from anomaly_lab.networks.offline import OFFLINE

POSITIVE = pydantic.PositiveInt
KIND = typing.Literal["texture", "object"]
KINDS, BY_KIND = typing.get_args(KIND), ("input", "tilings")  # sections with the values of each kind of data
# Keys that the program reads itself, by type: no constructor states them.
READ = {
    "seed": typing.Annotated[int, pydantic.Field(ge=0, le=2**32 - 1)],
    "name": str,
    "runs_dir": typing.Annotated[str, pydantic.Field(min_length=1)],
    "rerun": bool | typing.Literal["judge"],
    "dry_run": bool,
    "trust": list[str] | str,
    "controls": bool,
    "run_folder": str,
    "budget.epochs": POSITIVE,
    "budget.schedule": typing.Literal["constant", "cosine", "exponential", "early_drop", "drop", "two_drops"],
    "budget.learning_rate": pydantic.PositiveFloat,
    "checkpoint.every_batches": POSITIVE | None,
    "method.name": str,
    "data.name": str,
    "data.category": str,
    "data.kind": KIND,
    "data.controls": pydantic.conlist(str, min_length=1) | None,
    "data.foreign_images": typing.Annotated[str, pydantic.Field(min_length=1)],
    **dict.fromkeys(("data.layout", "data.decoding", "data.datamodule", "tiling", "threshold", "trainer"), OBJECT),
}
FOLDERS = {  # keys that name the folders of a run, and their letters; the folder of somebody's photos has any name
    **dict.fromkeys(("name", "method.name", "data.name"), r"\w[\w.+-]*"),
    "data.category": r"\s*\.*[^./\\\0\s][^/\\\0]*",
}
LONGEST = 255  # bytes of a file name
LARGEST = 2**32  # of a number: no key of ours means more, and torch would end in an overflow
NEEDED = ("data", "augmentation", "callbacks", "trainer", "threshold", "method")
SECTIONS = (
    *NEEDED, "logger", "budget", "checkpoint", "input", "tiling", "tilings", "hydra", "experiment",
)  # fmt: skip
# Ranges that torch and Lightning do not check, or only after seconds of imports. Names and plain types are read from
# their signatures, so another optimizer or option needs no entry here.
NARROWER = {
    "lr": pydantic.PositiveFloat,
    "weight_decay": pydantic.NonNegativeFloat,
    "betas": typing.Annotated[
        list[typing.Annotated[float, pydantic.Field(ge=0, lt=1)]], pydantic.Field(min_length=2, max_length=2)
    ],
    **dict.fromkeys(("max_epochs", "num_nodes", "accumulate_grad_batches", "check_val_every_n_epoch"), POSITIVE),
    **dict.fromkeys(
        ("limit_train_batches", "limit_test_batches"), POSITIVE | typing.Annotated[float, pydantic.Field(gt=0, le=1)]
    ),
    "limit_val_batches": pydantic.NonNegativeInt | typing.Annotated[float, pydantic.Field(ge=0, le=1)],
    "gradient_clip_val": pydantic.PositiveFloat | None,
    "precision": typing.Literal["auto", "32-true", "16-mixed", "bf16-mixed"],
    "accelerator": typing.Literal["auto", "cpu", "gpu", "cuda", "mps", "tpu"],
    "devices": POSITIVE | list[int] | typing.Literal["auto"],
    "strategy": typing.Literal["auto", "ddp", "ddp_find_unused_parameters_true"] | dict[str, typing.Any],
    "deterministic": bool | typing.Literal["warn"],
    "profiler": typing.Literal["simple", "advanced", "pytorch"] | None,
}
NO_OPTION = {  # of the trainer, and why
    **dict.fromkeys(("logger", "callbacks", "plugins", "default_root_dir"), "the program sets it"),
    **dict.fromkeys(("fast_dev_run", "barebones"), "a run needs its checkpoint; a short one: budget.epochs=1"),
}
TUNERS = {"LearningRateFinder", "BatchSizeFinder"}  # train within a training, on attributes that no method has
OWN = "anomaly_lab.metrics.thresholds.Own"
REFERENCE = re.compile(r"\$\{(\w+(?:\.\w+)*)\}")
ADAPTERS: dict[str, pydantic.TypeAdapter] = {}


def check(config: DictConfig) -> dict[str, Any]:
    """Check a composed configuration against the constructors that it names, and return it resolved.

    Raises UserError with one line: the key, what was expected, what was found.
    """
    raw = cast(dict[str, Any], OmegaConf.to_container(config, resolve=False))
    _check_sections(raw)
    refuse_missing("method._target_", raw["method"].get("_target_"))  # its facts are needed to resolve the others
    refuse_unoffered(raw["method"])
    register()
    _check_category(config, raw["data"])
    _check_presence(raw)
    try:
        check_value("data.kind", OmegaConf.select(config, "data.kind"), KIND)
        resolved = resolve(config)
    except OmegaConfBaseException as error:
        from anomaly_lab.core.messages import explain  # and Hydra with it, which nobody needs to open a run

        raise explain(error) from error
    check_reads(resolved)
    check_amount(resolved["data"].get("labelled_abnormal"))
    try:
        _check_nodes(resolved, raw)
    except UserError as error:
        raise _of_whole_objects(error, resolved["data"]) from None
    _check_passes(resolved)
    _check_own_line(resolved)
    check_labelled(resolved)
    for key, letters in FOLDERS.items():
        name = _at(resolved, key)
        if not re.fullmatch(letters, name) or len(name.encode(errors="surrogateescape")) > LONGEST:
            raise UserError(f"{key}: expected letters, digits and . _ + - (it names a folder), found {name!r}")
    runs = Path(resolved["runs_dir"])
    if file := next((path for path in (runs, *runs.parents) if path.is_file()), None):
        raise UserError(f"runs_dir: expected a folder, found the file {file}")
    if class_fact(resolved["method"]["_target_"], "sees") == "patches":
        _check_sizes(resolved["data"])
    return resolved


def refuse_unread(overrides: Iterable[str], config: DictConfig) -> None:
    """Raise UserError for a typed `budget.learning_rate` that the method does not read."""
    typed = [word for word in overrides if word.lstrip("+").startswith("budget.learning_rate=")]
    if typed and "${budget.learning_rate}" not in str(OmegaConf.to_container(config.method, resolve=False)):
        name = config.method.name
        raise UserError(
            f"budget.learning_rate: expected none, because method={name} does not read it, found "
            f"{typed[-1].partition('=')[2]}; its own keys are in conf/method/{name}.yaml"
        )


def _check_sizes(data: dict[str, Any]) -> None:
    """Refuse sizes that are valid alone but not together."""
    image, patch, stride = (data[name] for name in ("image_size", "patch_size", "stride"))
    if data["kind"] == "object" and patch != image:
        raise UserError(
            f"data.patch_size: expected the image size, {image}, because objects are shown whole, found {patch}; set "
            "data.image_size, or data.kind=texture"
        )
    if data["kind"] == "texture" and not patch <= image:
        raise UserError(f"data.patch_size: expected at most the image size, {image}, found {patch}")
    if data["kind"] == "texture" and not 1 <= stride <= patch:
        raise UserError(f"data.stride: expected 1 to {patch}, the patch size, so that no gap is left, found {stride}")


def _check_sections(raw: dict[str, Any]) -> None:
    """Refuse a missing section, and one that nothing reads."""
    sections = {*(key for key in READ if "." not in key), *SECTIONS}
    if unknown := next((key for key in raw if key not in sections), None):
        raise unknown_key(unknown, sorted(sections))
    for section in NEEDED:
        if not isinstance(raw.get(section), dict):
            found = repr(raw[section]) if section in raw else "none"
            raise UserError(f"{section}: expected one of the options of conf/{section}, found {found}")
    for path in (*BY_KIND, *(f"{key}.{kind}" for key in BY_KIND for kind in KINDS)):
        node: Any = raw
        for part in path.split("."):
            node = node.get(part) if isinstance(node, dict) else None
        if not isinstance(node, dict):
            raise UserError(f"{path}: expected its keys below it, found {node!r}")
    for name, callback in raw["callbacks"].items():
        if callback is not None and not (isinstance(callback, dict) and "_target_" in callback):
            raise UserError(f"callbacks.{name}: expected its keys below it or null to leave it out, found {callback!r}")
        if callback is not None and (kind := str(callback["_target_"]).rpartition(".")[2]) in TUNERS:
            raise UserError(
                f"callbacks.{name}: expected a callback that does not train, found {kind}; search with -m "
                "hydra/sweeper=optuna 'budget.learning_rate=tag(log,interval(1e-4,1e-2))' or data.batch_size=8,16"
            )
    for key, reason in NO_OPTION.items():
        if raw["trainer"].get(key):
            raise UserError(f"trainer.{key}: expected none, because {reason}, found {raw['trainer'][key]!r}")


def _check_presence(raw: dict[str, Any]) -> None:
    """Refuse a configuration that lacks a key which the program reads or another key repeats (`~seed`)."""
    repeated = {name: key for key, text in _texts(raw) for name in REFERENCE.findall(text)}
    for name, reader in {**repeated, **dict.fromkeys(READ, "the program")}.items():
        node, parts = raw, name.split(".")
        for number, part in enumerate(parts, 1):
            if isinstance(node, str) and "${" in node:
                break  # repeats another node, which is checked there
            if not isinstance(node, dict) or part not in node:
                raise UserError(f"{'.'.join(parts[:number])}: expected a value, because {reader} reads it, found none")
            node = node[part]


def _texts(node: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every text in a configuration with its key."""
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in children:
        yield from _texts(value, f"{path}.{key}" if path else str(key))
    if isinstance(node, str):
        yield path, node


def _at(config: dict[str, Any], key: str) -> Any:
    """The value of a dotted key."""
    return reduce(lambda node, part: node[part], key.split("."), config)


def _check_nodes(resolved: dict[str, Any], raw: dict[str, Any]) -> None:
    """Check all values against the constructors that take them, including those supplied by name."""
    for key, expected in READ.items():
        check_value(key, _at(resolved, key), expected)
    rest = {key: value for key, value in resolved.items() if key != "logger"}
    for section in ("data", *rest):  # data first: others repeat its values, and the user set them there
        check_node(section, rest[section], raw[section])
    for path, node in loggers_of(resolved["logger"]).items():
        check_node(path, node)
    repeated = {name: f"${{{key}}}" for name, key in sources(raw["method"]).items()}
    check_node("method", wired(resolved), complete(raw["method"], repeated))


def _check_passes(resolved: dict[str, Any]) -> None:
    """Refuse a number of epochs that differs from the fixed number of passes of the method."""
    if "max_epochs" not in resolved["trainer"]:
        raise UserError("trainer.max_epochs: expected a number, found none")
    target, epochs = resolved["method"]["_target_"], resolved["trainer"]["max_epochs"]
    passes = class_fact(target, "passes")
    if passes is not None and epochs != passes:
        times = "once" if passes == 1 else f"{passes} times"
        raise UserError(
            f"trainer.max_epochs: expected {passes}, because {target.rpartition('.')[2]} sees every training image "
            f"{times}, found {epochs}"
        )


def _check_own_line(resolved: dict[str, Any]) -> None:
    """Refuse the line of a method that draws none in the maps that it is to make."""
    if resolved["threshold"].get("_target_") != OWN or resolved["threshold"].get("line", 0) is not None:
        return
    target, name = (resolved["method"][key] for key in ("_target_", "name"))
    wanted = class_fact(target, "own_line_for") if class_fact(target, "own_line") is not None else {}
    hint = ", ".join(f"method.{key}={value}" for key, value in wanted.items())
    raise UserError(
        "threshold: expected a rule for a method without a threshold of its own (area, false_alarms), found own"
        + (f"; method={name} has one with {hint}" if hint else "")
    )


def _of_whole_objects(error: UserError, data: dict[str, Any]) -> UserError:
    """The error under the key that people set: for objects the patch is the image, so `data.image_size`."""
    whole = data.get("kind") == "object" and data.get("patch_size") == data.get("image_size")
    return UserError(str(error).replace("data.patch_size:", "data.image_size:", 1)) if whole else error


def _check_category(config: DictConfig, data: dict[str, Any]) -> None:
    """Refuse an unknown category or a missing root, before an interpolation fails with a less clear message."""
    if data.get("root") in ("", "???") or (data.get("root", "") is None and data.get("name") != "demo"):
        raise UserError("data.root: expected a folder or file, found nothing; set data.root=...")
    known, category = data.get("categories"), data.get("category")
    if "categories" in data and not isinstance(known, dict):
        raise UserError(f"data.categories: expected a table of categories, found {known!r}")
    if known is None or (isinstance(category, str) and category in known):
        return
    root = Path(str(OmegaConf.select(config, "data.root"))).expanduser()
    there = sorted(path.parent.name for path in root.glob("*/train"))
    hint = nearest(str(category), known) or "; for other data: data=folder data.root=FOLDER"
    names = f"{', '.join(known)}{f' (in {root}: ' + ', '.join(there) + ')' if there else ''}"
    raise UserError(f"data.category: expected one of {names}, found {category!r}{hint}")


def loggers_of(node: Any) -> dict[str, dict[str, Any]]:
    """The loggers of a configuration by their keys: `logger`, and `logger.csv` for the second of `logger=[wandb,csv]`.

    Raises UserError for anything else.
    """
    if not node:
        return {}
    if not isinstance(node, dict):
        raise UserError(f"logger: expected wandb, tensorboard, csv, none or several as [wandb,csv], found {node!r}")
    more = {key: value for key, value in node.items() if isinstance(value, dict) and "_target_" in value}
    first = {key: value for key, value in node.items() if key not in more}
    return ({"logger": first} if first else {}) | {f"logger.{key}": value for key, value in more.items()}


def check_node(path: str, node: Any, raw: Any = None) -> None:
    """Check a node and its children: keys and values must fit the constructor that a node names."""
    if isinstance(node, list):
        for index, value in enumerate(node):
            check_node(f"{path}[{index}]", value, raw[index] if isinstance(raw, list) else None)
    if not isinstance(node, dict) or path == "hydra" or isinstance(raw, str):  # text: repeats a node checked elsewhere
        return
    raw = raw or {}
    target = node.get("_target_")
    if "_target_" in node:
        refuse_missing(f"{path}._target_", target)
    if not isinstance(node.get("_partial_", False), bool):
        raise UserError(f"{path}._partial_: expected true or false, found {node['_partial_']!r}")
    parameters = parameters_of(target) if isinstance(target, str) else None
    for key, value in node.items():
        here = f"{path}.{key}"
        if key.startswith("_") or (path == "method" and key in {"name", "wants"}):
            continue
        if parameters is not None and key not in parameters:
            raise unknown_key(here, parameters)
        if parameters is not None:
            expected = parameters[key] if is_ours(target) else NARROWER.get(key, parameters[key])
            check_value(_source(here, raw.get(key)), value, expected)
        check_node(here, value, raw.get(key))


def _source(path: str, raw: Any) -> str:
    """The key that the user sets, if this one only repeats it: `${data.patches}` -> data.patches."""
    repeated = re.fullmatch(r"\$\{([\w.]+)\}", raw) if isinstance(raw, str) else None
    return repeated[1] if repeated else path


def check_value(path: str, value: Any, expected: Any) -> None:
    """Raise UserError, one line, unless a value has a type that pydantic understands."""
    if expected is Any:
        return
    if isinstance(value, list) and typing.get_origin(expected) is tuple:  # YAML has no tuples
        value = tuple(value)
    if expected == OBJECT | None and value is None:
        return
    if expected in (OBJECT, OBJECT | None):
        if not isinstance(value, dict) or "_target_" not in value:
            hint = nearest(str(value), [OFFLINE]) if path.endswith(".backbone") else ""
            raise UserError(f"{path}: expected its keys below it (a mapping with _target_), found {value!r}{hint}")
        return
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{path}: expected a finite number, found {value}")
    if isinstance(value, int) and abs(value) > LARGEST:
        raise UserError(f"{path}: expected a number up to {LARGEST}, found {value}")
    if repr(expected) not in ADAPTERS:  # some types cannot be hashed, and making an adapter takes milliseconds
        try:
            ADAPTERS[repr(expected)] = pydantic.TypeAdapter(expected)
        except pydantic.PydanticUserError:  # of another package: no type that can be checked
            return
    literals = typing.get_args(expected) if typing.get_origin(expected) is typing.Literal else None
    is_exact = literals is None or any(type(value) is type(each) for each in literals)  # else True is 1
    try:
        ADAPTERS[repr(expected)].validate_python(value if is_exact else [value], strict=True)
    except pydantic.ValidationError as error:
        messages = dict.fromkeys(details["msg"] for details in error.errors())
        reason = " or ".join(re.sub(r"^Input should be (a valid )?", "", message) for message in messages)
        reason = re.sub(r"\w+ should have (at \w+ \d+ items?) after validation, not \d+", r"\1", reason)
        if _fits([value], expected):
            reason = f"a list such as {path}=[{value}]"
        reason = (
            reason.replace("String should have", "a text of")
            .replace("greater", "a number greater")
            .replace("less than", "a number less than")
        )
        options = re.findall(r"'([^']+)'", reason)
        hint = nearest(value, options) if isinstance(value, str) else ""
        raise UserError(f"{path}: expected {reason}, found {value!r}{hint}") from None


def _fits(value: Any, expected: Any) -> bool:
    """Whether a value has a type that has an adapter."""
    try:
        ADAPTERS[repr(expected)].validate_python(value, strict=True)
    except pydantic.ValidationError:
        return False
    return True
