"""Constructors as a schema: parameters, types and ranges, read from the source by `ast` without importing it."""

import ast
import builtins
import typing
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pydantic

from anomaly_lab.core.errors import UserError, nearest

OBJECT = dict  # the type of a parameter that another constructor builds
PYDANTIC = ("Field", "PositiveInt", "NonNegativeInt", "PositiveFloat", "NonNegativeFloat")
TYPES = {name: value for name, value in vars(builtins).items() if isinstance(value, type)}
NAMES = {**TYPES, **vars(typing), **{name: getattr(pydantic, name) for name in PYDANTIC}}
Parameters = dict[str, Any]  # names and types
Imports = dict[str, tuple[str, str]]  # local name -> module, name there
ON_PATH = "put the folder that contains it on PYTHONPATH"


class MissingPackageError(UserError):
    """A class of a package that Python does not find."""


@cache
def signature(target: str) -> Parameters:
    """Parameter names and types of a class or function of ours, from its source; Any for types that need torch.

    A constructor with `**rest` also has the parameters of its base class, and a class without a constructor has those
    of its base class. Raises UserError if there is no such class or function.
    """
    parameters = _parameters(target)
    if parameters is None:
        module, _, name = target.rpartition(".")
        raise UserError(f"_target_: expected a class or function of {module}, found {name!r}")
    return parameters


@cache
def parameters_of(target: str) -> Parameters | None:
    """The same for a class or function of any package; None if its source does not name them, as with `**kwargs`."""
    if is_ours(target):
        return signature(target)
    try:
        return _parameters(target)
    except (UserError, OSError):
        return None


@cache
def class_fact(target: str, name: str) -> Any:
    """The value of a class attribute, read from the source of the class or of the first base class that has it.

    Raises UserError if no class of ours has it as a value that is written out.
    """
    node = defined(target, name)[1]
    try:
        return ast.literal_eval(vars(node)["value"])  # a method has none
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"{target}: expected {name} as a plain value, found {ast.unparse(node)!r}") from error


def own_line(method: Mapping[str, Any]) -> float | None:
    """What the maps of a configured method reach where it calls a pixel defective; None: it draws no line in them.

    Raises UserError as `class_fact` does.
    """
    target = method["_target_"]
    fits = all(method.get(name, value) == value for name, value in class_fact(target, "own_line_for").items())
    return class_fact(target, "own_line") if fits else None


@cache
def defined(target: str, name: str) -> tuple[str, ast.stmt]:
    """Where a class attribute or method comes from, the class itself or its first base class that has it; its source.

    Raises UserError if no class of ours has it.
    """
    if not isinstance(target, str):
        raise UserError(f"_target_: expected package.module.Class, found {target!r}")
    module, _, class_name = target.rpartition(".")
    definition = _definition(_source_tree(module), class_name)
    if not isinstance(definition, ast.ClassDef):
        raise UserError(f"_target_: expected a class of {module}, found {class_name!r}")
    for node in definition.body:
        left = getattr(node, "target", None) or (node.targets[0] if isinstance(node, ast.Assign) else node)
        has_value = not isinstance(node, ast.AnnAssign) or node.value is not None
        if has_value and name in {getattr(left, "id", None), getattr(left, "name", None)}:
            return target, node
    for base in filter(is_ours, _bases(target, definition)):
        with suppress(UserError):
            return defined(base, name)
    raise UserError(f"_target_: expected a class with {name}, found {class_name!r} of {module}")


def refuse_missing(path: str, target: Any) -> None:
    """Raise UserError unless a `_target_` of any package can be imported, as far as sources tell without importing.

    A module that is not written in Python, or that may have more names than its source shows, is left to the import.
    """
    module, _, name = target.rpartition(".") if isinstance(target, str) else ("", "", "")
    if not module or not all(part.isidentifier() for part in target.split(".")):
        raise UserError(f"{path}: expected package.module.Class, found {target!r}")
    package, *parts = module.split(".")
    if parts and parts[-1][:1].isupper():  # a class method
        name = parts.pop()
    module = ".".join([package, *parts])
    spec = find_spec(package)
    folders = [Path(folder) for folder in (spec and spec.submodule_search_locations) or ()]
    if spec is None or (parts and not any(_is_module(folder, parts) for folder in folders)):
        hint = "" if spec else f"; {ON_PATH}"
        raise UserError(f"{path}: expected a class of an installed package, found no module {module!r}{hint}")
    try:
        names = _names(_source_tree(module))
    except (UserError, OSError):
        return  # no source in Python
    if names and name not in names and not any(_is_module(folder, [*parts, name]) for folder in folders):
        raise UserError(f"{path}: expected a class of {module}, found {name!r}{nearest(name, names)}")


def _is_module(folder: Path, parts: list[str]) -> bool:
    """Whether a package folder has a module, in whatever form."""
    path = folder.joinpath(*parts)
    return path.is_dir() or any(path.parent.glob(f"{path.name}.*"))


@cache
def _names(tree: ast.Module) -> set[str]:
    """The names that a module may have; empty if its source does not show them."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom | ast.Import):
            names |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return set() if names & {"*", "__getattr__"} else names


def is_ours(target: Any) -> bool:
    """Whether a `_target_` lies in this package."""
    return isinstance(target, str) and target.startswith("anomaly_lab.")


def _parameters(target: str) -> Parameters | None:
    module, _, name = target.rpartition(".")
    tree = _source_tree(module)
    definition, imported = _definition(tree, name), _imported(tree)
    if isinstance(definition, ast.FunctionDef):
        return _named(definition.args, tree)
    if not isinstance(definition, ast.ClassDef):  # torch.optim.Adam is that of torch.optim.adam
        return _parameters(".".join(imported[name])) if name in imported and not is_ours(target) else None
    if any("dataclass" in ast.unparse(decorator) for decorator in definition.decorator_list):
        return {
            field.target.id: _type(field.annotation, tree)
            for field in definition.body
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        }
    constructor = next((node for node in definition.body if getattr(node, "name", None) == "__init__"), None)
    own = _named(constructor.args, tree) if isinstance(constructor, ast.FunctionDef) else {}
    own.pop("self", None)
    if isinstance(constructor, ast.FunctionDef) and not constructor.args.kwarg:
        return own
    base = next(_bases(target, definition), "")
    if is_ours(target) or is_ours(base):
        return signature(base) | own if is_ours(base) else own
    return None if constructor or not base else _parameters(base)


def _named(arguments: ast.arguments, tree: ast.Module) -> Parameters:
    every = (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
    return {argument.arg: _type(argument.annotation, tree) for argument in every}


def _definition(tree: ast.Module, name: str) -> ast.stmt | None:
    return next((node for node in tree.body if getattr(node, "name", None) == name), None)


def _bases(target: str, found: ast.ClassDef) -> Iterator[str]:
    """The base classes that are defined or imported in the module of a class."""
    module = target.rpartition(".")[0]
    tree = _source_tree(module)
    for base in found.bases:
        if isinstance(base, ast.Name) and (base.id in _imported(tree) or _definition(tree, base.id)):
            yield ".".join(_imported(tree).get(base.id, (module, base.id)))


@cache
def _imported(tree: ast.Module) -> Imports:
    return {
        alias.asname or alias.name: (node.module, alias.name)
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module and not node.level
        for alias in node.names
    }


@cache
def _source_tree(module: str) -> ast.Module:
    package, *parts = module.split(".")
    if not all(part.isidentifier() for part in (package, *parts)):
        raise UserError(f"_target_: expected package.module.Class, found a module {module!r}")
    spec = find_spec(package)  # of the top package only: finding a submodule would import it
    if spec is None:
        raise MissingPackageError(f"no module {package!r}; {ON_PATH}")
    for folder in spec.submodule_search_locations or ():
        path = Path(folder).joinpath(*parts)
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file.is_file():
                return _parsed(file)
    if not parts and (spec.origin or "").endswith(".py"):  # a package of one file
        return _parsed(Path(str(spec.origin)))
    raise UserError(f"_target_: expected a module of {package}, found {module!r}")


def _parsed(file: Path) -> ast.Module:
    try:
        return ast.parse(file.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError) as error:  # the second: no text, or a NUL in it
        raise UserError(f"{file}: expected a module in Python, found: {error}") from error


def _type(annotation: ast.expr | None, tree: ast.Module) -> Any:
    """Evaluate an annotation of built-in types, typing and pydantic; aliases are followed, all else is Any."""
    if annotation is None:
        return Any
    if isinstance(annotation, ast.Name):
        if alias := _assigned(tree, annotation.id):
            return _type(alias, ast.Module([], []))
        module, name = _imported(tree).get(annotation.id, ("", ""))
        if is_ours(module):
            return _alias(module, name)
    if ast.unparse(annotation).startswith("Callable["):
        return OBJECT
    if isinstance(annotation, ast.BinOp) and ast.unparse(annotation.right) == "None":
        left = _type(annotation.left, tree)
        if left is not Any:
            return left | None
    if not _is_plain(annotation):
        return Any
    try:
        return eval(ast.unparse(annotation), {"__builtins__": {}}, NAMES)
    except (NameError, AttributeError, TypeError):
        return Any


def _is_plain(node: ast.AST, words: bool = False) -> bool:
    """Whether an annotation runs nothing when it is evaluated: the source may be anybody's, as that of a run folder.

    A text stands in `Literal[...]` and as an argument of `Field` alone (`words`): pydantic evaluates others as code.
    """
    match node:
        case ast.Name():
            return True
        case ast.Constant():
            return words or not isinstance(node.value, str | bytes)
        case ast.Subscript():
            return _is_plain(node.value) and _is_plain(node.slice, ast.unparse(node.value) == "Literal")
        case ast.Tuple() | ast.List():
            return all(_is_plain(each, words) for each in node.elts)
        case ast.BinOp(op=ast.BitOr() | ast.Sub()):
            return _is_plain(node.left) and _is_plain(node.right)
        case ast.BinOp(op=ast.Pow(), left=ast.Constant(value=int()), right=ast.Constant(value=int(power))):
            return 0 <= power <= 64
        case ast.UnaryOp(op=ast.USub()):
            return _is_plain(node.operand)
        case ast.Call(func=ast.Name(id="Field"), args=[]):
            return all(_is_plain(each.value, words=True) for each in node.keywords)
    return False


@cache
def _alias(module: str, name: str) -> Any:
    """A type alias such as `Resize = Literal[...]` in another module of ours."""
    tree = _source_tree(module)
    if alias := _assigned(tree, name):
        return _type(alias, ast.Module([], []))
    return OBJECT if isinstance(_definition(tree, name), ast.ClassDef) else Any


def _assigned(tree: ast.Module, name: str) -> ast.expr | None:
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return node.value
    return None
