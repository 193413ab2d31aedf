"""Objects from a configuration that anyone may have written: every class is of the kind that belongs at its place.

The kind is the annotation of the constructor's parameter. A `_target_` is imported only if it lies in this package, in
`torch.optim` where an optimizer belongs, or in a package that the user trusts. So a run folder from anyone can be
opened: it can choose among our own classes, and nothing else of it is ever called.
"""

import inspect
import typing
from collections import abc
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from types import UnionType
from typing import Any

from anomaly_lab.core.errors import UserError

OURS, OPTIMIZERS = "anomaly_lab", "torch.optim"
OF_HYDRA = {"_target_", "_partial_", "_convert_"}  # keys of a node that are no arguments


def trusted(packages: str | Sequence[str]) -> list[str]:
    """The names of packages, from a list or from text as people type it: `mine`, `mine,other`, `[mine]`."""
    names = packages.strip("[] ").split(",") if isinstance(packages, str) else packages
    return [name.strip() for name in names if name.strip()]


def build(node: dict[str, Any], kind: type, path: str, trust: Sequence[str] = ()) -> Any:
    """The object that a node with a `_target_` describes, and those below it.

    `kind` is the class or protocol that belongs at `path`; `trust` names further packages whose classes may be
    built (`trusted`).
    Raises UserError with the key, what was expected and what was found.
    """
    trust = trusted(trust)
    found = _class(node, kind, path, trust)
    if node.get("_partial_", False) is not False:
        raise UserError(f"{path}._partial_: expected none, because a whole {kind.__name__} belongs here, found true")
    return found(**_arguments(node, found, path, trust))


def _arguments(node: dict[Any, Any], found: type, path: str, trust: Sequence[str]) -> dict[str, Any]:
    hints = _hints(found)
    if unknown := next((key for key in node if str(key).startswith("_") and key not in OF_HYDRA), None):
        raise UserError(f"{path}.{unknown}: expected arguments of {found.__name__}, found {unknown!r}")
    return {
        key: _argument(value, hints.get(key), f"{path}.{key}", trust)
        for key, value in node.items()
        if key not in OF_HYDRA
    }


def _argument(value: Any, hint: Any, path: str, trust: Sequence[str]) -> Any:
    """A value, or the object that it describes."""
    if isinstance(value, list):
        return [_argument(one, None, f"{path}[{i}]", trust) for i, one in enumerate(value)]
    if not isinstance(value, dict):
        return value
    if "_target_" not in value:
        return {key: _argument(one, None, f"{path}.{key}", trust) for key, one in value.items()}
    several = isinstance(hint, UnionType) or typing.get_origin(hint) is typing.Union
    for kind in typing.get_args(hint) if several else (hint,):
        if typing.get_origin(kind) is abc.Callable:
            return _factory(value, path, trust)
        if isinstance(kind, type) and kind.__module__ not in {"builtins", "types"}:
            return build(value, kind, path, trust)
    raise UserError(f"{path}: expected a plain value, found the class {value['_target_']!r}")


def _factory(node: dict[str, Any], path: str, trust: Sequence[str]) -> Any:
    """An optimizer that waits for its parameters."""
    from torch.optim import Optimizer

    if node.get("_partial_") is not True:
        raise UserError(f"{path}._partial_: expected true, because the parameters are supplied later, found none")
    found = _class(node, Optimizer, path, (*trust, OPTIMIZERS))
    return partial(found, **_arguments(node, found, path, trust))


def _class(node: dict[str, Any], kind: type, path: str, trust: Sequence[str]) -> Any:
    """The class of a node; raises UserError unless it is trusted and of the kind."""
    target = node.get("_target_")
    module, _, name = target.rpartition(".") if isinstance(target, str) else ("", "", "")
    expected = f"{path}._target_: expected a kind of {kind.__name__} from {', '.join((OURS, *trust))}"
    if not any(f"{module}.".startswith(f"{package}.") for package in (OURS, *trust)):
        raise UserError(f"{expected}, found {target!r}; trust=PACKAGE allows your own")
    try:
        found = getattr(import_module(module), name, None)
    except (ImportError, ValueError) as error:
        raise UserError(f"{expected}, found {target!r} ({error})") from error
    if not isinstance(found, type) or inspect.isabstract(found) or not _is(found, kind):
        raise UserError(f"{expected}, found {target!r}")
    return found


def _is(found: type, kind: type) -> bool:
    """Whether a class is of a kind; of a protocol are those in its module, and foreign ones with its methods."""
    if not getattr(kind, "_is_protocol", False):
        return issubclass(found, kind)
    if found is kind or (found.__module__.startswith(f"{OURS}.") and found.__module__ != kind.__module__):
        return False
    methods = [name for name, value in vars(kind).items() if callable(value) and not name.startswith("_")]
    return all(callable(getattr(found, name, None)) for name in methods)


def _hints(found: type) -> dict[str, Any]:
    """The annotations of a constructor and, for `**rest`, of those of the base classes."""
    hints: dict[str, Any] = {}
    for base in reversed(found.__mro__):
        if "__init__" in vars(base) and base.__module__.partition(".")[0] != "torch":
            hints |= typing.get_type_hints(vars(base)["__init__"])
    return hints
