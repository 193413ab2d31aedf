"""Constructors as schema: parameters, types and ranges, read from the source by `ast` without importing it."""

import ast
import builtins
import typing
from functools import cache
from pathlib import Path
from typing import Any

import pydantic

from anomaly_lab.core.errors import UserError

OBJECT = dict  # what another constructor builds


@cache
def signature(target: str) -> dict[str, Any]:
    """Parameter names and types of a class or function of ours, from its source; Any where a type needs torch.

    A constructor that takes `**rest` has the parameters of its base class as well.
    """
    module, _, name = target.rpartition(".")
    tree = _source_tree(module)
    aliases = {
        node.targets[0].id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    imported = _imported(tree)
    found = next((node for node in tree.body if getattr(node, "name", None) == name), None)
    if isinstance(found, ast.FunctionDef):
        return {argument.arg: _type(argument.annotation, aliases, imported) for argument in _arguments(found)}
    if not isinstance(found, ast.ClassDef):
        raise UserError(f"_target_: expected a class or function of {module}, found {name!r}")
    constructor = next((node for node in found.body if getattr(node, "name", None) == "__init__"), None)
    if isinstance(constructor, ast.FunctionDef):
        own = {argument.arg: _type(argument.annotation, aliases, imported) for argument in _arguments(constructor)[1:]}
        if constructor.args.kwarg and isinstance(base := found.bases[0], ast.Name):  # `**rest` goes to the base class
            own = signature(".".join(imported.get(base.id, (module, base.id)))) | own
        return own
    if any("dataclass" in ast.unparse(decorator) for decorator in found.decorator_list):
        fields = [node for node in found.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)]
        return {field.target.id: _type(field.annotation, aliases, imported) for field in fields}  # type: ignore[union-attr]
    return {}


@cache
def class_fact(target: str, name: str) -> Any:
    """The value of a class attribute, read from the source of the class or of its first base class that has it.

    Raises UserError where no class of ours has it.
    """
    module, _, class_name = target.rpartition(".")
    tree = _source_tree(module)
    found = next((node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == class_name), None)
    if found is None:
        raise UserError(f"_target_: expected a class of {module}, found {class_name!r}")
    for node in found.body:
        if isinstance(node, ast.AnnAssign | ast.Assign) and node.value is not None:
            left = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            if isinstance(left, ast.Name) and left.id == name:
                return ast.literal_eval(node.value)
    imported = _imported(tree)
    for base in found.bases:
        if isinstance(base, ast.Name) and (base.id in imported or base.id in _classes(tree)):
            return class_fact(".".join(imported.get(base.id, (module, base.id))), name)
    raise UserError(f"_target_: expected a class with {name}, found {class_name!r} of {module}")


def _classes(tree: ast.Module) -> set[str]:
    return {node.name for node in tree.body if isinstance(node, ast.ClassDef)}


def _imported(tree: ast.Module) -> dict[str, tuple[str, str]]:
    """Names that a module imports from ours: module and name there."""
    return {
        alias.asname or alias.name: (node.module, alias.name)
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("anomaly_lab")
        for alias in node.names
    }


@cache
def _source_tree(module: str) -> ast.Module:
    path = Path(__file__).parents[1].joinpath(*module.split(".")[1:]).with_suffix(".py")
    if not path.is_file():
        raise UserError(f"_target_: expected a module of anomaly_lab, found {module!r}")
    return ast.parse(path.read_text(encoding="utf-8"))


def _arguments(function: ast.FunctionDef) -> list[ast.arg]:
    return [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]


def _type(annotation: ast.expr | None, aliases: dict[str, ast.expr], imported: dict[str, tuple[str, str]]) -> Any:
    """Evaluate an annotation made of built-in types, typing and pydantic; aliases are followed, the rest is Any."""
    if annotation is None:
        return Any
    if isinstance(annotation, ast.Name):
        if annotation.id in aliases:
            return _type(aliases[annotation.id], {}, imported)
        if annotation.id in imported:
            module, name = imported[annotation.id]
            return _alias(module, name)
    if ast.unparse(annotation).startswith("Callable["):
        return OBJECT
    names = {**vars(builtins), **vars(typing), **{name: getattr(pydantic, name) for name in PYDANTIC}}
    try:
        return eval(ast.unparse(annotation), {"__builtins__": {}}, names)
    except (NameError, AttributeError, TypeError):
        return Any


PYDANTIC = ("Field", "PositiveInt", "NonNegativeInt", "PositiveFloat", "NonNegativeFloat")


@cache
def _alias(module: str, name: str) -> Any:
    """A type alias such as `Resize = Literal[...]` in another module of ours."""
    for node in _source_tree(module).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return _type(node.value, {}, {})
        if isinstance(node, ast.ClassDef) and node.name == name:
            return OBJECT
    return Any
