"""Arguments that the constructors of a method get by parameter name, so that no file of `conf/method` repeats them."""

from typing import Any

from anomaly_lab.config.schema import class_fact, parameters_of


def wired(resolved: dict[str, Any]) -> dict[str, Any]:
    """The method of a resolved configuration with all arguments supplied by name, except its tiling.

    Every class in it that is ours, or in the package of the method, gets `image_size` (of what the method sees: patches
    or whole images), `channels`, `seed` and `schedule` if it has such a parameter and its file does not set it;
    `sources` names the keys.
    """
    supplied = {}
    for name, key in sources(resolved["method"]).items():
        value: Any = resolved
        for part in key.split("."):
            value = value[part]
        supplied[name] = value
    return complete(resolved["method"], supplied)


def sources(method: dict[str, Any]) -> dict[str, str]:
    """Supplied parameter -> the key that sets it."""
    size = "image_size" if class_fact(method["_target_"], "sees") == "images" else "patch_size"
    return {
        "image_size": f"data.{size}", "channels": "data.channels", "seed": "seed", "schedule": "budget.schedule",
    }  # fmt: skip


def complete(method: dict[str, Any], supplied: dict[str, Any]) -> dict[str, Any]:
    """The node of a method without `name` and `wants`, completed by the supplied arguments."""
    packages = "anomaly_lab", str(method.get("_target_")).partition(".")[0]
    return _complete({key: value for key, value in method.items() if key not in {"name", "wants"}}, supplied, packages)


def _complete(node: Any, supplied: dict[str, Any], packages: tuple[str, ...]) -> Any:
    if not isinstance(node, dict):
        return node
    completed = {key: _complete(value, supplied, packages) for key, value in node.items()}
    target = node.get("_target_")
    if isinstance(target, str) and target.partition(".")[0] in packages:
        parameters = parameters_of(target) or {}
        completed |= {name: value for name, value in supplied.items() if name in parameters and name not in node}
    return completed
