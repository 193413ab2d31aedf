"""Check a configuration before anything heavy is imported, and say what is wrong with it in one line.

The constructors are the schema: their parameters, types and ranges (pydantic's `PositiveInt` and the like) are read
from the source by `ast`, so that no second list has to be kept and torch is not imported to find a typing mistake.
"""

import math
import re
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import pydantic
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from anomaly_lab.config.resolvers import resolving
from anomaly_lab.config.schema import OBJECT, class_fact, signature
from anomaly_lab.config.wiring import complete, sources, wired
from anomaly_lab.core.errors import UserError, nearest
from anomaly_lab.core.messages import explain

# What no constructor of ours says: the top level, and numbers that go to torch and Lightning.
TOP_LEVEL = {
    "seed": typing.Annotated[int, pydantic.Field(ge=0, le=2**32 - 1)],
    "name": str,
    "runs_dir": str,
    "rerun": bool,
    "dry_run": bool,
    "controls": bool,
}
KIND = typing.Literal["texture", "object"]
POSITIVE = pydantic.PositiveInt
NEEDED = ("data", "augmentation", "callbacks", "trainer", "threshold", "method")
SECTIONS = (
    *NEEDED, "logger", "budget", "checkpoint", "input", "tiling", "tilings", "run_folder", "hydra", "experiment",
)  # fmt: skip
FOREIGN = {
    "max_epochs": POSITIVE,
    "num_nodes": POSITIVE,
    "log_every_n_steps": POSITIVE,
    "precision": typing.Literal["auto", "32-true", "16-mixed", "bf16-mixed"],
    "accelerator": typing.Literal["auto", "cpu", "gpu", "cuda", "mps", "tpu"],
    "devices": POSITIVE | list[int] | typing.Literal["auto"],
    "num_sanity_val_steps": pydantic.NonNegativeInt,
    "reload_dataloaders_every_n_epochs": pydantic.NonNegativeInt,
    "use_distributed_sampler": bool,
    "lr": pydantic.PositiveFloat,
    "weight_decay": pydantic.NonNegativeFloat,
    "betas": typing.Annotated[
        list[typing.Annotated[float, pydantic.Field(ge=0, lt=1)]], pydantic.Field(min_length=2, max_length=2)
    ],
    "eps": pydantic.PositiveFloat,
    "alpha": typing.Annotated[float, pydantic.Field(ge=0, lt=1)],  # of RMSprop
    "amsgrad": bool,
    "fused": bool | None,
    "foreach": bool | None,
    "strategy": typing.Literal["auto", "ddp", "ddp_find_unused_parameters_true"] | dict[str, Any],
    "gradient_clip_val": pydantic.PositiveFloat | None,
    "gradient_clip_algorithm": typing.Literal["norm", "value"] | None,
    "accumulate_grad_batches": POSITIVE,
    "limit_train_batches": POSITIVE | typing.Annotated[float, pydantic.Field(gt=0, le=1)],
    "limit_val_batches": pydantic.NonNegativeInt | typing.Annotated[float, pydantic.Field(ge=0, le=1)],
    "limit_test_batches": POSITIVE | typing.Annotated[float, pydantic.Field(gt=0, le=1)],
    "check_val_every_n_epoch": POSITIVE,
    "sync_batchnorm": bool,
    "deterministic": bool | typing.Literal["warn"],
    "benchmark": bool | None,
    "detect_anomaly": bool,
    "profiler": typing.Literal["simple", "advanced", "pytorch"] | None,
    "enable_model_summary": bool,
    "enable_progress_bar": bool,
}
KNOWN_TARGETS = ("torch.optim.", "pytorch_lightning.Trainer")  # take the keys above and no others
ADAPTERS: dict[str, pydantic.TypeAdapter] = {}


def check(config: DictConfig) -> dict[str, Any]:
    """Check a composed configuration against the constructors that it names, and return it resolved.

    Raises UserError: one line with the key, what was expected, what was found.
    """
    raw = cast(dict[str, Any], OmegaConf.to_container(config, resolve=False))
    with resolving():
        _check_category(config, raw["data"])
        _check_values(_follow(raw, raw), raw)  # finds most mistakes in a third of the time that interpolation takes
        try:
            _check_value("data.kind", OmegaConf.select(config, "data.kind"), KIND)
            resolved = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
        except OmegaConfBaseException as error:
            raise explain(error) from error
    _check_values(resolved, raw)
    repeated = {name: f"${{{key}}}" for name, key in sources(raw["method"]).items()}
    try:
        check_node("method", wired(resolved), complete(raw["method"], repeated))
    except UserError as error:
        raise _of_whole_objects(error, resolved["data"]) from None
    if not re.fullmatch(r"\w[\w.+-]*", resolved["name"]):
        raise UserError(f"name: expected letters, digits and . _ + - (it names a folder), found {resolved['name']!r}")
    runs = Path(resolved["runs_dir"])
    if file := next((path for path in (runs, *runs.parents) if path.is_file()), None):
        raise UserError(f"runs_dir: expected a folder, found the file {file}")
    if class_fact(resolved["method"]["_target_"], "sees") == "patches":
        _check_sizes(resolved["data"])
    return resolved


def wants_of(config: DictConfig) -> list[str]:
    """What the method wants and gets in place of a default, `key=value (default)` each.

    Raises UserError for a key that cannot be wanted.
    """
    wants, in_effect = config.method.get("wants") or {}, []
    for key, value in wants.items():
        *parents, last = str(key).split(".")
        parent = OmegaConf.select(config, ".".join(parents)) if parents else config
        node = parent._get_node(last) if isinstance(parent, DictConfig) and last in set(parent) else None
        raw = node._value() if node is not None else None
        offered = isinstance(raw, str) and raw.startswith(f"${{want:{key},")
        if node is None:
            raise UserError(f"method.wants: expected keys with a default ${{want:...}} in conf/, found {key!r}")
        if offered:
            in_effect.append(f"{key}={value}")
    return in_effect


def refuse_unread(overrides: Iterable[str], config: DictConfig) -> None:
    """Raise UserError for a learning rate that is asked for and that the method does not read."""
    asked = [word for word in overrides if word.lstrip("+").startswith("budget.learning_rate=")]
    if asked and "${budget.learning_rate}" not in str(OmegaConf.to_container(config.method, resolve=False)):
        name = config.method.name
        raise UserError(
            f"budget.learning_rate: expected none, because method={name} does not read it, found "
            f"{asked[-1].partition('=')[2]}; its own keys are in conf/method/{name}.yaml"
        )


def _check_sizes(data: dict[str, Any]) -> None:
    """Refuse sizes that fit their types but not each other."""
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


def _check_values(config: dict[str, Any], raw: dict[str, Any]) -> None:
    for key, expected in TOP_LEVEL.items():
        _check_value(key, config[key], expected)
    sections = {*TOP_LEVEL, *SECTIONS}
    if unknown := next((key for key in config if key not in sections), None):
        raise UserError(f"{unknown}: expected one of {', '.join(sorted(sections))}, found {unknown!r}")
    if missing := next((section for section in NEEDED if section not in config), None):
        raise UserError(f"{missing}: expected one of the options of conf/{missing}, found none")
    for section in ("data", *config):  # data first: others repeat its values, and the user set them there
        if section in NEEDED and not isinstance(config[section], dict):
            raise UserError(f"{section}: expected one of the options of conf/{section}, found {config[section]!r}")
        try:
            check_node(section, config[section], raw[section])
        except UserError as error:
            raise _of_whole_objects(error, config["data"]) from None
    if "max_epochs" not in config["trainer"]:
        raise UserError("trainer.max_epochs: expected a number, found none")
    passes, epochs = class_fact(config["method"]["_target_"], "passes"), config["trainer"]["max_epochs"]
    if passes is not None and epochs != passes and not (isinstance(epochs, str) and "${" in epochs):
        method = config["method"]["_target_"].rpartition(".")[2]
        times = "once" if passes == 1 else f"{passes} times"
        raise UserError(
            f"trainer.max_epochs: expected {passes}, because {method} sees every training image {times}, found {epochs}"
        )
    for name, callback in config["callbacks"].items():
        if callback is not None and not (isinstance(callback, dict) and "_target_" in callback):
            raise UserError(f"callbacks.{name}: expected its keys below it or null to leave it out, found {callback!r}")


def _of_whole_objects(error: UserError, data: dict[str, Any]) -> UserError:
    """Objects are shown whole: their patch has the size of the image, and that is what people set."""
    whole = data.get("kind") == "object" and data.get("patch_size") == data.get("image_size")
    return UserError(str(error).replace("data.patch_size:", "data.image_size:", 1)) if whole else error


def _follow(value: Any, root: dict[str, Any]) -> Any:
    """Replace plain references, `${data.patches}`, by the plain values they name; leave all else as it is."""
    if isinstance(value, dict):
        return {key: _follow(child, root) for key, child in value.items()}
    reference = re.fullmatch(r"\$\{([\w.]+)\}", value) if isinstance(value, str) else None
    found: Any = root
    for key in reference[1].split(".") if reference else ():
        found = found.get(key) if isinstance(found, dict) else None
    return value if reference is None or found is None or isinstance(found, dict | list) else _follow(found, root)


def _check_category(config: DictConfig, data: dict[str, Any]) -> None:
    """Refuse an unknown category, or no place at all, before an interpolation does it in words of its own."""
    if data.get("root") in ("", "???") or (data.get("root", "") is None and data.get("name") != "demo"):
        raise UserError("data.root: expected a folder or file, found nothing; set data.root=...")
    known, category = data.get("categories"), data.get("category")
    if known is None or (isinstance(category, str) and category in known):
        return
    root = Path(str(OmegaConf.select(config, "data.root"))).expanduser()
    there = sorted(path.parent.name for path in root.glob("*/train"))
    hint = nearest(str(category), known) or "; for other data: data=folder data.root=FOLDER"
    names = f"{', '.join(known)}{f' (in {root}: ' + ', '.join(there) + ')' if there else ''}"
    raise UserError(f"data.category: expected one of {names}, found {category!r}{hint}")


def check_node(path: str, node: Any, raw: Any = None) -> None:
    """Check a node and all below it: where it names one of our constructors, its keys and values must fit."""
    if isinstance(node, list):
        for index, value in enumerate(node):
            check_node(f"{path}[{index}]", value, raw[index] if isinstance(raw, list) else None)
    if not isinstance(node, dict) or path == "hydra" or isinstance(raw, str):  # text: repeats a node checked elsewhere
        return
    raw = raw or {}
    target = node.get("_target_")
    parameters = signature(target) if isinstance(target, str) and target.startswith("anomaly_lab.") else None
    for key, value in node.items():
        here = f"{path}.{key}"
        if key.startswith("_") or (path == "method" and key in {"name", "wants"}):
            continue
        if parameters is not None:
            if key not in parameters:
                raise UserError(
                    f"{here}: expected one of {', '.join(parameters)}, found {key!r}{nearest(key, parameters)}"
                )
            _check_value(_source(here, raw.get(key)), value, parameters[key])
        elif target is not None and key in FOREIGN:
            _check_value(_source(here, raw.get(key)), value, FOREIGN[key])
        elif isinstance(target, str) and target.startswith(KNOWN_TARGETS):
            raise UserError(
                f"{here}: expected one of {', '.join(sorted(FOREIGN))}, found {key!r}{nearest(key, FOREIGN)}"
            )
        check_node(here, value, raw.get(key))


def _source(path: str, raw: Any) -> str:
    """The key that the user sets, where this one only repeats it: `${data.patches}` -> data.patches."""
    repeated = re.fullmatch(r"\$\{([\w.]+)\}", raw) if isinstance(raw, str) else None
    return repeated[1] if repeated else path


def _check_value(path: str, value: Any, expected: Any) -> None:
    if expected is Any or (isinstance(value, str) and "${" in value):
        return
    if expected is OBJECT:
        if not isinstance(value, dict) or "_target_" not in value:
            raise UserError(f"{path}: expected its keys below it (a mapping with _target_), found {value!r}")
        return
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{path}: expected a finite number, found {value}")
    if repr(expected) not in ADAPTERS:  # some types cannot be hashed, and making an adapter takes milliseconds
        ADAPTERS[repr(expected)] = pydantic.TypeAdapter(expected)
    try:
        ADAPTERS[repr(expected)].validate_python(value, strict=True)
    except pydantic.ValidationError as error:
        messages = dict.fromkeys(details["msg"] for details in error.errors())
        said = " or ".join(re.sub(r"^Input should be (a valid )?", "", message) for message in messages)
        said = re.sub(r"List should have (at \w+ \d+ items) after validation, not \d+", r"\1", said)
        said = said.replace("greater", "a number greater").replace("less than", "a number less than")
        options = re.findall(r"'([^']+)'", said)
        hint = nearest(value, options) if isinstance(value, str) else ""
        raise UserError(f"{path}: expected {said}, found {value!r}{hint}") from None
